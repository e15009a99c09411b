"""The commands that are killed: real scripts on tiny data."""

import json

from recipe import TINY_STAGE_1, script

# CA-DINO that clusters twice, with a data worker
STAGE_1 = {
    **TINY_STAGE_1,
    "number_of_epochs": 3,
    "first_clustering": 2,
    "clustering_every": 1,
    "num_clusters": 6,
    "evaluate_every": 2,
    "num_workers": 1,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 4,
}

STAGE_2 = {
    "number_of_epochs": 3,
    "first_gated_epoch": 2,
    "batch_size": 4,
    "steps_per_epoch": None,
    "gate": 16.0,
    "crop_seconds": 0.5,
    "channels": 16,
    "num_workers": 1,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 3,
}

LABELS = {"num_clusters": 5, "engine": "sklearn", "num_workers": 1}

# On CPUs
RANKS = {"device": "cpu", "distributed_backend": "gloo"}


def train(speech, folder, **flags):
    """Stage I."""
    flags = {
        **STAGE_1,
        "data_folder": speech,
        "trials": speech / "trials.txt",
        "output_folder": folder,
        **flags,
    }
    return script("train_dino.py", "small_ca_dino.yaml", **flags)


def pipeline(speech, folder, processes=1):
    """Stage I, two iterations of stage II, verification."""
    entries = {
        "stage_1": {"hparams": "small_ca_dino.yaml", **STAGE_1},
        "pseudo_label": LABELS,
        "dlg_lc": {"hparams": "small_dlg_lc.yaml", **STAGE_2},
    }
    flags = {
        **{name: json.dumps(entry) for name, entry in entries.items()},
        "large_margin": "null",
        "data_folder": speech,
        "trials": speech / "trials.txt",
        "speakers": speech / "speakers.csv",
        "iterations": 2,
        "processes": processes,
        "output_folder": folder,
        **(RANKS if processes > 1 else {}),
    }
    return script("run_pipeline.py", "pipeline.yaml", **flags)


PREPARE = """
import sys
from speechbrain_cadino.prepare.folder import prepare_folder

source, output, converted = sys.argv[1:]
prepare_folder(
    source,
    output,
    min_duration=0.1,
    convert_folder=converted or None,
    num_workers=2,
)
"""

EXPORT = """
import sys
from speechbrain_cadino.encoders.export import export_encoder
from speechbrain_cadino.encoders.load import load_encoder

source, output = sys.argv[1:]
encoder = load_encoder(source)
export_encoder(
    output + "/encoder",
    source + "/hyperparams.yaml",
    {"embedding_model": encoder.encoder.mods.embedding_model},
    encoder.mean,
)
"""


def scripts(speech, foreign, encoder, manifest, labels, trained):
    """The single scripts by name: from an output folder to a command line.

    Arguments
    ---------
    speech : pathlib.Path
        The corpus.
    foreign : pathlib.Path
        Audio that is to be converted.
    encoder : pathlib.Path
        An encoder folder.
    manifest : pathlib.Path
        The manifest of the corpus.
    labels : pathlib.Path
        The manifest with pseudo labels.
    trained : callable
        The maker of the folder of a finished training of stage II, with gates.
    """
    reading = {"data_folder": speech, "num_workers": 1}
    embedding = {"encoder": encoder, "manifest": manifest, **reading}

    def prepare(folder):
        return ["-c", PREPARE, speech, folder, ""]

    def convert(folder):
        return ["-c", PREPARE, foreign, folder, folder / "converted"]

    def extract(folder):
        flags = {**embedding, "output_folder": folder, "shard_size": 5}
        return script("extract.py", "extract.yaml", **flags)

    def cluster(folder):
        flags = {**embedding, "output_folder": folder, **LABELS}
        return script("pseudo_label.py", "pseudo_label.yaml", **flags)

    def select(folder):
        flags = {**embedding, "output_folder": folder, "shard_size": 5}
        flags["speech"] = None  # the corpus is noise
        return script("filter_manifest.py", "filter.yaml", **flags)

    def verify(folder):
        flags = {
            "encoder": encoder,
            "trials": speech / "trials.txt",
            "output_folder": folder,
            "back_ends": "[cosine, as_norm]",
            "train_manifest": labels,
            "train_data_folder": speech,
            **reading,
        }
        return script("verify.py", "verify.yaml", **flags)

    def finetune(folder):
        flags = {
            **STAGE_2,
            "data_folder": speech,
            "train_manifest": labels,
            "speakers": labels,
            "share": "[0.5, 1]",
            "output_folder": folder,
        }
        flags.pop("gate")
        return script("finetune.py", "small_finetune.yaml", **flags)

    def report(folder):
        flags = {"manifest": labels, "speakers": labels}
        return script(
            "report_gate.py",
            "report_gate.yaml",
            run_folder=trained(folder),
            **flags,
        )

    return {
        "prepare": prepare,
        "convert": convert,
        "extract": extract,
        "cluster": cluster,
        "filter": select,
        "export": lambda folder: ["-c", EXPORT, encoder, folder],
        "verify": verify,
        "finetune": finetune,
        "report": report,
    }
