import logging
import pathlib
import re
import runpy
import time

import forked
import numpy as np
import pandas as pd
import pytest
import torch

import speechbrain as sb
from speechbrain_cadino.gate.record import checksum_of
from speechbrain_cadino.gate.window import LossWindow
from speechbrain_cadino.training import progress
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer
from speechbrain_cadino.training.schedules import LinearSchedule

SCRIPT = pathlib.Path(__file__).with_name("label_epochs.py")
poisoned = runpy.run_path(pathlib.Path(__file__).with_name("poisoned.py"))


def run(*command, ranks=None):
    """The gates that were printed."""
    options = [] if ranks is None else ["--distributed_backend=gloo"]
    code, output = forked.run(SCRIPT, *command, *options, ranks=ranks)
    assert code == 0, output
    # At the end of a line, on which a progress bar may be
    return [float(gate) for gate in re.findall(r"gate (\S+)$", output, re.M)]


def arrays(folder, epoch):
    with np.load(folder / "gate" / f"epoch00{epoch}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of one process, and the gates that it had."""
    folder = tmp_path_factory.mktemp("one")
    return folder, run(folder, 1, 0, "voices")


def test_two_processes_have_the_gates_and_counts_of_one(alone, tmp_path):
    (one, gates), two = alone, tmp_path / "two"
    both = run(two, 2, 0, "voices", ranks=2)
    table, other = (pd.read_csv(folder / "gate.csv") for folder in (one, two))
    pd.testing.assert_frame_equal(table, other, rtol=1e-4)
    # Each process had the gate of gate.csv, which is a real one from epoch 2
    assert np.isinf(table["gate"][0])
    assert np.isfinite(table["gate"][1:]).all()
    assert gates == pytest.approx(table["gate"].tolist())
    assert sorted(both) == pytest.approx(sorted([*gates, *gates]), rel=1e-4)
    # and all three kinds of decisions occurred
    counts = table[["reliable", "corrected", "dropped"]]
    assert (counts.sum(axis=1) == 48).all()
    assert (counts[1:].sum() > 0).all()
    for epoch in (1, 2, 3):
        for name, column in arrays(one, epoch).items():
            np.testing.assert_allclose(
                arrays(two, epoch)[name], column, rtol=1e-3, err_msg=name
            )


def test_the_gate_is_where_the_components_of_the_epoch_before_cross(alone):
    folder, _ = alone
    table = pd.read_csv(folder / "gate.csv")
    assert table["gate"][1:].tolist() == pytest.approx(
        table["crossing"][:-1].tolist()
    )
    for epoch, gate in zip((2, 3), table["gate"][1:]):
        epoch = arrays(folder, epoch)
        assert ((epoch["losses"] < gate) == (epoch["decisions"] == 1)).all()
        assert ((epoch["corrected"] >= 0) == (epoch["decisions"] == 2)).all()


def test_two_processes_average_over_what_both_select(tmp_path):
    """Which is not as much on each of them."""
    moved = []
    for ranks, name in ((None, "one"), (2, "two")):
        run(tmp_path / name, ranks or 1, 0, "selected", ranks=ranks)
        start, end = (
            torch.load(tmp_path / name / f"{when}.pt", weights_only=True)
            for when in ("start", "end")
        )
        moved.append(end["classifier"] - start["start"])
    difference = (moved[1] - moved[0]).norm() / moved[0].norm()
    assert difference < 0.01


def test_a_dynamic_gate_has_one_margin():
    brain = poisoned["train"]("labels", [1, 2])
    (branch,) = brain.branches.values()
    gate, loss = branch.loss_gate, brain.hparams.label_loss
    # In the last of two steps
    assert loss.position == 0.5
    loss.margin = LinearSchedule(0, 0.2, epochs=3, begin=1)
    brain.progress.last_epoch = 10
    gate.gate = "dynamic"
    with pytest.raises(ValueError, match=r"from 0 to 0\.2, .* of one margin"):
        brain.on_fit_start()
    gate.gate = "none"
    gate.check_margin(loss.margin, epochs=10)
    gate.gate = "dynamic"
    gate.check_margin(0.2, epochs=10)


def test_a_margin_that_grows_too_far_shows_before_training():
    brain = poisoned["train"]("labels", [1])
    brain.hparams.label_loss.margin = LinearSchedule(0, 2.0, epochs=3)
    brain.progress.last_epoch = 3
    with pytest.raises(ValueError, match=r"margin=2\.0: give an angle"):
        brain.on_fit_start()


@pytest.mark.parametrize("stage", ["labels", "ssrl"])
def test_a_gate_is_fitted_to_labels_that_were_guessed(stage, monkeypatch):
    """Within an epoch and at its end."""
    brain = poisoned["train"](stage, [1])
    (branch,) = brain.branches.values()
    trusted = torch.tensor([False, True, False, True])
    torch.manual_seed(5)
    batch = {
        "id": list("abcd"),
        "wav": torch.randn(4, 8000),
        "label": torch.arange(4) % 3,
        "sample": torch.arange(4),
        "trusted": trusted,
    }
    brain.guard.begin(batch["id"])
    added, fitted = [], []
    monkeypatch.setattr(branch.loss_gate, "add", added.append)
    outputs = brain.compute_forward(batch, sb.Stage.TRAIN)
    brain.compute_objectives(outputs, batch, sb.Stage.TRAIN)
    assert (added[0].isnan() == trusted).all()
    record = branch.gate_record
    record.trusted = np.array([*trusted.tolist()])

    def update(losses):
        fitted.append(losses)
        return {}

    monkeypatch.setattr(branch.loss_gate, "update", update)
    brain._update_gate(branch)
    np.testing.assert_array_equal(np.isnan(fitted[0]), trusted)


def test_two_processes_share_the_window(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    gates = run(one, 1, 12, "voices")
    both = run(two, 2, 12, "voices", ranks=2)
    assert np.isinf(gates[0])
    assert np.isfinite(gates[1:]).all()
    assert sorted(both) == pytest.approx(sorted([*gates, *gates]), rel=1e-4)
    # It moved within the epochs
    table = pd.read_csv(one / "gate.csv")
    assert (table["gate"][1:] != gates[1:]).all()


def test_two_processes_reflect_as_one(tmp_path):
    """SSRL: the answers of all, classes that die, the weights of samples."""
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, 1, 0, "ssrl")
    run(two, 2, 0, "ssrl", ranks=2)
    table, other = (pd.read_csv(folder / "gate.csv") for folder in (one, two))
    pd.testing.assert_frame_equal(table, other, rtol=1e-3)
    assert np.isfinite(table["gate"][1:]).all()
    ends = [torch.load(folder / "end.pt") for folder in (one, two)]
    for name in ("answers", "alive"):
        assert torch.equal(ends[0][name], ends[1][name])
    # Each sample was answered in each epoch, and not always as it was labelled
    answers = ends[0]["answers"]
    assert (answers[:, -3:] >= 0).all()
    torch.testing.assert_close(
        ends[0]["teacher"], ends[1]["teacher"], rtol=1e-3, atol=1e-6
    )


def test_a_classifier_starts_from_the_means_of_the_labels(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, 1, 0, "centroids")
    run(two, 2, 0, "centroids", ranks=2)
    for folder in (one, two):
        found = torch.load(folder / "start.pt")
        # Noises of six colours; every fourth label is that of the next one
        for label, weight in enumerate(found["start"]):
            members = [
                number
                for number in range(48)
                if (number + (number % 4 == 0)) % 6 == label
            ]
            points = found["embeddings"][members].numpy()
            mean = sum(point / np.linalg.norm(point) for point in points)
            mean /= np.linalg.norm(mean)
            length = np.linalg.norm(found["classifier"][label])
            np.testing.assert_allclose(weight, length * mean, rtol=1e-3)


@pytest.fixture
def brain(tmp_path):
    """After two steps, with a gate of the last ten; two utterances to a
    class."""
    brain = poisoned["train"]("labels", [1, 2])
    brain.branches["audio"].loss_gate.window = LossWindow(10)
    brain.checkpointer = AtomicCheckpointer(tmp_path)
    return brain


def test_amid_a_long_epoch_it_is_said_how_long_it_takes(monkeypatch, caplog):
    """Once, by the steps after the first one, which may compile."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "EARLY", 0)
    begun = []
    begin = progress.Progress.begin
    monkeypatch.setattr(
        progress.Progress,
        "begin",
        lambda self, position: begun.append(position) or begin(self, position),
    )
    poisoned["train"]("labels", [1, 2, 3, 4])
    told = [r.getMessage() for r in caplog.records if "left" in r.getMessage()]
    assert [text.startswith("epoch 1 of") for text in told] == [True]
    assert begun[-1] == 0.25


@pytest.mark.parametrize(("step", "times"), [(0, 1), (1, 0)])
def test_what_comes_before_training_comes_once(brain, step, times, monkeypatch):
    """Not again where the first epoch is resumed."""
    started = []
    start = lambda: started.append(True)  # noqa: E731
    monkeypatch.setattr(brain, "_start_classifiers", start)
    brain.step = step
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    assert len(started) == times


def test_what_comes_before_training_is_no_time_of_an_epoch(brain, monkeypatch):
    monkeypatch.setattr(brain, "_start_classifiers", lambda: time.sleep(1))
    brain.step = 0
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.clock.begin_step()
    assert brain.clock.figures(on_gpu=False)["data_seconds"] < 0.9
    assert time.monotonic() - brain.stage_started < 0.9


def test_a_checkpoint_is_no_wait_for_data(brain, monkeypatch):
    save = type(brain.checkpointer).save_and_keep_only
    monkeypatch.setattr(
        type(brain.checkpointer),
        "save_and_keep_only",
        lambda *args, **options: time.sleep(1) or save(*args, **options),
    )
    brain.clock.start()
    brain._save_intra_epoch_ckpt()
    brain.clock.begin_step()
    assert brain.clock.figures(on_gpu=False)["data_seconds"] < 0.9


def test_the_losses_before_training_are_none_of_an_epoch(brain, monkeypatch):
    brain.hparams.dataloader_options = {"batch_size": 4}
    monkeypatch.setattr(brain, "_update_gate", lambda branch: None)
    brain.record.clear()
    brain._look_first()
    assert brain.record.means() == {}


def test_a_pass_before_training_is_over_all_of_it(brain):
    """Not over the draw of an epoch, whose classes would be all there are."""

    class Numbers(torch.utils.data.Dataset):
        samples_per_epoch = 8

        def __len__(self):
            return self.samples_per_epoch or 48

        def __getitem__(self, number):
            return number

    brain.train_dataset = data = Numbers()
    brain.hparams.dataloader_options = {"batch_size": 5}
    seen = torch.cat(list(brain._batches("All")))
    assert sorted(seen.tolist()) == [*range(48)]
    assert data.samples_per_epoch == 8


def test_a_checkpoint_amid_an_epoch_has_the_steps_of_the_window(brain):
    """Those, too, that the next gate has not been fitted to."""
    gate = brain.branches["audio"].loss_gate
    gate.add(torch.tensor([1.0, 2.0]))
    gate.after_step()
    brain._save_intra_epoch_ckpt()
    other = type(gate)("dynamic", first_epoch=1, window=10)
    other.load_state_dict(gate.state_dict())
    assert sorted(other.window.losses.tolist()) == [1.0, 2.0]


def test_a_gate_that_lets_nothing_through_is_told(brain):
    """Its loss of 0 looks like success."""
    (told,) = brain.warnings({"reliable": 0.01, "corrected": 0.02})
    assert "left 3.0% of the samples" in told
    assert brain.warnings({"reliable": 0.02, "corrected": 0.2}) == []


def test_a_classifier_of_other_labels_is_refused(brain, tmp_path):
    """Of as many classes, each of which is somebody else."""
    record = brain.branches["audio"].gate_record
    record.classes = {"labels": checksum_of([0, 1, 0, 1])}
    brain.hparams.start_classifier = tmp_path / "run" / "classifier.ckpt"
    brain._start_classifiers()  # nothing is known of its labels
    record.write(tmp_path / "run", {"epoch": 1, "gate": 1.0})
    brain._start_classifiers()
    record.classes = {"labels": checksum_of([1, 0, 1, 0])}
    with pytest.raises(ValueError, match="trained on other labels"):
        brain._start_classifiers()


@pytest.mark.parametrize("folder", [".", "audio"])
def test_a_classifier_of_voices_is_looked_at_where_there_are_faces(
    brain, tmp_path, folder
):
    """Of two branches: the file is that of the first one, whose records are in
    a folder of voices if it was trained beside faces, too."""
    branches = brain.branches
    brain.branches = {**branches, "face": branches["audio"]}
    record = branches["audio"].gate_record
    record.classes = {"labels": checksum_of([0, 1])}
    record.write(tmp_path / folder, {"epoch": 1, "gate": 1.0})
    brain.hparams.start_classifier = tmp_path / "classifier.ckpt"
    brain._start_classifiers()
    record.classes = {"labels": checksum_of([1, 0])}
    with pytest.raises(ValueError, match="trained on other labels"):
        brain._start_classifiers()


def test_an_encoder_that_cannot_embed_is_refused_before_training(brain):
    """That of faces as well, which no epoch evaluates."""

    class Lengthless(torch.nn.Module):
        def forward(self, feats):
            return feats

    face = poisoned["label_parts"]()[1]["audio"]
    face.embedding_model = Lengthless()
    brain.branches = {**brain.branches, "face": face}
    with pytest.raises(ValueError, match=r"Lengthless\.forward takes features"):
        brain.on_fit_start()
