"""Supervised training as in SpeechBrain's recipe train_speaker_embeddings.py,
with nothing but SpeechBrain: what it takes from a manifest and how.

> python stock_speaker_embeddings.py MANIFEST DATA_FOLDER OUTPUT_FOLDER

Prints the training loss of each epoch.
"""

import random
import sys

import torch
from hyperpyyaml import load_hyperpyyaml

import speechbrain as sb
from speechbrain.dataio import audio_io

SAMPLE_RATE = 16000
SENTENCE = 4800  # samples: 0.3 s

HPARAMS = """
n_mels: 24
emb_dim: 12
number_of_epochs: 4
out_n_neurons: !PLACEHOLDER

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    attention_channels: 8
    se_channels: 8
    res2net_scale: 4
    lin_neurons: !ref <emb_dim>

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: !ref <emb_dim>
    out_neurons: !ref <out_n_neurons>

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>

compute_cost: !new:speechbrain.nnet.losses.LogSoftmaxWrapper
    loss_fn: !new:speechbrain.nnet.losses.AdditiveAngularMargin
        margin: 0.2
        scale: 30

opt_class: !name:torch.optim.Adam
    lr: 0.01
"""


class SpeakerBrain(sb.core.Brain):
    def compute_forward(self, batch, stage):
        wavs, lens = batch.to(self.device).sig
        feats = self.modules.compute_features(wavs)
        feats = self.modules.mean_var_norm(feats, lens)
        embeddings = self.modules.embedding_model(feats)
        return self.modules.classifier(embeddings), lens

    def compute_objectives(self, predictions, batch, stage):
        outputs, lens = predictions
        return self.hparams.compute_cost(
            outputs, batch.spk_id_encoded.data, lens
        )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        print(f"loss {stage_loss:.4f}")


def dataio_prep(manifest, data_folder, output_folder):
    train_data = sb.dataio.dataset.DynamicItemDataset.from_csv(
        csv_path=manifest, replacements={"data_root": data_folder}
    )
    label_encoder = sb.dataio.encoder.CategoricalEncoder()

    @sb.utils.data_pipeline.takes("wav", "start", "stop", "duration")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav, start, stop, duration):
        duration_sample = int(float(duration) * SAMPLE_RATE)
        assert duration_sample == int(stop) - int(start)
        start = random.randint(0, duration_sample - SENTENCE)
        sig, _ = audio_io.load(wav, num_frames=SENTENCE, frame_offset=start)
        return sig.transpose(0, 1).squeeze(1)

    @sb.utils.data_pipeline.takes("spk_id")
    @sb.utils.data_pipeline.provides("spk_id", "spk_id_encoded")
    def label_pipeline(spk_id):
        yield spk_id
        yield label_encoder.encode_sequence_torch([spk_id])

    train_data.add_dynamic_item(audio_pipeline)
    train_data.add_dynamic_item(label_pipeline)
    label_encoder.load_or_create(
        path=f"{output_folder}/label_encoder.txt",
        from_didatasets=[train_data],
        output_key="spk_id",
    )
    train_data.set_output_keys(["id", "sig", "spk_id_encoded"])
    return train_data, len(label_encoder)


if __name__ == "__main__":
    manifest, data_folder, output_folder = sys.argv[1:]
    random.seed(0)
    torch.manual_seed(0)
    train_data, speakers = dataio_prep(manifest, data_folder, output_folder)
    hparams = load_hyperpyyaml(HPARAMS, {"out_n_neurons": speakers})
    print(f"{len(train_data)} utterances, {speakers} speakers")
    brain = SpeakerBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={"device": "cpu"},
    )
    brain.fit(
        range(hparams["number_of_epochs"]),
        train_data,
        train_loader_kwargs={"batch_size": 4, "shuffle": True},
    )
