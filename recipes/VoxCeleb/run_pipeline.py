#!/usr/bin/env python3
r"""All of CA-DINO + DLG-LC (https://arxiv.org/abs/2304.05754) with one command:
stage I, pseudo labels and stage II as often as wanted, large-margin
fine-tuning, verification. It runs the scripts beside it, one after the other,
and shows each command.

To run this recipe, use one of the following commands:
> python run_pipeline.py hparams/demo.yaml
> python run_pipeline.py hparams/demo_av.yaml
> python run_pipeline.py hparams/small.yaml --data_folder=/path/to/speech
> python run_pipeline.py hparams/pipeline.yaml --processes=8 \
    --data_folder=/path/to/VoxCeleb2 --convert_folder=/path/for/flac \
    --noise_folder=/path/to/musan --rir_folder=/path/to/RIRS_NOISES \
    --trials=/path/to/veri_test2.txt --trials_folder=/path/to/VoxCeleb1 \
    --precision=bf16

Interrupted or killed, the same command goes on where it was: steps that are
done are not done again. Stages, figures and plots are in
<output_folder>/report.html.

Authors
 * The speechbrain_cadino developers 2026
"""

import functools
import pathlib
import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

from hyperpyyaml import load_hyperpyyaml

from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.runs.open_run import (
    check_no_training,
    check_yaml_stays,
    make_experiment,
)
from speechbrain_cadino.runs.pipeline import LOCK_SECONDS, check, run
from speechbrain_cadino.runs.plan import plan


@user_errors()
def main(arguments):
    """Reads the flags, checks all steps, runs them."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    hparams_folder = pathlib.Path(run_opts["param_file"]).parent
    recipe = pathlib.Path(__file__).parent
    plan_all = functools.partial(
        plan, hparams, hparams_folder, recipe, run_opts
    )
    steps = plan_all()
    with locked(hparams["output_folder"], LOCK_SECONDS) as lock:
        check_no_training(hparams["output_folder"])
        check_yaml_stays(hparams["output_folder"], run_opts)
        check(steps)
        make_experiment(hparams["output_folder"], hparams_file, overrides)
        run(hparams["output_folder"], steps, lock, plan_all)


if __name__ == "__main__":
    main(sys.argv[1:])
