"""Base of our Brains: what all trainings of an encoder have in common."""

import contextlib
import functools
import logging
import pathlib
import random
import time

import numpy as np
import torch
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

import speechbrain as sb
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.augment import refresh_banks, set_position
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.process.interrupts import (
    Interrupted,
    Requests,
    interruptible,
)
from speechbrain_cadino.process.randomness import seed_of
from speechbrain_cadino.process.ranks import (
    STEP_PATIENCE,
    WORK_PATIENCE,
    own_rank,
    patience,
    refuse_data_parallel,
    shield_worker,
    worth_while,
)
from speechbrain_cadino.training.checkpoints import (
    SameData,
    checkpoint_errors,
)
from speechbrain_cadino.training.clock import StepClock, bottleneck
from speechbrain_cadino.training.compiled import Compilation
from speechbrain_cadino.training.effort import (
    check_moved,
    hash_parameters,
    say_how_much,
    say_how_often,
)
from speechbrain_cadino.training.guard import DIVERGED, Buffers, StepGuard
from speechbrain_cadino.training.progress import Progress
from speechbrain_cadino.training.record import (
    TrainingRecord,
    in_single_precision,
    load_steps,
    save_steps,
    trim_log,
)
from speechbrain_cadino.training.unreadable import Unreadable

logger = get_logger(__name__)

# Steps on a GPU between two losses that the progress bar shows
SHOWN_EVERY = 10


class EncoderBrain(sb.Brain):
    """Trains a speaker encoder on random crops; the base of our Brains.

    Everything random in a step is seeded from (seed, rank, epoch, step), so
    that a resumed run draws what an uninterrupted one would have drawn. After
    each epoch it logs, evaluates if that is due, and saves a checkpoint.

    Asked to end by SIGTERM, SIGINT or SIGHUP, ``fit`` finishes its step, saves
    a checkpoint and raises Interrupted; asked twice, it raises at once.

    A step whose loss or gradients are not finite is undone on all ranks, as if
    it had not been taken, and counted. SpeechBrain's run option
    ``nonfinite_patience`` is how many of them in a row are borne.

    What the YAML must hold:

    * hparams: ``seed``, ``lr_schedule`` (a function from the position in
      epochs, a float, to the learning rate), ``output_folder``,
      ``train_logger``; optionally ``augment`` (CropAugmenter), ``label_loss``
      (LabelCorrectionLoss), which like this is told the position,
      ``evaluator`` (TrialEvaluator) with ``evaluate_every`` (epochs),
      ``last_epochs`` (LastEpochs), whose mean a report takes by
      ``runs.finish.average_last_epochs``, ``tensorboard_logger``,
      ``compile_encoder``, False for no ``torch.compile`` on a GPU,
      ``compile_memory``, see Compilation, and for what the log says of it
      ``number_of_epochs``, ``steps_per_epoch`` and ``start_classifier``.

    A subclass has ``compute_forward`` and ``compute_objectives``, adds the
    figures of each step to ``record``, and gives an ``embedder``. What else a
    step changes before its end is among ``guard.rewindable``. The training set
    has ``set_epoch``, its items ``id`` and ``problem``; a MultiCropDataset has
    ``ids`` and ``hours`` too, for the log, and a ``fingerprint``, by which a
    checkpoint of other data is refused.

    SpeechBrain's ``check_loss_isfinite`` and ``check_gradients`` are not
    called, and ``freeze_optimizers`` freezes nothing: a step that is not finite
    is undone as a whole, and ``train_only`` in the YAML freezes parts of the
    encoder.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        refuse_data_parallel(self)
        _check_features(self.modules)
        self.record = TrainingRecord()
        folder = getattr(self.hparams, "output_folder", ".")
        self.unreadable = Unreadable(self.record, folder)
        self.guard = StepGuard([self.record, Buffers(self.modules)])
        self._keep({"record": self.record})
        if self.checkpointer is not None and self._tensorboard is not None:
            self.checkpointer.add_recoverable(
                "tensorboard",
                self._tensorboard,
                load_steps,
                save_steps,
                optional_load=True,
            )
        # The augmenter of each kind of crops; None leaves them as they are
        self.augmenters = {"all": getattr(self.hparams, "augment", None)}
        self.clock = StepClock()
        self.compilation = None
        self.requests = Requests()
        self.progress = None  # from the start of fit
        self._stepped = False  # in it
        self.ending = 0  # the signal that all processes end by
        self.processes = 1
        if self.distributed_launch:
            self.processes = torch.distributed.get_world_size()

    def _keep(self, recoverables):
        """Puts more into the checkpoints, by name."""
        if self.checkpointer is not None:
            for name, recoverable in recoverables.items():
                self.checkpointer.add_recoverable(name, recoverable)

    @property
    def _tensorboard(self):
        """The logger of TensorBoard, if there is one."""
        return getattr(self.hparams, "tensorboard_logger", None)

    def embedder(self):
        """The encoder that is evaluated and exported, as it is now.

        Returns
        -------
        Embedder
            The encoder as an Embedder.
        """
        raise NotImplementedError

    def trained_weights(self):
        """What is trained and exported.

        Returns
        -------
        torch.nn.Module
            The network; by default the ``weights`` of ``embedder``.
        """
        return self.embedder().weights

    def averaged(self):
        """What LastEpochs averages: see it.

        Returns
        -------
        torch.nn.Module
            The network; by default that of ``trained_weights``.
        """
        return self.trained_weights()

    def make_embedder(self, network, sample_rate, reader):
        """An encoder in training, to embed with.

        Arguments
        ---------
        network : SignalEncoder
            The encoder.
        sample_rate : int
            The sample rate of the signals, in Hz.
        reader : callable
            The opener of a file: see Embedder.

        Returns
        -------
        Embedder
            The Embedder; all modules are in eval mode while it embeds a batch.
        """
        network.check()

        def encode_batch(wavs, lengths=None):
            learning = [
                each for each in self.modules.modules() if each.training
            ]
            self.modules.eval()
            if lengths is not None:
                lengths = lengths.to(self.device)
            with torch.no_grad(), self.evaluation_ctx:
                embeddings = network.embed(wavs.to(self.device), lengths)
            for each in learning:  # within an epoch, it goes on
                each.training = True
            return embeddings

        # Files of trials are read as those to train on are
        loader = getattr(self.hparams, "dataloader_options", {})
        return Embedder(
            encode_batch,
            network.encoder,
            sample_rate,
            reader,
            num_workers=loader.get("num_workers", 0),
        )

    def epoch_figures(self):
        """Figures of an epoch beside the means over its steps.

        All processes call it, after the last step of the epoch.

        Returns
        -------
        dict of str:float
            The figures by name; none by default.
        """
        return {}

    def warnings(self, means):
        """Sentences for the log after an epoch.

        Arguments
        ---------
        means : dict of str:float
            The means over the steps of the epoch.

        Returns
        -------
        list of str
            The sentences; none by default.
        """
        return []

    def fit(self, epoch_counter, *args, **kwargs):
        """As SpeechBrain's; asked to end, it saves a checkpoint first.

        Raises
        ------
        Interrupted
            If SIGTERM, SIGINT or SIGHUP came. They do afterwards what they did
            before.
        """
        # SpeechBrain takes any iterable of epochs, a list too
        limit = getattr(epoch_counter, "limit", None)
        self.progress = Progress(limit or len(epoch_counter))
        self._stepped = False
        # Without checkpoints there is nothing to wait for
        postponed = self.checkpointer is not None
        with interruptible(postponed=postponed) as self.requests:
            with patience(STEP_PATIENCE):
                super().fit(epoch_counter, *args, **kwargs)
        if self.debug or self.test_only:
            return
        rates = [
            self.hparams.lr_schedule(place / self.steps_per_epoch)
            for place in range(max(1, min(self.optimizer_step, 1000)))
        ]
        check_moved(
            self._start,
            self.trained_weights(),
            self.optimizer_step,
            rates,
            getattr(self.hparams, "teacher_momentum", None),
        )

    def _fit_train(self, train_set, epoch, enable):
        # An epoch that --optimizer_step_limit ended early counts as a whole
        # one, or the schedules would not come to their end
        done = (epoch - 1) * self.steps_per_epoch
        self.optimizer_step = max(self.optimizer_step, done)
        # Where --optimizer_step_limit had ended the run, no epoch is left but
        # the end of one that was killed before it
        if self.record.means() or not self._optimizer_step_limit_exceeded:
            super()._fit_train(train_set, epoch, enable)

    @contextlib.contextmanager
    def long_work(self):
        """For minutes or hours, amid ``fit``, of which nothing is to be saved.

        Asked to end, it ends at once; and processes that wait for the main
        one are patient.
        """
        with self.requests.at_once(), patience(WORK_PATIENCE):
            yield

    def on_fit_start(self):
        """As SpeechBrain's; tells if a checkpoint is of other settings. Raises
        if something is trained that no checkpoint keeps."""
        self._check_kept()
        self._start = hash_parameters(self.trained_weights())
        label_loss = getattr(self.hparams, "label_loss", None)
        if hasattr(label_loss, "check"):
            label_loss.check(self.progress.last_epoch)
        epochs = getattr(self.hparams, "number_of_epochs", None)
        if epochs is not None:
            say_how_much(
                self.train_dataset,
                epochs,
                self.steps_per_epoch,
                self.device,
                getattr(self.hparams, "steps_per_epoch", None),
            )
            # A classifier that does not start at random needs fewer crops
            if getattr(self.hparams, "start_classifier", None) is None:
                say_how_often(self.train_dataset, epochs)
        with checkpoint_errors(self.checkpointer):
            super().on_fit_start()
        if self.checkpointer is not None:
            run_on_main(self._trim_log)
        self.progress.begin(self.position)
        if self.optimizer_step:
            epoch = len(self.record.rows)
            steps = self.step // self.grad_accumulation_factor
            steps = f" and {steps} steps" if steps else ""
            logger.info(
                f"Resumed from a checkpoint, after {epoch} epochs{steps}."
            )
        self._compile_networks()

    def _compile_networks(self):
        """Compiles the networks where it pays: SyncBatchNorm breaks a graph at
        each of its layers, so that torchrun's processes would compile for
        minutes and gain little."""
        if (
            self.device_type == "cuda"
            and self.processes == 1
            and getattr(self.hparams, "compile_encoder", True)
        ):
            self.compilation = Compilation(
                self.modules,
                graphs=self.grad_accumulation_factor == 1,
                memory=getattr(self.hparams, "compile_memory", 1.0),
            )

    def fit_batch(self, batch):
        """As SpeechBrain's, but the host waits for the device once a step,
        under torchrun twice; a first step that cannot be compiled is taken
        without."""
        self.clock.begin_step()
        should_step = not self.step % self.grad_accumulation_factor
        self.on_fit_batch_start(batch, should_step)
        take_step = functools.partial(self._take_step, batch, should_step)
        if self.compilation:
            loss = self.compilation.take(take_step, self._undo_step)
        else:
            loss = take_step()
        self.clock.end_step()
        if self.progress is not None:  # in fit
            self._say_how_long()
        return loss

    def _say_how_long(self):
        """Takes the time from the end of the first step on, which compiles, and
        reads noises; tells after some minutes."""
        if not self._stepped:
            self._stepped = True
            self.progress.begin(self.position)
        told = self.progress.early(self.position)
        if told:
            logger.info(told)

    def _take_step(self, batch, should_step):
        """What SpeechBrain's ``fit_batch`` does, but that StepGuard takes the
        place of its ``check_loss_isfinite``."""
        self.seed_step(self.step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            scaled_loss = self.scaler.scale(
                loss / self.grad_accumulation_factor
            )
            self.guard.note(scaled_loss)
            scaled_loss.backward()
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def _undo_step(self):
        """Undoes what a step that has failed half way has done."""
        self.zero_grad(set_to_none=True)
        self.guard.undo()

    def update_average(self, loss, avg_loss):
        """The average that the progress bar shows. On a GPU, of every tenth
        step: to know a loss, the host has to wait for it."""
        if self.device_type != "cuda":
            return super().update_average(loss, avg_loss)
        count, between = divmod(self.step, SHOWN_EVERY)
        if between or not torch.isfinite(loss):
            return avg_loss
        return avg_loss + (float(loss) - avg_loss) / count

    def all_augmenters(self):
        """All that changes crops, each once.

        Returns
        -------
        list of torch.nn.Module
            The augmenters, in any order; empty if there is none.
        """
        return [*filter(None, {*self.augmenters.values()})]

    def on_fit_batch_start(self, batch, should_step):
        """Sets the learning rate, tells augmentations and a loss of labels how
        far training is, and the log of bad files."""
        self.guard.begin(batch["id"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.hparams.lr_schedule(self.position)
        label_loss = getattr(self.hparams, "label_loss", None)
        for each in [*self.all_augmenters(), label_loss]:
            set_position(each, self.position)
        self.unreadable.count(
            batch["problem"], self.epoch, self.items_per_epoch
        )
        self.utterances += len(batch["id"])

    def seed_step(self, step):
        """Seeds what is drawn in a step of the epoch.

        Arguments
        ---------
        step : int
            The number of the step in the epoch.
        """
        where = (self.hparams.seed, own_rank(), self.epoch, step)
        step_seed = seed_of(where)
        torch.manual_seed(step_seed)
        random.seed(step_seed)
        np.random.seed(step_seed % 2**32)  # of augmentations of others

    def on_stage_start(self, stage, epoch=None):
        """Tells the data which epoch begins."""
        self.epoch = epoch
        self.utterances = 0
        self.unreadable.forget()
        self.guard.forget()
        self.start_clock()
        self.train_dataset.set_epoch(epoch)
        for augment in self.all_augmenters():
            refresh_banks(augment, epoch)

    def start_clock(self):
        """The seconds of an epoch count from here."""
        self.stage_started = time.monotonic()
        self.clock.start()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs the epoch, evaluates the encoder and saves a checkpoint."""
        self.keep_or_undo()
        last_epochs = getattr(self.hparams, "last_epochs", None)
        if last_epochs is not None:
            run_on_main(last_epochs.keep, args=[epoch, self.averaged()])
        seconds = time.monotonic() - self.stage_started
        self.record.share(self.device)
        means = in_single_precision(self.record.means())
        counts = {  # of all processes, whose mean was shared
            name: round(count * self.processes)
            for name, count in self.record.counts.items()
        }
        if counts["skipped_steps"] and not means:
            raise ValueError(
                f"No step of epoch {epoch} had a finite loss. See the warnings "
                f"above: {DIVERGED}"
            )
        meta = {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            **self.epoch_figures(),
            "seconds": seconds,
            **self.clock.figures(self.device_type == "cuda"),
            "utts_per_second": self.utterances * self.processes / seconds,
            **counts,
        }
        valid = {}
        if self._evaluates(epoch):
            with self.long_work():
                valid = run_on_main(self._evaluate)
        self.record.end_epoch({**meta, **means, **valid})
        run_on_main(self._log_epoch, args=[meta, means, valid])
        # SpeechBrain resets these after the checkpoint: a run resumed from it
        # would count on from the last step of the epoch before.
        self.step = 0
        self.avg_train_loss = 0.0
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={"epoch": epoch}, verbosity=logging.DEBUG
            )

    def make_dataloader(self, dataset, stage, **kwargs):
        """As SpeechBrain's; checks that there are utterances enough."""
        if stage != sb.Stage.TRAIN:
            raise ValueError(
                "This Brain is evaluated by trials: give an evaluator in the "
                "place of a valid_set."
            )
        kwargs.setdefault("worker_init_fn", shield_worker)
        kwargs["num_workers"] = worth_while(kwargs.get("num_workers", 0))
        if getattr(dataset, "samples_per_epoch", None) is not None:
            # In an order of its own, which has a sample twice in a batch only
            # where two passes meet or recordings are long; SpeechBrain would
            # shuffle it for torchrun
            kwargs["shuffle"] = False
            kwargs["sampler"] = torch.utils.data.SequentialSampler(dataset)
        loader = super().make_dataloader(dataset, stage, **kwargs)
        self.train_dataset = dataset
        if hasattr(dataset, "fingerprint"):
            self._keep({"data": SameData(dataset.fingerprint())})
        self.batches_per_epoch = len(loader)
        self.items_per_epoch = len(dataset) / self.processes
        self.steps_per_epoch = len(loader) // self.grad_accumulation_factor
        if not self.steps_per_epoch:
            batch = loader.batch_size * self.grad_accumulation_factor
            raise ValueError(
                f"{len(dataset)} samples an epoch on {self.processes} "
                f"process(es) do not make one batch of {batch}. Lower "
                "batch_size, or add data."
            )
        return loader

    def init_optimizers(self):
        """As SpeechBrain's; weight decay only where ``decays`` says so."""
        decayed, others = [], []
        for parameter in self.modules.parameters():
            if parameter.requires_grad:
                group = decayed if self.decays(parameter) else others
                group.append(parameter)
        self.optimizer = self.opt_class(
            [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        )
        self.optimizers_dict = {"opt_class": self.optimizer}
        self._keep({"optimizer": self.optimizer})

    def decays(self, parameter):
        """Whether weight decay is for a parameter: not biases and norms.

        Arguments
        ---------
        parameter : torch.nn.Parameter
            A parameter that is trained.

        Returns
        -------
        bool
            Whether it has more than one dimension, and so decays.
        """
        return parameter.ndim > 1

    def optimizers_step(self):
        """As SpeechBrain's, which clips the first parameter group alone; a
        step that is not finite is undone."""
        self.scaler.unscale_(self.optimizer)
        norms = self.clip_gradients(
            [p for g in self.optimizer.param_groups for p in g["params"]]
        )
        self.keep_or_undo(norms.isfinite().all())
        if not self.guard.skipped:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def clip_gradients(self, params):
        """Scales all gradients down to a norm of ``max_grad_norm``, if larger.

        Arguments
        ---------
        params : list of torch.nn.Parameter
            All parameters that are trained.

        Returns
        -------
        torch.Tensor
            One norm of the gradients or several, finite if all gradients are.
        """
        most = self.max_grad_norm if self.max_grad_norm > 0 else float("inf")
        return torch.nn.utils.clip_grad_norm_(params, most)

    def keep_or_undo(self, *finite):
        """Undoes what was done since the last step if it was not finite on all
        ranks: see ``StepGuard.keep_or_undo``."""
        with self.clock.device():
            self.guard.keep_or_undo(
                f"step {-(-self.step // self.grad_accumulation_factor)} of "
                f"epoch {self.epoch}",
                self.nonfinite_patience,
                *finite,
                scaled=self.scaler.is_enabled(),
            )
        if self.guard.skipped:
            self.record.count("skipped_steps", 1 / self.processes)

    def _check_kept(self):
        """Raises if a resumed run would begin something anew."""
        if self.checkpointer is None:
            return
        kept = {
            id(parameter)
            for module in self.checkpointer.recoverables.values()
            if isinstance(module, torch.nn.Module)
            for parameter in module.parameters()
        }
        for name, parameter in self.modules.named_parameters():
            if parameter.requires_grad and id(parameter) not in kept:
                raise ValueError(
                    f"{name} is trained, and in no checkpoint: put what it is "
                    "part of among the recoverables of the checkpointer."
                )

    @property
    def position(self):
        """How far training is, in epochs."""
        return self.optimizer_step / self.steps_per_epoch

    @property
    def _evaluation_interval(self):
        """Epochs from one evaluation to the next; 0 for none."""
        if getattr(self.hparams, "evaluator", None) is None:
            return 0
        return self.hparams.evaluate_every or 0

    def _evaluates(self, epoch):
        """Whether the encoder is evaluated after this epoch."""
        every = self._evaluation_interval
        return bool(every) and not epoch % every

    def _evaluate(self):
        """EER of the encoder."""
        return {"EER": self.hparams.evaluator(self.embedder())["eer"]}

    def _log_epoch(self, meta, means, valid):
        """Writes one epoch to the logs."""
        self.hparams.train_logger.log_stats(meta, means, valid)
        evaluates = bool(self._evaluation_interval)
        ends = self._optimizer_step_limit_exceeded
        line = self.progress.line(meta["epoch"], means, valid, evaluates, ends)
        logger.info(line)
        if ends:
            logger.info(
                f"Ends here, after {self.optimizer_step} steps, by "
                "optimizer_step_limit."
            )
        if self._tensorboard is not None:
            self._tensorboard.log_stats(meta, means, valid)
        self.record.write_csv(f"{self.hparams.output_folder}/training.csv")
        for warning in self.warnings(means):
            logger.warning(warning)
        # An epoch that compiled tells nothing of those to come.
        compiled = self.compilation and (
            self.compilation.steps <= self.batches_per_epoch
        )
        # Nor does one that was resumed after its last step.
        told = self.utterances and not compiled
        if told and (hint := bottleneck(meta)):
            logger.info(hint)

    def _trim_log(self):
        """What was logged after the checkpoint will be logged again."""
        log = getattr(self.hparams, "train_log", None)
        if log is not None and pathlib.Path(log).is_file():
            trim_log(log, len(self.record.rows))

    def _save_intra_epoch_ckpt(self):
        # The main process saves, for all
        self.record.share(self.device)
        super()._save_intra_epoch_ckpt()
        self.clock.end_step()  # what comes next is not a wait for data alone
        if self.ending:
            steps = self.step // self.grad_accumulation_factor
            logger.info(f"Saved after step {steps} of epoch {self.epoch}.")
            raise Interrupted(self.ending)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # Not between the micro-batches of one step, whose gradients would be
        # lost.
        if (
            self.checkpointer is None
            or self.step % self.grad_accumulation_factor
        ):
            return False
        minutes = (time.time() - last_ckpt_time) / 60
        due = (
            0 < self.ckpt_interval_minutes < minutes
            # The clock has been set back, maybe by hours
            or (minutes < 0 < self.ckpt_interval_minutes)
            or 0 < self.ckpt_interval_steps <= steps_since_ckpt
            # An evaluation, which takes long, ends at once if asked to.
            or (
                self.step
                == self.steps_per_epoch * self.grad_accumulation_factor
                and self._evaluates(self.epoch)
            )
        )
        due, self.ending = self._agree(due, self.requests.number)
        return bool(due or self.ending)

    def _agree(self, *numbers):
        """The largest of each number on all processes, the same on all.

        In place of SpeechBrain's broadcast of its decision, as an object.
        """
        if not self.distributed_launch:
            return numbers
        numbers = torch.tensor(numbers, device=self.device)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
        return numbers.tolist()

    def _wrap_distributed(self):
        """As SpeechBrain's; BatchNorm over all ranks in all networks.

        SpeechBrain leaves modules without gradients, such as a teacher, out.
        On CPUs it fails, as PyTorch has SyncBatchNorm for GPUs only: there,
        each rank normalises over its own part of the batch.
        """
        if not self.distributed_launch:
            return
        on_gpu = self.device_type == "cuda"
        if on_gpu:
            SyncBatchNorm.convert_sync_batchnorm(self.modules)
        else:
            logger.info("No SyncBatchNorm on CPU: BatchNorm per process.")
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                self.modules[name] = DistributedDataParallel(
                    module,
                    device_ids=[self.device] if on_gpu else None,
                    find_unused_parameters=self.find_unused_parameters,
                )


def _check_features(modules):
    """Raises if features have statistics that no checkpoint would keep."""
    for module in modules.modules():
        kind = getattr(module, "norm_type", None)
        if isinstance(module, InputNormalization) and kind != "sentence":
            raise ValueError(
                f"mean_var_norm has the norm_type {kind}, whose statistics a "
                "training does not keep: give norm_type: sentence."
            )
