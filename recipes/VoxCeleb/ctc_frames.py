#!/usr/bin/env python3
r"""Example of an encoder of frames at work: a CTC head that reads phones.

The encoder is that of train_dinosr.py, loaded by stock SpeechBrain and left as
it is; a linear layer above it learns to read the phones of some voices, and the
phone error rate of the other voices is shown. Of speechbrain_cadino only what
reads flags, the table of phones and audio is needed.

To run this recipe:
> python ctc_frames.py hparams/ctc_frames.yaml --encoder=FOLDER \
    --phones=FILE --data_folder=FOLDER

Authors
 * The speechbrain_cadino developers 2026
"""

import sys
from os.path import isfile

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import torch

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CTCTextEncoder
from speechbrain.dataio.sampler import ReproducibleRandomSampler
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.inference.encoders import WaveformEncoder
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.frames.phones import read_phones
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.open_run import load_run

logger = get_logger(__name__)


class CTCBrain(sb.Brain):
    """Trains the head; the encoder is frozen."""

    def compute_forward(self, batch, stage):
        """Log-probabilities of phones, frame by frame."""
        wavs, lengths = batch.to(self.device).signal
        with torch.no_grad():
            frames = self.hparams.frame_encoder.encode_batch(wavs, lengths)
        return self.modules.head(frames).log_softmax(-1), lengths

    def compute_objectives(self, predictions, batch, stage):
        """CTC; and the phones that are wrong, of the test voices."""
        scores, lengths = predictions
        phones, phone_lengths = batch.phones
        if stage != sb.Stage.TRAIN:
            self.errors.append(
                batch.id,
                ctc_greedy_decode(scores, lengths, blank_id=0),
                [row[row > 0].tolist() for row in phones],
            )
        return sb.nnet.losses.ctc_loss(
            scores, phones, lengths, phone_lengths, blank_index=0
        )

    def on_stage_start(self, stage, epoch=None):
        """Begins to count."""
        self.errors = sb.utils.metric_stats.ErrorRateStats()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Shows how far it is."""
        if stage == sb.Stage.TRAIN:
            last = self.hparams.number_of_epochs
            logger.info(f"Epoch {epoch} of {last}: loss {stage_loss:.2f}")
        elif stage == sb.Stage.TEST:
            rate = self.errors.summarize("error_rate")
            logger.info(f"Phone error rate of the test voices: {rate:.1f}%")


def dataio_prep(hparams, sample_rate):
    """The training and the test voices, and how many phones there are."""
    # 1. What is said in each file
    table = read_phones(hparams["phones"])
    voices = table.groupby("wav")["spk_id"].nunique()
    if (voices > 1).any():
        raise ValueError(
            f"{hparams['phones']}: {voices.idxmax()} has several voices. Cut "
            "it into files of one."
        )
    said = {
        wav: {
            "wav": f"{hparams['data_folder']}/{wav}",
            "voice": rows["spk_id"].iloc[0],
            # Equal symbols of two languages are two phones
            "said": (rows["language"] + " " + rows["phone"]).tolist(),
            "language": rows["language"].iloc[0],
        }
        for wav, rows in table.groupby("wav")
    }
    lost = [row["wav"] for row in said.values() if not isfile(row["wav"])]
    if lost:
        raise FileNotFoundError(
            f"{len(lost)} of {len(said)} files are not there, the first is "
            f"{lost[0]}. Is data_folder right?"
        )
    said = leave_out_unreadable(said, sample_rate)
    # 2. The last voices of each language are for the test
    test_voices = set()
    for language in sorted({row["language"] for row in said.values()}):
        rows = [row for row in said.values() if row["language"] == language]
        voices = sorted({row["voice"] for row in rows})
        count = max(1, round(len(voices) * hparams["test_share"]))
        count = min(count, len(voices) - 1)  # a single one is to train on
        test_voices |= set(voices[len(voices) - count :])
    if not test_voices:
        raise ValueError(
            f"{hparams['phones']} has a single voice in each language: two at "
            "least are needed."
        )
    # 3. Numbers of phones; 0 is CTC's blank
    encoder = CTCTextEncoder()
    encoder.insert_blank(index=0)
    encoder.update_from_iterable(
        sorted({phone for row in said.values() for phone in row["said"]}), False
    )

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("signal")
    def signal_pipeline(wav):
        with AudioReader(wav, sample_rate) as audio:
            return audio.read()

    @sb.utils.data_pipeline.takes("said")
    @sb.utils.data_pipeline.provides("phones")
    def phone_pipeline(said):
        return torch.LongTensor(encoder.encode_sequence(said))

    # 4. Data sets
    sets = [
        DynamicItemDataset(
            {
                wav: row
                for wav, row in said.items()
                if (row["voice"] in test_voices) == test
            },
            [signal_pipeline, phone_pipeline],
            ["id", "signal", "phones"],
        )
        for test in (False, True)
    ]
    return *sets, len(encoder)


def leave_out_unreadable(said, sample_rate):
    """What is said in the files that are not silent or damaged."""
    problems = {}
    for wav, row in said.items():
        try:
            with AudioReader(row["wav"], sample_rate) as audio:
                audio.read()
        except MediaError as error:
            problems[wav] = error
    if problems:
        logger.warning(
            f"{len(problems)} of {len(said)} files cannot be used and are left "
            f"out; the first: {next(iter(problems.values()))}"
        )
    return {wav: row for wav, row in said.items() if wav not in problems}


@user_errors(goes_on=False)
def main(arguments):
    """Reads the flags, trains the head, tests it."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    hparams = load_run(hparams_file, run_opts, overrides, resumes=False)
    encoder = WaveformEncoder.from_hparams(
        source=hparams["encoder"],
        run_opts={"device": run_opts["device"]},
    )
    rate = encoder.hparams.sample_rate
    train_data, test_data, size = dataio_prep(hparams, rate)
    probe = torch.zeros(1, rate, device=run_opts["device"])
    width = encoder.encode_batch(probe, torch.ones(1)).shape[-1]
    brain = CTCBrain(
        modules={"head": torch.nn.Linear(width, size)},
        opt_class=hparams["opt_class"],
        hparams={**hparams, "frame_encoder": encoder},
        run_opts=run_opts,
    )
    sampler = ReproducibleRandomSampler(train_data, seed=hparams["seed"])
    loader = {"batch_size": hparams["batch_size"]}
    brain.fit(
        range(1, 1 + hparams["number_of_epochs"]),
        train_data,
        train_loader_kwargs={**loader, "sampler": sampler},
    )
    brain.evaluate(test_data, test_loader_kwargs=loader)


if __name__ == "__main__":
    main(sys.argv[1:])
