import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.neighbors import NearestNeighbors

from speechbrain_cadino.clustering import tsne
from speechbrain_cadino.clustering.tsne import plot_map
from speechbrain_cadino.dataio.spread import spread_rows


def voices(count, utterances):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((count, 1, 24))
    noise = 0.3 * rng.standard_normal((count, utterances, 24))
    return (centres + noise).reshape(-1, 24)


@pytest.fixture
def axis(monkeypatch):
    """Gives the axis of what is drawn."""
    monkeypatch.setattr(plt, "close", lambda figure: None)
    yield plt.gca
    monkeypatch.undo()
    plt.close("all")


def points(axis):
    """The places and colours of all points."""
    places, colours = [], []
    for dots in axis.collections:
        offsets = dots.get_offsets()
        places.append(offsets)
        faces = dots.get_facecolors()
        colours += [to_hex(faces[i % len(faces)]) for i in range(len(offsets))]
    return np.concatenate(places), np.array(colours)


def test_few_speakers_are_islands_of_one_colour(tmp_path, axis):
    # Of no common length: only directions count.
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1))
    labels = np.repeat(["9", "10", "11"], 20)
    plot_map(lengths * voices(3, 20), labels, tmp_path / "map.png")
    legend = axis().get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["9", "10", "11"]
    places, colours = points(axis())
    assert len(set(colours)) == 3
    near = NearestNeighbors(n_neighbors=5).fit(places).kneighbors()[1]
    assert (colours[near] == colours[:, None]).mean() > 0.99
    assert axis().get_xlabel() == ""


def test_many_speakers_share_colours_but_not_with_the_next(tmp_path, axis):
    labels = np.repeat(np.arange(40), 12)
    plot_map(voices(40, 12), labels, tmp_path / "map.png")
    assert axis().get_legend() is None
    assert "40 labels" in axis().get_xlabel()
    places, colours = points(axis())
    assert len(set(colours)) == len(tsne.COLOURS)
    middles = places.reshape(40, 12, 2).mean(1)
    near = NearestNeighbors(n_neighbors=2).fit(middles).kneighbors()[1]
    assert (colours[::12][near] != colours[::12][:, None]).all()


def test_colours_are_spread_as_far_as_can_be():
    line = np.stack([np.arange(9.0), np.zeros(9)], axis=1)
    colours = tsne._far_apart(line, 3)
    assert colours.tolist() == [0, 1, 2] * 3


def test_more_points_than_can_be_drawn(tmp_path, axis, monkeypatch):
    monkeypatch.setattr(tsne, "MOST_POINTS", 31)
    embeddings = voices(4, 30)
    embeddings[spread_rows(120, 31)[0]] = np.nan
    labels = np.repeat(["a", "b", None, np.nan], 30)
    plot_map(embeddings, labels, tmp_path / "map.png")
    assert axis().get_xlabel() == "30 of 120, evenly drawn; grey: no label"
    places, colours = points(axis())
    assert len(places) == 30
    assert abs((colours == to_hex("0.8")).sum() - 15) <= 1


def test_without_labels_no_point_is_grey(tmp_path, axis):
    plot_map(voices(2, 5), None, tmp_path / "map.png")
    _, colours = points(axis())
    assert set(colours) == {to_hex("C0")}
    assert axis().get_xlabel() == ""
    assert axis().get_legend() is None


@pytest.mark.parametrize(
    ("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_vector_formats(suffix, start, tmp_path):
    plot_map(voices(2, 5), None, tmp_path / f"map{suffix}")
    assert (tmp_path / f"map{suffix}").read_bytes().startswith(start)


def test_drawn_again_it_is_the_same(tmp_path):
    for name in ["a.png", "b.png"]:
        plot_map(voices(3, 20), None, tmp_path / name, seed=3)
    assert (tmp_path / "a.png").read_bytes() == (
        tmp_path / "b.png"
    ).read_bytes()


def test_rows_of_no_embedding_are_left_out(tmp_path, axis):
    embeddings = voices(3, 20)
    embeddings[7], embeddings[9] = 0, np.nan
    plot_map(embeddings, None, tmp_path / "map.png")
    places, _ = points(axis())
    assert len(places) == 58


@pytest.mark.parametrize(
    ("embeddings", "labels", "name", "sentence"),
    [
        (voices(3, 1), None, "map.png", "A map of 3 embeddings"),
        (np.ones((9, 3)), None, "map.png", "All 9 embeddings are the same"),
        (voices(3, 3), ["a"], "map.png", "1 labels for 9 embeddings"),
        (voices(3, 3), None, "map", "end the name in .png"),
        (voices(3, 3), None, "map.csv", "end the name in .png"),
    ],
)
def test_what_cannot_be_drawn(embeddings, labels, name, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        plot_map(embeddings, labels, tmp_path / name)
