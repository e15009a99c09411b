"""Inputs of a manifest: the folders, and whether any of them changed."""

import itertools
import os

import pandas as pd

from speechbrain_cadino.dataio.manifest import COLUMNS, LABEL, write_manifest
from speechbrain_cadino.dataio.names import paths_of
from speechbrain_cadino.prepare.scan import fingerprint, list_files
from speechbrain_cadino.process.files import read_json, write_csv, write_json

# In the place of the inputs while a manifest is being made
UNFINISHED = "unfinished"


def check_folders(data_folder, content="audio"):
    """The folder, or folders, as a list of absolute paths.

    Arguments
    ---------
    data_folder : str or list of str
        The folder or folders that the user gave.
    content : str
        Its content, for the message.

    Returns
    -------
    list of str

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
                f"No folder {folder}: data_folder is where your {content} is."
            )
    folders = [os.path.abspath(folder) for folder in data_folder]
    for inner, outer in itertools.permutations(folders, 2):
        if os.path.commonpath([inner, outer]) == outer:
            raise ValueError(
                f"{inner} is, or lies in, {outer}: its recordings would be "
                "there twice. Give one of the two."
            )
    return folders


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

    Raises
    ------
    ValueError
        If it lies around the data.
    """
    if not made_folder:
        return None
    made_folder = os.path.abspath(made_folder)
    for folder in folders:
        if os.path.commonpath([folder, made_folder]) == made_folder:
            raise ValueError(
                f"{argument} {made_folder} would mix converted files with "
                f"those of {folder}: give it a folder of its own."
            )
    return made_folder


def inputs_path(manifest):
    """Where it says what a manifest was made of.

    Arguments
    ---------
    manifest : pathlib.Path
        The manifest.

    Returns
    -------
    pathlib.Path
    """
    return manifest.with_suffix(".json")


def check_our_manifest(manifest, beside):
    """Raises if files that are to be written are there, and not of a prepare
    step.

    Arguments
    ---------
    manifest : pathlib.Path
        The manifest.
    beside : list of pathlib.Path
        The files that are made with it.

    Raises
    ------
    ValueError
        If what somebody else has made would be lost.
    """
    made_of = inputs_path(manifest)
    record = read_json(made_of)
    # A power cut leaves a record without a byte, or with zeros
    damaged = made_of.is_file() and not made_of.read_bytes().strip(b"\0")
    ours = isinstance(record, dict) and (
        UNFINISHED in record or {"version", "files"} <= record.keys()
    )
    if damaged or ours:
        return
    for path in [manifest, made_of, *beside]:
        if path.exists():
            raise ValueError(
                f"{path} is there, was not made by this step, and would be "
                "replaced: give another folder or name for the manifest, or "
                "--skip_prep=True to a training that is to read it."
            )


def begin(manifest):
    """Notes that a manifest is being made: killed from here on, it is made
    again.

    Arguments
    ---------
    manifest : pathlib.Path
        The manifest.
    """
    write_json(inputs_path(manifest), {UNFINISHED: True})


def is_done(manifest, beside, inputs):
    """Whether a manifest was made of just these inputs.

    Arguments
    ---------
    manifest : pathlib.Path
        The manifest.
    beside : list of pathlib.Path
        The files that were made with it.
    inputs : dict
        The content that ``inputs_path`` would get if it were made now.

    Returns
    -------
    bool
    """
    made_of = inputs_path(manifest)
    # Without a byte, a file is what a power cut has left
    paths = [manifest, *beside]
    if not all(path.is_file() and path.stat().st_size for path in paths):
        return False
    return read_json(made_of) == inputs


def write_prepared(manifest, rows, inputs, made_folder, suffixes, speakers):
    """Writes a manifest, and last what it is made of.

    Arguments
    ---------
    manifest : pathlib.Path
        The manifest.
    rows : list of tuple
        Its rows, in the order of ``COLUMNS``.
    inputs : dict
        What it is made of.
    made_folder : str, optional
        See ``with_converted``, as for the next.
    suffixes : set of str
    speakers : pathlib.Path, optional
        Where the first part of each ID goes to as its true speaker
        (``ID,spk_id``).
    """
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("ID")
    write_manifest(manifest, table)
    if speakers is not None:
        table[LABEL] = table["ID"].str.partition("/")[0]
        write_csv(speakers, table[["ID", LABEL]])
    made_of = with_converted(inputs, made_folder, suffixes)
    write_json(inputs_path(manifest), made_of)


def with_converted(inputs, folder, suffixes):
    """Adds the converted files: should one be gone, it is made anew.

    Arguments
    ---------
    inputs : dict
        The inputs that a manifest is made of.
    folder : str, optional
        The folder of the converted files.
    suffixes : set of str
        Their suffixes.

    Returns
    -------
    dict
    """
    converted = list_files(folder, "**/*", suffixes) if folder else []
    return {**inputs, "converted": fingerprint(converted)}
