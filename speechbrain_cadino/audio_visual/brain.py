"""One training step on pseudo labels of voices and faces: DLG-LC."""

import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.audio_visual.fusion import verify_fused
from speechbrain_cadino.brains.dlg_lc import (
    PseudoLabelBrain,
    Sense,
    accuracy,
    decision_shares,
)
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.results import format_results

logger = get_logger(__name__)

FACE = "face_"


class AudioVisualBrain(PseudoLabelBrain):
    """Two encoders and two classifiers on the same pseudo labels (Han et al.,
    2023): voice and face correct each other's labels.

    Each sense has a loss gate of its own; whether a label is reliable, and
    what an unreliable one is corrected to, they decide together: see
    AudioVisualCorrectionLoss, which is the ``label_loss``. The encoder of
    voices is what EncoderBrain evaluates and exports.

    What the YAML must hold beside what PseudoLabelBrain wants, all of it with
    the prefix ``face_``: modules and hparams ``face_embedding_model`` and
    ``face_classifier``, modules ``face_compute_features`` and
    ``face_mean_var_norm``; ``face_loss_gate``, ``face_sample_rate``,
    ``face_reader``, ``face_manifest``, ``face_folder``,
    ``face_encoder_folder``, ``face_classifier_file``,
    ``face_trials_manifest`` and ``face_trials_folder``; optionally
    ``face_augment``.

    The training set is an AudioVisualDataset.
    """

    def make_senses(self):
        """Voices and faces."""
        folder = self.hparams.output_folder
        return [
            Sense("wav", "", f"{folder}/audio", self.hparams),
            Sense("face", FACE, f"{folder}/face", self.hparams),
        ]

    def compute_forward(self, batch, stage):
        """The cosines of each sense to the classes, each (batch, C).

        Those of an utterance without a face do not count.
        """
        for sense in self.senses:
            batch[sense.key] = batch[sense.key].to(self.device)
        batch["label"] = batch["label"].to(self.device)
        audio, face = self.senses
        heard = self.cosines(audio, batch["wav"])
        # Two rows at least, for the sake of BatchNorm
        has_face = batch["has_face"].int()
        rows = has_face.argsort(descending=True, stable=True)
        rows = rows[: max(2, has_face.sum())].to(self.device)
        seen = at_speed(
            self.cosines(face, batch["face"][rows]),
            batch["label"][rows],
            heard.shape[1],
        )
        return [heard, torch.zeros_like(heard).index_copy(0, rows, seen)]

    def compute_objectives(self, cosines, batch, stage):
        """The gated losses of both senses, with label correction."""
        labels = batch["label"]
        has_face = batch["has_face"].to(self.device)
        present = [torch.ones_like(has_face), has_face]
        loss, results = self.hparams.label_loss(
            cosines,
            labels,
            [sense.loss_gate.threshold for sense in self.senses],
            present,
            lambda rows: self._answer(batch, rows),
        )
        for sense, there, result in zip(self.senses, present, results):
            there = there.cpu()
            sense.gate_record.add(
                batch["sample"][there],
                **{name: values[there] for name, values in result.items()},
            )
        self.record.add(
            {
                "loss": loss.detach(),
                "accuracy": accuracy(cosines[0], labels),
                # 0 where a batch has no face
                "face_accuracy": accuracy(
                    cosines[1][has_face], labels[has_face]
                ).nan_to_num(),
                "faces": has_face.float().mean(),
                **decision_shares(results[0]["decisions"]),
            }
        )
        return loss

    def _answer(self, batch, rows):
        """What each sense says of clean crops, (n, C)."""
        heard, seen = (
            self.clean_cosines(sense, batch[sense.key][rows])
            for sense in self.senses
        )
        labels = batch["label"][rows]
        return [heard, at_speed(seen, labels, heard.shape[1])]

    def export(self):
        """Writes both encoder folders, and the classifiers."""
        super().export()
        self.export_with(
            *(self.hparams.face_embedding_model, FACE),
            *(self.hparams.face_manifest, self.hparams.face_folder),
        )

    def verify(self, baselines):
        """Scores the trials, if there are any, by voice, by face and by both.

        Arguments
        ---------
        baselines : bool
            Ignored: stage I of each sense has its own.
        """
        if self.hparams.trials is None:
            return
        face_trials = TrialEvaluator(
            self.hparams.trials,
            self.hparams.face_trials_folder,
            self.hparams.face_sample_rate,
            self.hparams.face_trials_manifest,
            keep_unseen=True,
        )
        metrics = verify_fused(
            self.hparams.output_folder,
            load_encoder(self.hparams.encoder_folder, self.device),
            load_encoder(self.hparams.face_encoder_folder, self.device),
            self.hparams.evaluator,
            face_trials,
        )
        logger.info(format_results(metrics))


def at_speed(cosines, labels, num_classes):
    """The cosines of faces to the classes of voices.

    A voice at another speed is of another class, its face is not: a face is
    compared with the classes of the speed at which its utterance is played.

    Arguments
    ---------
    cosines : torch.Tensor
        To the F classes of one speed, (batch, F).
    labels : torch.Tensor
        Classes of the voices, (batch,): F for each speed, one speed after the
        other.
    num_classes : int
        C, F times the number of speeds.

    Returns
    -------
    torch.Tensor
        (batch, C); -1, the smallest cosine, for other speeds.

    Example
    -------
    >>> cosines = torch.tensor([[0.5, 0.2], [0.1, 0.3]])
    >>> at_speed(cosines, torch.tensor([1, 2]), num_classes=4).tolist()
    [[0.5, 0.2..., -1.0, -1.0], [-1.0, -1.0, 0.1..., 0.3...]]
    """
    faces = cosines.shape[1]
    first = labels // faces * faces
    columns = first[:, None] + torch.arange(faces, device=labels.device)
    spread = cosines.new_full((len(labels), num_classes), -1.0)
    return spread.scatter(1, columns, cosines)
