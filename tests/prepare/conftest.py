"""Audio files, and a user who may not read everything."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def write_tone():
    """write_tone(path, seconds, rate, channels, **soundfile's options)."""

    def write(path, seconds=2.0, rate=16000, channels=1, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * 440 * time)
        soundfile.write(path, np.stack([tone] * channels, 1), rate, **options)

    return write


@pytest.fixture
def open_folder():
    """A folder that every user may enter and write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def no_root():
    """A context without root's right to read everything."""

    @contextlib.contextmanager
    def become_nobody():
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return become_nobody
