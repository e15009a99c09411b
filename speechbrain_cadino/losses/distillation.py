"""Self-distillation: a student that learns from a teacher that follows it."""

from speechbrain_cadino.losses.objective import Views


class SelfDistillation:
    """A student, its teacher, and what the student is to learn from it.

    It is all that a step of DINO is beside the optimiser: of ``DINOBrain``,
    and of any Brain ``WithDINO`` as an auxiliary loss.

    Arguments
    ---------
    student : torch.nn.Module
        MultiCropNetwork, or another that gives embeddings and named outputs.
    teacher : torch.nn.Module
        Teacher: a network of the same kind, with ``follow``.
    objective : torch.nn.Module
        Objective.
    momentum_schedule : callable
        The teacher's momentum at a position in epochs.
    freeze_prototypes_epochs : float
        The prototypes of the student's head stay as they are for so many
        epochs.
    student_sees_globals : bool
        Whether the student sees the teacher's crops too, as in DINO, or the
        local ones alone, as in SDPN.
    shared_prototypes : bool
        Whether the teacher answers with the student's prototypes, which are
        then learnt through the student alone, as in SDPN; else with its own,
        which follow the student's, as in DINO.
    momentum_at : str
        "start": the teacher follows a step with the momentum of its start,
        m(i) after step i, as in the code of DINO (facebookresearch/dino) and
        of WeSpeaker; "end": with that of its end, m(i + 1), which is 1 in the
        last step of a schedule that ends there.

    Raises
    ------
    ValueError
        If ``momentum_at`` is neither.

    Example
    -------
    >>> import torch
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> from speechbrain_cadino.lobes.heads import DINOHead
    >>> from speechbrain_cadino.lobes.teacher import MultiCropNetwork, Teacher
    >>> from speechbrain_cadino.losses.dino import CosineLoss
    >>> from speechbrain_cadino.losses.objective import Objective
    >>> student = MultiCropNetwork(
    ...     ECAPA_TDNN(80, channels=[16] * 5, lin_neurons=8),
    ...     DINOHead(8, out_dim=32, hidden_size=16, bottleneck_size=4),
    ... )
    >>> distillation = SelfDistillation(
    ...     student,
    ...     Teacher(student),
    ...     Objective({"cosine": CosineLoss()}, {"cosine": 1}),
    ...     momentum_schedule=lambda position: 0.99,
    ... )
    >>> crops = [torch.randn(8, 30, 80), torch.randn(16, 20, 80)]
    >>> loss, figures = distillation(crops, batch_size=4, position=0.0)
    >>> loss.backward()
    >>> list(figures)
    ['cosine']
    >>> distillation.after_step(position=0.0)
    """

    def __init__(
        self,
        student,
        teacher,
        objective,
        momentum_schedule,
        freeze_prototypes_epochs=0,
        student_sees_globals=True,
        shared_prototypes=False,
        momentum_at="start",
    ):
        if momentum_at not in ("start", "end"):
            raise ValueError(
                f"momentum_at={momentum_at}: give start or end, of a step."
            )
        self.head = student.head
        self.objective = objective
        self.momentum_schedule = momentum_schedule
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        self.student_sees_globals = student_sees_globals
        self.shared_prototypes = shared_prototypes
        self.momentum_at = momentum_at
        self._started = None  # where the step began
        self._networks = {
            "student": student,
            "teacher": teacher,
            "objective": objective,
        }

    def bind(self, modules):
        """Calls these in place of what it was made of.

        Arguments
        ---------
        modules : dict of str:torch.nn.Module
            ``student``, ``teacher`` and ``objective``, maybe wrapped by
            DistributedDataParallel.
        """
        self._networks |= {name: modules[name] for name in self._networks}

    def __call__(self, crops, batch_size, position):
        """The loss of a batch.

        Arguments
        ---------
        crops : list of torch.Tensor
            See ``views``.
        batch_size : int
            See ``views``.
        position : float
            The position in training, in epochs.

        Returns
        -------
        value : torch.Tensor
            The loss, a scalar.
        figures : dict of str:torch.Tensor
            Detached scalars, see Objective.
        """
        return self.compare(*self.views(crops, batch_size), position)

    def views(self, crops, batch_size, **others):
        """What the student says of its crops, and the teacher of the first.

        Arguments
        ---------
        crops : list of torch.Tensor
            Features of groups of crops, each (views * batch, time, bands):
            the teacher sees those of the first group, the student all, or
            those of the other groups.
        batch_size : int
            The number of utterances.
        **others
            Further arguments of the student, which the teacher does not get.

        Returns
        -------
        student, teacher : Views
            The embeddings and head outputs of each, by view.

        Raises
        ------
        ValueError
            If no crop is left for the student.
        """
        student = self._networks["student"](self.seen(crops), **others)
        return self.answered(student, crops, batch_size)

    def seen(self, crops):
        """The groups of crops that the student sees: see ``views``.

        Raises
        ------
        ValueError
            If the student sees none of them.
        """
        seen = crops if self.student_sees_globals else crops[1:]
        if not seen:
            raise ValueError(
                "A student that does not see the global crops needs local "
                "ones: set local_crops to 1 or more, or student_sees_globals "
                "to True."
            )
        return seen

    def answered(self, student, crops, batch_size):
        """As ``views``, where the student has spoken already: in one forward
        with the batch of another task, see WithDINO.

        Arguments
        ---------
        student : tuple
            The result of MultiCropNetwork for the crops that are ``seen``.
        crops : list of torch.Tensor
            See ``views``.
        batch_size : int
            See ``views``.

        Returns
        -------
        student, teacher : Views
            The embeddings and head outputs of each, by view.
        """
        count = len(crops[0]) // batch_size
        common = count if self.student_sees_globals else 0
        teacher = self._networks["teacher"](crops[:1])
        student = self._by_view(student, batch_size, common)
        teacher = self._by_view(teacher, batch_size, count)
        if self.shared_prototypes:
            teacher.outputs.update(
                {
                    name: student.outputs[name].detach()
                    for name in self.head.shared
                }
            )
        return student, teacher

    def _by_view(self, predictions, batch_size, globals_):
        """Splits what is said of crops by view."""
        embeddings, outputs = predictions
        sizes = (-1, batch_size)
        return Views(
            embeddings.unflatten(0, sizes),
            {
                name: value
                if name in self.head.shared
                else value.unflatten(0, sizes)
                for name, value in outputs.items()
            },
            globals_,
        )

    def compare(self, student, teacher, position):
        """The loss of what both said: see ``__call__``."""
        return self._networks["objective"](student, teacher, position)

    def before_step(self, position):
        """Takes the gradients of what is frozen, before an optimiser step.

        Arguments
        ---------
        position : float
            The position in training, in epochs.
        """
        self._started = position
        if position < self.freeze_prototypes_epochs:
            self.head.prototypes.zero_grad(set_to_none=True)

    def after_step(self, position):
        """The teacher and the objective follow an optimiser step.

        Arguments
        ---------
        position : float
            The position in training, in epochs. Where ``before_step`` was told
            where the step began, see ``momentum_at``.
        """
        if self.momentum_at == "start" and self._started is not None:
            position = self._started
        momentum = self.momentum_schedule(position)
        student, teacher = self._networks["student"], self._networks["teacher"]
        teacher.follow(student, momentum)
        self.objective.after_step()

    def forget(self):
        """Forgets what was seen since the last step, as an epoch begins."""
        self.objective.forget()

    def mark(self):
        """Begins a step: see StepGuard. Nothing is to be remembered."""

    def rewind(self):
        """Forgets what was seen in a step that is undone."""
        self.objective.forget()
