"""Compiled training steps: tried on a GPU, and gone without where it fails."""

import gc
import time

import torch
import torch._functorch.config

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.training.guard import Diverged

logger = get_logger(__name__)

# CUDA graphs are recorded in the second
FIRST_STEPS = 3


class Compilation:
    """Has encoders compile what they do in a training step.

    ``torch.compile`` joins what an encoder does between its matrix products,
    which takes most of its time on a GPU, and its CUDA graphs launch all of it
    at once. It pays for itself within minutes of training, and is tried where
    an encoder offers it: see ``lobes.ecapa.ECAPA_TDNN.compile_training``.

    Arguments
    ---------
    modules : torch.nn.Module
        All networks of the training.
    graphs : bool
        Whether to use CUDA graphs. They write each step's gradients to the
        same memory: not where gradients of several batches are added up.
    memory : float
        The share of what the backward pass needs that is kept for it; the rest
        is computed again, convolutions last.

    Raises
    ------
    ValueError
        If that is no share.

    Example
    -------
    >>> compilation = Compilation(torch.nn.Linear(2, 2), graphs=False)
    >>> bool(compilation)  # nothing here offers it
    False
    """

    def __init__(self, modules, graphs, memory=1.0):
        if not 0 <= memory <= 1:
            raise ValueError(f"compile_memory={memory}: give 0 to 1.")
        torch._functorch.config.activation_memory_budget = memory
        self.encoders = [
            module
            for module in modules.modules()
            if hasattr(module, "compile_training")
        ]
        self.started = None
        self.steps = 0
        for encoder in self.encoders:
            encoder.compile_training("reduce-overhead" if graphs else "default")

    def __bool__(self):
        return bool(self.encoders)

    def take(self, step, undo):
        """Takes a step; one of the first, if it cannot be compiled, without.

        Arguments
        ---------
        step : callable
            The function that takes the step.
        undo : callable
            The function that undoes what it did before it failed.

        Returns
        -------
        object
            The result of the step.
        """
        self._begin_step()
        try:
            result = step()
        except Diverged:
            raise
        except Exception as error:
            reason = self._give_up(error)
            if reason is None:
                raise
        else:
            self._end_step()
            return result
        # Here the error is gone, and with it all that its step has held
        undo()
        torch.compiler.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        result = step()
        # Only now: what fails without it too is no fault of the compilation
        logger.warning(
            "The encoder is not compiled, as torch.compile failed, and "
            f"training takes longer on this GPU. {reason}"
        )
        return result

    def _begin_step(self):
        """Tells CUDA graphs that what they wrote in the last step is done
        with, and the user why the first one takes so long."""
        torch.compiler.cudagraph_mark_step_begin()
        if self.started is None:
            self.started = time.time()
            logger.info(
                "Compiling the encoder for this GPU: the first step takes one "
                "to three minutes. --compile_encoder=False goes without."
            )

    def _end_step(self):
        """Takes note that a step went through."""
        self.steps += 1
        if self.steps == 1:
            seconds = time.time() - self.started
            logger.info(
                f"Compiled, and the first step taken, in {seconds:.0f} s."
            )

    def _give_up(self, error):
        """Goes on without, if it was one of the first steps that failed.

        Arguments
        ---------
        error : Exception
            The error of the step.

        Returns
        -------
        str
            The first line of the error, if the step is worth a second try;
            else None.
        """
        if self.steps >= FIRST_STEPS:
            return None
        for encoder in self.encoders:
            encoder.compile_training(None)
        self.encoders = []
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
