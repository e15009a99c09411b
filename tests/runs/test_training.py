"""A training of any kind, as its processes see it."""

import pathlib

import forked

LATE = pathlib.Path(__file__).with_name("late.py")


def test_a_report_may_take_as_long_as_it_takes(tmp_path):
    """As that of a long list, whose files one process looks at, though all know
    that there is a list."""
    code, output = forked.run(LATE, tmp_path, ranks=2)
    assert code == 0, output
    assert (tmp_path / "reported").read_text() == "the list"
