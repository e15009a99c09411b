"""DINO beside the task of any SpeechBrain Brain, on the encoder that it trains.

``AuxiliaryDINO`` is what is learnt, an object of the YAML file; ``WithDINO`` is
a mixin for ``sb.Brain``, and when. None of our Brains is needed.
"""

from typing import NamedTuple

import torch
from torch.nn import SyncBatchNorm
from torch.optim import Optimizer

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.augment import refresh_banks, set_position
from speechbrain_cadino.lobes.signal_encoder import SignalEncoder
from speechbrain_cadino.lobes.teacher import MultiCropNetwork, Teacher
from speechbrain_cadino.lobes.views import TaskAndViews, UtteranceEncoder
from speechbrain_cadino.losses.distillation import SelfDistillation
from speechbrain_cadino.losses.meters import measured, spread_warnings
from speechbrain_cadino.losses.objective import (
    accumulation_warnings,
    value_at,
)
from speechbrain_cadino.process.randomness import own_random
from speechbrain_cadino.process.ranks import (
    ddp_mean,
    own_rank,
    refuse_data_parallel,
)
from speechbrain_cadino.training.place import Place
from speechbrain_cadino.training.record import (
    TrainingRecord,
    in_single_precision,
)

logger = get_logger(__name__)

# So many losses without a step are a mistake
LONG = 100

UNFOLLOWED = (
    "The teacher of DINO does not follow: the optimizers_step of this Brain "
    "has to call that of WithDINO, by super(), or before_dino_step and "
    "after_dino_step around a step of its own."
)


class AuxiliaryDINO:
    """Self-distillation of an encoder that has another task.

    The student is the encoder of the task and a head of its own; the teacher
    follows it by moving average. As an auxiliary loss of a speaker encoder it
    is that of DINO-VITS (Pankov et al., Interspeech 2024), whose views are two
    crops of one utterance in different noise.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder of the task, from features, (batch, time, bands), to
        (batch, 1, D) or (batch, D): one of the Brain's modules.
    head : callable
        The maker of the head from embeddings to what the objective compares,
        such as DINOHead by ``!name:``. It is made of random numbers of its own:
        the task begins with the weights that it had without it.
    objective : torch.nn.Module
        Objective, or another Term.
    compute_features : torch.nn.Module
        The features of signals: see SignalEncoder.
    cutter : callable
        The function from signals to groups of crops: ViewCutter.
    weight : float or callable
        The weight of the loss: a number, or a function of the position in
        epochs. Where it is 0, nothing is computed.
    mean_var_norm : torch.nn.Module, optional
        The normalisation of features. Statistics that it keeps are left alone.
    augment : callable, optional
        The augmentation of the crops, such as CropAugmenter.
    momentum : float or callable
        The teacher's momentum: a number, or a function of the position in
        epochs. Ours; 0.996 growing to 1 in DINO, whose trainings are longer.
    pooling : callable, optional
        See UtteranceEncoder, for encoders of frames.
    seed : int
        The seed of the head, the crops and their augmentation.
    **options
        Further arguments of SelfDistillation.

    Raises
    ------
    ValueError
        If the weight is below 0.

    Example
    -------
    >>> from speechbrain_cadino.dataio.views import ViewCutter
    >>> from speechbrain_cadino.lobes.heads import DINOHead
    >>> from speechbrain_cadino.losses.dino import DINOLoss
    >>> from speechbrain_cadino.losses.objective import Objective
    >>> from speechbrain_cadino.losses.targets import Sinkhorn
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> dino = AuxiliaryDINO(
    ...     ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
    ...     lambda: DINOHead(8, 32, hidden_size=16, bottleneck_size=4),
    ...     Objective({"dino": DINOLoss(32, Sinkhorn(), 0.04)}, {"dino": 1}),
    ...     Fbank(n_mels=20),
    ...     ViewCutter(global_seconds=0.4, local_seconds=0.3),
    ...     weight=0.1,
    ... )
    >>> signals, lengths = torch.randn(4, 8000), torch.ones(4)
    >>> views = dino.views(signals, lengths, where=(0, "step"))
    >>> [group.shape for group in views]
    [torch.Size([8, 41, 20]), torch.Size([16, 31, 20])]
    """

    def __init__(
        self,
        encoder,
        head,
        objective,
        compute_features,
        cutter,
        weight,
        mean_var_norm=None,
        augment=None,
        momentum=0.99,
        pooling=None,
        seed=0,
        **options,
    ):
        if not callable(weight) and weight < 0:
            raise ValueError(
                f"The weight of DINO is {weight}: give 0, which leaves it out, "
                "or more."
            )
        if of_clusters := getattr(objective, "of_clusters", []):
            raise ValueError(
                f"The term {of_clusters[0]} waits for clusters, which nobody "
                "makes beside another task: leave it out."
            )
        self.encoder = encoder
        self.objective = objective
        self.cutter = cutter
        self.weight = weight
        self.augment = augment
        self.seed = seed
        with own_random((seed, "head")):
            self.head = head()
        self.utterances = UtteranceEncoder(encoder, pooling)
        self.student = MultiCropNetwork(self.utterances, self.head)
        self.teacher = Teacher(self.student)
        norm = torch.nn.Identity() if mean_var_norm is None else mean_var_norm
        self.network = SignalEncoder(compute_features, norm, encoder)
        self.distillation = SelfDistillation(
            self.student,
            self.teacher,
            objective,
            momentum if callable(momentum) else lambda position: momentum,
            **options,
        )
        self._head = self.head  # maybe wrapped

    @property
    def modules(self):
        """What a Brain is to train, to save and to move to its device beside
        the encoder, by name."""
        return {
            "dino_head": self.head,
            "dino_teacher": self.teacher,
            "dino_objective": self.objective,
        }

    def weight_at(self, position):
        """The weight of the loss.

        Arguments
        ---------
        position : float
            The position in training, in epochs.

        Returns
        -------
        float
            The weight: a factor of the loss.
        """
        return value_at(self.weight, position)

    def begin(self):
        """The teacher becomes what the student is now: its weights may have
        been loaded since both were made."""
        self.teacher.network.load_state_dict(self.student.state_dict())

    def bind(self, modules):
        """Calls these in place of its own, which they may wrap.

        Arguments
        ---------
        modules : dict of str:torch.nn.Module
            The networks of ``modules``, maybe in DistributedDataParallel.
        """
        self._head = modules["dino_head"]
        self.distillation.bind(
            {
                "student": self.student,
                "teacher": modules["dino_teacher"],
                "objective": modules["dino_objective"],
            }
        )

    def views(self, wavs, lengths, where):
        """Crops of signals, augmented, as features, without gradient.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples), on the device.
        lengths : torch.Tensor
            Relative lengths, (batch,), or None.
        where : tuple
            See ``own_random``.

        Returns
        -------
        list of torch.Tensor
            The features of each group of crops, (views * batch, time, bands).
        """
        norm = self.network.mean_var_norm
        training = norm.training
        norm.eval()
        try:
            with torch.no_grad(), own_random((*where, "views"), wavs.device):
                return [
                    self.network.features(group, self.augment)
                    for group in self.cutter(wavs, lengths)
                ]
        finally:
            norm.train(training)

    def loss(self, views, position, where):
        """The loss of what the student has said of the views.

        Arguments
        ---------
        views : EncodedViews
            The views, and what the student says of those that it sees.
        position : float
            The position in training, in epochs.
        where : tuple
            See ``own_random``.

        Returns
        -------
        value : torch.Tensor
            Scalar, not yet multiplied by the weight.
        figures : dict of str:torch.Tensor
            Detached scalars: those of the objective, and METERS of the
            teacher's embeddings.
        """
        embeddings = views.embeddings
        with own_random((*where, "loss"), embeddings.device):
            student, teacher = self.distillation.answered(
                (embeddings, self._head(embeddings)),
                views.features,
                views.batch_size,
            )
            value, figures = self.distillation.compare(
                student, teacher, position
            )
        return value, {**figures, **measured(teacher.embeddings)}


class EncodedViews(NamedTuple):
    """The views of a batch, and what the student says of them.

    Arguments
    ---------
    features : list of torch.Tensor
        See ``AuxiliaryDINO.views``.
    embeddings : torch.Tensor
        The student's embeddings of the views that it sees, (sum of the groups,
        D).
    batch_size : int
        The number of signals.
    """

    features: list
    embeddings: torch.Tensor
    batch_size: int


class WithDINO:
    """DINO as an auxiliary loss of a Brain: a mixin.

    ``class MyBrain(WithDINO, sb.Brain)`` encodes by ``encode_with_dino`` in
    ``compute_forward``, and adds ``dino_loss`` in ``compute_objectives``. All
    else happens by itself: head, teacher and centre are trained and in the
    checkpoints; teacher and centre follow each optimiser step, which is none of
    the micro-batches before it; at the end of an epoch a line in the log tells
    how it goes, and a warning if it collapses.

    What is random in it leaves the Brain's random numbers as they are. With a
    weight of 0, the Brain is what it was, bit for bit.

    What the YAML must hold:

    * modules: the encoder, under any name. Its place is taken by TaskAndViews,
      which gives what the encoder gives;
    * hparams: ``dino`` (AuxiliaryDINO) of the encoder.

    A Brain with an ``init_optimizers`` of its own hands
    ``self.modules.dino_head.parameters()`` to an optimiser there. One that
    steps its optimisers itself, as for a GAN, calls ``before_dino_step`` and
    ``after_dino_step`` around the step of the encoder.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        refuse_data_parallel(self)
        self.dino = self.hparams.dino
        self.dino_record = TrainingRecord()
        self.dino_place = Place()
        self.dino_begun = False
        self._dino_finite = []  # of the losses since the last step
        names = [
            name
            for name, module in self.modules.items()
            if module is self.dino.encoder
        ]
        if len(names) != 1:
            raise ValueError(
                f"The encoder of dino is {len(names) or 'none'} of the modules "
                f"({', '.join(self.modules)}): it has to be one."
            )
        self._dino_encoder = names[0]
        self.modules[self._dino_encoder] = TaskAndViews(self.dino.utterances)
        for part in self.dino.network[:2]:  # may be none of the modules
            part.to(self.device)
        for name, module in self.dino.modules.items():
            self.modules[name] = module.to(self.device)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(
                {
                    **self.dino.modules,
                    "dino_record": self.dino_record,
                    "dino_place": self.dino_place,
                }
            )

    @property
    def dino_position(self):
        """How far training is, in epochs: see Place."""
        return self.dino_place.position

    @property
    def dino_figures(self):
        """The means of DINO's figures over the epoch so far, such as for
        ``train_stats`` in ``on_stage_end``: dict of str:float. They are of this
        process until the end of the epoch, when the log has those of all."""
        return in_single_precision(self.dino_record.means())

    def encode_with_dino(self, *args, wavs, wav_lens=None, **kwargs):
        """What the encoder gives for its task; views of signals go with it.

        Arguments
        ---------
        *args
            The encoder's arguments for its task, such as features and lengths.
        wavs : torch.Tensor
            The signals to cut views from, on the device, (batch, samples):
            those of the task, or others.
        wav_lens : torch.Tensor, optional
            The lengths of ``wavs``, relative to ``samples``, (batch,).
        **kwargs
            The encoder's named arguments for its task.

        Returns
        -------
        own : torch.Tensor
            The encoder's output for its task.
        views : EncodedViews
            The views for ``dino_loss``; None outside of training, and where
            the weight is 0.
        """
        network = self.modules[self._dino_encoder]
        learns = torch.is_grad_enabled()
        if not learns or not self.dino.weight_at(self.dino_position):
            return network(*args, **kwargs), None
        where = self._dino_where()
        if self.dino.augment is not None:
            set_position(self.dino.augment, self.dino_position)
        features = self.dino.views(wavs, wav_lens, where)
        own, embeddings = network(
            *args,
            views=self.dino.distillation.seen(features),
            where=where,
            **kwargs,
        )
        return own, EncodedViews(features, embeddings, len(wavs))

    def dino_loss(self, views):
        """The loss of DINO, times its weight.

        Arguments
        ---------
        views : EncodedViews
            The views of ``encode_with_dino``.

        Returns
        -------
        torch.Tensor
            Scalar; the number 0 without views.
        """
        if views is None:
            return 0.0
        position = self.dino_position
        value, figures = self.dino.loss(views, position, self._dino_where())
        self._dino_finite.append(value.detach().isfinite())
        if len(self._dino_finite) == LONG * self.grad_accumulation_factor:
            logger.warning(UNFOLLOWED)
        self.dino_record.add({"dino_loss": value.detach(), **figures})
        return self.dino.weight_at(position) * value

    def on_fit_start(self):
        """As the Brain's; the teacher begins as the student, or as it is in the
        checkpoint."""
        self.dino.begin()
        for text in accumulation_warnings(
            self.dino.objective, self.grad_accumulation_factor
        ):
            logger.warning(text)
        super().on_fit_start()
        if self.distributed_launch and self.device_type == "cuda":
            # SpeechBrain does so to what has gradients
            SyncBatchNorm.convert_sync_batchnorm(self.dino.teacher)
        self.dino.bind(self.modules)
        self._check_optimised()
        self.dino_begun = True

    def optimizers_step(self):
        """As the Brain's; teacher and centre follow it."""
        self.before_dino_step()
        scale = self.scaler.get_scale()
        super().optimizers_step()
        # The scaler of fp16 takes no step where gradients overflow
        self.after_dino_step(taken=self.scaler.get_scale() >= scale)

    def before_dino_step(self):
        """To be called before a step of the encoder, where that is not of
        ``optimizers_step``: when its gradients are there."""
        self.dino.distillation.before_step(self.dino_position)

    def after_dino_step(self, taken=True):
        """To be called after it: teacher and centre follow.

        Arguments
        ---------
        taken : bool
            Whether the optimiser has taken the step. Where it has not, or the
            loss was not finite, nothing follows, and DINO's figures do not
            count.
        """
        self.dino_place.step += 1
        finite, self._dino_finite = self._dino_finite, []
        if self.dino_follows(finite) and taken:
            self.dino.distillation.after_step(self.dino_position)
            self.dino_record.mark()
        else:
            self.dino.distillation.rewind()
            self.dino_record.rewind()
            self.dino_record.count("skipped_steps", 1)

    def dino_follows(self, finite):
        """Whether teacher and centre follow the step that was just taken, the
        same on all ranks: not where the loss was not finite, as SpeechBrain
        goes on after such a step.

        Arguments
        ---------
        finite : list of torch.Tensor
            Whether the loss of each of its micro-batches was.

        Returns
        -------
        bool
            Whether they do: if all these losses were finite, on all ranks.
        """
        if not finite:
            return True
        return ddp_mean(torch.stack(finite).all().float()).item() == 1

    def check_loss_isfinite(self, loss):
        """As the Brain's; the teacher does not follow such a loss of the task
        either."""
        if self._dino_finite:
            self._dino_finite[-1] &= loss.detach().isfinite().all()
        super().check_loss_isfinite(loss)

    # Not on_stage_start, which Brains define without a call of ours
    def _fit_train(self, train_set, epoch, enable):
        if not self.dino_begun:
            raise ValueError(
                "The teacher of DINO has not begun: the on_fit_start of this "
                "Brain has to call that of WithDINO, by super()."
            )
        try:
            steps = len(train_set) / self.grad_accumulation_factor
        except TypeError:  # of unknown length
            steps = None
        if self.dino_place.begin(epoch, steps):
            self.dino_record.clear()
        # As SpeechBrain does with gradients: no step goes across epochs
        self._dino_finite = []
        self.dino.distillation.forget()
        if self.dino.augment is not None:
            refresh_banks(self.dino.augment, epoch)
        super()._fit_train(train_set, epoch, enable)
        self._say_how_it_goes(epoch)

    def _should_save_intra_epoch_ckpt(self, *args):
        # Not between the micro-batches of one step, which would draw anew
        if self.step % self.grad_accumulation_factor:
            return False
        return super()._should_save_intra_epoch_ckpt(*args)

    def _save_intra_epoch_ckpt(self):
        # The main process saves, for all
        self.dino_record.share(self.device)
        super()._save_intra_epoch_ckpt()

    def _say_how_it_goes(self, epoch):
        """A line in the log, and what is wrong."""
        self.dino_record.share(self.device)
        means = self.dino_figures
        skipped = round(self.dino_record.counts["skipped_steps"])
        if skipped:
            logger.warning(
                f"In {skipped} steps of epoch {epoch} the loss was not finite, "
                "or none was taken: teacher and centre of DINO did not follow."
            )
        factor, left = self.grad_accumulation_factor, len(self._dino_finite)
        if factor < left < LONG * factor:  # of more it has been said
            logger.warning(UNFOLLOWED)
        if means:
            text = ", ".join(f"{name} {x:.3g}" for name, x in means.items())
            logger.info(f"DINO, epoch {epoch}: {text}")
            warnings = [
                *self.dino.objective.warnings(means),
                *spread_warnings(means),
            ]
            for warning in warnings:
                logger.warning(warning)
        elif (
            self.dino.weight_at(max(epoch - 1, 0))  # from its first step on
            and self.dino_place.step > self.dino_place.first + skipped
        ):
            logger.warning(
                f"DINO had no loss in epoch {epoch}, whatever its weight: does "
                "compute_forward call encode_with_dino, and compute_objectives "
                "add dino_loss?"
            )

    def _dino_where(self):
        """Where training is, for what is random: the last number counts the
        micro-batches of a step."""
        rank, done = own_rank(), len(self._dino_finite)
        return self.dino.seed, rank, self.dino_place.step, done

    def _optimised(self):
        """The id of each parameter that an optimiser of the Brain moves; None
        if there is no optimiser."""
        optimizers = [*(getattr(self, "optimizers_dict", None) or {}).values()]
        # As a Brain's own init_optimizers may leave them
        optimizers += [
            one for one in vars(self).values() if isinstance(one, Optimizer)
        ]
        if not optimizers:
            return None
        return {
            id(parameter)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def _check_optimised(self):
        """Raises if the head, or what the objective learns, is in no
        optimiser; a warning says so of the encoder, which may join later."""
        trained = self._optimised()
        if trained is None:
            logger.warning(
                "This Brain has no optimiser that is seen here: hand "
                "self.modules.dino_head.parameters() to one, or the head of "
                "dino does not learn."
            )
            return
        encoder = [*self.dino.encoder.parameters()]
        if not any(p.requires_grad and id(p) in trained for p in encoder):
            logger.warning(
                "The encoder of dino does not learn: it is fixed, or in no "
                "optimiser. Until it does, DINO changes its head alone."
            )
        weight = self.dino.weight
        if self.dino.augment is None and (callable(weight) or weight):
            logger.warning(
                "The views of dino are not augmented: student and teacher hear "
                "the same channel, and DINO learns that. Give AuxiliaryDINO "
                "augment, such as a CropAugmenter."
            )
        fixed = any(not parameter.requires_grad for parameter in encoder)
        if fixed and self.distributed_launch:
            logger.warning(
                "Parts of the encoder of dino are fixed by requires_grad: if "
                "they are to learn later, each process would go its own way. "
                "Leave requires_grad on, and set their gradients to None "
                "before the step."
            )
        learners = {"head": self.dino.head, "objective": self.dino.objective}
        for name, module in learners.items():
            if any(
                p.requires_grad and id(p) not in trained
                for p in module.parameters()
            ):
                raise ValueError(
                    f"The {name} of dino is in no optimiser: hand "
                    f"self.modules.dino_{name}.parameters() to one in "
                    "init_optimizers."
                )
