#!/usr/bin/env python3
r"""Recipe for supervised fine-tuning of a speaker encoder on shares of the true
labels: what does training without labels save?

To run this recipe, use one of the following commands:
> python finetune.py hparams/demo_finetune.yaml --start_encoder=FOLDER
> python finetune.py hparams/small_finetune.yaml --data_folder=FOLDER \
    --train_manifest=FILE --speakers=FILE [--start_encoder=FOLDER]
> torchrun --nproc_per_node=8 finetune.py hparams/finetune.yaml ...

Each share is a training of its own, as by train_dlg_lc.py, in the folder
share_<share> of the output folder; results.json has a row for each. Started
again, the same command resumes where the run was, and skips what is done.

Authors
 * The speechbrain_cadino developers 2026
"""

import os
import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.lock import claim
from speechbrain_cadino.runs import stage_two
from speechbrain_cadino.runs.finetune import (
    MAY_CHANGE,
    format_shares,
    plan_shares,
    write_shares,
)
from speechbrain_cadino.runs.open_run import (
    check_no_training,
    check_yaml_stays,
    make_experiment,
)
from speechbrain_cadino.runs.training import train
from speechbrain_cadino.training.progress import PLACE

logger = get_logger(__name__)


def report(output_folder, trainings):
    """Writes and shows the table."""
    rows = write_shares(output_folder, trainings)
    if rows:
        logger.info(
            f"{output_folder}/results.json\n{format_shares(rows)}\n"
            f"The encoders are in {output_folder}/share_*/encoder."
        )


@user_errors()
def main():
    """Trains on each share, shows the table."""
    # Reading command line arguments
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    # An encoder to start from brings its own features and sizes
    overrides = adopt_encoder(hparams_file, overrides)

    # One run at a time in the output folder
    output_folder, trainings = plan_shares(hparams_file, run_opts, overrides)
    check_yaml_stays(output_folder, run_opts)
    run_on_main(check_no_training, args=[output_folder])
    run_on_main(claim, args=[output_folder])
    make_experiment(output_folder, hparams_file, overrides)

    # One training for each share
    for number, training in enumerate(trainings, 1):
        os.environ[PLACE] = f"share {number} of {len(trainings)}"
        if training.done:
            logger.info(f"{training.folder}: done before.")
            continue
        run_on_main(training.begin)
        train(
            hparams_file,
            run_opts,
            training.overrides,
            PseudoLabelBrain,
            stage_two.report,
            harmless=MAY_CHANGE,
        )
        run_on_main(training.finish)
        run_on_main(write_shares, args=[output_folder, trainings])

    run_on_main(report, args=[output_folder, trainings])


if __name__ == "__main__":
    main()
