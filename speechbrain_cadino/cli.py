"""What the scripts in recipes/ share."""

import contextlib
import errno
import gc
import io
import os
import pathlib
import signal
import sys
import tempfile

import torch
from ruamel.yaml import YAML

import speechbrain as sb
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.interrupts import Interrupted, interruptible
from speechbrain_cadino.lock import release_all
from speechbrain_cadino.processes import follow_parent

# What PyTorch says where another process is gone or does not answer
LOST_WORKER = ["DataLoader worker"]
LOST_RANK = ["by peer", "Timed out waiting", "Broken pipe"]
LOST = (
    "Another process of this run has ended, or does not answer. Its own lines "
    "say why; a data worker may have run out of memory: then lower num_workers."
)
GO_ON = "The same command goes on from the last checkpoint."

# Holds the merged YAML files until the process ends.
_merged_folder = None


def parse_arguments(arguments):
    """As ``speechbrain.parse_arguments``, for YAML files with a ``base`` too.

    ``base: dino.yaml`` makes a YAML file a short list of what differs from the
    file named, which lies beside it. An entry replaces the one of the base;
    one with the same tag (``!new:``, ``!name:``) changes only the arguments
    that it names. ``base: [ca_dino.yaml, small_dino.yaml]`` puts the
    differences of the second over those of the first. An entry that is not in
    the base is taken for a slip of the pen, unless the file refers to it
    itself or names it in ``own_keys``.

    Arguments
    ---------
    arguments : list of str
        The command line without the script.

    Returns
    -------
    hparams_file : str
        The YAML file, merged with its base if it has one.
    run_opts : dict
        As SpeechBrain's.
    overrides : str
        As SpeechBrain's.

    Raises
    ------
    ValueError
        If there is no such file, or an entry is taken for a slip of the pen.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "full.yaml").write_text(
    ...     "lr: 1\\nmodel: !new:collections.Counter {a: 1, b: 2}\\n"
    ... )
    >>> _ = (folder / "small.yaml").write_text(
    ...     "base: full.yaml\\nmodel: !new:collections.Counter {b: 3}\\n"
    ... )
    >>> merged, _, _ = parse_arguments([str(folder / "small.yaml")])
    >>> print(pathlib.Path(merged).read_text().strip())
    lr: 1
    model: !new:collections.Counter {a: 1, b: 3}
    """
    global _merged_folder
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    path = pathlib.Path(hparams_file)
    if not path.is_file():
        raise ValueError(f"No hyperparameter file {path}.")
    settings = _load(path)
    # SpeechBrain keeps its run options to itself; the YAML may refer to them.
    for name in run_opts.overridden_args:
        if name in settings:
            overrides += f"\n{name}: {run_opts[name]}"
    _merged_folder = _merged_folder or tempfile.TemporaryDirectory()
    merged = pathlib.Path(_merged_folder.name) / path.name
    YAML().dump(settings, merged)
    return str(merged), run_opts, overrides


def _load(path):
    """A YAML file, put over its bases if it names any."""
    (_, merged), *overlays = _with_bases(path, {}).items()
    for overlay, settings in overlays:
        text = overlay.read_text(encoding="utf-8")
        own = settings.pop("own_keys", [])
        unknown = [
            key
            for key in settings
            if key not in (*merged, *own) and f"<{key}>" not in text
        ]
        if unknown:
            raise ValueError(
                f"{overlay}: its base has no {', '.join(unknown)}."
            )
        _merge(merged, settings)
    return merged


def _with_bases(path, found):
    """The settings in a YAML file and in its bases, those first, each once."""
    settings = YAML().load(path)
    bases = settings.pop("base", [])
    for base in [bases] if isinstance(bases, str) else bases:
        _with_bases(path.with_name(base), found)
    found.setdefault(path, settings)
    return found


def _merge(base, settings):
    """Puts settings over those of the base, in place.

    A new entry goes where the settings have it, after the entry before it:
    HyperPyYAML follows a reference to a reference only backwards.
    """
    place = 0
    for key, value in settings.items():
        old = base.get(key)
        if key not in base:
            base.insert(place, key, value)
        elif _same_tag(old, value):
            _merge(old, value)
        else:
            base[key] = value
        place = list(base).index(key) + 1


def _same_tag(old, value):
    """Whether both are mappings of the same kind."""
    both = isinstance(old, dict) and isinstance(value, dict)
    return both and old.tag.value == value.tag.value


def change_overrides(overrides, without=(), **values):
    """Sets and removes flags.

    Arguments
    ---------
    overrides : str
        Of ``parse_arguments``.
    without : list of str
        Flags to remove, if they are there.
    **values
        Flags to set.

    Returns
    -------
    str

    Example
    -------
    >>> change_overrides("lr: 1\\nseed: 2", without=["lr"], share=0.1)
    'seed: 2\\nshare: 0.1\\n'
    """
    flags = YAML().load(overrides) or {}
    for name in without:
        flags.pop(name, None)
    flags.update(values)
    return dump_yaml(flags)


def dump_yaml(settings):
    """The YAML text of settings.

    Arguments
    ---------
    settings : dict
        As ``YAML().load`` gives them, or plain data.

    Returns
    -------
    str
    """
    yaml = YAML()
    yaml.width = sys.maxsize  # no line is broken
    stream = io.StringIO()
    yaml.dump(settings, stream)
    return stream.getvalue()


@contextlib.contextmanager
def user_errors():
    """Turns a mistake in flags, files or data into one sentence and exit 1.

    ``ValueError``, ``OSError`` and, where an extra is missing, ``ImportError``
    are what this package raises with a message for the user; the traceback
    goes to ``log.txt`` only. So it is if another process of the run is gone.
    Asked to end by SIGTERM or SIGINT, a script says so in its last line. Where
    all went well, the process leaves the group of torchrun. Serves as a
    context manager and as a decorator.

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
    if "LOCAL_RANK" in os.environ:
        # The ranks of a torchrun that was killed would train on, unseen.
        follow_parent(signal.SIGTERM)
    try:
        with interruptible():
            yield
        _leave_group()
    except Interrupted as end:
        get_logger(__name__).error(
            f"Ended by {end.signal.name}{end.place}: the same command goes on "
            "from there."
        )
        _leave_group()
        raise
    except (ConnectionError, EOFError) as error:
        # That of a file that ends too early says more than nothing.
        if isinstance(error, EOFError) and str(error):
            raise
        _exit(f"{LOST} {error!r}. {GO_ON}")
    except (ValueError, OSError, ImportError) as error:
        sentence = str(error)
        if sentence.startswith("Caught ") and "Traceback" in sentence:
            # Of a worker of a DataLoader, which adds its traceback
            _, _, sentence = sentence.rpartition(f"{type(error).__name__}: ")
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            sentence = (
                f"A disk is full ({error}): make space where this run writes, "
                "and start the same command again."
            )
        if "!PLACEHOLDER" in sentence:
            sentence += " Give it in the YAML file or as a flag: --NAME=VALUE."
        _exit(sentence.strip())
    except KeyError as error:
        # HyperPyYAML's answer to a flag that is not in the YAML file.
        if "Override '" not in str(error):
            raise
        _exit(f"No such flag. {error.args[0]}")
    except RuntimeError as error:
        if not _is_of_lost_process(str(error)):
            raise
        _exit(f"{LOST} {str(error).splitlines()[0]}. {GO_ON}")
    finally:
        release_all()


def _is_of_lost_process(message):
    """Whether PyTorch says so of a data worker, or of another rank."""
    in_group = torch.distributed.is_initialized()
    signs = LOST_WORKER + (LOST_RANK if in_group else [])
    return any(sign in message for sign in signs)


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
    logger.error(sentence, main_process_only=False)
    sys.exit(1)
