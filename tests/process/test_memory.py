"""A freed gigabyte: what malloc does with it, seen from outside a process."""

import os
import platform
import subprocess
import sys

import pytest

from speechbrain_cadino.process import memory

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
    tunes = {"LD_PRELOAD", "GLIBC_TUNABLES"}
    untuned = {
        name: value
        for name, value in os.environ.items()
        if "MALLOC" not in name and name not in tunes
    }
    output = subprocess.check_output(
        [sys.executable, "-c", PROGRAM, mode], env=untuned
    )
    assert (float(output) > 300) == kept


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        # Version 2: that of a group above counts
        ("0::/slurm/job/step", {"slurm/job/memory.max": "5000"}, 5000),
        ("0::/a", {"a/memory.max": "max", "memory.max": "7000"}, 7000),
        # Version 1, beside an empty hierarchy of version 2
        (
            "4:memory:/job\n3:cpu:/job\n0::/",
            {
                "memory/job/memory.limit_in_bytes": "6000",
                "cpu/job/memory.limit_in_bytes": "1",
            },
            6000,
        ),
        ("4:memory:/job", {}, None),
        (None, {}, None),
    ],
)
def test_a_job_has_the_memory_of_its_group(
    tmp_path, monkeypatch, lines, files, expected
):
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "MOUNTED", tmp_path / "mounted")
    if lines is not None:
        (tmp_path / "cgroup").write_text(lines + "\n")
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    found = memory.memory_here()
    assert found == expected or (expected is None and found > 2**30)
