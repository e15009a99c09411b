"""A training of any kind, as its processes see it."""

import pathlib

import forked

LATE = pathlib.Path(__file__).with_name("late.py")


def test_nobody_waits_for_the_report(tmp_path):
    """A long list takes longer than torchrun's processes wait. And its files
    are looked at by one process, though all know that there is a list."""
    code, output = forked.run(LATE, tmp_path, ranks=2)
    assert code == 0, output
    assert (tmp_path / "reported").read_text() == "the list"
