"""YAML files that are put over others, and the flags of the command line."""

import contextlib
import copy
import dataclasses
import datetime
import io
import itertools
import os
import pathlib
import sys
import tempfile

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, TaggedScalar
from ruamel.yaml.error import YAMLError

import speechbrain as sb
from speechbrain_cadino.config.device import check_device, number_gpu
from speechbrain_cadino.config.flags import (
    did_you_mean,
    is_path,
    read_flags,
)
from speechbrain_cadino.config.settings import (
    CALLS,
    OWN_FOLDERS,
    parse,
    tag_of,
)
from speechbrain_cadino.config.usage import find_yaml

# Keys of paths in any file, however it was made
FOLDERS = ["data_folder", "output_folder"]

# The call in YAML files that seeds what is made below it
SEED = "__set_seed"

# Run options of SpeechBrain that no script follows, and what to do instead
REFUSED = {
    "test_only": "an encoder is verified by verify.py; to end a training where "
    "it is, see RUNNING.md",
    "skip_nonfinite_grads": "leave it out: a step that is not finite is "
    "undone anyway, see --nonfinite_patience in RUNNING.md",
    "jit": "leave it out: on a GPU the encoder is compiled by itself, see "
    "compile_encoder",
    "jit_module_keys": "leave it out, as --jit",
    "log_config": "leave it out: the log is in the output folder",
}

# Those that scripts follow which train nothing
TOOL_OPTIONS = {"device", "distributed_backend"}

# Holds the merged YAML files until the process ends.
_merged_folder = None

# What has been loaded in the block of ``loads_once``
_loaded = None


def parse_arguments(arguments, trains=True):
    """As ``speechbrain.parse_arguments``, for YAML files with a ``base`` too.

    ``base: dino.yaml`` makes a YAML file a short list of what differs from the
    file named, which lies beside it or among the hparams of the recipe. An
    entry replaces the one of the base; one with the same tag (``!new:``,
    ``!name:``), or a mapping without a tag, changes only the arguments that it
    names. ``base: [ca_dino.yaml, small_dino.yaml]`` puts the differences of the
    second over those of the first. An entry that is not in the base is taken
    for a slip of the pen, unless the file refers to it itself or names it in
    ``own_keys``; with ``own_keys: all`` a file only shares blocks with others.

    ``--show`` prints the merged file, which stock HyperPyYAML loads, and ends.

    Arguments
    ---------
    arguments : list of str
        The command line without the script.
    trains : bool
        Whether the script trains, and follows most of SpeechBrain's run
        options.

    Returns
    -------
    hparams_file : str
        The YAML file, merged with its base if it has one.
    run_opts : dict
        The run options, as SpeechBrain's.
    overrides : str
        The overrides of the YAML file, as SpeechBrain's.

    Raises
    ------
    ValueError
        If there is no such file or flag, or an entry is taken for a slip of
        the pen.

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
    shown = "--show" in arguments
    arguments = [part for part in arguments if part != "--show"]
    hparams_file, run_opts, _ = sb.parse_arguments(arguments)
    path = pathlib.Path(hparams_file)
    settings, files = load_merged(path)
    own = list(arguments)
    own.remove(hparams_file)
    flags = read_flags(own, settings, run_opts.as_dict())
    _check_options(run_opts.overridden_args - settings.keys(), trains)
    run_opts = _own_device(_with_limit(run_opts))
    # SpeechBrain keeps its run options to itself; the YAML may refer to them.
    for name in run_opts.overridden_args:
        if name in settings:
            flags[name] = run_opts[name]
    # SpeechBrain takes one of the two, and a YAML file has the other
    by_steps = "ckpt_interval_steps" in run_opts.overridden_args
    if by_steps and "ckpt_interval_minutes" in settings:
        flags.setdefault("ckpt_interval_minutes", 0)
    if shown:
        print(dump_yaml(settings), end="")
        sys.exit(0)
    # HyperPyYAML gives arguments only to a call that is a mapping
    settings = copy.copy(settings)
    for name, value in flags.items():
        if isinstance(value, dict):
            settings[name] = _arguments(settings[name])
    folders = [file.absolute().parent for file in files]
    OWN_FOLDERS[:] = dict.fromkeys(map(str, [*folders, pathlib.Path.cwd()]))
    # Gone where a system clears what was not touched for days, as by a step of
    # a pipeline that takes longer
    if _merged_folder is None or not os.path.isdir(_merged_folder.name):
        _merged_folder = tempfile.TemporaryDirectory()
    # A pipeline and its step may have files of one name
    merged = pathlib.Path(tempfile.mkdtemp(dir=_merged_folder.name), path.name)
    YAML().dump(settings, merged)
    return str(merged), run_opts, dump_yaml(flags) if flags else ""


def _check_options(given, trains):
    """Raises if a run option would do nothing."""
    for name in sorted(given):
        if name in REFUSED:
            raise ValueError(f"--{name}: {REFUSED[name]}.")
        if not trains and name not in TOOL_OPTIONS:
            raise ValueError(
                f"--{name} is for trainings, and does nothing here: leave it "
                "out."
            )


def _with_limit(run_opts):
    """The same with a limit of steps that is a number, not SpeechBrain's text.
    Raises if it is none."""
    limit = run_opts["optimizer_step_limit"]
    if limit is None:
        return run_opts
    if not str(limit).isdecimal() or int(limit) < 1:
        raise ValueError(
            f"--optimizer_step_limit={limit}: give a whole number of steps."
        )
    return dataclasses.replace(run_opts, optimizer_step_limit=int(limit))


def _own_device(run_opts):
    """The same with the GPU of this process. Raises if there is no such
    device."""
    if "device" not in run_opts.overridden_args:
        return run_opts
    device = number_gpu(run_opts["device"])
    check_device(device)
    return dataclasses.replace(run_opts, device=device)


def allow_own_classes():
    """Puts the folders of the YAML file and of its bases, then the current one,
    at the end of the import path: a training may be made of classes in files
    of one's own.
    """
    sys.path += [folder for folder in OWN_FOLDERS if folder not in sys.path]


@contextlib.contextmanager
def loads_once():
    """In the block, each YAML file is loaded but once, as nobody edits it in
    such a moment."""
    global _loaded
    _loaded = {}
    try:
        yield
    finally:
        _loaded = None


def load_merged(path):
    """A YAML file, put over its bases if it names any.

    Arguments
    ---------
    path : pathlib.Path
        The file.

    Returns
    -------
    settings : dict
        The settings, as ``YAML().load`` gives them, to be left as they are.
    files : list of pathlib.Path
        The files of all, the nearest first.

    Raises
    ------
    ValueError
        See ``parse_arguments``.
    """
    if not path.is_file():
        raise ValueError(f"No hyperparameter file {path}.")
    if _loaded is None:
        return _load(path)
    place = os.path.abspath(path)
    if place not in _loaded:
        _loaded[place] = _load(path)
    return _loaded[place]


def _load(path):
    """See ``load_merged``."""
    found = list(_with_bases(path, {}, []).values())
    files = [file for file, _ in reversed(found)]
    (whole, merged), *overlays = found
    _check_paths(whole, merged, dict.fromkeys(FOLDERS))
    for overlay, settings in overlays:
        text = _read(overlay)
        own = settings.pop("own_keys", None) or []
        own = [own] if isinstance(own, str) and own != "all" else own
        for key in settings if own != "all" else []:
            if key not in (*merged, *own) and f"<{key}>" not in text:
                raise ValueError(
                    f"{overlay}: its base has no {key}."
                    f"{did_you_mean(key, merged)} A key of your own is named "
                    "in own_keys: [...]."
                )
        _check_paths(overlay, settings, merged)
        _merge(merged, settings)
    if overlays:  # it is none of its bases
        merged.ca.comment = None
        head = itertools.takewhile(
            lambda line: line.startswith("#"),
            _read(path).splitlines(),
        )
        if text := "\n".join(line[2:] for line in head):
            merged.yaml_set_start_comment(text)
    return merged, files


def _check_paths(overlay, settings, merged):
    """Raises if YAML takes a path for a number: those of its bases tell which
    keys are of paths, one's own may be called as they are."""
    for key, value in settings.items():
        if is_path(key) and key in merged and not _numbers(merged[key]):
            for number in _numbers(value):
                raise ValueError(
                    f"{overlay}: {key} is {number}, which YAML takes for a "
                    "number or a date: put the path in quotes."
                )


def _numbers(value):
    """The numbers and dates in a value, which may be one, or a list."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, (int, float, datetime.date))]


def _read(path):
    """The text of a YAML file, for its comments and references."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: save it as that.") from error


def _with_bases(path, found, chain):
    """Each of the bases of a YAML file, those first, and itself, with its
    settings: by its real path, so that it comes once however it is spelled."""
    place = os.path.realpath(path)
    before, chain = [*map(os.path.realpath, chain)], [*chain, path]
    if place in before:
        circle = " is based on ".join(str(link) for link in chain)
        raise ValueError(f"A circle of YAML files: {circle}.")
    if not path.is_file():
        raise ValueError(
            f"{chain[-2]}: its base {path.name} is neither beside it nor among "
            "the hparams of the recipe."
        )
    try:
        settings = parse(_read(path))
    except YAMLError as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no settings, NAME: VALUE in each line.")
    bases = settings.pop("base", None) or []
    for base in [bases] if isinstance(bases, str) else bases:
        _with_bases(find_yaml(base, path.parent, but=path), found, chain)
    found.setdefault(place, (path, settings))
    return found


def _merge(base, settings):
    """Puts settings over those of the base, in place.

    A new entry goes where the settings have it, after the entry before it:
    HyperPyYAML follows a reference to a reference only backwards. The seed
    stays the first: what is made before it is another one in each run.
    """
    names = list(base)
    seeded = place = 1 + names.index(SEED) if SEED in names else 0
    for key, value in settings.items():
        old, new = _arguments(base.get(key)), _arguments(value)
        if key not in base:
            base.insert(place, key, value)
        elif _completes(old, new):
            _merge(old, new)
            base[key] = old or base[key]  # as it was, if nothing was given
        else:
            base[key] = value
        place = max(seeded, list(base).index(key) + 1)


def _arguments(entry):
    """An entry, as a mapping if it is a call without arguments."""
    alone = isinstance(entry, TaggedScalar) and not entry.value
    if not alone or tag_of(entry).split(":")[0] not in CALLS:
        return entry
    arguments = CommentedMap()
    arguments.yaml_set_ctag(entry.tag)
    return arguments


def _completes(old, value):
    """Whether a mapping is of the same kind as the old one, or says of none."""
    both = isinstance(old, dict) and isinstance(value, dict)
    return both and tag_of(value) in ("", tag_of(old))


def change_overrides(overrides, without=(), **values):
    """Sets and removes flags.

    Arguments
    ---------
    overrides : str
        The overrides of ``parse_arguments``.
    without : list of str
        Flags to remove, if they are there.
    **values
        Flags to set.

    Returns
    -------
    str
        The changed overrides, as YAML text.

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
        The settings, as ``YAML().load`` gives them, or plain data.

    Returns
    -------
    str
        The text, in which no long line is broken.
    """
    yaml = YAML()
    yaml.width = sys.maxsize  # no line is broken
    stream = io.StringIO()
    yaml.dump(settings, stream)
    return stream.getvalue()
