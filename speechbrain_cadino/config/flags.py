"""Flags of the command line: what the value of each is."""

import contextlib
import difflib
import os
import re

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain_cadino.config.settings import tag_of

# Keys whose value is a file or a folder, also where it is null by default
PATHS = re.compile(
    "(^|_)(folder|file|manifest|(?<!compile_)encoder|trials|log)$"
)
PATHS_TOO = {
    "speakers",
    "groups",
    "phones",
    "start_classifier",
    "embeddings",
    "pieces",
}

# Those of them that any training can do without
OPTIONAL = {
    "trials",
    "trials_manifest",
    "face_trials_manifest",
    "speakers",
    "phones",
    "start_classifier",
}

# Keys whose value is a number, also where it is null by default
NUMBERS = re.compile(
    "_(seconds|duration|parts|per_epoch|epochs|size|to|growth|layer"
    "|dimensions)$"
)

# Keys whose value is a number or a word
WORDS_TOO = {"gate"}

# Keys whose value is a list, or one of what would be in it
ONE_TOO = {"share"}

# Numbers without which nothing works
NEEDED = {
    "batch_size",
    "shard_size",
    "max_segments",
    "passes_per_epoch",
    "number_of_epochs",
    "iterations",
    "num_workers",
    "replicates",
    "seed",
    "lr",
    "sample_rate",
    "min_duration",
    "global_crops",
    "local_crops",
}

# Numbers that count something, and the least of each
COUNTS = {
    **dict.fromkeys(["batch_size", "shard_size", "max_segments"], 1),
    **dict.fromkeys(["steps_per_epoch", "passes_per_epoch"], 1),
    **dict.fromkeys(["number_of_epochs", "iterations", "average_epochs"], 1),
    **dict.fromkeys(["num_workers", "replicates", "seed", "local_crops"], 0),
    **dict.fromkeys(["evaluate_every", "gate_window"], 0),
    **dict.fromkeys(["global_crops", "utterances_per_sample"], 1),
    **dict.fromkeys(["grad_accumulation_factor", "sample_rate"], 1),
    **dict.fromkeys(["id_parts", "min_cluster_size", "queue_length"], 1),
    **dict.fromkeys(["first_clustering", "clustering_every"], 1),
    **dict.fromkeys(["first_gated_epoch", "sinkhorn_rounds"], 1),
    **dict.fromkeys(["utterances_per_cluster", "plda_rank"], 1),
    **dict.fromkeys(["top_cohort"], 2),
    # Sizes of networks
    **dict.fromkeys(["out_dim", "head_size", "bottleneck_size"], 1),
    **dict.fromkeys(["expander_size", "emb_dim", "n_mels"], 1),
    **dict.fromkeys(["d_model", "d_ffn", "nhead", "layers"], 1),
    **dict.fromkeys(["latent_size", "codebooks", "codes", "mask_length"], 1),
}

# Numbers that are never below 0
NOT_BELOW_0 = re.compile("(^|_)(lr|weight|decay|temp|momentum|seconds)$")

# Paths of which several make sense
SEVERAL = {
    "data_folder",
    "train_data_folder",
    "trials_folder",
    "face_folder",
    "noise_folder",
    "rir_folder",
}

# What HyperPyYAML takes for a reference, wherever it stands
REFERENCE = re.compile("<[^>]*>")

# Words that toolkits put around the same name: epochs is number_of_epochs
FILLERS = {"number", "num", "n", "of", "max", "total", "the", "nb"}


def read_flags(arguments, settings, elsewhere=()):
    """The flags of a command line for a YAML file.

    A value is what the shell handed over wherever the key's value in the file
    is a text, a path or a placeholder; ``~`` is expanded there. Elsewhere it
    is YAML; where the file has a list, one value is a list of one. Where
    several paths make sense, they are a list: ``[a, b]``. Of a flag that is
    given twice, the last value counts, unless it is an entry of several keys.
    Without a value, a flag is True, where the file has True or False.

    Arguments
    ---------
    arguments : list of str
        The words of the command line, without the script and the YAML file.
    settings : dict
        The content of the file, as ``YAML().load`` gives it.
    elsewhere : iterable of str
        The names of flags, with their values, that are not for the file.

    Returns
    -------
    dict
        The value of each flag, by its name.

    Raises
    ------
    ValueError
        If there is no such flag, a value is missing or cannot be read, it is a
        word where the file has a number, a word belongs to no flag, or two
        entries of several keys have one name.

    Example
    -------
    >>> settings = YAML().load("lr: 1\\ndata_folder: !PLACEHOLDER\\ntrials:")
    >>> words = ["--lr=2", "--data_folder=calls #2", "--trials", "7", "--lr=3"]
    >>> flags = read_flags(words, settings)
    >>> flags["lr"], flags["data_folder"], flags["trials"]
    (3, 'calls #2', './7')
    """
    flags, name = {}, None
    for word in arguments:
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            if value.startswith("{") and flags.get(name, value) != value:
                raise ValueError(
                    f"--{name} is given twice, and the second would take the "
                    "place of the whole first: give one, with all of its keys "
                    f"in the braces, --{name}={value[:-1]}, KEY: VALUE}}."
                )
            flags[name] = value if given else None
        elif name in elsewhere:
            continue
        elif name is None or flags[name] is not None:
            raise ValueError(
                f"'{word}' belongs to no flag: quote values with blanks in "
                "them, --NAME='a value'."
            )
        else:
            flags[name] = word
    flags = {key: flags[key] for key in flags if key not in elsewhere}
    for key in flags:
        if key not in settings:
            hint = did_you_mean(key, [*settings, *elsewhere])
            raise ValueError(
                f"No such flag: there is no {key} in the YAML file."
                f"{hint or _entries_hint(key, settings)}"
            )
    return {key: _value(key, value, settings) for key, value in flags.items()}


def did_you_mean(name, names):
    """The end of a sentence about a name that is not known.

    Arguments
    ---------
    name : str
        The name that was given.
    names : iterable of str
        The names that are known.

    Returns
    -------
    str
        The end of the sentence; empty if none is alike.

    Example
    -------
    >>> names = ["center_momentum", "number_of_epochs", "warmup_epochs"]
    >>> did_you_mean("centre_momentum", names)
    ' Did you mean center_momentum?'
    >>> did_you_mean("epochs", names), did_you_mean("max-epochs", names)
    (' Did you mean number_of_epochs?', ' Did you mean number_of_epochs?')
    """
    names = list(names)
    same = [known for known in names if _core(known) == _core(name)]
    close = same or difflib.get_close_matches(name, names, n=1)
    # A part of the name, such as output
    words = _core(name)
    close = close or [
        known for known in names if words and set(words) <= set(_core(known))
    ]
    return f" Did you mean {' or '.join(close[:3])}?" if close else ""


def _entries_hint(key, settings):
    """How a flag goes to a script of a pipeline, if the file is of one."""
    entries = [
        name
        for name, value in settings.items()
        if isinstance(value, dict) and "hparams" in value
    ]
    if not entries:
        return ""
    return (
        f" For one of its scripts, say which: --{entries[0]}="
        f'"{{{key}: VALUE}}"; there are {", ".join(entries)}.'
    )


def is_path(key):
    """Whether the value of a key is a file or a folder.

    Arguments
    ---------
    key : str
        The name of the key.

    Returns
    -------
    bool
        Whether it is, judged by the name of the key.

    Example
    -------
    >>> is_path("data_folder"), is_path("lr")
    (True, False)
    """
    return bool(PATHS.search(key)) or key in PATHS_TOO


def _core(name):
    """The words of a name that matter."""
    words = re.split("[_-]+", name.lower())
    return [word for word in words if word and word not in FILLERS]


def _value(key, value, settings):
    """The value of a flag."""
    default = _default(key, settings)
    if value is None and isinstance(default, bool):
        return True
    needed = _is_placeholder(default)
    path = is_path(key) or needed
    without = default is None or (key in OPTIONAL and not needed)
    text = isinstance(default, str) and not path
    if value is None or (not value and not text):
        # What is a text or a list is none that could be null
        other = not path and not isinstance(default, (str, list))
        null = (without or other) and key not in NEEDED
        none = f", or --{key}=null for none" if null else ""
        unset = "" if value is None else " Is a variable unset?"
        raise ValueError(f"--{key} has no value: --{key}=VALUE{none}.{unset}")
    if path and without and value == "null":
        return None
    if path and default is None:
        return _path(key, value)
    if isinstance(default, str) or needed:
        return _path(key, value) if path else _text(key, value)
    try:
        found = YAML().load(value)
    except YAMLError as error:
        if default is None:
            return _text(key, value)
        raise ValueError(f"--{key}={value} is not YAML: {error}") from error
    several = isinstance(default, list) and key not in ONE_TOO
    if several and not isinstance(found, list):
        if found is None or isinstance(found, dict):
            raise ValueError(f"--{key}={value}: give a list, [A, B].")
        return [found]
    return _checked(key, value, found, default)


def _checked(key, value, found, default):
    """What a value that is no path was found to be; raises if that is of
    another kind than in the file, or too small."""
    if key in COUNTS and _is_number(found):
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, float) or found < COUNTS[key]:
            raise ValueError(
                f"--{key}={value}: give a whole number, {COUNTS[key]} or more."
            )
    if _is_number(found) and not (found >= 0 or _may_be_below_0(key, found)):
        raise ValueError(f"--{key}={value}: give a number, 0 or more.")
    if isinstance(found, str) and isinstance(default, bool):
        raise ValueError(f"--{key}={value}: give True or False.")
    number = NUMBERS.search(key) if default is None else _is_number(default)
    if number and key not in WORDS_TOO and not _is_number(found):
        if found is not None or key in NEEDED:
            raise ValueError(f"--{key}={value}: give a number.")
    if default is None and not isinstance(found, (int, float, list)):
        return None if found is None else _text(key, value)
    return found


def _may_be_below_0(key, found):
    """Whether a number below 0, which NaN is not, makes sense."""
    return found < 0 and not NOT_BELOW_0.search(key)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _default(key, settings, seen=()):
    """What a key is in the file: a reference to another is followed, and one
    amid a text is a text."""
    while key not in seen:
        seen = {key, *seen}
        default = settings.get(key)
        if tag_of(default) not in ("!ref", "!copy"):
            return default
        text = str(default.value)
        if re.fullmatch("<[^<>]*>", text):
            key = text[1:-1]
            continue
        # Of numbers, such as <batch_size> * 2, or of a text
        letters = re.search("[^-+*/%().0-9 ]", REFERENCE.sub("", text))
        parts = [
            _default(name.strip("<>"), settings, seen)
            for name in REFERENCE.findall(text)
        ]
        texts = [isinstance(p, str) or _is_placeholder(p) for p in parts]
        return text if letters or any(texts) else 0
    return None


def _is_placeholder(default):
    return tag_of(default) == "!PLACEHOLDER"


def _text(key, value):
    """A text that HyperPyYAML leaves as it is."""
    if REFERENCE.search(value):
        raise ValueError(
            f"--{key}={value}: HyperPyYAML takes {REFERENCE.search(value)[0]} "
            "for a reference. Give another name, such as that of a link."
        )
    return value


def _path(key, value):
    """A path, or a list of paths, that HyperPyYAML leaves as it is."""
    if value.startswith("[") and value.endswith("]"):
        listed = None
        if not os.path.exists(value):
            with contextlib.suppress(yaml.YAMLError):
                listed = yaml.load(value, yaml.BaseLoader)  # all are texts
        if isinstance(listed, list) and key not in SEVERAL:
            raise ValueError(f"--{key}={value}: give one path.")
        if isinstance(listed, list):
            paths = [_path(key, str(item)) for item in listed]
            return paths[0] if len(paths) == 1 else paths
    path = os.path.expanduser(_text(key, value))
    if not path:
        raise ValueError(f"--{key}: one of the names is empty.")
    # A file goes through two libraries: what is a text to one, such as yes, is
    # none to the other.
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, path, (True, False))
    plain = tag == "tag:yaml.org,2002:str"
    return path if plain else os.path.join(".", path)
