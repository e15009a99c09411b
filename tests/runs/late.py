"""A training without steps, whose preparation and report take longer than
processes wait.

> torchrun --nproc_per_node=2 late.py FOLDER
"""

import datetime
import pathlib
import sys
import time
import types

import torch

from speechbrain_cadino.process import ranks
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs import training


class Brain:
    debug = test_only = False

    def __init__(self, hparams, **options):
        self.hparams = hparams

    def fit(self, *args, **options):
        pass


@user_errors()
def main(folder):
    folder = pathlib.Path(folder)
    wait = datetime.timedelta(seconds=3)
    # Not of the start, where processes come as they come
    torch.distributed.init_process_group("gloo")
    ranks._set_patience(wait)
    trials = []

    def prepare():
        time.sleep(2 * wait.seconds)
        (folder / "prepared").touch()

    def evaluator():
        trials.append("read")
        return "the list"

    def report(brain, hparams):
        time.sleep(2 * wait.seconds)
        (folder / "reported").write_text(hparams["evaluator"])

    hparams = dict.fromkeys(["opt_class", "epoch_counter"])
    checkpointer = types.SimpleNamespace(checkpoints_dir=folder / "save")
    hparams |= {
        "modules": {},
        "prepare": [prepare],
        "train_data": list,
        "evaluator": evaluator,
        "checkpointer": checkpointer,
        "train_manifest": folder / "train.csv",
        "dataloader_options": {},
    }
    training.load_run = lambda *args, **options: hparams
    training.train("late.yaml", {}, "", Brain, report, lambda hparams: None)
    assert trials == ([] if torch.distributed.get_rank() else ["read"])
    assert hparams["evaluator"] == "the list"


if __name__ == "__main__":
    main(*sys.argv[1:])
