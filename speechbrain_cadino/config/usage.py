"""The help of the recipe scripts, shown before the libraries are imported.

Only Python's own library is needed here: to import torch and SpeechBrain takes
seconds.
"""

import os
import pathlib
import re
import sys
import textwrap

WITH_FILE = """\
KEY is any key of the file; --show prints all of them. SpeechBrain's run options
are flags too: --device=cpu, --precision=bf16, --debug, --noprogressbar, ..."""

WITHOUT_FILE = """\
FILE --help shows the head of a file, FILE --show all its keys."""


def show_usage(doc, arguments=None):
    """Shows the help and ends, if that is asked for or no argument is given.

    Arguments
    ---------
    doc : str
        The docstring of the script.
    arguments : list of str, optional
        The command line without the script; by default that of the process.

    Raises
    ------
    SystemExit
        If help was shown: with code 0 where it was asked for, else 2. If the
        YAML file is for another script: with a sentence.

    Example
    -------
    >>> show_usage("Trains.", ["hparams/dino.yaml"])
    >>> show_usage("Trains.", ["--help"])
    Traceback (most recent call last):
    ...
    SystemExit: 0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    asked = "--help" in arguments or "-h" in arguments
    script = pathlib.Path(sys.argv[0])
    given = [part for part in arguments if not part.startswith("-")]
    if arguments and not asked:
        _check_file(script, arguments[0])
        return
    if given and pathlib.Path(given[0]).is_file():
        parts = [_usage(script, given[0]), header(given[0]), WITH_FILE]
    else:
        parts = [_usage(script, "FILE"), doc.strip(), _files(script)]
        parts.append(WITHOUT_FILE)
    try:
        print("\n\n".join(filter(None, parts)), flush=True)
    except BrokenPipeError:  # such as of head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0 if asked else 2)


def header(path):
    """The comment at the head of a YAML file.

    Arguments
    ---------
    path : str or pathlib.Path
        The YAML file.

    Returns
    -------
    str
        Without the signs of a comment, and without rows of them.

    Example
    -------
    >>> path = getfixture("tmp_path") / "dino.yaml"
    >>> _ = path.write_text("# ###\\n# DINO\\n#  of voices\\n# ###\\nlr: 1\\n")
    >>> print(header(path))
    DINO
     of voices
    """
    lines = []
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.strip("# "):
            lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines)


def _check_file(script, file):
    """Ends the process if a YAML file is for another script of the recipe."""
    path = pathlib.Path(file)
    scripts = _scripts(path, script.parent) if path.is_file() else []
    if scripts and script.name not in scripts and _files(script):
        sys.exit(
            f"{file} is for {' or '.join(scripts)}, not for {script.name}: "
            f"python {script.name} lists its files."
        )


def _scripts(path, recipe, seen=()):
    """The scripts that the header of a YAML file, or else that of its bases,
    calls with it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    call = rf"^#.* ([\w.]+\.py) hparams/{re.escape(path.name)}\b"
    scripts = re.findall(call, text, re.MULTILINE)
    named = re.search("^base: (.*)", text, re.MULTILINE)
    for name in re.findall("[^][ ,'\"]+", named[1]) if named else ():
        places = [path.parent / name, recipe / "hparams" / name]
        base = next(filter(pathlib.Path.is_file, places), path)
        if not scripts and base not in (path, *seen):
            scripts = _scripts(base, recipe, (path, *seen))
    return scripts


def _usage(script, file):
    return f"usage: python {script.name} {file} [--KEY=VALUE ...]"


def _files(script):
    """The YAML files of a script, those whose header calls it, and what each
    is: the header before data and commands."""
    lines = []
    for path in sorted(script.parent.glob("hparams/*.yaml")):
        text = header(path)
        if f" {script.name} hparams/{path.name}" in text:
            about = re.split("\n(?:>|Data:)", text)[0]
            lines.append(f"  hparams/{path.name}")
            lines += textwrap.wrap(
                " ".join(about.split()),
                width=80,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
            )
    if not lines:
        return ""
    return "\n".join(["FILE is one of these, or one of yours:", *lines])
