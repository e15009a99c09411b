"""YAML files that are put over others, and the flags of the command line."""

import io
import pathlib
import sys
import tempfile

from ruamel.yaml import YAML

import speechbrain as sb

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
