import os
import signal
import threading

import pytest

import speechbrain as sb
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.process import interrupts
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.interrupts import Interrupted, interruptible


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """As in a terminal; at the end of a test, all is as before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    now = [signal.getsignal(number) for number in interrupts.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == now
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_a_script_says_why_it_ends(number, code, caplog):
    with pytest.raises(SystemExit) as end, user_errors():
        ask(number)
    assert end.value.code == code
    assert caplog.messages[-1] == (
        f"Ended by {number.name}: the same command goes on from there."
    )
    with pytest.raises(SystemExit), user_errors(goes_on=False):
        ask(number)
    assert caplog.messages[-1] == f"Ended by {number.name}."


def test_postponed_to_the_end_of_the_block():
    reached = []

    @interruptible(postponed=True)
    def block():
        ask()
        reached.append(True)

    with pytest.raises(Interrupted):
        block()
    assert reached


def test_a_second_request_ends_at_once_but_not_an_echo(monkeypatch):
    reached = []

    @interruptible(postponed=True)
    def block():
        ask(signal.SIGTERM)
        ask(signal.SIGTERM)  # torchrun tells once more what SLURM told
        reached.append("echo")
        monkeypatch.setattr(interrupts, "SAME_SECONDS", 0.0)
        ask(signal.SIGINT)
        reached.append("second")

    with pytest.raises(Interrupted) as end:
        block()
    assert end.value.signal == signal.SIGINT
    assert reached == ["echo"]


@pytest.mark.parametrize("before", [False, True])
def test_long_work_is_not_waited_for(before):
    reached = []

    def block():
        with interruptible(postponed=True) as requests:
            if before:
                ask()
            with requests.at_once():
                reached.append("begun")
                ask()
                reached.append("done")

    with pytest.raises(Interrupted):
        block()
    assert reached == ([] if before else ["begun"])


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible() as requests:
        ask(signal.SIGINT)
    assert not requests.number
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_in_another_thread_nothing_changes():
    found = []

    def block():
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_fit_takes_note_and_restores_the_handlers(monkeypatch):
    """Without a script around it, as in a notebook."""
    noted = []

    def fit(brain, epochs):
        ask()
        noted.append(brain.requests.number)

    monkeypatch.setattr(sb.Brain, "fit", fit)
    brain = object.__new__(EncoderBrain)
    brain.checkpointer = object()
    with pytest.raises(Interrupted):
        brain.fit([1])
    assert noted == [signal.SIGTERM]
    # With nothing to save there is nothing to wait for
    brain.checkpointer = None
    with pytest.raises(Interrupted):
        brain.fit([1])
    assert noted == [signal.SIGTERM]
