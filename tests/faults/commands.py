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
