"""Encoders of strangers: loading them without running what they say.

What is promised of an encoder folder that is not trusted: nothing in it is
called but the constructors of well-known classes; no file outside of the
folder is opened and no other host is asked than the hub that it comes from; no
run option (``compile``, ``device``) is taken from it; each file is read once,
and what was checked is what is loaded; it is loaded by a process of its own
first, which must not take more than ``MEMORY`` and ``SECONDS``.

What is not promised: that PyTorch's own ``weights_only`` unpickler, zip and
YAML parsers are free of faults; and that the weights are an honest encoder.
"""

import contextlib
import io
import os
import pathlib
import re
import resource
import signal
import stat
import time
import zipfile

import torch
import yaml
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain.utils.fetching import fetch
from speechbrain.utils.run_opts import RunOptions

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
    "speechbrain.nnet.containers.LengthsCapableSequential",
    "speechbrain.nnet.normalization.GroupNorm",
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
TAGS = {f"!new:{name}" for name in CLASSES} | {"!ref", "!tuple"}
TAGS |= {f"!name:{name}" for name in CLASSES if name.startswith("torch.nn.")}
TAGS.add("!name:speechbrain_cadino.audio_visual.faces.FaceReader")
TAGS.add("!name:speechbrain_cadino.dataio.faces.FaceReader")
TAGS |= {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("bool", "float", "int", "map", "merge", "null", "seq", "str")
}

# HyperPyYAML parses what is in the parentheses once more, tags and all.
TUPLE = re.compile(r"\([\w\s.,+-]*\)")


# A reference to an entry, or a file in a folder that an entry names: nothing to
# calculate, and nothing that doubles.
REFERENCE = re.compile(r"<[\w.]+(\[\w+\])*>(/[\w.-]+)?")

# In plain values HyperPyYAML would calculate with these
CALCULATED = re.compile(r"[*'\"`]|<<")

# The least that an encoder takes is a hundredth of it
YAML_BYTES = 2**18
NODES = 5000
DEPTH = 30
WEIGHT_BYTES = 2**29

# What loading may take, beside what the process has
MEMORY = 3 * 2**29  # bytes
SECONDS = 8


def copy_known(source, folder, card=None):
    """Copies an encoder folder that may be a stranger's, as far as it is known
    to be harmless.

    HyperPyYAML calls whatever a file names: ``!apply:os.system`` is all that it
    takes. Here the file is read without being followed, and it passes only if
    every tag in it is that of plain data, of a reference, or of a class in
    ``CLASSES``. Of its ``pretrainer`` the names of the weights are taken over,
    not where they are said to be: they are beside it.

    Arguments
    ---------
    source : str or pathlib.Path
        The folder, or a hub id.
    folder : str or pathlib.Path
        An empty folder.
    card : str, optional
        The name of a text beside it, which is copied if it is there, and no
        link.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        Naming what is not known to be harmless.
    """
    source, folder = str(source), pathlib.Path(folder)
    name = "hyperparams.yaml"
    _copy(source, name, folder / name, YAML_BYTES)
    path = os.path.join(source, name)
    try:
        text = (folder / name).read_text(encoding="utf-8-sig")
        checked, files = _checked(text, path)
    except (YAMLError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    # Of the parsers, and of HyperPyYAML, on what makes no sense
    except (RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not that of an encoder ({type(error).__name__})."
        ) from error
    (folder / name).write_text(checked, encoding="utf-8")
    for loadable, places in files.items():
        target = folder / f"{loadable}.ckpt"
        _copy(source, places, target, WEIGHT_BYTES)
        _check_weights(target, os.path.join(source, target.name))
    if card is not None:
        text = pathlib.Path(source, card)
        if text.is_file() and not text.is_symlink():
            _copy(source, card, folder / card, YAML_BYTES)


def check_no_links(folder, names):
    """Raises if what is written into a stranger's folder would be written
    elsewhere.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    names : list of str
        The files that are written, if they are there.

    Raises
    ------
    ValueError
        Naming one that is a link.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> check_no_links(folder, ["README.md"])
    >>> (folder / "README.md").symlink_to("/nowhere")
    >>> check_no_links(folder, ["README.md"])
    Traceback (most recent call last):
    ...
    ValueError: ...README.md holds something that is not known ...: a link. ...
    """
    for name in names:
        path = pathlib.Path(folder, name)
        if path.is_symlink():
            _refuse(path, "a link")


def within_limits(load, name):
    """Tries what may take too much, in a process of its own.

    Arguments
    ---------
    load : callable
        The function to try.
    name : str
        The name of what it loads, for the message.

    Raises
    ------
    ValueError
        If it takes more than ``MEMORY`` or ``SECONDS``, or breaks the process.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            _limit()
            load()
            code = 0
        except MemoryError:
            code = 2
        # Whatever it is, this process says it once more, with its traceback
        except BaseException as error:
            if "memory" in str(error).lower():
                code = 2
        finally:
            os._exit(code)
    code = _wait(child)
    if code == 2 or code < 0:
        raise ValueError(
            f"{name} takes more than {MEMORY / 1e9:.1f} GB or {SECONDS} s to "
            "load, which no encoder does that is known here. If you trust "
            "whoever made it, load it as a trusted encoder."
        )


def _limit():
    """Limits what this process may take, and what it says."""
    sizes = pathlib.Path("/proc/self/statm")
    if sizes.exists():  # not on macOS, which limits no memory
        most = int(sizes.read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most += MEMORY
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    # The threads of the parent are not there
    torch.set_num_threads(1)


def _wait(child):
    """The exit code of a process; negative if it was killed."""
    deadline = time.monotonic() + SECONDS + 1
    try:
        while time.monotonic() < deadline:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return -signal.SIGKILL


def _copy(source, names, target, most):
    """Copies the first of some files of a folder that is there, reading it
    once."""
    names = [names] if isinstance(names, str) else names
    if not os.path.isdir(source):
        with open(fetch(names[0], source), "rb") as file:
            _copy_open(file, target, most, names[0])
        return
    root = os.path.realpath(source)
    for name in names:
        path = os.path.realpath(os.path.join(root, name))
        if not os.path.lexists(os.path.join(root, name)):
            continue
        if os.path.commonpath([root, path]) != root:
            _refuse(os.path.join(source, name), "a link out of the folder")
        # Nonblocking: a FIFO would wait for its writer
        options = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(path, options), "rb") as file:
            _copy_open(file, target, most, os.path.join(source, name))
        return
    raise FileNotFoundError(
        f"{source} has no {names[0]}, which its hyperparams.yaml names: copy "
        "the encoder folder again, whole."
    )


def _copy_open(file, target, most, name):
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        _refuse(name, "no plain file")
    if status.st_size > most:
        _refuse(name, f"{status.st_size} bytes, more than {most}")
    with open(target, "xb") as copy:
        while block := file.read(2**20):
            copy.write(block)
            if copy.tell() > most:
                _refuse(name, f"more than {most} bytes")


def _check_weights(path, name):
    """Raises unless a file is one that ``torch.save`` writes, which is not
    compressed, or a short text (of labels)."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            total = sum(part.file_size for part in parts)
            packed = any(part.compress_type for part in parts)
            if packed or total > path.stat().st_size or len(parts) > NODES:
                _refuse(name, "weights that are larger when they are unpacked")
    except (zipfile.BadZipFile, NotImplementedError):
        try:
            if path.stat().st_size < YAML_BYTES:
                path.read_text(encoding="utf-8")
                return
        except UnicodeDecodeError:
            pass
        _refuse(name, "neither weights nor labels")


def _checked(text, path):
    """The YAML text to load, and the files of each of the weights: raises if
    it could do more than make a well-known encoder."""
    if len(text) > YAML_BYTES:
        _refuse(path, f"{len(text)} characters")
    _check_shape(text, path)
    # As it will be read: by ruamel, for references, then by PyYAML
    _check(YAML(typ="safe", pure=True).compose(text), path, text)
    resolved = resolve_references(io.StringIO(text)).read()
    if len(resolved) > 4 * YAML_BYTES:
        _refuse(path, "references that grow")
    root = yaml.compose(resolved, yaml.SafeLoader)
    _check(root, path, resolved)
    if not isinstance(root, yaml.MappingNode):
        return resolved, {}
    if any(key.tag.endswith(":merge") for key, _ in root.value):
        _refuse(path, "a merge (<<) among its entries")
    files = {}
    options = set(RunOptions().as_dict())
    root.value = [pair for pair in root.value if pair[0].value not in options]
    for key, node in root.value:
        if key.value != "pretrainer" or not isinstance(node, yaml.MappingNode):
            continue
        entries = {name.value: entry for name, entry in node.value}
        for name, _ in getattr(entries.get("loadables"), "value", ()):
            if not re.fullmatch(r"\w[\w-]*", str(name.value)):
                _refuse(path, f"weights called {name.value}")
            files[name.value] = [f"{name.value}.ckpt"]
        for name, place in getattr(entries.get("paths"), "value", ()):
            if name.value in files:
                file = os.path.basename(str(place.value))
                files[name.value].insert(0, file)
        node.value = [
            pair for pair in node.value if pair[0].value == "loadables"
        ]
    return yaml.serialize(root), files


def _check_shape(text, path):
    """Raises if a YAML file is so deep or so large that parsers take long."""
    depth = 0
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for count, event in enumerate(yaml.parse(text, loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if count > 2 * NODES or depth > DEPTH:
            _refuse(path, f"more than {NODES} entries, or {DEPTH} levels")


def _check(root, path, text):
    """Raises if a node of a YAML file is not known to be harmless."""
    # Directives can give tags other names.
    if re.search("^%", text, re.MULTILINE):
        _refuse(path, "a directive (%)")
    # Counted as often as it is referred to: what it is when all is built
    todo, count = [(root, ())], 0
    while todo:
        node, above = todo.pop()
        if node is None:
            continue
        count += 1
        if id(node) in above:
            _refuse(path, "an entry that holds itself")
        if count > NODES or len(above) > DEPTH:
            _refuse(path, f"more than {NODES} entries, or {DEPTH} levels")
        _check_node(node, path)
        if not isinstance(node.value, str):
            inside = (*above, id(node))
            parts = [part for item in node.value for part in _parts(item)]
            todo += [(part, inside) for part in parts]


def _check_node(node, path):
    """Raises if a node itself is not known to be harmless."""
    tag, value = str(node.tag), node.value
    line = f"in line {node.start_mark.line + 1}"
    if tag not in TAGS:
        _refuse(path, f"{tag} {line}")
    if not isinstance(value, str):
        return
    if tag == "!ref":
        if not REFERENCE.fullmatch(value):
            _refuse(path, f"{value} {line}")
    elif tag == "!tuple" or value.startswith("("):
        if not TUPLE.fullmatch(value):
            _refuse(path, f"{value} {line}")
    elif not tag.endswith(":merge") and CALCULATED.search(value):
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
