"""DINO in a Brain that recognises speech, on dynamic batches: that it plugs
in. What a recogniser gains by it is not claimed: rather nothing."""

import host
import pytest
import torch

import speechbrain as sb
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.CRDNN import CRDNN
from speechbrain.nnet.losses import ctc_loss
from speechbrain.nnet.pooling import StatisticsPooling
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.brains.auxiliary import WithDINO


class Recogniser(WithDINO, sb.Brain):
    """As SpeechBrain's recipes for CTC."""

    def compute_forward(self, batch, stage):
        wavs, wav_lens = batch.to(self.device).sig
        feats = self.modules.compute_features(wavs)
        feats = self.modules.normalize(feats, wav_lens)
        frames, views = self.encode_with_dino(
            feats, wavs=wavs, wav_lens=wav_lens
        )
        logits = self.modules.ctc_lin(frames)
        return logits.log_softmax(-1), wav_lens, views

    def compute_objectives(self, predictions, batch, stage):
        p_ctc, wav_lens, views = predictions
        tokens, token_lens = batch.tokens
        self.ctc = ctc_loss(p_ctc, tokens, wav_lens, token_lens, 0)
        return self.ctc + self.dino_loss(views)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.losses.append((self.ctc.item(), self.dino_figures["dino_loss"]))


def speech():
    """Utterances of 1 to 4 "letters", each a tone of its own."""
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(3200) / 16000
    rows = {}
    for number in range(10):
        letters = torch.randint(1, 4, (1 + number % 4,), generator=generator)
        wav = torch.cat([(2513 * n * time).sin() for n in letters])
        wav += 0.01 * torch.randn(len(wav), generator=generator)
        rows[f"u{number}"] = {
            "wav": wav,
            "letters": letters,
            "duration": len(wav) / 16000,
        }
    data = DynamicItemDataset(rows)
    data.add_dynamic_item(lambda wav: wav, takes="wav", provides="sig")
    data.add_dynamic_item(lambda x: x, takes="letters", provides="tokens")
    data.set_output_keys(["id", "sig", "tokens"])
    return data


def recogniser(**options):
    torch.manual_seed(0)
    encoder = CRDNN(
        input_size=12,
        cnn_blocks=1,
        cnn_channels=(4,),
        rnn_class=sb.nnet.RNN.GRU,
        rnn_layers=1,
        rnn_neurons=6,
        dnn_blocks=1,
        dnn_neurons=6,
        dropout=0.0,
        time_pooling=False,
    )
    modules = {
        "compute_features": Fbank(n_mels=12),
        "normalize": InputNormalization(norm_type="global"),
        "encoder": encoder,
        "ctc_lin": torch.nn.Linear(6, 4),
    }
    dino = host.auxiliary(
        encoder,
        modules["compute_features"],
        modules["normalize"],
        weight=0.1,
        augment=True,
        cutter={"local_crops": 0},
        **options,
    )
    brain = Recogniser(
        modules,
        lambda params: torch.optim.Adam(params, lr=0.02),
        {"dino": dino},
        {"device": "cpu"},
    )
    brain.losses = []
    return brain


def test_a_recogniser_learns_beside_dino():
    data = speech()
    sampler = DynamicBatchSampler(
        data,
        max_batch_length=2.0,
        num_buckets=3,
        length_func=lambda row: row["duration"],
        shuffle=True,
    )
    brain = recogniser(pooling=StatisticsPooling(return_std=False))
    teacher = brain.dino.teacher.network.encoder.encoder
    before = [value.clone() for value in teacher.parameters()]
    brain.fit(
        range(1, 7),
        data,
        progressbar=False,
        train_loader_kwargs={"batch_sampler": sampler},
    )
    assert len({len(batch) for batch in sampler}) > 1
    first, last = brain.losses[0], brain.losses[-1]
    assert last[0] < 0.8 * first[0]
    assert 0 < last[1] < first[1]
    after = brain.dino.teacher.network.encoder.encoder.parameters()
    assert not any(map(torch.equal, before, after))


def test_frames_without_a_pooling():
    with pytest.raises(ValueError, match=r"gives \(\d+, \d+, 6\), where one"):
        recogniser().fit(
            [1],
            speech(),
            progressbar=False,
            train_loader_kwargs={"batch_size": 5},
        )
    attentive = torch.nn.Linear(6, 6)
    with pytest.raises(ValueError, match="pooling Linear has parameters"):
        recogniser(pooling=attentive)
