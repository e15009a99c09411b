"""The help of the recipe scripts, shown before the libraries are imported, and
where their YAML files are.

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
are flags too: --device=cpu; of trainings --precision=bf16, --debug, ..."""

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
    os.environ["MPLBACKEND"] = "Agg"  # not that of a notebook, not of a window
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
    show("\n\n".join(filter(None, parts)) + "\n")
    sys.exit(0 if asked else 2)


def show(text):
    """Prints a text; a reader that has gone, such as ``head``, is no error.

    Arguments
    ---------
    text : str
        The text, with all its line ends.

    Example
    -------
    >>> show("one\\n")
    one
    """
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def header(path):
    """The comment at the head of a YAML file.

    Arguments
    ---------
    path : str or pathlib.Path
        The YAML file.

    Returns
    -------
    str
        The text, without the signs of a comment, and without rows of them.

    Example
    -------
    >>> path = getfixture("tmp_path") / "dino.yaml"
    >>> _ = path.write_text("# ###\\n# DINO\\n#  of voices\\n# ###\\nlr: 1\\n")
    >>> print(header(path))
    DINO
     of voices
    """
    lines = []
    text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.strip("# "):
            lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines)


def find_yaml(name, folder, recipe=None, but=None):
    """A YAML file that another one names.

    Arguments
    ---------
    name : str
        The name of the file to find.
    folder : str or pathlib.Path
        The folder of the file that names it, which is looked into first.
    recipe : str or pathlib.Path, optional
        The recipe's folder, whose hparams are next; by default that of the
        script.
    but : pathlib.Path, optional
        The file that names it, which is never taken.

    Returns
    -------
    pathlib.Path
        The path of the file; where it should be, if it is nowhere.
    """
    recipe = pathlib.Path(recipe or pathlib.Path(sys.argv[0]).parent)
    places = [pathlib.Path(folder, name), recipe / "hparams" / name]
    for place in places:
        same = but is not None and place.resolve() == but.resolve()
        if place.is_file() and not same:
            return place
    return places[0]


def _check_file(script, file):
    """Ends the process if a YAML file is for another script of the recipe."""
    path = pathlib.Path(file)
    scripts = _scripts(path) if path.is_file() else []
    if scripts and script.name not in scripts and _files(script):
        sys.exit(
            f"{file} is for {' or '.join(scripts)}, not for {script.name}: "
            f"python {script.name} lists its files."
        )


def _scripts(path, seen=()):
    """The scripts that the header of a YAML file, or else that of its bases,
    calls with it."""
    scripts = _called(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    named = re.search("^base: (.*)", text, re.MULTILINE)
    for name in re.findall("[^][ ,'\"]+", named[1]) if named else ():
        base = find_yaml(name, path.parent, but=path)
        if not scripts and base.is_file() and base not in (path, *seen):
            scripts = _scripts(base, (path, *seen))
    return scripts


def _called(path):
    """The scripts that the header of a YAML file calls with it."""
    call = rf" ([\w.]+\.py) hparams/{re.escape(path.name)}\b"
    return re.findall(call, header(path))


def _usage(script, file):
    return f"usage: python {script.name} {file} [--KEY=VALUE ...]"


def _files(script):
    """The YAML files of a script, those whose header calls it, and what each
    is: the header before data and commands."""
    lines = []
    for path in sorted(script.parent.glob("hparams/*.yaml")):
        if script.name in _called(path):
            about = re.split("\n(?:>|Data:)", header(path))[0]
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
