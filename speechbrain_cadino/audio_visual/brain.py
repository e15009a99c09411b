"""Brain of DLG-LC on voices and faces."""

import torch

from speechbrain_cadino.brains.dlg_lc import (
    PseudoLabelBrain,
    decision_shares,
    guessed,
)
from speechbrain_cadino.losses.meters import accuracy

# Where fewer of the faces that are there could be used, some were lost
LEAST_SEEN = 0.9


class AudioVisualBrain(PseudoLabelBrain):
    """Two encoders and two classifiers on the same pseudo labels (Han et al.,
    2023): voice and face correct each other's labels.

    Each branch has a loss gate of its own; whether a label is reliable, and
    what an unreliable one is corrected to, they decide together: see
    AudioVisualCorrectionLoss, which is the ``label_loss``. The encoder of
    voices is what EncoderBrain evaluates.

    The YAML holds two branches, ``audio`` and ``face``, in this order. The
    training set is an AudioVisualDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if getattr(self.hparams, "final_map", None) is not None:
            raise ValueError(
                "A training of voices and faces has no final_map: give "
                "final_map: null, and emb_dim: 192 in the place of its 768."
            )

    def warnings(self, means):
        """That faces were lost, too, as where a disk has gone."""
        there = float((self.train_dataset.track_of >= 0).mean())
        sentences = super().warnings(means)
        if means["faces"] < LEAST_SEEN * there:
            sentences.append(
                f"{there:.0%} of the utterances have a face, and that of "
                f"{means['faces']:.0%} could be used: others are blank, broken "
                "or not where the manifest has them."
            )
        return sentences

    def compute_forward(self, batch, stage):
        """The cosines of each branch to the classes, each (batch, C).

        Those of an utterance without a face do not count.
        """
        for branch in self.branches.values():
            batch[branch.key] = batch[branch.key].to(self.device)
        batch["label"] = batch["label"].to(self.device)
        heard = self.modules["audio"](batch["wav"])
        # Two rows at least, for the sake of BatchNorm
        has_face = batch["has_face"].int()
        rows = has_face.argsort(descending=True, stable=True)
        rows = rows[: max(2, has_face.sum())].to(self.device)
        seen = at_speed(
            self.modules["face"](batch["face"][rows]),
            batch["label"][rows],
            heard.shape[1],
        )
        return [heard, torch.zeros_like(heard).index_copy(0, rows, seen)]

    def compute_objectives(self, cosines, batch, stage):
        """The gated losses of both branches, with label correction."""
        labels = batch["label"]
        # On the host too, so that it need not wait for a GPU to know
        faces = batch["has_face"]
        has_face = faces.to(self.device)
        present = [torch.ones_like(has_face), has_face]
        loss, results = self.hparams.label_loss(
            cosines,
            labels,
            [each.loss_gate.threshold for each in self.branches.values()],
            present,
            lambda rows: self._answer(batch, rows),
        )
        rows = [torch.arange(len(faces)), faces.nonzero().squeeze(1)]
        branches = self.branches.values()
        for branch, there, own, result in zip(branches, present, rows, results):
            branch.loss_gate.add(guessed(result["losses"], ~there))
            seen = own.to(self.device)
            branch.gate_record.add(
                batch["sample"][own],
                **{name: values[seen] for name, values in result.items()},
            )
        right = cosines[1].detach().argmax(1) == labels
        self.record.add(
            {
                "loss": loss.detach(),
                "accuracy": accuracy(cosines[0], labels),
                # Shares of all utterances, as a batch may have no face
                "faces": has_face.float().mean(),
                "faces_right": (has_face & right).float().mean(),
                **decision_shares(results[0]["decisions"]),
            }
        )
        return loss

    def _answer(self, batch, rows):
        """What each branch says of clean crops, (n, C)."""
        heard, seen = (
            branch.clean(batch[branch.key][rows])
            for branch in self.branches.values()
        )
        labels = batch["label"][rows]
        return [heard, at_speed(seen, labels, heard.shape[1])]


def at_speed(cosines, labels, num_classes):
    """The cosines of faces to the classes of voices.

    A voice at another speed is of another class, its face is not: a face is
    compared with the classes of the speed at which its utterance is played.

    Arguments
    ---------
    cosines : torch.Tensor
        The cosines to the F classes of one speed, (batch, F).
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
