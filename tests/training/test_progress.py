import itertools

import pytest

from speechbrain_cadino.training.progress import LATER, PLACE, Progress


def progress(epochs, begun=0, seconds=60):
    clock = itertools.count(0, seconds)
    training = Progress(epochs, now=lambda: next(clock))
    training.begin(begun)
    return training


def test_the_time_left_is_that_of_the_epochs_so_far():
    training = progress(10, begun=7)
    lines = [training.line(epoch, {"loss": 1.0}, {}) for epoch in (8, 9, 10)]
    assert lines == [
        "EER     -    loss 1.000  epoch 8 of 10, about 2 min left",
        "EER     -    loss 1.000  epoch 9 of 10, about 1 min left",
        "EER     -    loss 1.000  epoch 10 of 10",
    ]


@pytest.mark.parametrize(
    ("begun", "first"),
    [(39.9, "epoch 40 of 150, about 110 h left"), (39.99, "epoch 40 of 150")],
)
def test_the_rest_of_an_epoch_is_no_epoch(begun, first):
    """Of an epoch of an hour, six minutes were left after a resume, or less."""
    rest = (40 - begun) * 3600
    seconds = [0]
    training = Progress(150, now=lambda: seconds[0])
    training.begin(begun)
    lines = []
    for epoch, seconds[0] in [(40, rest), (41, rest + 3600)]:
        lines.append(training.line(epoch, {"loss": 1.0}, {}))
    assert lines[0].endswith(f"loss 1.000  {first}")
    assert lines[1].endswith("epoch 41 of 150, about 109 h left")


def test_an_epoch_that_says_nothing_of_the_time_is_made_up_for():
    seconds = [0]
    training = Progress(150, now=lambda: seconds[0])
    training.begin(39.99)
    seconds[0] = 36
    assert "left" not in training.line(40, {"loss": 1.0}, {})
    seconds[0] += 600
    assert training.early(40 + 1 / 6) == "epoch 41 of 150, about 110 h left"


def test_who_resumes_each_epoch_is_told_too(monkeypatch):
    """Once, as soon as there is something to tell."""
    monkeypatch.delenv(PLACE, raising=False)
    seconds = [0]
    training = Progress(150, now=lambda: seconds[0])
    training.begin(39.5)
    lines = []
    for seconds[0] in range(60, 601, 60):
        lines.append(training.early(39.5 + seconds[0] / 3000))
    assert lines == [
        *[None] * 2,
        "epoch 40 of 150, about 92 h left",
        *[None] * 7,
    ]
    training = Progress(8, now=lambda: seconds[0])
    seconds[0] += 60
    training.line(1, {"loss": 1.0}, {})
    seconds[0] += 3600
    assert training.early(1.5) is None


def test_in_a_pipeline_later_steps_count(monkeypatch):
    monkeypatch.setenv(PLACE, "stage_1, 1 of 5")
    monkeypatch.setenv(LATER, "1.5")
    line = progress(8, 3).line(4, {"loss": 2.1}, {"EER": 13.14})
    # 4 epochs of it, and 1.5 times all 8
    assert line.endswith("epoch 4 of 8, stage_1, 1 of 5, about 16 min left")
    assert line.startswith("EER 13.14 %  ")


def test_where_nobody_knows_of_later_steps_it_is_that_here(monkeypatch):
    monkeypatch.setenv(PLACE, "stage_1, 1 of 5")
    monkeypatch.delenv(LATER, raising=False)
    line = progress(8, 3).line(4, {"loss": 2.1}, {"EER": 13.14})
    assert line.endswith("about 4 min left here")


@pytest.mark.parametrize("place", ["stage_1", "audio_visual/iteration_1"])
def test_a_line_fits_a_terminal(place, monkeypatch):
    monkeypatch.setenv(PLACE, f"{place}, 9 of 9")
    monkeypatch.setenv(LATER, "0")
    line = progress(150).line(100, {"loss": 2.1}, {"EER": 13.14})
    assert len(line) <= 80
    assert line.startswith("EER 13.14 %")
