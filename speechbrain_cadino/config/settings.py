"""Settings of a run: what its result depends on, and how two runs differ."""

import copy
import datetime
import functools
import hashlib
import importlib.util
import json
import pathlib
import sys

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar

# The folders that ``allow_own_classes`` has put on the import path
OWN_FOLDERS = []

# The tags of HyperPyYAML that name Python's objects
CALLS = {"!new", "!name", "!apply", "!module"}

# May differ between two runs: their result stays the same.
HARMLESS = {
    "num_workers",
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
    "shard_size",
    "evaluate_every",
    "skip_prep",
    "speakers",
    "labels_alone",
    "device",
    "distributed_backend",
    "find_unused_parameters",
    "compile_encoder",
    "compile_memory",
    "nonfinite_patience",
    "noprogressbar",
    "tqdm_colored_bar",
    "tqdm_barcolor",
    "profile_training",
    "profile_warmup",
    "profile_steps",
    "train_logger",
    "tensorboard_logger",
}

# Whose classes are of SpeechBrain, of this package or of what they need
COMMON = {
    "speechbrain",
    "speechbrain_cadino",
    "torch",
    "torchaudio",
    "numpy",
    "scipy",
}

# Where a training ends may change while it is at work
LIMIT = "optimizer_step_limit"

# Stands for the output folder in settings: a run that was moved goes on.
OUTPUT_FOLDER = "<output_folder>"

# Keys that are not null where they are left out.
MEANT = {"augment_globals", "augment_locals", "augment_source"}

# How a key that is not there is shown.
ABSENT = "not there"

# Of the differences between two runs, so many are named.
MOST_DIFFERENCES = 10


def resolve(hparams_file, overrides=None, run_opts=None):
    """The settings that a YAML file and flags make, references resolved.

    Nothing is built.

    Arguments
    ---------
    hparams_file : str or pathlib.Path
        The YAML file, merged.
    overrides : str, optional
        The flags, as of ``parse_arguments``.
    run_opts : RunOptions, optional
        SpeechBrain's: those on the command line belong to the settings.

    Returns
    -------
    dict
        The settings, as ``YAML().load`` gives them; ``own_files`` are the
        files of classes of one's own, see ``own_files``.
    """
    settings = parse(resolved_text(hparams_file, overrides))
    for name in run_opts.overridden_args if run_opts is not None else []:
        settings[name] = run_opts[name]
    files = own_files(settings)
    if files:
        settings["own_files"] = files
    return settings


def parse(text):
    """The settings that a YAML text makes: it is read but once, as files have
    bases in common, and a script asks for what it has written several times.

    Arguments
    ---------
    text : str
        The text.

    Returns
    -------
    dict
        The settings, as ``YAML().load`` gives them, to be changed at will.

    Example
    -------
    >>> parse("size: 8")["size"] = 9
    >>> dict(parse("size: 8"))
    {'size': 8}
    """
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=128)
def _parsed(text):
    """As ``parse``, to be left as it is."""
    return YAML().load(text)


def resolved_text(hparams_file, overrides=None):
    """The text of a YAML file, references resolved: once for each text, which
    a script asks for several times.

    Arguments
    ---------
    hparams_file : str or pathlib.Path
        The YAML file.
    overrides : str, optional
        The flags, as of ``parse_arguments``.

    Returns
    -------
    str
        The text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("size: 8\\nhalf: !ref <size> // 2\\n")
    >>> resolved_text(path, "size: 6")
    'size: 6\\nhalf: 3\\n'
    """
    with open(hparams_file, encoding="utf-8") as fin:
        text = fin.read()
        # Other files and what functions give may change
        if "!include" in text or "!applyref" in text:
            fin.seek(0)
            return resolve_references(fin, overrides).getvalue()
    return _resolved(text, overrides)


@functools.lru_cache(maxsize=64)
def _resolved(text, overrides):
    """A text with its references resolved."""
    return resolve_references(text, overrides).getvalue()


def own_files(settings):
    """The files of classes that are on the import path of a training only:
    beside an overlay or its bases, or in the current folder.

    Arguments
    ---------
    settings : dict
        The settings, as ``YAML().load`` gives them.

    Returns
    -------
    dict of str:str
        The names of the files, of a package all of them, and a hash of their
        text: a run that goes on with another text is another run. What they
        import in turn is not looked at.
    """
    found = {}
    # Not this package, also where its repository is the current folder
    for module in filter(None, _roots(settings)):
        for folder in map(pathlib.Path, OWN_FOLDERS):
            files = [folder / f"{module}.py"]
            if (folder / module / "__init__.py").is_file():
                files = sorted((folder / module).rglob("*.py"))
            if files[0].is_file() and not _is_elsewhere(module, folder):
                for file in files:
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    found[str(file.relative_to(folder))] = digest[:12]
                break
    return found


def own_modules(settings):
    """What has to be on the import path of whoever builds settings, beside
    SpeechBrain.

    Arguments
    ---------
    settings : dict
        The settings, as ``YAML().load`` gives them.

    Returns
    -------
    list of str
        The files of ``own_files``, then modules from anywhere else.

    Example
    -------
    >>> text = "a: !new:torch.nn.Identity\\nb: !new:my_encoder.Net\\n"
    >>> own_modules(YAML().load(text))
    ['my_encoder']
    """
    files = own_files(settings)
    roots = set(_roots(settings))
    here = {name.split("/")[0].removesuffix(".py") for name in files}
    return [*files, *sorted(roots - here - {""})]


def _roots(settings):
    return [_root(tag_of(node)) for _, node in nodes(settings)]


def _root(tag):
    """The module that a tag calls, unless it comes with SpeechBrain."""
    kind, _, name = tag.partition(":")
    root = name.split(".")[0] if kind in CALLS else ""
    known = root in COMMON or root in sys.stdlib_module_names
    return "" if known else root


def _is_elsewhere(module, folder):
    """Whether Python finds a module in another folder first."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return False
    return folder.resolve() not in pathlib.Path(spec.origin).resolve().parents


def tag_of(node):
    """The tag of a node of a YAML file.

    Arguments
    ---------
    node : object
        The node, as ``YAML().load`` gives it, or plain data.

    Returns
    -------
    str
        The tag; empty if it has none.

    Example
    -------
    >>> tag_of(YAML().load("!new:torch.nn.Identity")), tag_of({"a": 1})
    ('!new:torch.nn.Identity', '')
    """
    return getattr(getattr(node, "tag", None), "value", None) or ""


def nodes(settings, key=""):
    """All nodes of nested settings, each before those in it.

    Arguments
    ---------
    settings : object
        The settings, or a part of them.
    key : str
        The dotted key of the part.

    Yields
    ------
    tuple
        A dotted key, and the node.

    Example
    -------
    >>> [key for key, _ in nodes({"a": {"b": [7, 8]}})]
    ['', 'a', 'a.b', 'a.b.0', 'a.b.1']
    """
    yield key, settings
    parts = settings.items() if isinstance(settings, dict) else ()
    if isinstance(settings, list):
        parts = enumerate(settings)
    for name, part in parts:
        yield from nodes(part, f"{key}.{name}" if key else str(name))


def comparable(settings, folder, harmless=HARMLESS):
    """Settings as plain data, of which a result depends on all.

    Arguments
    ---------
    settings : dict
        The settings, as ``YAML().load`` gives them, references resolved.
    folder : str
        The output folder; a marker stands for it.
    harmless : set of str
        Keys to leave out, at any depth, but for arguments of classes of one's
        own.

    Returns
    -------
    dict
        The settings as plain data, fit for JSON.

    Example
    -------
    >>> comparable({"lr": 1, "save": "runs/7/save", "num_workers": 4}, "runs/7")
    {'lr': 1, 'save': '<output_folder>/save'}
    """
    if isinstance(settings, TaggedScalar):
        return f"{settings.tag.value} {settings.value}".strip()
    if isinstance(settings, dict):
        # Plain dicts have no tag, and one of a record has it as a key.
        name = tag_of(settings) or settings.get("!", "")
        # To a class of one's own, an argument of such a name may matter
        harmless = () if _root(name) else harmless
        return ({"!": name} if name else {}) | {
            str(key): comparable(item, folder, harmless)
            for key, item in settings.items()
            if key not in harmless
        }
    if isinstance(settings, list):
        name = tag_of(settings)
        parts = [comparable(item, folder, harmless) for item in settings]
        return [name, *parts] if name else parts
    if isinstance(settings, str) and f"{settings}/".startswith(f"{folder}/"):
        return OUTPUT_FOLDER + settings[len(folder) :]
    if isinstance(settings, datetime.date):  # 2024-05-01, a folder's name
        return settings.isoformat()
    return settings


def differences(old, new):
    """What changed, in words; a value that others refer to, once.

    Arguments
    ---------
    old : dict
        The old settings, as ``comparable`` gives them.
    new : dict
        The new settings, as ``comparable`` gives them.

    Returns
    -------
    str
        The changes, with semicolons between them; empty if there are none.

    Example
    -------
    >>> differences({"k": 8, "d": {"e": 8, "f": 1}}, {"k": 9, "d": {"e": 9}})
    'k was 8, is 9; d.f was 1, is not there'
    """
    old, new = _leaves(old), _leaves(new)
    pairs = {key: (_show(old, key), _show(new, key)) for key in {**old, **new}}
    changed = {
        key: pair
        for key, pair in pairs.items()
        if pair[0] != pair[1] and not _is_nothing(key, pair)
    }
    named = [pair for key, pair in changed.items() if "." not in key]
    lines = [
        f"{key} was {was}, is {now}"
        for key, (was, now) in changed.items()
        if "." not in key or (was, now) not in named
    ]
    more = len(lines) - MOST_DIFFERENCES
    if more > 0:
        lines[MOST_DIFFERENCES:] = [f"and {more} more"]
    return "; ".join(lines)


def _is_nothing(key, pair):
    """Whether a key has come since, or gone, that is null: what is left out of
    most objects, and of few files, is another value."""
    room, _, name = key.rpartition(".")
    where = room.partition(".")[0] in ("", "prepare") and name not in MEANT
    return where and set(pair) == {ABSENT, "null"}


def _leaves(settings):
    """Nested plain data as one dict of dotted keys."""
    return {
        key: node
        for key, node in nodes(settings)
        if not (node and isinstance(node, (dict, list)))
    }


def _show(leaves, key):
    return json.dumps(leaves[key]) if key in leaves else ABSENT
