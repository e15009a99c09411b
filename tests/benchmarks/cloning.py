"""A stand-in for voice cloning with DINO (DINO-VITS), in minutes on a CPU.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/cloning.py \
    --encoder=results/demo60/dino/1/encoder \
    --judge=results/demo/1986/iteration_2/train/encoder \
    [--arms clean noisy dino] [--seeds 1 2 3] [--weight=0.1] [--epochs=10]

It is a proxy: no VITS is trained. The synthesiser of the demo corpus says
sentences and tells when each phone begins; a small decoder makes the log-mel
frames of one utterance from its phones, with their true durations, and the
embedding of *another* utterance of the same voice, its reference. The encoder
begins as --encoder (of arms.py demo60.yaml --arms dino), is frozen for the
first fifth, and then learns with the decoder:

* clean: L1 of the frames, references as they are;
* noisy: the same, references in noise and rooms;
* dino: the same, and DINO on two views of each reference (WithDINO).

Each is tried on voices that nobody has heard, with references that are clean,
noisy, as in the training, or strange: amid three other voices, through another
microphone, which no arm has met. Figures of each: L1 in dB, and by how much it
is above that of clean references; the cosine of the frames made to a true
utterance of the voice by an encoder that had no part in it, --judge (of
run_pipeline.py hparams/demo.yaml, trained on other voices); and the EER of the
encoder itself, against clean utterances. The speech is in results/cloning, the
figures of each training, which is not done again, in results/cells/cloning:
with another encoder or judge, empty that first.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from scipy.signal import resample_poly
from torch.nn.functional import cosine_similarity, normalize
from tqdm import tqdm

import speechbrain as sb
from speechbrain_cadino.brains.auxiliary import AuxiliaryDINO, WithDINO
from speechbrain_cadino.dataio.augment import (
    AddNoise,
    AddReverb,
    CropAugmenter,
    Equalise,
)
from speechbrain_cadino.dataio.views import ViewCutter
from speechbrain_cadino.demo.channel import SAMPLE_RATE
from speechbrain_cadino.demo.corpus import (
    draw_sentences,
    draw_voices,
    factor_of_tract,
)
from speechbrain_cadino.demo.espeak import pronounce, synthesise
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.losses.dino import DINOLoss
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Sinkhorn
from speechbrain_cadino.process.files import atomic_path, write_json
from speechbrain_cadino.process.randomness import own_random
from speechbrain_cadino.verification.metrics import summary

RESULTS = pathlib.Path("results")
TRAIN, TEST, UTTERANCES, SEED = 40, 20, 12, 4243
HOP = SAMPLE_RATE // 100
FRAMES = 200  # of a target
REFERENCE = 40000  # samples of a reference: 2.5 s
STEPS, BATCH = 60, 16
OUT_DIM = 512
# A fifth of the training
FROZEN = 0.2
# References in a test
KINDS = ["clean", "noisy", "strange"]


def main():
    """Reads the flags, makes the speech, trains, shows the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="of stage I")
    parser.add_argument("--judge", required=True, help="of stage II")
    parser.add_argument("--arms", nargs="*", default=["clean", "noisy", "dino"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=10)
    flags = parser.parse_args()
    corpus = Corpus(RESULTS / "cloning" / "speech.npz")
    rows = {arm: [] for arm in flags.arms}
    for seed in flags.seeds:
        for arm in flags.arms:
            name = f"{arm}-{seed}-{flags.epochs}"
            name += f"-{flags.weight:g}" * (arm == "dino")
            path = RESULTS / "cells" / "cloning" / f"{name}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, train(corpus, arm, seed, flags))
            rows[arm].append(json.loads(path.read_text(encoding="utf-8")))
    show(rows)


class Corpus:
    """Clean speech of voices, and the phones of each frame."""

    def __init__(self, path):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **speak())
        with np.load(path) as arrays:
            wavs, ends = arrays["wavs"], arrays["ends"]
            phones, frames = arrays["phones"], arrays["frames"]
            self.names = [str(name) for name in arrays["names"]]
        self.wavs = [
            torch.from_numpy(wav.astype(np.float32) / 32768)
            for wav in np.split(wavs, ends[:-1])
        ]
        self.phones = [
            torch.from_numpy(part)
            for part in np.split(phones, np.cumsum(frames)[:-1])
        ]

    def voice(self, index):
        """Which voice says an utterance."""
        return index // UTTERANCES

    @property
    def size(self):
        """The number of different phones."""
        return len(self.names)


def speak():
    """Signals, and three figures of each frame: phone, time since its begin and
    time to its end, in frames."""
    names, wavs, phones = {"": 0}, [], []
    for voice in tqdm(draw_voices(TRAIN + TEST, SEED), "Speech"):
        sentences, _ = draw_sentences(voice, UTTERANCES, SEED)
        signals, rate = synthesise(voice.espeak, sentences)
        spoken, _ = pronounce(voice.espeak, sentences)
        factor = factor_of_tract(voice, rate)
        for signal, events in zip(signals, spoken):
            wav = resample_poly(
                signal.astype(np.float32), factor.numerator, factor.denominator
            )
            wav *= 3000 / np.sqrt(np.mean(wav**2))
            wavs.append(wav.clip(-32768, 32767).astype(np.int16))
            count = len(wav) // HOP + 1
            table = np.zeros((count, 3), np.float32)
            for name, *times in events:
                first, last = (round(t * float(factor) / HOP) for t in times)
                place = np.arange(min(last, count) - first)
                table[first:last, 0] = names.setdefault(name, len(names))
                table[first:last, 1] = place
                table[first:last, 2] = place[::-1]
            phones.append(table)
    return {
        "wavs": np.concatenate(wavs),
        "ends": np.cumsum([len(wav) for wav in wavs]),
        "phones": np.concatenate(phones),
        "frames": [len(table) for table in phones],
        "names": list(names),
    }


class Decoder(torch.nn.Module):
    """Phones and an embedding to frames, (batch, time, bands)."""

    def __init__(self, phones, embedding_size, bands, width=128):
        super().__init__()
        self.phone = torch.nn.Embedding(phones, 64)
        self.voice = torch.nn.Linear(embedding_size, 64)
        sizes = [64 + 64 + 2, width, width, width]
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv1d(before, width, 9, padding=4) for before in sizes
        )
        self.last = torch.nn.Linear(width, bands)

    def forward(self, phones, embeddings):
        places = (phones[..., 1:] / 10).tanh()
        voices = self.voice(normalize(embeddings, dim=-1))
        x = torch.cat(
            [
                self.phone(phones[..., 0].long()),
                voices[:, None].expand(-1, phones.shape[1], -1),
                places,
            ],
            dim=-1,
        ).transpose(1, 2)
        for number, layer in enumerate(self.layers):
            y = torch.nn.functional.gelu(layer(x))
            x = x + y if number else y
        return self.last(x.transpose(1, 2))


class Cloner(WithDINO, sb.Brain):
    """Learns to say phones in the voice of a reference."""

    def on_fit_batch_start(self, batch, should_step):
        frozen = self.dino_position < FROZEN * self.hparams.epochs
        self.dino.encoder.requires_grad_(not frozen)

    def compute_forward(self, batch, stage):
        references = batch["reference"]
        heard = references
        if self.hparams.augment is not None:
            heard = self.hparams.augment(references)
        embeddings, views = self.encode_with_dino(
            self.dino.network.features(heard), wavs=references
        )
        frames = self.modules.decoder(batch["phones"], embeddings[:, 0])
        return frames, views

    def compute_objectives(self, predictions, batch, stage):
        frames, views = predictions
        l1 = (frames - batch["frames"]).abs().mean()
        return l1 + self.dino_loss(views)


class Pairs(torch.utils.data.Dataset):
    """A part of an utterance, and a reference of the same voice."""

    def __init__(self, corpus, features, seed):
        self.corpus = corpus
        self.features = features
        self.seed = seed
        self.epoch = 0

    def __len__(self):
        return STEPS * BATCH

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, self.epoch, index))
        voice = rng.integers(TRAIN) * UTTERANCES
        target, reference = voice + rng.choice(UTTERANCES, 2, replace=False)
        phones, frames = self.corpus.phones[target], self.features[target]
        first = rng.integers(max(len(frames) - FRAMES, 0) + 1)
        return {
            "phones": padded(phones[first:], FRAMES),
            "frames": padded(frames[first:], FRAMES),
            "reference": crop(self.corpus.wavs[reference], rng),
        }


def padded(values, count):
    """So many rows: the last one again where there are fewer."""
    last = values[-1:].expand(max(count - len(values), 0), -1)
    return torch.cat([values[:count], last])


def crop(wav, rng):
    """2.5 s of a signal, repeated if it is shorter."""
    first = rng.integers(max(len(wav) - REFERENCE, 0) + 1)
    wav = wav[first : first + REFERENCE]
    return wav.repeat(-(-REFERENCE // len(wav)))[:REFERENCE]


def train(corpus, arm, seed, flags):
    """The figures of a training."""
    torch.manual_seed(seed)
    embedder = load_encoder(flags.encoder, "cpu")
    mods = embedder.encoder.mods
    encoder = mods.embedding_model.requires_grad_(True)
    compute_features = mods.compute_features
    spectra = Spectra(compute_features, corpus)
    bands = len(spectra.mean)
    size = encoder(torch.zeros(2, 50, bands)).shape[-1]
    augment = CropAugmenter([AddReverb(), AddNoise()], [0.6, 0.9])
    weight = flags.weight if arm == "dino" else 0.0
    dino = AuxiliaryDINO(
        encoder,
        lambda: DINOHead(size, OUT_DIM, hidden_size=256, bottleneck_size=64),
        Objective({"dino": DINOLoss(OUT_DIM, Sinkhorn(), 0.04)}, {"dino": 1}),
        compute_features,
        # As in DINO-VITS: two views, none of them local
        ViewCutter(SAMPLE_RATE, 2, 2.0, 0),
        # Nothing to learn while the encoder is frozen
        weight=lambda position: weight * (position >= FROZEN * flags.epochs),
        mean_var_norm=mods.mean_var_norm,
        augment=augment,
        seed=seed,
    )
    decoder = Decoder(corpus.size, size, bands)
    brain = Cloner(
        {"encoder": encoder, "decoder": decoder},
        lambda params: torch.optim.AdamW(params, lr=1e-3),
        {
            "dino": dino,
            "augment": None if arm == "clean" else augment,
            "epochs": flags.epochs,
        },
        {"device": "cpu"},
    )
    pairs = Pairs(corpus, spectra.features, seed)
    print(f"{arm}, seed {seed}")
    brain.fit(
        epochs(pairs, flags.epochs), torch.utils.data.DataLoader(pairs, BATCH)
    )
    brain.modules.eval()
    judge = load_encoder(flags.judge, "cpu").encoder.mods
    return evaluate(corpus, spectra, dino.network, decoder, judge)


def epochs(pairs, count):
    """The epochs, which the data hear of."""
    for epoch in range(1, count + 1):
        pairs.epoch = epoch
        yield epoch


class Spectra:
    """Log-mel frames; of mean 0, deviation 1 over the voices to train on."""

    def __init__(self, compute_features, corpus):
        with torch.no_grad():
            frames = [compute_features(wav[None])[0] for wav in corpus.wavs]
        known = torch.cat(frames[: TRAIN * UTTERANCES])
        self.mean, self.scale = known.mean(0), known.std()
        self.features = [(f - self.mean) / self.scale for f in frames]
        for phones, found in zip(corpus.phones, self.features):
            assert abs(len(phones) - len(found)) <= 1


@torch.no_grad()
def evaluate(corpus, spectra, network, decoder, judge):
    """What comes out for voices that nobody has heard."""
    with own_random((SEED, "test")):
        noisy = CropAugmenter([AddReverb(), AddNoise()], [1.0, 1.0])
        tests = range(TRAIN * UTTERANCES, len(corpus.wavs))
        rng = np.random.default_rng(SEED)
        clean = torch.stack([crop(corpus.wavs[i], rng) for i in tests])
        heard = dict(zip(KINDS, [clean, noisy(clean), strange(clean)]))
    embeddings = {
        kind: torch.cat(
            [
                network.encoder(network.features(part))[:, 0]
                for part in wavs.split(BATCH)
            ]
        )
        for kind, wavs in heard.items()
    }
    voices = torch.tensor([corpus.voice(i) for i in tests])
    same = voices[:, None] == voices
    others = ~torch.eye(len(voices), dtype=torch.bool)
    real = torch.cat(
        [judged(judge, spectra, spectra.features[i]) for i in tests]
    )
    figures = {}
    for kind, found in embeddings.items():
        losses, cosines = [], []
        for row, target in enumerate(tests):
            # The reference is the next utterance of the voice
            other = row // UTTERANCES * UTTERANCES + (row + 1) % UTTERANCES
            count = min(
                len(corpus.phones[target]), len(spectra.features[target])
            )
            frames = decoder(
                corpus.phones[target][None, :count], found[other][None]
            )[0]
            error = frames - spectra.features[target][:count]
            losses.append(error.abs().mean() * spectra.scale)
            # Not of the sentence that is said, of the reference's voice
            made = judged(judge, spectra, frames)
            cosines.append(cosine_similarity(made, real[other][None]))
        figures[f"l1_{kind}"] = torch.stack(losses).mean().item()
        figures[f"similarity_{kind}"] = torch.cat(cosines).mean().item()
        scores = normalize(embeddings["clean"]) @ normalize(found).T
        eer = summary(scores[others].numpy(), same[others].numpy())["eer"]
        figures[f"eer_{kind}"] = eer
    return figures


def strange(wavs):
    """Amid three other voices, 5 dB below, through another microphone."""
    babble = sum(wavs.roll(step * UTTERANCES, 0) for step in (1, 2, 3))
    babble *= wavs.norm(dim=1, keepdim=True) / babble.norm(dim=1, keepdim=True)
    return Equalise()(wavs + 10 ** (-5 / 20) * babble)


def judged(judge, spectra, features):
    """The embedding of log-mel frames by the judge, (1, D)."""
    frames = features[None] * spectra.scale + spectra.mean
    norm = judge.mean_var_norm(frames, torch.ones(1))
    return judge.embedding_model(norm)[:, 0]


def show(rows):
    """The tables, and what DINO closes of the gaps."""
    names = ["l1", "gap", "similarity", "eer"]
    for kind in KINDS:
        print(f"\n| arm, {kind} | {' | '.join(names)} |")
        print("|---" * (len(names) + 1) + "|")
        for arm, found in rows.items():
            cells = [
                ", ".join(f"{figure(row, name, kind):.3f}" for row in found)
                for name in names
            ]
            print(f"| {arm} | {' | '.join(cells)} |")
    for kind in KINDS[1:]:
        pairs = zip(rows.get("noisy", []), rows.get("dino", []))
        shares = [
            1 - figure(dino, "gap", kind) / figure(noisy, "gap", kind)
            for noisy, dino in pairs
        ]
        print(f"DINO closes, {kind}:", *(f"{share:.0%}" for share in shares))


def figure(row, name, kind):
    """A figure of a training; the gap is of L1 to clean references."""
    if name == "gap":
        return row[f"l1_{kind}"] - row["l1_clean"]
    return row[f"{name}_{kind}"]


if __name__ == "__main__":
    main()
