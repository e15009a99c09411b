"""The calibration of an encoder: what its scores mean, kept in its folder."""

import json
import math
import pathlib
from typing import NamedTuple

import numpy as np

from speechbrain_cadino.embeddings.store import CALIBRATION
from speechbrain_cadino.process.files import atomic_path, write_json

# The line in hyperparams.yaml and in the model card
MARK = "Threshold: "
NO_THRESHOLD = (
    f"{MARK}none yet; `speechbrain-cadino calibrate` finds one on data like "
    "yours"
)

# How pairs of one voice and of two are found
METHODS = ["crops", "clusters", "trials"]

# A file of it is shorter, in characters
MOST = 2**16

# What Python says of a file that is none of it
SENSELESS = (ValueError, KeyError, TypeError, RecursionError, OverflowError)

# At even odds, so sure one has to be to say "same" or "different".
SURE = 0.9


class ScoreCalibration(NamedTuple):
    """What the cosine of two embeddings of an encoder means.

    ``offset + slope * score`` is the natural logarithm of the likelihood ratio
    of one voice against two.

    Example
    -------
    >>> calibration = ScoreCalibration(-4.0, 10.0, "trials", 400, 100)
    >>> calibration.threshold
    0.4
    >>> calibration.answers(np.array([0.1, 0.5, 0.7])).tolist()
    ['different', 'unsure', 'same']
    """

    offset: float
    slope: float
    method: str  # one of METHODS
    n_pairs: int
    n_same: int  # pairs taken for one voice

    @property
    def threshold(self):
        """The score at which both are as likely."""
        return -self.offset / self.slope

    @property
    def bounds(self):
        """The scores up to which two voices are different, and from which on
        they are the same: unsure is what is between."""
        sure = math.log(SURE / (1 - SURE))
        return tuple((way * sure - self.offset) / self.slope for way in (-1, 1))

    def llr(self, scores):
        """Log-likelihood ratios.

        Arguments
        ---------
        scores : numpy.ndarray
            Scores, shape (T,).

        Returns
        -------
        numpy.ndarray
            Natural log-likelihood ratios, shape (T,).
        """
        return self.offset + self.slope * np.asarray(scores)

    def answers(self, scores):
        """Answers in words.

        Arguments
        ---------
        scores : numpy.ndarray
            Scores, shape (T,).

        Returns
        -------
        numpy.ndarray
            Answers, shape (T,), str: "same" or "different", or "unsure" where
            the posterior probability at even odds is between 1 - ``SURE`` and
            ``SURE``.
        """
        llr, sure = self.llr(scores), math.log(SURE / (1 - SURE))
        choices = ["same", "different"]
        return np.select([llr >= sure, llr <= -sure], choices, "unsure")


def write_calibration(folder, calibration):
    """Puts a calibration into an encoder folder.

    It is in ``calibration.json``; a line in the head of ``hyperparams.yaml``,
    and in the model card if there is one, tells the threshold to those who
    use SpeechBrain alone.

    Arguments
    ---------
    folder : str or pathlib.Path
        The encoder folder, or a folder of embeddings.
    calibration : ScoreCalibration
        The calibration that goes there, in the place of an earlier one.
    """
    write_json(
        pathlib.Path(folder, CALIBRATION),
        {
            "threshold": calibration.threshold,
            "calibration": {
                "offset": calibration.offset,
                "score": calibration.slope,
            },
            "method": calibration.method,
            "n_pairs": calibration.n_pairs,
            "n_same": calibration.n_same,
        },
    )
    _write_line(folder, threshold_line(calibration))


def forget_calibration(folder):
    """Takes the calibration out of an encoder folder whose scores mean
    something else now.

    Arguments
    ---------
    folder : str or pathlib.Path
        The encoder folder.
    """
    pathlib.Path(folder, CALIBRATION).unlink(missing_ok=True)
    _write_line(folder, NO_THRESHOLD)


def threshold_line(calibration):
    """The line that tells people the threshold.

    Arguments
    ---------
    calibration : ScoreCalibration
        The calibration; None if there is none.

    Returns
    -------
    str
        The line; without a calibration, one that names the command for it.

    Example
    -------
    >>> threshold_line(ScoreCalibration(-4.0, 10.0, "trials", 400, 100))
    'Threshold: the same person above a score of 0.400 (trials)'
    """
    if calibration is None:
        return NO_THRESHOLD
    return (
        f"{MARK}the same person above a score of {calibration.threshold:.3f} "
        f"({calibration.method})"
    )


def _write_line(folder, line):
    """Puts a line about the threshold in the place of the last one; else below
    the head of the YAML file, and at the end of the model card."""
    for name, text, place in (
        ("hyperparams.yaml", f"# {line}\n", _below_head),
        ("README.md", f"\n{line}\n", len),
    ):
        path = pathlib.Path(folder, name)
        if not path.is_file():
            continue
        # A card that somebody wrote in another encoding stays in it
        content = path.read_bytes().decode("utf-8", "surrogateescape")
        # Nothing may stand before a byte order mark
        lines = content.removeprefix("\ufeff").splitlines(keepends=True)
        marked = [_is_marked(old) for old in lines]
        if True in marked:
            lines[marked.index(True)] = text.lstrip()
        else:
            lines.insert(place(lines), text)
        with atomic_path(path) as temporary:
            content = "".join(lines).encode("utf-8", "surrogateescape")
            temporary.write_bytes(content)


def _below_head(lines):
    """The place below the comment at the top."""
    head = [text[:1] == "#" for text in lines] + [False]
    return head.index(False)


def _is_marked(line):
    """Whether a line is about the threshold."""
    return line.lstrip("# ").startswith(MARK)


def read_calibration(folder):
    """The calibration in an encoder folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        An encoder folder, a folder of embeddings or a hub id.

    Returns
    -------
    ScoreCalibration
        The calibration; None if there is none.

    Raises
    ------
    ValueError
        If the file is not one of ``write_calibration``.
    """
    path = pathlib.Path(folder) / CALIBRATION
    if not path.is_file():
        return None
    try:
        # Maybe of a stranger: no more than such a file has
        with open(path, encoding="utf-8") as file:
            content = json.loads(file.read(MOST))
        weights = content["calibration"]
        if content["method"] not in METHODS:
            raise ValueError("an unknown method")
        found = ScoreCalibration(
            float(weights["offset"]),
            float(weights["score"]),
            content["method"],
            int(content["n_pairs"]),
            int(content["n_same"]),
        )
    except SENSELESS as error:
        raise ValueError(
            f"{path} is no calibration ({error!r:.99}): delete it, and run "
            "calibrate again."
        ) from error
    if not (math.isfinite(found.offset) and 0 < found.slope < math.inf):
        raise ValueError(
            f"{path}: a score has to weigh more than 0. Delete the file, and "
            "run calibrate again."
        )
    return found
