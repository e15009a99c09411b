"""Encoders of strangers: telling whether a YAML file is all harmless."""

import io
import pathlib
import re

import yaml
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

# The classes that SpeechBrain's speaker encoders and those of this package are
# made of. To make one has no effect outside of it, whatever its arguments.
CLASSES = {
    "speechbrain.dataio.encoder.CategoricalEncoder",
    "speechbrain.dataio.preprocess.AudioNormalizer",
    "speechbrain.lobes.features.Fbank",
    "speechbrain.lobes.features.MFCC",
    "speechbrain.lobes.models.ECAPA_TDNN.Classifier",
    "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN",
    "speechbrain.lobes.models.ResNet.Classifier",
    "speechbrain.lobes.models.ResNet.ResNet",
    "speechbrain.lobes.models.Xvector.Classifier",
    "speechbrain.lobes.models.Xvector.Xvector",
    "speechbrain.processing.features.InputNormalization",
    "speechbrain.utils.parameter_transfer.Pretrainer",
    "speechbrain_cadino.lobes.ecapa.ECAPA_TDNN",
    "speechbrain_cadino.audio_visual.face_resnet.FaceNormalization",
    "speechbrain_cadino.audio_visual.face_resnet.FaceResNet",
    # As they were called before 0.2.0
    "speechbrain_cadino.lobes.face_resnet.FaceNormalization",
    "speechbrain_cadino.lobes.face_resnet.FaceResNet",
    "torch.nn.Identity",
    "torch.nn.LeakyReLU",
    "torch.nn.ReLU",
    "torch.nn.SiLU",
}
TAGS = {f"!new:{name}" for name in CLASSES} | {"!ref", "!copy", "!tuple"}
TAGS |= {f"!name:{name}" for name in CLASSES if name.startswith("torch.nn.")}
TAGS.add("!name:speechbrain_cadino.audio_visual.faces.FaceReader")
TAGS.add("!name:speechbrain_cadino.dataio.faces.FaceReader")
TAGS |= {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("bool", "float", "int", "map", "merge", "null", "seq", "str")
}

# HyperPyYAML parses what is in the parentheses once more, tags and all.
TUPLE = re.compile(r"\([\w\s.,+-]*\)")


def check_known(path):
    """Raises if loading a ``hyperparams.yaml`` could do more than make one of
    the well-known encoders.

    HyperPyYAML calls whatever a file names: ``!apply:os.system`` is all that it
    takes. Here the file is read without being followed, and it passes only if
    every tag in it is that of plain data, of a reference, or of a class in
    ``CLASSES``.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Raises
    ------
    ValueError
        Naming what is not known.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text("act: !new:torch.nn.ReLU\\nsize: 80\\n")
    >>> check_known(path)
    >>> _ = path.write_text("size: !apply:os.system [rm precious]\\n")
    >>> check_known(path)
    Traceback (most recent call last):
    ...
    ValueError: ... !apply:os.system in line 1...
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        # As it will be read: by ruamel, for references, then by PyYAML
        _check(YAML(typ="safe", pure=True).compose(text), path, text)
        resolved = resolve_references(io.StringIO(text)).read()
        _check(yaml.compose(resolved, yaml.SafeLoader), path, resolved)
    except (YAMLError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error


def _check(root, path, text):
    """Raises if a node of a YAML file is not known to be harmless."""
    # Directives can give tags other names.
    if re.search("^%", text, re.MULTILINE):
        _refuse(path, "a directive (%)")
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        line = f"in line {node.start_mark.line + 1}"
        if str(node.tag) not in TAGS:
            _refuse(path, f"{node.tag} {line}")
        value = node.value
        if not isinstance(value, str):
            todo += [part for item in value for part in _parts(item)]
        elif str(node.tag) == "!tuple" or value.startswith("("):
            if not TUPLE.fullmatch(value):
                _refuse(path, f"{value} {line}")
        # Where a Pretrainer would look, or link, outside of the folder
        elif "://" in value or value == "collect_in":
            _refuse(path, f"{value} {line}")


def _parts(item):
    """The nodes of an item of a sequence or a mapping."""
    return item if isinstance(item, tuple) else (item,)


def _refuse(path, what):
    raise ValueError(
        f"{path} holds something that is not known to be harmless: {what}. If "
        "you trust whoever made it, load it as a trusted encoder: it can then "
        "run any code."
    )
