"""Inputs of a manifest: the folders, and whether any of them changed."""

import os
import pathlib

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import COLUMNS, LABEL, write_manifest
from speechbrain_cadino.dataio.names import paths_of
from speechbrain_cadino.dataio.signal import RATES
from speechbrain_cadino.prepare.scan import fingerprint, list_files
from speechbrain_cadino.process.files import read_json, write_json
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)

# Beside a manifest: the true speaker of each ID, as folders tell it
SPEAKERS = "speakers.csv"

# In the place of the inputs while a manifest is being made
UNFINISHED = "unfinished"


def check_folders(data_folder, content="audio", key="data_folder"):
    """The folder, or folders, as a list of absolute paths.

    Arguments
    ---------
    data_folder : str or list of str
        The folder or folders that the user gave.
    content : str
        The content of the folder, for the message.
    key : str
        The key that gave it, for the message.

    Returns
    -------
    list of str
        The absolute paths, in the order in which they are given.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If one lies in another: its recordings would be there twice.
    """
    data_folder = paths_of(data_folder)
    for folder in data_folder:
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"No folder {folder}: {key} is where your {content} is."
            )
    real = [pathlib.Path(os.path.realpath(folder)) for folder in data_folder]
    given, known = dict(zip(real, data_folder)), set()
    for folder, place in zip(data_folder, real):  # maybe one of each speaker
        above = [place] if place in known else place.parents
        outer = [given[path] for path in above if path in given]
        if outer:
            raise ValueError(
                f"{folder} is, or lies in, {outer[0]}: its recordings would "
                "be there twice. Give one of the two."
            )
        known.add(place)
    return [os.path.abspath(folder) for folder in data_folder]


def check_id_parts(id_parts):
    """Raises if an ID would have no speaker.

    Arguments
    ---------
    id_parts : int
        The number of the last parts of a path that are the ID.

    Raises
    ------
    ValueError
        If it is below 2.
    """
    if id_parts < 2:
        raise ValueError(
            f"id_parts={id_parts}: give 2 or more, of which the first is the "
            "folder of a speaker."
        )


def check_made_folder(made_folder, folders, argument):
    """The folder of what is made of the data, as an absolute path.

    Arguments
    ---------
    made_folder : str, optional
        The folder that the user gave.
    folders : list of str
        The folders of the data.
    argument : str
        The name of the argument, for the message.

    Returns
    -------
    str or None
        The absolute path; None if no folder is given.

    Raises
    ------
    ValueError
        If it lies around the data.
    """
    if not made_folder:
        return None
    made_folder = os.path.abspath(made_folder)
    around = pathlib.Path(os.path.realpath(made_folder))
    for folder in folders:
        if pathlib.Path(os.path.realpath(folder)).is_relative_to(around):
            raise ValueError(
                f"{argument} {made_folder} would mix converted files with "
                f"those of {folder}: give it a folder of its own."
            )
    return made_folder


def check_rate(sample_rate):
    """Raises if audio has no such rate.

    Arguments
    ---------
    sample_rate : int
        The rate, in Hz.

    Raises
    ------
    ValueError
        If it has not.
    """
    if sample_rate not in RATES:
        raise ValueError(
            f"sample_rate={sample_rate}: give {RATES.start} or more."
        )


def _age(path):
    """When a file was written."""
    return path.stat().st_mtime_ns


class Preparation:
    """The making of a manifest, if it is not there already.

    What it was made of is in a JSON file beside it, which is written last:
    killed before, it is made again.

    Arguments
    ---------
    manifest : pathlib.Path
        The manifest.
    inputs : dict
        The settings and files that the manifest is made of.
    beside : list of pathlib.Path
        The files that are made with it.
    made_folder : str, optional
        The folder of what was converted, of ``check_made_folder``: should a
        file of it be gone, all is made anew.
    suffixes : set of str
        The suffixes of the converted files.

    Example
    -------
    >>> import pathlib
    >>> folder = pathlib.Path(getfixture("tmp_path"))
    >>> inputs = {"version": 1, "files": []}
    >>> made = Preparation(folder / "train.csv", inputs, [])
    >>> made.is_done
    False
    >>> made.begin()
    >>> made.write([("a", 1.0, "a.wav", 0, 16000)])
    >>> made.is_done
    True
    """

    def __init__(self, manifest, inputs, beside, made_folder=None, suffixes=()):
        self.manifest = manifest
        self.inputs = inputs
        self.beside = beside
        self.made_folder = made_folder
        self.suffixes = suffixes
        self.record = manifest.with_suffix(".json")

    @property
    def is_done(self):
        """Whether the manifest is there, and was made of just these inputs."""
        # Without a byte, a file is what a power cut has left
        paths = [self.manifest, *self.beside]
        if not all(path.is_file() and path.stat().st_size for path in paths):
            return False
        return read_json(self.record) == self._made_of()

    def has_told(self, speakers):
        """Whether a table of speakers is of the preparation before this one,
        and nobody has written there since.

        Arguments
        ---------
        speakers : pathlib.Path
            The table of speakers, ``speakers.csv``.

        Returns
        -------
        bool
            Whether it is such a table, and no newer than that preparation.
        """
        told = (read_json(self.record) or {}).get("id_parts") is not None
        return told and speakers.is_file() and not self._is_newer(speakers)

    def _is_newer(self, path):
        """Whether a file was written since the record, which is written last,
        unless its preparation was killed."""
        finished = UNFINISHED not in (read_json(self.record) or {})
        return finished and _age(path) > _age(self.record)

    def check_ours(self):
        """Raises if files that are to be written are there, and not of a
        prepare step.

        Raises
        ------
        ValueError
            If what somebody else has made would be lost.
        """
        record = read_json(self.record)
        # A power cut leaves a record without a byte, or with zeros
        damaged = self.record.is_file() and not self.record.read_bytes().strip(
            b"\0"
        )
        ours = isinstance(record, dict) and (
            UNFINISHED in record or {"version", "files"} <= record.keys()
        )
        if damaged:
            return
        files = [self.manifest, self.record, *self.beside]
        if ours:
            # Made where no folder told them, or written since, a table of
            # speakers is one's own
            untold = record.get("id_parts", "") is None
            files = [
                path
                for path in self.beside
                if path.name.endswith(SPEAKERS) and path.is_file()
                if untold or self._is_newer(path)
            ]
        for path in files:
            if path.exists():
                raise ValueError(
                    f"{path} is there, was not made by this step or has "
                    "changed since, and would be replaced: give another folder "
                    "or name for the manifest, or remove it, to have it made "
                    "anew, or --skip_prep=True to a training that is to read "
                    "it."
                )

    def begin(self):
        """Notes that it is being made: killed from here on, it is made
        again."""
        id_parts = self.inputs.get("id_parts")
        write_json(self.record, {UNFINISHED: True, "id_parts": id_parts})

    def write(self, rows, speakers=None):
        """Writes the manifest, and last what it is made of.

        Arguments
        ---------
        rows : list of tuple
            The rows of the manifest, in the order of ``COLUMNS``.
        speakers : pathlib.Path, optional
            The file of the true speakers, which gets the first part of each ID
            (``ID,spk_id``).
        """
        table = pd.DataFrame(rows, columns=COLUMNS).sort_values("ID")
        write_manifest(self.manifest, table)
        if speakers is not None:
            table[LABEL] = table["ID"].str.partition("/")[0]
            write_csv(speakers, table[["ID", LABEL]])
            logger.info(
                f"{speakers}: {table[LABEL].nunique()} speakers, by the first "
                f"part of an ID, such as {table[LABEL].iloc[0]}."
            )
        write_json(self.record, self._made_of())

    def _made_of(self):
        """The inputs, and the files that were converted."""
        converted = []
        if self.made_folder:
            converted = list_files(self.made_folder, "**/*", self.suffixes)
        return {**self.inputs, "converted": fingerprint(converted)}
