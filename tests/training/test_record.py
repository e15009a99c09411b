import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain.utils.train_logger import TensorboardLogger
from speechbrain_cadino.losses.dino import CosineLoss, DINOLoss
from speechbrain_cadino.losses.meters import (
    effective_dimensions,
    embedding_spread,
    spread_warnings,
)
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Centering, Sinkhorn
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer
from speechbrain_cadino.training.plots import plot_training
from speechbrain_cadino.training.record import (
    TrainingRecord,
    load_steps,
    save_steps,
)


def test_an_interrupted_epoch_reports_the_mean_of_all_its_steps(tmp_path):
    values = torch.randn(10)
    record = TrainingRecord()
    record.end_epoch({"epoch": 1, "loss": 0.5})
    for value in values[:6]:
        record.add({"loss": value})
    AtomicCheckpointer(tmp_path, recoverables={"r": record}).save_checkpoint(
        end_of_epoch=False
    )
    resumed = TrainingRecord()
    AtomicCheckpointer(
        tmp_path, recoverables={"r": resumed}
    ).recover_if_possible()
    for part in (record, resumed):
        for value in values[6:]:
            part.add({"loss": value})
    assert resumed.means() == record.means()
    np.testing.assert_allclose(record.means()["loss"], values.mean(), rtol=1e-6)
    assert resumed.rows == [{"epoch": 1, "loss": 0.5}]


def test_table_of_epochs(tmp_path):
    record = TrainingRecord()
    record.end_epoch({"epoch": 1, "loss": 3.0})
    record.end_epoch({"epoch": 2, "loss": 2.0, "EER": 20.0})
    record.write_csv(tmp_path / "training.csv")
    table = pd.read_csv(tmp_path / "training.csv")
    assert list(table["epoch"]) == [1, 2]
    assert math.isnan(table["EER"][0])


def test_spread_equals_its_definition():
    embeddings = torch.randn(2, 9, 5)
    total = 0.0
    for view in embeddings:
        unit = torch.stack([row / row.norm() for row in view])
        for column in unit.T:
            total += ((column - column.mean()) ** 2).mean().sqrt()
    expected = total / 10 * 5**0.5
    torch.testing.assert_close(embedding_spread(embeddings), expected)


def test_effective_dimensions_equal_their_definition():
    embeddings = torch.randn(2, 9, 5) * torch.tensor([9.0, 3, 1, 1, 1])
    ratios = []
    for view in embeddings:
        unit = torch.stack([row / row.norm() for row in view])
        values = torch.linalg.eigvalsh(torch.cov(unit.T))
        ratios.append(values.sum() ** 2 / (values**2).sum())
    torch.testing.assert_close(
        effective_dimensions(embeddings), sum(ratios) / 2
    )
    assert effective_dimensions(torch.ones(1, 4, 5)) == 0


def test_each_collapse_is_named():
    def signs(entropy, spread, kl=1.0, dimensions=8.0):
        stats = {"teacher_entropy": entropy, "kl": kl}
        stats.update(spread=spread, dimensions=dimensions)
        loss = DINOLoss(1024, target=None, teacher_temp=0.04)
        warnings = [*loss.warnings(stats), *spread_warnings(stats)]
        return [w.split(":")[0] for w in warnings]

    assert signs(3.0, 0.7) == []
    assert signs(math.log(1024), 0.7) == ["Collapse to uniform"]
    assert signs(0.01, 0.7, kl=0.01) == ["Collapse to one prototype"]
    assert signs(0.0, 0.7) == []  # sharp answers, not all the same
    assert signs(3.0, 0.01) == ["Collapse of the embeddings"]
    assert signs(3.0, 0.7, dimensions=1.4) == [
        "Collapse of the embeddings to a line"
    ]


@pytest.mark.parametrize(
    ("target", "centred"), [(Centering(8), True), (Sinkhorn(), False)]
)
def test_what_helps_is_a_setting_that_there_is(target, centred):
    loss = DINOLoss(8, target=target, teacher_temp=0.04)
    (warning,) = loss.warnings({"teacher_entropy": math.log(8), "kl": 0.0})
    assert ("center_momentum" in warning) is centred


@pytest.fixture
def objective():
    dino = DINOLoss(64, target=None, teacher_temp=0.04)
    terms = {"dino": dino, "cosine": CosineLoss()}
    return Objective(terms, dict.fromkeys(terms, 1))


@pytest.fixture
def rows():
    """Three epochs of a training."""
    names = "loss dino cosine teacher_entropy student_entropy kl spread"
    names += " dimensions lr momentum"
    row = dict.fromkeys(names.split(), 0.5)
    return [{"epoch": epoch, **row} for epoch in range(1, 4)]


def test_plot_is_drawn_with_and_without_trials_and_clusters(
    objective, rows, tmp_path
):
    plot_training(rows, tmp_path / "without.png", objective)
    rows[-1]["EER"] = 12.0
    plot_training(rows, tmp_path / "with.png", objective)
    for row in rows[-2:]:
        row |= {"clusters": 9, "singletons": 2, "silhouette": 0.3}
    rows[-1]["agreement"] = 0.8
    plot_training(rows, tmp_path / "clusters.png", objective)
    names = ("with.png", "without.png", "clusters.png")
    assert min((tmp_path / name).stat().st_size for name in names) > 20_000


def test_plot_of_an_adaptation_has_source_and_target(
    objective, rows, tmp_path, monkeypatch
):
    for row in rows:
        row |= {"source_loss": 3, "source_accuracy": 0.7, "target_loss": 2}
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", drawn.append)
        plot_training(rows, tmp_path / "adapted.png", objective)
    (figure,) = drawn
    plt.close(figure)
    lines = {
        axis.get_title() or axis.get_ylabel(): {
            line.get_label(): line.get_ydata()[-1] for line in axis.get_lines()
        }
        for axis in figure.axes
    }
    assert {"source loss": 3, "target loss": 2, "dino": 0.5}.items() <= (
        lines["loss"].items()
    )
    assert [*lines["accuracy"].values()] == [0.7]


def test_tensorboards_curves_go_on_after_a_resume(tmp_path):
    logger = TensorboardLogger(tmp_path / "one")
    for epoch in (1, 2):
        valid = {"EER": 9.0} if epoch == 2 else {}
        logger.log_stats({"epoch": epoch}, {"loss": 3.0}, valid)
    save_steps(logger, tmp_path / "steps")
    resumed = TensorboardLogger(tmp_path / "two")
    load_steps(resumed, tmp_path / "steps", end_of_epoch=True)
    resumed.log_stats({"epoch": 3}, {"loss": 2.0}, {"EER": 8.0})
    assert resumed.global_step == {
        "train": {"loss": 3},
        "valid": {"EER": 2},
        "test": {},
        "meta": 3,
    }
