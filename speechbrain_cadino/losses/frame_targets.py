"""Targets of frames: the codes that a student guesses of what is hidden.

A target is a Module with ``codes(wavs, latents, mask)``, the codes of the
frames that are hidden; ``after_step`` follows each optimiser step, ``mark`` and
``rewind`` serve the StepGuard, and ``end_epoch`` gives figures of the epoch.
``few_codes`` says why few codes would be used, and what to do.
"""

import torch

from speechbrain.nnet.quantisers import RandomProjectionQuantizer
from speechbrain.utils.distributed import ddp_all_reduce
from speechbrain_cadino.losses.online_codebook import over_time
from speechbrain_cadino.process.precision import full_precision


class TeacherTargets(torch.nn.Module):
    """DinoSR's: the online codes of what a teacher says in the open.

    The teacher follows the student's context network by moving average, and
    hears the student's latents before the mask. Each of its last layers has a
    codebook of its own.

    Arguments
    ---------
    teacher : ContextTeacher
        The teacher.
    codebook : OnlineCodebook
        A codebook for each of the last layers.
    momentum_schedule : callable
        The teacher's momentum at a position in epochs.
    targets : str
        "ffn": what the feed-forward network of a layer adds, as in the authors'
        code; "layer": what the layer says.
    freeze_epochs : float, optional
        The position, in epochs, from which on the teacher stays as it is.

    Raises
    ------
    ValueError
        If ``targets`` is neither, or there are more codebooks than layers.
    """

    few_codes = (
        "The teacher says nearly the same of all frames: set heads_at to "
        "each, or lower codes or lr,"
    )

    def __init__(
        self,
        teacher,
        codebook,
        momentum_schedule,
        targets="ffn",
        freeze_epochs=None,
    ):
        super().__init__()
        if targets not in ("ffn", "layer"):
            raise ValueError(f"targets={targets}: give ffn or layer.")
        depth = teacher.network.depth
        if len(codebook.counts) > depth:
            raise ValueError(
                f"{len(codebook.counts)} codebooks for {depth} layers: lower "
                "codebooks."
            )
        self.teacher = teacher
        self.codebook = codebook
        self.momentum_schedule = momentum_schedule
        self.targets = targets
        self.freeze_epochs = freeze_epochs

    @property
    def layers(self):
        """The numbers of the layers that have a codebook, from 1."""
        depth = self.teacher.network.depth
        return list(range(depth - len(self.codebook.counts) + 1, depth + 1))

    def said(self, latents):
        """What the codebooks are of: normalised over the time of each
        utterance, hidden frames among them.

        Arguments
        ---------
        latents : torch.Tensor
            Latents, (batch, frames, size), without a mask.

        Returns
        -------
        torch.Tensor
            Normalised frames, (codebooks, batch, frames, d_model).
        """
        layers = self.teacher(latents, self.targets == "ffn")
        return torch.stack(
            [over_time(layer) for layer in layers[self.layers[0] - 1 :]]
        )

    @torch.no_grad()
    def codes(self, wavs, latents, mask):
        """The codes of the frames that are hidden from the student.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples). Not used.
        latents : torch.Tensor
            Latents, (batch, frames, size), without a mask.
        mask : torch.Tensor
            The frames that are asked for, (batch, frames), bool.

        Returns
        -------
        torch.Tensor
            Codes, (codebooks, frames), int64.
        """
        return self.codebook(self.said(latents.detach())[:, mask])

    def after_step(self, position, context):
        """Codes and teacher follow an optimiser step.

        Arguments
        ---------
        position : float
            The position in training, in epochs.
        context : ContextNetwork
            The context network of the student.
        """
        self.codebook.after_step()
        momentum = self._momentum(position)
        if momentum != 1:  # frozen
            self.teacher.follow(context, momentum)

    def _momentum(self, position):
        """The teacher's momentum: 1 once it is frozen."""
        if self.freeze_epochs is not None and position >= self.freeze_epochs:
            return 1.0
        return self.momentum_schedule(position)

    def end_epoch(self, position):
        """Figures of the epoch, beside the means over its steps.

        Arguments
        ---------
        position : float
            The position in training, in epochs.

        Returns
        -------
        dict of str:float
            The teacher's ``momentum``; for each codebook, by the number of
            its layer, ``used_LAYER``, the share of its codes that were given,
            and ``perplexity_LAYER``.
        """
        figures = {"momentum": self._momentum(position)}
        for name, values in self.codebook.end_epoch().items():
            for layer, value in zip(self.layers, values.tolist()):
                figures[f"{name}_{layer}"] = value
        return figures

    def mark(self):
        """Begins a step: see StepGuard. Nothing is to be remembered."""

    def rewind(self):
        """Forgets what was noted in a step that is undone."""
        self.codebook.forget()


class RandomTargets(torch.nn.Module):
    """BEST-RQ's: codes of the features themselves, in a random codebook.

    Chiu et al., 2022, "Self-supervised Learning with Random-projection
    Quantizer for Speech Recognition", with SpeechBrain's quantizer. Nothing of
    it is learnt. Here it is a baseline: the same network and mask, other
    codes.

    Arguments
    ---------
    features : torch.nn.Module
        The module that computes the features, from signals, (batch, samples),
        to (batch, frames, bands).
    bands : int
        The size of the features.
    stack : int
        The number of frames of the features for one of the latents.
    codes : int
        The number of codes.
    size : int
        The size of the codes. 16 in the paper.
    """

    few_codes = "The features hardly differ from frame to frame: lower codes"

    def __init__(self, features, bands, stack, codes, size=16):
        super().__init__()
        self.features = features
        self.stack = stack
        self.quantizer = RandomProjectionQuantizer(bands * stack, size, codes)
        # How often each code was given in the epoch, and since the last step
        self.register_buffer("hits", torch.zeros(codes))
        self._collected = torch.zeros(codes)

    @torch.no_grad()
    def codes(self, wavs, latents, mask):
        """The codes of the frames that are hidden from the student: see
        TeacherTargets.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples).
        latents : torch.Tensor
            Latents, (batch, frames, size); they tell how many frames there
            are.
        mask : torch.Tensor
            The frames that are asked for, (batch, frames), bool.

        Returns
        -------
        torch.Tensor
            Codes, (1, frames), int64.
        """
        with full_precision(wavs.device.type):  # as nearest neighbours need
            return self._codes(wavs, latents, mask)

    def _codes(self, wavs, latents, mask):
        features = self.features(wavs)
        wanted = latents.shape[1] * self.stack
        # The last frame is repeated
        extra = features[:, -1:].expand(
            -1, max(wanted - features.shape[1], 0), -1
        )
        features = torch.cat([features, extra], 1)[:, :wanted]
        stacked = features.unflatten(1, (-1, self.stack)).flatten(2)
        codes = self.quantizer(stacked)[mask]
        if self.training:
            given = codes.bincount(minlength=len(self.hits))
            self._collected = self._collected.to(given.device) + given
        return codes.unsqueeze(0)

    def after_step(self, position, context):
        """Counts the codes of an optimiser step: see TeacherTargets.

        Arguments
        ---------
        position : float
            The position in training, in epochs.
        context : ContextNetwork
            The context network of the student.
        """
        total = torch.distributed.ReduceOp.SUM
        self.hits += ddp_all_reduce(self._collected, total).to(self.hits.device)
        self.rewind()

    def end_epoch(self, position):
        """Figures of the epoch: see TeacherTargets.

        Arguments
        ---------
        position : float
            The position in training, in epochs.

        Returns
        -------
        dict of str:float
            ``used_1``, the share of the codes that were given.
        """
        used = (self.hits > 0).float().mean().item()
        self.hits.zero_()
        return {"used_1": used}

    def mark(self):
        """Begins a step: see StepGuard. Nothing is to be remembered."""

    def rewind(self):
        """Forgets what was noted in a step that is undone."""
        self._collected = torch.zeros_like(self._collected)
