"""Faces for the demo corpus: each voice is a drawn person."""

import pathlib

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.audio_visual.portrait import (
    draw_person,
    draw_portrait,
    draw_setting,
)
from speechbrain_cadino.audio_visual.prepare import prepare_faces
from speechbrain_cadino.demo.corpus import RECORD
from speechbrain_cadino.prepare.parallel import in_parallel
from speechbrain_cadino.process.files import (
    atomic_folder,
    read_json,
    remove_leftovers,
    write_json,
)

logger = get_logger(__name__)

# The settings of the faces, beside those of the corpus.
FACE_RECORD = "demo_faces.json"
QUALITY = 90


def prepare_demo_faces(
    data_folder,
    seed=1986,
    frames=6,
    size=64,
    missing=0.05,
    num_workers=None,
    skip_prep=False,
):
    """Draws a face track for the utterances of a demo corpus.

    Below ``data_folder``: ``face/<voice>/<session>/00001/00.jpg`` and so on,
    the manifest ``faces.csv`` of the training utterances that have a face,
    and ``faces_test.csv`` of those in the trials, with what has none in
    ``faces_skipped.csv`` and ``faces_test_skipped.csv``. The same bytes each
    time. Killed and started again it goes on where it was.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder that ``prepare_demo`` has filled.
    seed : int
        The random seed: another one gives other people.
    frames : int
        The number of images of a track.
    size : int
        Height and width of the images, in pixels.
    missing : float
        The share of the utterances that have no face.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.
    skip_prep : bool
        Whether to do nothing at all.

    Raises
    ------
    ValueError
        If the folder holds no complete demo corpus, or faces with other
        settings.
    """
    if skip_prep:
        return
    folder = pathlib.Path(data_folder)
    settings = {"seed": seed, "frames": frames, "size": size}
    settings["missing"] = missing
    corpus = _check_folder(folder, settings)
    write_json(folder / FACE_RECORD, settings)
    remove_leftovers(folder / "face", below=True)
    voices = range(corpus["test_voices"] + corpus["train_voices"])
    drawn = in_parallel(
        _draw_voice,
        voices,
        [folder / "face"] * len(voices),
        [corpus["utterances"]] * len(voices),
        [settings] * len(voices),
        chunk=1,
        description="Demo faces",
        num_workers=num_workers,
    )
    if sum(drawn):
        logger.info(f"Drew {sum(drawn)} face tracks in {folder / 'face'}.")
    joined_with = {
        "faces.csv": {"audio_manifest": folder / "train.csv"},
        "faces_test.csv": {"trials": folder / "meta" / "veri_test.txt"},
    }
    for manifest, utterances in joined_with.items():
        prepare_faces(
            folder,
            folder,
            glob="face/**/*",
            manifest=manifest,
            num_workers=num_workers,
            **utterances,
        )


def _check_folder(folder, settings):
    """The settings of the demo corpus; raises if there is none, or if it has
    faces of other settings."""
    of_corpus = read_json(folder / RECORD)
    if of_corpus is None or not (folder / "train.csv").exists():
        raise ValueError(
            f"{folder} holds no complete demo corpus: make it with "
            "prepare_demo, then its faces."
        )
    record = folder / FACE_RECORD
    if record.exists():
        found = read_json(record)
        if found != settings:
            raise ValueError(
                f"{folder} holds demo faces with other settings ({found}, not "
                f"{settings}): delete its folder face and {FACE_RECORD}."
            )
    return of_corpus


def _draw_voice(voice, folder, utterances, settings):
    """Draws the tracks of a voice that are not there yet; returns how many."""
    seed = settings["seed"]
    person = draw_person(np.random.default_rng([seed, 3, voice]))
    drawn = 0
    for utterance in range(utterances):
        rng = np.random.default_rng([seed, 4, voice, utterance])
        if rng.random() < settings["missing"]:
            continue
        track = folder / f"v{voice:03d}" / f"s{utterance:02d}" / "00001"
        if track.exists():
            continue
        setting = draw_setting(rng)
        with atomic_folder(track) as temporary:
            for frame in range(settings["frames"]):
                image = draw_portrait(person, setting, rng, settings["size"])
                image.save(temporary / f"{frame:02d}.jpg", quality=QUALITY)
        drawn += 1
    return drawn
