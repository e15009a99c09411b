"""The calls in a YAML file: whether they take what it gives them."""

import inspect
import pydoc

from speechbrain_cadino.config.flags import did_you_mean
from speechbrain_cadino.config.settings import CALLS, nodes, tag_of


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
    for key, node in nodes(settings):
        kind, _, name = tag_of(node).partition(":")
        if kind not in CALLS or not isinstance(node, dict):
            continue
        known = _parameters(name)
        for argument in node if known is not None else ():
            if argument not in known:
                raise ValueError(
                    f"{key}: {name} takes no {argument}."
                    f"{did_you_mean(argument, known)}"
                )


def _parameters(name):
    """The arguments of a class or a function; None if they cannot be told, or
    are any."""
    try:
        found = inspect.signature(pydoc.locate(name)).parameters
    except (TypeError, ValueError, pydoc.ErrorDuringImport):
        return None  # said where it is called
    kinds = {parameter.kind for parameter in found.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else set(found)
