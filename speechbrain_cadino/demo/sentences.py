"""Sentences in five languages, put together from four small lists each.

Any choice of one part from each list of a language is a grammatical sentence
of about three to five seconds; sense is not asked for.
"""

# Per language: who, does, what, where or when.
PARTS = {
    "en-us": (
        "the old baker/my youngest sister/a tall sailor/our neighbour's dog/"
        "the quiet teacher/every good doctor/the man with the hat/"
        "a girl from the village/the new mayor/his grandfather",
        "has lost/is looking for/wants to paint/never forgets/carries/"
        "would like to sell/has just found/often talks about/is hiding/"
        "keeps",
        "a small wooden box/the keys of the church/three yellow birds/"
        "an enormous pumpkin/the letter from Peru/a pair of green shoes/"
        "the last piece of cheese/a rather noisy clock/her favourite book/"
        "two bottles of juice",
        "behind the railway station/on a cold winter evening/"
        "near the old bridge/before the sun goes down/in the kitchen upstairs/"
        "when nobody is watching/at the edge of the forest/"
        "for the third time this year/on the way to the harbour/"
        "every other Thursday",
    ),
    "de": (
        "die alte Bäckerin/mein jüngster Bruder/ein großer Matrose/"
        "der Hund des Nachbarn/die stille Lehrerin/jeder gute Arzt/"
        "der Mann mit dem Hut/ein Mädchen aus dem Dorf/"
        "die neue Bürgermeisterin/sein Großvater",
        "sucht/verkauft/malt/vergisst/trägt/versteckt/findet/braucht/holt/"
        "zeichnet",
        "eine kleine Holzkiste/den Schlüssel der Kirche/drei gelbe Vögel/"
        "einen riesigen Kürbis/den Brief aus Peru/ein Paar grüne Schuhe/"
        "das letzte Stück Käse/eine ziemlich laute Uhr/ein schönes Buch/"
        "zwei Flaschen Apfelsaft",
        "hinter dem Bahnhof/an einem kalten Winterabend/"
        "neben der alten Brücke/noch vor dem Sonnenuntergang/"
        "oben in der Küche/heimlich und ohne Eile/am Rand des Waldes/"
        "schon zum dritten Mal in diesem Jahr/auf dem Weg zum Hafen/"
        "an jedem zweiten Donnerstag",
    ),
    "fr": (
        "la vieille boulangère/mon petit frère/un grand marin/"
        "le chien du voisin/la nouvelle maîtresse/chaque bon médecin/"
        "l'homme au chapeau/une fille du village/le jeune maire/"
        "son grand-père",
        "cherche/vend/dessine/oublie/porte/cache/trouve/demande/garde/"
        "voudrait acheter",
        "une petite boîte en bois/la clé de l'église/trois oiseaux jaunes/"
        "une énorme citrouille/la lettre du Pérou/des chaussures vertes/"
        "le dernier morceau de fromage/une horloge très bruyante/"
        "un livre d'images/deux bouteilles de jus",
        "derrière la gare/par un soir d'hiver/près du vieux pont/"
        "avant le coucher du soleil/dans la cuisine du haut/"
        "quand personne ne regarde/au bord de la forêt/"
        "pour la troisième fois cette année/sur le chemin du port/"
        "un jeudi sur deux",
    ),
    "es": (
        "la vieja panadera/mi hermano menor/un marinero alto/"
        "el perro del vecino/la nueva maestra/cada buen médico/"
        "el hombre del sombrero/una niña del pueblo/el joven alcalde/"
        "su abuelo",
        "busca/vende/dibuja/olvida/lleva/esconde/encuentra/necesita/guarda/"
        "quiere comprar",
        "una caja de madera/la llave de la iglesia/tres pájaros amarillos/"
        "una calabaza enorme/la carta del Perú/unos zapatos verdes/"
        "el último trozo de queso/un reloj muy ruidoso/su libro favorito/"
        "dos botellas de zumo",
        "detrás de la estación/en una noche de invierno/"
        "cerca del puente viejo/antes de la puesta del sol/"
        "en la cocina de arriba/cuando nadie mira/al borde del bosque/"
        "por tercera vez este año/en el camino del puerto/"
        "un jueves sí y otro no",
    ),
    "it": (
        "la vecchia fornaia/il mio fratellino/un marinaio alto/"
        "il cane del vicino/la nuova maestra/ogni buon medico/"
        "l'uomo col cappello/una ragazza del paese/il giovane sindaco/"
        "suo nonno",
        "cerca/vende/disegna/dimentica/porta/nasconde/trova/vuole/conserva/"
        "vorrebbe comprare",
        "una scatola di legno/la chiave della chiesa/tre uccelli gialli/"
        "una zucca enorme/la lettera dal Perù/delle scarpe verdi/"
        "l'ultimo pezzo di formaggio/un orologio rumoroso/"
        "il suo libro preferito/due bottiglie di succo",
        "dietro la stazione/in una sera d'inverno/vicino al vecchio ponte/"
        "prima del tramonto/nella cucina di sopra/quando nessuno guarda/"
        "ai margini del bosco/per la terza volta quest'anno/"
        "sulla strada del porto/un giovedì sì e uno no",
    ),
}
LANGUAGES = list(PARTS)


def make_sentence(language, rng):
    """Puts a sentence together.

    Arguments
    ---------
    language : str
        The language, one of ``LANGUAGES``.
    rng : numpy.random.Generator
        The source of all that is random.

    Returns
    -------
    str
        The sentence, with a full stop.

    Example
    -------
    >>> import numpy as np
    >>> make_sentence("es", np.random.default_rng(2))
    'el joven alcalde dibuja la llave de la iglesia cerca del puente viejo.'
    """
    parts = [rng.choice(choices.split("/")) for choices in PARTS[language]]
    return " ".join(parts) + "."
