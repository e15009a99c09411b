"""Prototypes: terms of the answers that a network gives, one by prototype."""

import math

import torch

from speechbrain_cadino.losses.dino import cosines
from speechbrain_cadino.losses.objective import Term
from speechbrain_cadino.process.precision import full_precision
from speechbrain_cadino.process.ranks import ddp_gather

# More prototypes are refused: their answers of a whole batch are in memory.
MOST_PROTOTYPES = 16384


class MeanEntropyMaximum(Term):
    """Keeps all prototypes in use: mean entropy maximisation, "me-max".

    ``ln K - H(p)``, where p is the student's mean answer over views,
    utterances and ranks, and H the entropy (Assran et al., 2022, "Masked
    Siamese Networks"; in the code of SDPN, modelscope/3D-Speaker, not in its
    paper). ``K exp(-value)`` is how many prototypes are in use.

    Arguments
    ---------
    out_dim : int
        K, the number of prototypes.
    student_temp : float
        The temperature of the answers. 0.1 in SDPN.

    Raises
    ------
    ValueError
        If K is above 16384.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> bottleneck = torch.eye(4).expand(2, 4, 4)  # all four in use
    >>> outputs = {"bottleneck": bottleneck, "prototypes": torch.eye(4)}
    >>> term = MeanEntropyMaximum(out_dim=4)
    >>> value, _ = term(Views(bottleneck, outputs, 0), None, position=0.0)
    >>> abs(value.item()) < 1e-6
    True
    >>> MeanEntropyMaximum(out_dim=65536)
    Traceback (most recent call last):
    ...
    ValueError: me-max over out_dim=65536 prototypes would hold the answers ...
    """

    whole_batch = True

    def __init__(self, out_dim, student_temp=0.1):
        super().__init__()
        if out_dim > MOST_PROTOTYPES:
            raise ValueError(
                f"me-max over out_dim={out_dim} prototypes would hold the "
                "answers of a whole batch in memory: take out_dim "
                f"{MOST_PROTOTYPES} or less (1024 in SDPN), or leave the term "
                "out, --me_max=null."
            )
        self.out_dim = out_dim
        self.student_temp = student_temp

    def forward(self, student, teacher, position):
        """Computes the term.

        Arguments
        ---------
        student : Views
            The student's views, with the outputs of DINOHead; all of them
            count.
        teacher : Views
            Not used.
        position : float
            Not used.

        Returns
        -------
        value : torch.Tensor
            Scalar: 0 (all prototypes in use) to ln K (one of them).
        figures : dict
            An empty dict: there are none.
        """
        with full_precision(student.embeddings.device.type):
            logits = cosines(student.outputs) / self.student_temp
            mean = logits.softmax(-1).mean((0, 1))
            mean = ddp_gather(mean[None]).mean(0)
            return math.log(self.out_dim) - torch.special.entr(mean).sum(), {}
