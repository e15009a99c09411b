#!/usr/bin/env python3
r"""Recipe for adapting a speaker encoder to a domain without labels: the AAM
loss of labelled voices of another domain, and an objective of stage I on the
recordings of the domain (SSDA; Chen, Wang and Qian, ICASSP 2021).

To run this recipe, use one of the following commands:
> python train_adapt.py hparams/demo_adapt.yaml
> python train_adapt.py hparams/small_adapt.yaml --data_folder=/path/to/target \
    --source_manifest=FILE --source_folder=/path/to/source \
    [--start_encoder=FOLDER]
> torchrun --nproc_per_node=8 train_adapt.py hparams/adapt.yaml ...

FILE has the true speakers of the source as spk_id. The trained encoder is in
<output_folder>/encoder: stock SpeechBrain loads it. Started again, the same
command resumes where the run was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain_cadino.brains.adaptation import AdaptationBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.stage_one import report, start
from speechbrain_cadino.runs.training import train


@user_errors()
def main():
    """Reads the command line, trains."""
    # Reading command line arguments
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    # An encoder to start from brings its own features and sizes
    overrides = adopt_encoder(hparams_file, overrides)

    train(hparams_file, run_opts, overrides, AdaptationBrain, report, start)


if __name__ == "__main__":
    main()
