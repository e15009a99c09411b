"""Baselines that have learned nothing: an encoder has to beat them."""

import numpy as np
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.lobes.features import Fbank
from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.signal import fft_size
from speechbrain_cadino.encoders.load import encoder_hyperparams
from speechbrain_cadino.process.randomness import fork_rng

CALIBRATION_BATCHES = 25
CALIBRATION_BATCH_SIZE = 32
CALIBRATION_SECONDS = 3


class LogMelStats(torch.nn.Module):
    """Mean and standard deviation over time of log-mel bands.

    It hears the channel and the average voice, and knows nothing: an encoder
    that is no better has learned no more than the loudness of each band.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.
    n_mels : int
        Number of bands.

    Example
    -------
    >>> LogMelStats()(torch.rand(2, 16000)).shape
    torch.Size([2, 160])
    """

    def __init__(self, sample_rate=16000, n_mels=80):
        super().__init__()
        self.compute_features = Fbank(
            sample_rate=sample_rate,
            n_mels=n_mels,
            n_fft=fft_size(sample_rate),
        )

    def forward(self, wavs, wav_lens=None):
        """Embeds waveforms of equal length.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, shape (B, samples).
        wav_lens : torch.Tensor, optional
            The relative lengths, ignored: waveforms come without padding, see
            Embedder.

        Returns
        -------
        torch.Tensor
            Means and deviations of the bands, shape (B, 2 n_mels).
        """
        bands = self.compute_features(wavs)
        return torch.cat([bands.mean(1), bands.std(1)], dim=1)


def random_encoder(embedder, table, seed=0):
    """An untrained encoder of the same architecture as a trained one.

    Fresh weights, but the statistics of its BatchNorm layers come from
    forward passes over random crops of training data: without them it is
    worse for no reason that training would have to do with.

    Arguments
    ---------
    embedder : Embedder
        The trained encoder, of ``load_encoder``.
    table : pandas.DataFrame
        The training manifest.
    seed : int
        Random seed of the weights and the crops.

    Returns
    -------
    Embedder
        The untrained encoder, in eval mode.

    Raises
    ------
    ValueError
        If there is no encoder, only its embeddings.
    """
    if embedder.encoder is None:
        raise ValueError(
            f"There is no untrained encoder of {embedder.source}, which is no "
            "encoder folder: leave the baselines out."
        )
    path = encoder_hyperparams(embedder.source)
    device = embedder.encoder.device
    with fork_rng(device, seed), open(path, encoding="utf-8") as fin:
        # The pretrainer in there is built too, but loads only when told to.
        hparams = load_hyperpyyaml(fin)
    encoder = EncoderClassifier(
        modules=hparams["modules"],
        hparams=hparams,
        run_opts={"device": str(device)},
    )
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    sample_rate = embedder.sample_rate
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _ in range(CALIBRATION_BATCHES):
            crops = _random_crops(table, embedder.reader, sample_rate, rng)
            encoder.encode_batch(crops)
    return embedder.replace(
        encode_batch=encoder.eval().encode_batch,
        weights=encoder.mods,
        encoder=encoder,
    )


def _random_crops(table, reader, sample_rate, rng):
    """A batch of random crops of equal length, shape (B, samples)."""
    lengths = table["stop"] - table["start"]
    # 3 s, or where most utterances are shorter, what half of them have.
    length = min(CALIBRATION_SECONDS * sample_rate, int(lengths.median()))
    long = table[lengths >= length]
    rows = long.iloc[rng.integers(len(long), size=CALIBRATION_BATCH_SIZE)]
    starts = rng.integers(rows["start"], rows["stop"] - length + 1)
    crops, errors = [], []
    for wav, start in zip(rows["wav"], starts):
        # Broken files are few, and are counted where all are embedded.
        try:
            with reader(wav, sample_rate) as signal:
                crops.append(signal.read(int(start), int(start) + length))
        except MediaError as error:
            errors.append(error)
    if not crops:
        raise MediaError(
            f"None of {len(errors)} files of the training set can be read, for "
            f"the untrained encoder. Is train_data_folder right? {errors[0]}"
        )
    return torch.stack(crops)
