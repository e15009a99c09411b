"""A training without steps, whose report waits for the other process.

> torchrun --nproc_per_node=2 late.py FOLDER
"""

import pathlib
import sys
import types

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.files import wait_for
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
    run_opts = {"device": "cpu", "distributed_backend": "gloo"}
    sb.utils.distributed.ddp_init_group(run_opts)
    trials = []

    def evaluator():
        trials.append("read")
        return "the list"

    def report(brain, hparams):
        assert wait_for(folder / "over")
        # Nor does this wait for anybody
        assert run_on_main(lambda: "alone") == "alone"
        (folder / "reported").write_text(hparams["evaluator"])

    hparams = dict.fromkeys(["modules", "opt_class", "epoch_counter"])
    checkpointer = types.SimpleNamespace(checkpoints_dir=folder / "save")
    hparams |= {
        "prepare": [],
        "train_data": list,
        "evaluator": evaluator,
        "checkpointer": checkpointer,
        "train_manifest": folder / "train.csv",
        "dataloader_options": {},
    }
    training.load_run = lambda *args, **options: hparams
    training.train("late.yaml", run_opts, "", Brain, report)
    if sb.utils.distributed.if_main_process():
        assert trials == ["read"]
    else:
        assert trials == []
        assert hparams["evaluator"] == "the list"
        (folder / "over").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
