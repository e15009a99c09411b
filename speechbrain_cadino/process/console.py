"""The console of a run: what is shown there, and what is in log.txt alone."""

import logging
import pathlib
import shlex

# It warns, once imported, that it cannot save figures, which nobody asks for.
logging.getLogger("speechbrain.utils.train_logger").setLevel(logging.ERROR)

# For SpeechBrain's create_experiment_directory
LOG_CONFIG = str(pathlib.Path(__file__).with_name("log-config.yaml"))


# Of a terminal
WIDTH = 80


class Ours(logging.Filter):
    """Lets through what this package says, and warnings of everybody.

    Example
    -------
    >>> def passes(name, level):
    ...     record = logging.LogRecord(name, level, "", 0, "", (), None)
    ...     return Ours().filter(record)
    >>> passes("speechbrain_cadino.runs.pipeline", logging.INFO)
    True
    >>> passes("speechbrain.core", logging.INFO)
    False
    >>> passes("speechbrain.core", logging.WARNING)
    True
    """

    def filter(self, record):
        """Whether a record is shown."""
        ours = record.name.partition(".")[0] in (
            "speechbrain_cadino",
            "__main__",
        )
        # As of an objective without parameters, at each checkpoint
        if record.getMessage().startswith("Saving an empty state_dict"):
            return False
        return ours or record.levelno >= logging.WARNING


def printable(text, kept=""):
    """A text whose control characters do nothing to a terminal, such as of a
    file that is no text, or of a name.

    Arguments
    ---------
    text : str
        The text.
    kept : str
        The control characters that stay, such as line ends.

    Returns
    -------
    str
        The text, with escapes in the place of these characters.

    Example
    -------
    >>> print(printable("one" + chr(27) + "[2J.wav"))
    one\\x1b[2J.wav
    """
    return "".join(
        letter
        if letter.isprintable() or letter in kept
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def aligned(rows):
    """The lines of a table for a terminal: names to the left, figures to the
    right.

    Arguments
    ---------
    rows : list of list of str
        The cells, of as many columns each.

    Returns
    -------
    list of str
        The lines, one for each row, two blanks between the columns.

    Example
    -------
    >>> print("\\n".join(aligned([["stage", "EER %"], ["one", "4.57"]])))
    stage  EER %
    one     4.57
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            f"{cell:{'>' if place else '<'}{width}}"
            for place, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]


def in_minutes(seconds):
    """A time that is left, in words.

    Arguments
    ---------
    seconds : float
        The time.

    Returns
    -------
    str
        The words: in minutes, from two hours on in hours.

    Example
    -------
    >>> in_minutes(20), in_minutes(870), in_minutes(50000)
    ('under a minute left', 'about 14 min left', 'about 14 h left')
    """
    if seconds < 60:
        return "under a minute left"
    if seconds < 120 * 60:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.0f} h left"


def to_copy(command):
    """A command line to copy, broken where a shell reads on.

    Arguments
    ---------
    command : list
        The words of the command.

    Returns
    -------
    str
        The command line, quoted for a shell, on one line or more.

    Example
    -------
    >>> print(to_copy(["cat", "my notes", "a" * 40, "b" * 40]))
    cat 'my notes' aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \\
        bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    """
    first, *words = (shlex.quote(str(word)) for word in command)
    lines = [first]
    for word in words:
        if len(f"{lines[-1]} {word} \\") > WIDTH:
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)
