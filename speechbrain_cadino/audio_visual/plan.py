"""Plan of the pipeline of voices and faces."""

import os

from speechbrain_cadino.audio_visual.faces import check_kornia, is_image
from speechbrain_cadino.audio_visual.videos import VIDEOS
from speechbrain_cadino.dataio.names import paths_of
from speechbrain_cadino.prepare.copies import require_av
from speechbrain_cadino.prepare.inputs import check_folders
from speechbrain_cadino.process.outputs import holds_something
from speechbrain_cadino.runs.plan import Plan, lies_in


class AudioVisualPlan(Plan):
    """The steps of voices, of faces, and of both: the ``plan`` of
    ``av_pipeline.yaml``."""

    def all_steps(self):
        """All steps, in the order in which they run."""
        hparams = self.hparams
        for key in ("filter", "large_margin"):
            if hparams.get(key) is not None:
                raise ValueError(f"{key} is of voices alone: give {key}: null.")
        add = {
            "audio": lambda: self.add_alone("audio/", voices, "dlg_lc"),
            "face": lambda: self.add_alone(
                "face/", faces, "face_dlg_lc", **self.faces
            ),
            "audio_visual": lambda: self.add_audio_visual(voices, faces),
        }
        systems = hparams["systems"]
        if not systems or not set(systems) <= set(add):
            raise ValueError(
                f"systems is {systems}: give some of {', '.join(add)}."
            )
        with_faces = hparams["face_trials_manifest"] is not None
        if hparams["trials"] is not None and not with_faces:
            raise ValueError(
                "trials without face_trials_manifest, which names the faces of "
                'their files: prepare_faces makes one of a list, see "Voices '
                'and faces" in recipes/VoxCeleb/README.md. Or give trials: '
                "null."
            )
        self.faces = {
            "data_folder": hparams["face_folder"],
            "trials_manifest": hparams["face_trials_manifest"],
            "trials_folder": hparams["face_trials_folder"],
        }
        check_kornia()
        voices = self.add("stage_1", "train_dino.py", "stage_1")
        faces = self.add(
            "stage_1_face",
            "train_dino.py",
            "stage_1_face",
            audio_manifest=voices.manifest,
            frame_folder=hparams["frame_folder"],
            **self.faces,
        )
        # Seen before the training of voices, and not after it
        _check_faces(hparams, faces)
        lasts = {system: add[system]()[0] for system in systems}
        last = lasts.get("audio_visual")
        if hparams["trials"] is not None and last is not None:
            self.add(
                "verify",
                "verify.py",
                "av_verify",
                quick=True,
                encoder=last / "encoder",
                face_encoder=last / "face_encoder",
                data_folder=self.trials_folder(),
                trials_manifest=hparams["face_trials_manifest"],
                face_folder=hparams["face_trials_folder"]
                or hparams["face_folder"],
            )
        return self.steps

    def add_audio_visual(self, voices, faces):
        """Adds the iterations of both."""
        own = {
            "face_manifest": faces.manifest,
            "face_folder": self.faces["data_folder"],
        }

        def encoders(last):
            if last.name == voices.name:
                return last / "encoder", faces.folder / "encoder"
            return last / "encoder", last / "face_encoder"

        def label(name, last):
            encoder, face_encoder = encoders(last)
            return self.add(
                name,
                "pseudo_label.py",
                "av_pseudo_label",
                encoder=encoder,
                face_encoder=face_encoder,
                manifest=voices.manifest,
                speakers=self.speakers,
                **own,
            )

        def train(name, last, manifest):
            encoder, face_encoder = encoders(last)
            return self.add_training(
                name,
                "av_dlg_lc",
                "train_av_dlg_lc.py",
                gates=["audio", "face"],
                train_manifest=manifest,
                start_encoder=encoder,
                start_face_encoder=face_encoder,
                face_trials_manifest=self.faces["trials_manifest"],
                face_trials_folder=self.faces["trials_folder"],
                **own,
            )

        return self.add_iterations("audio_visual/", voices.folder, label, train)


def _check_faces(hparams, step):
    """Raises what the preparation of faces would, voices being trained
    then."""
    data = paths_of(hparams["data_folder"])
    same = paths_of(hparams["face_folder"]) == data
    if same and not all(map(os.path.isdir, data)):
        return  # the preparation of voices makes it, as of the demo
    folders = check_folders(hparams["face_folder"], "faces", "face_folder")
    table = hparams["face_trials_manifest"]
    missing = hparams["trials"] is not None and not os.path.isfile(table)
    if missing and not (same and any(lies_in(f, table) for f in data)):
        raise FileNotFoundError(f"There is no face_trials_manifest {table}.")
    if not all(map(_has_videos_alone, folders)):
        return
    frames = step.settings.get("frame_folder")
    if frames is None:
        raise ValueError(
            "The faces are videos: give frame_folder, where their frames are "
            "to go."
        )
    if not holds_something(frames):
        require_av("Faces are to be sampled from videos")


def _has_videos_alone(folder):
    """Whether there are videos below a folder, and no image."""
    videos = False
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        if any(map(is_image, names)):
            return False
        suffixes = {
            os.path.splitext(n)[1].lower() for n in names if n[0] != "."
        }
        videos = videos or bool(suffixes & VIDEOS)
    return videos
