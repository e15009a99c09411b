"""What malloc does with a freed gigabyte, seen from outside the process."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from speechbrain_cadino.process.memory import (keep_freed_memory)

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
big = np.ones((100, 1024, 1024), "float32")
del big
print(resident() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are glibc's"
)
@pytest.mark.parametrize(("mode", "kept"), [("keep", True), ("default", False)])
def test_freed_memory_stays_with_the_process(mode, kept):
    untuned = {k: v for k, v in os.environ.items() if "MALLOC" not in k}
    output = subprocess.check_output(
        [sys.executable, "-c", PROGRAM, mode], env=untuned
    )
    assert (float(output) > 300) == kept
