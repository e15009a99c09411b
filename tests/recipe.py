"""The recipe's scripts, and how tests start them on tiny data."""

import pathlib

RECIPE = pathlib.Path(__file__).parents[1] / "recipes" / "VoxCeleb"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]

# Columns of training.csv that differ from run to run
SPEED = ["seconds", "data_seconds", "utts_per_second"]

# Stage I on files of less than a second
TINY_STAGE_1 = {
    "warmup_epochs": 1,
    "batch_size": 4,
    "min_duration": 0.1,
    "global_seconds": 0.5,
    "local_seconds": 0.3,
    "local_crops": 2,
    "channels": 16,
    "out_dim": 32,
    "head_size": 16,
    "bottleneck_size": 8,
    "steps_per_epoch": None,
    "passes_per_epoch": 1,
}


def script(name, yaml, **flags):
    """A command line, after ``python``, with flags by name."""
    return [
        str(RECIPE / name),
        str(RECIPE / "hparams" / yaml),
        *(
            f"--{key}={'null' if value is None else value}"
            for key, value in flags.items()
        ),
    ]
