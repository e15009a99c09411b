import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm

from speechbrain_cadino.verification import plots


@pytest.fixture
def drawn(monkeypatch):
    """The figure that is saved."""
    figures = []
    monkeypatch.setattr(
        plots,
        "save_figure",
        lambda figure, path, dpi: figures.append(figure),
    )
    yield figures
    plt.close("all")


def test_det_of_normal_scores_is_a_straight_line(drawn):
    """Of slope -1 and through the EER, which is Phi(-d / 2)."""
    rng = np.random.default_rng(0)
    targets = np.arange(200_000) % 2 == 0
    scores = {
        name: rng.standard_normal(len(targets)) + distance * targets
        for name, distance in [("poor", 1), ("good", 3)]
    }
    plots.plot_det("det.png", scores, targets)
    axis = drawn[0].axes[0]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [label.split(",")[0] for label in labels] == ["good", "poor"]
    assert float(labels[0].split()[-1][:-1]) == pytest.approx(
        100 * norm.cdf(-1.5), abs=0.2
    )
    line = axis.lines[0].get_xydata()
    assert len(line) <= plots.POINTS + 2
    middle = line[(np.abs(line) < 2.5).all(1)]
    np.testing.assert_allclose(middle.sum(1), -3, atol=0.15)


@pytest.mark.parametrize(
    ("hull", "rate"), [(False, "50.00%"), (True, "25.00%")]
)
def test_the_rate_is_that_of_the_hull_where_that_is_asked_for(
    drawn, hull, rate
):
    targets = np.array([False, True, False, True])
    plots.plot_det("det.png", {"system": np.arange(4.0)}, targets, hull)
    (text,) = drawn[0].axes[0].get_legend().get_texts()
    assert text.get_text() == f"system, EER {rate}"


def test_perfect_wrong_and_constant_systems_can_be_drawn(drawn):
    targets = np.array([True, False, False])
    perfect = targets.astype(float)
    scores = {"perfect": perfect, "wrong": -perfect, "constant": np.zeros(3)}
    plots.plot_det("det.png", scores, targets)
    plots.plot_scores("scores.png", scores, targets)
    assert len(drawn[1].axes) == 3


def test_any_format(tmp_path):
    scores = {"system": np.array([0.1, 0.9, 0.4])}
    targets = np.array([False, True, False])
    plots.plot_det(tmp_path / "det.pdf", scores, targets)
    assert (tmp_path / "det.pdf").read_bytes().startswith(b"%PDF")
