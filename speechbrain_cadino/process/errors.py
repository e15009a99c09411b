"""Errors of the scripts in recipes/ and of the command line: a sentence for
those of users."""

import contextlib
import gc
import os
import select
import signal
import sys

import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.process.console import printable
from speechbrain_cadino.process.files import FULL
from speechbrain_cadino.process.interrupts import Interrupted, interruptible
from speechbrain_cadino.process.lock import release_all
from speechbrain_cadino.process.ranks import follow_parent

# What PyTorch says where memory runs out, beside errors of their own
NO_MEMORY = ["can't allocate memory", "out of memory", "ALLOC_FAILED"]

# What PyTorch says where another process is gone or does not answer
LOST_WORKER = ["DataLoader worker"]
LOST_RANK = ["by peer", "Timed out waiting", "Broken pipe"]
LOST = (
    "Another process of this run has ended, or does not answer. Its own lines "
    "say why; a data worker may have run out of memory: then lower "
    "num_workers, where the command has it."
)
GO_ON = " The same command goes on from the last checkpoint."


@contextlib.contextmanager
def user_errors(goes_on=True):
    """Turns a mistake in flags, files or data into one sentence and exit 1.

    ``ValueError``, ``OSError`` and, where an extra is missing, ``ImportError``
    are what this package raises with a message for the user; the traceback
    goes to ``log.txt`` only. So it is if another process of the run is gone.
    Asked to end by a signal (see ``interruptible``), a script says so in its
    last line. Where all went well, the process leaves the group of torchrun.
    Serves as a context manager and as a decorator.

    Arguments
    ---------
    goes_on : bool
        Whether the same command goes on where it has ended.

    Raises
    ------
    SystemExit
        With code 1.
    Interrupted
        If the process was asked to end.

    Example
    -------
    >>> @user_errors()
    ... def main():
    ...     raise ValueError("The list is empty.")
    >>> main()
    Traceback (most recent call last):
    ...
    SystemExit: 1
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files in a terminal that has no such letters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if "LOCAL_RANK" in os.environ:
        # The ranks of a torchrun that was killed would train on, unseen.
        follow_parent(signal.SIGTERM)
    well = False
    try:
        with interruptible():
            yield
        _leave_group()
        well = True
    except Interrupted as end:
        get_logger(__name__).error(
            f"Ended by {end.signal.name}{end.place}"
            + (": the same command goes on from there." if goes_on else ".")
        )
        _leave_group()
        raise
    except Exception as error:
        sentence = _sentence_of(error, GO_ON * goes_on)
        if sentence is None:
            raise
        _exit(sentence)
    finally:
        release_all(well)


def _sentence_of(error, goes_on):
    """What a user is to know of an error; None where it is one of ours, whose
    traceback is to be seen."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return _out_of_memory(error)
    if isinstance(error, (ConnectionError, EOFError)):
        return _of_connection(error, goes_on)
    if isinstance(error, (ValueError, OSError, ImportError)):
        return _of_input(error)
    if isinstance(error, KeyError):
        return _of_flag(error)
    if isinstance(error, RuntimeError):
        return _of_torch(error, goes_on)
    return None


def _of_connection(error, goes_on):
    """Of a pipe or a socket whose other end has gone."""
    unread = _without_reader()
    if unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:  # else Python's last flush fails, too
            os.dup2(nowhere, stream.fileno())
        return (
            "Whoever read this output has gone, and so it ends: write it into "
            "a file, or use nohup."
        )
    # That of a file that ends too early says more than nothing.
    if isinstance(error, EOFError) and str(error):
        return None
    return f"{LOST} {error!r}.{goes_on}"


def _of_input(error):
    """Of flags, files and data: what this package raises for the user."""
    if getattr(error, "errno", None) in FULL:
        return (
            f"A disk is full ({error}): make space where this run writes, and "
            "start the same command again."
        )
    sentence = str(error)
    if sentence.startswith("Caught ") and "Traceback" in sentence:
        # Of a worker of a DataLoader, which adds its traceback
        _, _, sentence = sentence.rpartition(f"{type(error).__name__}: ")
    if "Not enough GPUs available" in sentence:
        sentence = (
            f"There are {torch.cuda.device_count()} GPUs here, fewer than "
            "processes: start no more processes than GPUs, by torchrun's "
            "--nproc_per_node or the pipeline's --processes; or, on CPUs, give "
            "--device=cpu --distributed_backend=gloo."
        )
    if "!PLACEHOLDER" in sentence:
        sentence += " Give it in the YAML file or as a flag: --NAME=VALUE."
    return sentence.strip()


def _of_flag(error):
    """HyperPyYAML's answer to a flag that is not in the YAML file."""
    if "Override '" in str(error):
        return f"No such flag. {error.args[0]}"
    return None


def _of_torch(error, goes_on):
    """What PyTorch says of memory, of a data worker or of another rank."""
    message = str(error)
    if any(sign in message for sign in NO_MEMORY):
        return _out_of_memory(error)
    in_group = torch.distributed.is_initialized()
    signs = LOST_WORKER + (LOST_RANK if in_group else [])
    if any(sign in message for sign in signs):
        return f"{LOST} {message.splitlines()[0]}.{goes_on}"
    return None


def _without_reader():
    """The streams of what is printed that go into a pipe which nobody reads
    any more."""
    found = []
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # Linux says so by an error, macOS by a hang-up
            poll.register(stream.fileno(), select.POLLOUT)
            gone = select.POLLERR | select.POLLHUP
            if any(event & gone for _, event in poll.poll(0)):
                found.append(stream)
    return found


def _out_of_memory(error):
    """The sentence where memory ran out, on a GPU or on the machine."""
    first = str(error).partition("\n")[0]
    return (
        f"Memory ran out ({first}). If others use the GPU too, wait for them. "
        "If a training of voices is compiled, on one GPU, set compile_memory "
        "to 0.6. Or lower batch_size, and with dino.yaml or dlg_lc.yaml raise "
        "grad_accumulation_factor in turn, in another output_folder if this "
        "one has a checkpoint. Else give fewer or shorter files."
    )


def _leave_group():
    """Leaves the group of torchrun's processes.

    Left to the end of Python, its threads may abort the process; and so they
    may if a Brain, which is full of cycles, still holds the group.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def _exit(sentence):
    # Asked for only now: with the level that the experiment folder has set.
    logger = get_logger(__name__)
    logger.debug("Where the error below comes from:", exc_info=True)
    # An error of one process alone must be heard too.
    logger.error(printable(sentence, "\n\t"), main_process_only=False)
    sys.exit(1)
