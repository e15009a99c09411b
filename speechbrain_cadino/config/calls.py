"""The calls in a YAML file: whether they take what it gives them."""

import inspect
import pydoc

from speechbrain_cadino.config.flags import did_you_mean
from speechbrain_cadino.config.settings import CALLS


def check_arguments(settings):
    """Raises if a class or a function does not take an argument that it is
    given, or there are embeddings beside the encoder whose they are to be.

    Nothing is built: HyperPyYAML tells of ``!new:`` when it builds, and of
    ``!name:`` nobody does before it is called, maybe after hours.

    Arguments
    ---------
    settings : dict
        The settings, as ``config.settings.resolve`` gives them.

    Raises
    ------
    ValueError
        Naming the entry and the argument, or both keys.

    Example
    -------
    >>> from ruamel.yaml import YAML
    >>> text = "half: !name:fractions.Fraction\\n  numerater: 1\\n"
    >>> check_arguments(YAML().load(text))
    Traceback (most recent call last):
    ...
    ValueError: half: fractions.Fraction takes no numerater. Did you mean ...
    """
    if settings.get("encoder") and settings.get("embeddings"):
        raise ValueError(
            f"encoder={settings['encoder']} and embeddings="
            f"{settings['embeddings']}: give one of them, and null for the "
            "other."
        )
    for key, name, given in _calls(settings):
        known = _parameters(name)
        for argument in given if known is not None else ():
            if argument not in known:
                raise ValueError(
                    f"{key}: {name} takes no {argument}."
                    f"{did_you_mean(argument, known)}"
                )


def _calls(settings, key=""):
    """The entries that are made by a call with arguments by name: what each is
    called, and what it calls with which."""
    tag = getattr(getattr(settings, "tag", None), "value", None) or ""
    kind, _, name = tag.partition(":")
    inner = settings.items() if isinstance(settings, dict) else ()
    if isinstance(settings, list):
        inner = enumerate(settings)
    if kind in CALLS and isinstance(settings, dict):
        yield key, name, settings
    for own, part in inner:
        yield from _calls(part, f"{key}.{own}" if key else str(own))


def _parameters(name):
    """The arguments of a class or a function; None if they cannot be told, or
    are any."""
    try:
        found = inspect.signature(pydoc.locate(name)).parameters
    except (TypeError, ValueError, pydoc.ErrorDuringImport):
        return None  # said where it is called
    kinds = {parameter.kind for parameter in found.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else set(found)
