"""Crops of voices with frames of the faces."""

import zlib

import numpy as np
import pandas as pd
import torch

from speechbrain_cadino.audio_visual.faces import FaceReader
from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.crop_reader import shows
from speechbrain_cadino.dataio.crops import PseudoLabelDataset
from speechbrain_cadino.dataio.manifest import TRUSTED, read_manifest
from speechbrain_cadino.dataio.packed import PackedStrings
from speechbrain_cadino.dataio.spread import spread_rows

# So many tracks are looked for before a training: a wrong folder has none.
SOME = 10


class AudioVisualDataset(PseudoLabelDataset):
    """As PseudoLabelDataset, with a random frame of the utterance's face.

    An utterance without a face, or with one that cannot be read or is of one
    colour, is heard only: its frame is black.

    Arguments
    ---------
    manifest : str or pathlib.Path
        See PseudoLabelDataset.
    face_manifest : str or pathlib.Path
        Face tracks under the IDs of the manifest: see ``audio_visual.prepare``.
    face_size : int
        Height and width of the frames: see FaceReader.
    face_root : str or pathlib.Path, optional
        The folder that ``$data_root`` in face_manifest stands for.
    **options
        The other arguments of PseudoLabelDataset. At another speed an
        utterance is of another voice, but of the same face.

    Raises
    ------
    ValueError
        If no utterance has a face, the manifest trusts a label, or no track is
        there.
    """

    def __init__(
        self, manifest, face_manifest, face_size=64, face_root=None, **options
    ):
        super().__init__(manifest, **options)
        if self.trusted.any():
            raise ValueError(
                f"{manifest} trusts some of its labels, which voices alone can "
                "be trained with: use train_dlg_lc.py, or take the column "
                f"{TRUSTED} out."
            )
        self.face_size = face_size
        faces = read_manifest(face_manifest, face_root)
        self.tracks = PackedStrings(faces.pop("wav"))
        self.frames = faces[["start", "stop"]].to_numpy()
        # The track of each utterance, -1 for none
        self.track_of = pd.Index(faces["ID"]).get_indexer(list(self.ids))
        if (self.track_of < 0).all():
            raise ValueError(
                f"{face_manifest} has the face of no utterance in {manifest}: "
                "prepare it again, with this audio_manifest."
            )
        rows = spread_rows(len(self.tracks), SOME)
        if not any(map(self._is_there, rows)):
            raise ValueError(
                f"{face_manifest}: none of {len(rows)} face tracks is there, "
                f"such as {self.tracks[rows[0]]}. Is face_folder right? Or "
                "prepare them again."
            )

    def _is_there(self, track):
        """Whether a track has images."""
        try:
            with FaceReader(self.tracks[track], size=self.face_size):
                return True
        except MediaError:
            return False

    def fingerprint(self):
        """See MultiCropDataset; and of the tracks."""
        found = super().fingerprint()
        for array in (self.track_of, self.frames):
            found = zlib.crc32(np.ascontiguousarray(array), found)
        return found

    def __getitem__(self, index):
        """A crop of an utterance, and a frame.

        Returns
        -------
        dict
            The item of PseudoLabelDataset, with ``face``, (1, 3, size, size),
            uint8, and ``has_face``, whether it is one.
        """
        item = super().__getitem__(index)
        rng = np.random.default_rng((self.seed, self.epoch, index, 1))
        row = item["sample"] % len(self.ids)
        frame = self._read_frame(self.track_of[row], rng)
        item["has_face"] = frame is not None
        if frame is None:
            shape = 1, 3, self.face_size, self.face_size
            frame = torch.zeros(shape, dtype=torch.uint8)
        return {**item, "face": frame}

    def _read_frame(self, track, rng):
        """A random frame of a track; None if there is none to be used."""
        if track < 0:
            return None
        start, stop = self.frames[track]
        first = int(rng.integers(start, stop))
        try:
            with FaceReader(self.tracks[track], size=self.face_size) as face:
                frame = face.read(first, first + 1)
        except MediaError:
            return None
        return frame if shows(frame.numpy()).all() else None
