"""Brain of DinoSR: a student that guesses the codes of hidden frames."""

import torch

from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.losses.online_codebook import code_loss

# Fewer of the codes of a codebook than this share are called few. Ours.
FEW = 0.1


class FrameBrain(EncoderBrain):
    """Self-distillation at the level of frames, without labels (DinoSR).

    The student hears a crop of which spans of frames are hidden, and guesses
    the codes of these. The codes are the target's: with TeacherTargets, those
    of a teacher that hears all and follows the student (Liu et al., 2023);
    with RandomTargets, BEST-RQ's. With an ``augment``, the student hears the
    crop augmented, and the target as it is: what is the same in both is the
    phone, not the voice nor the channel (ours; neither paper has one). It must
    not shift sounds in time.

    What the YAML must hold beside what EncoderBrain wants, but ``evaluator``:

    * modules: ``student`` (FrameStudent) and ``target``;
    * hparams: ``student``; ``freeze_epochs``, from when on the front end stays
      as it is, or None.

    The training set is a MultiCropDataset of one global crop.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.student = self.hparams.student
        self.target = self.modules.target
        self.guard.rewindable.append(self.target)
        self.figures = {}  # of the last epoch

    def trained_weights(self):
        """The student, without its heads."""
        return torch.nn.ModuleList(
            [self.student.front_end, self.student.context]
        )

    def epoch_figures(self):
        """The codes used, and what else the target tells of an epoch."""
        self.figures = self.target.end_epoch(self.position)
        return self.figures

    def warnings(self, means):
        """Says which codebooks are hardly used."""
        few = [
            f"{name} is {value:.0%}"
            for name, value in self.figures.items()
            if name.startswith("used_") and value < FEW
        ]
        if not few:
            return []
        return [
            f"Few codes are used: {', '.join(few)}. {self.target.few_codes} in "
            "another output_folder."
        ]

    def compute_forward(self, batch, stage):
        """What the student guesses, and the codes.

        Returns
        -------
        logits : list of torch.Tensor
            The logits of each head, (frames hidden, codes).
        codes : torch.Tensor
            The codes of the hidden frames, (heads, frames hidden).
        """
        wavs = batch["globals"][:, 0].to(self.device, non_blocking=True)
        augment = self.augmenters["all"]
        heard = wavs if augment is None else augment(wavs)
        outputs = self.modules.student(heard)
        latents = outputs.latents
        if heard is not wavs:
            with torch.no_grad():
                latents = self.student.front_end(wavs)
        codes = self.target.codes(wavs, latents, outputs.mask)
        return outputs.logits, codes

    def compute_objectives(self, predictions, batch, stage):
        """The cross-entropy, and what is worth a column of ``training.csv``."""
        loss, accuracy = code_loss(*predictions)
        self.record.add({"loss": loss.detach(), "accuracy": accuracy})
        return loss

    def optimizers_step(self):
        """As EncoderBrain's; the front end may be frozen."""
        freeze = self.hparams.freeze_epochs
        if freeze is not None and self.position >= freeze:
            self.student.front_end.zero_grad(set_to_none=True)
        super().optimizers_step()

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The target follows each optimiser step."""
        if should_step and not self.guard.skipped:
            self.target.after_step(self.position, self.student.context)

    def on_stage_start(self, stage, epoch=None):
        """As EncoderBrain's; no step goes across epochs."""
        super().on_stage_start(stage, epoch)
        self.target.rewind()
