"""Runs a script whose processes do not wait for each other for long.

> torchrun --nproc_per_node=2 impatient.py SECONDS SCRIPT ...
"""

import datetime
import runpy
import sys

from speechbrain_cadino.brains import base

if __name__ == "__main__":
    seconds, sys.argv = float(sys.argv[1]), sys.argv[2:]
    base.STEP_PATIENCE = datetime.timedelta(seconds=seconds)
    runpy.run_path(sys.argv[0], run_name="__main__")
