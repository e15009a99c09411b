"""An archive that grows, and whose files are replaced."""

import pathlib
import shutil
import stat

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.embeddings import extract, store
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.grow import DONE, MORE, WHOLE, embed_more
from speechbrain_cadino.embeddings.store import CALIBRATION, load_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.process.files import HOST, state_of


class Encoder:
    """Gives the first samples, counts, and breaks down when it is told to."""

    def __init__(self):
        self.count, self.last = 0, None

    def __call__(self, wavs, wav_lens):
        if self.count == self.last:
            raise KeyboardInterrupt
        self.count += len(wavs)
        return wavs[:, :3]


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def embed(encoder, tmp_path):
    """A function that embeds files, one a shard; by other weights if told."""

    def run(*names, weights=1.0):
        module = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(module.weight, weights)
        torch.nn.init.zeros_(module.bias)
        rows = []
        for name in names:
            path = tmp_path / f"{name}.wav"
            frames = soundfile.info(path).frames
            rows.append((name, str(path), 0, frames, state_of(path)))
        columns = ["ID", "wav", "start", "stop", "state"]
        table = pd.DataFrame(rows, columns=columns)
        embedder = Embedder(encoder, module)
        ids, embeddings = embed_more(embedder, tmp_path / "out", table, 1)
        expected = [soundfile.read(row[1], frames=3)[0] for row in rows]
        readable = [(n, w) for n, w in zip(names, expected) if w.any()]
        assert ids == [name for name, _ in readable]
        points = np.stack([wav for _, wav in readable])
        np.testing.assert_allclose(embeddings, points, atol=1e-6)
        told = StoredEmbeddings(tmp_path / "out").durations(ids)
        assert np.isfinite(told).all()
        assert not (tmp_path / "out" / MORE).exists()
        count, encoder.count = encoder.count, 0
        return count

    run.encoder = encoder
    return run


def write(folder, *names, level=0.1):
    for name in names:
        rng = np.random.default_rng([*name.encode(), int(1000 * level)])
        wav = level * rng.standard_normal(4000)
        soundfile.write(folder / f"{name}.wav", wav, 16000, "FLOAT")


def test_files_are_embedded_once(embed, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 2)
    write(tmp_path, *"abc")
    (tmp_path / "out").mkdir()
    assert embed(*"ab") == 2
    (tmp_path / "out" / CALIBRATION).write_text("of these embeddings")
    assert embed(*"ab") == 0
    # One more, amid the others, and another order
    assert embed(*"bca") == 1
    assert embed(*"abc") == 0
    # One that was replaced
    write(tmp_path, "b", level=0.2)
    assert embed(*"abc") == 1
    text = (tmp_path / "out" / CALIBRATION).read_text()
    assert text == "of these embeddings"
    # By another encoder, none of them stays
    with pytest.raises(ValueError, match="embeddings by another encoder"):
        embed(*"abc", weights=2.0)
    assert embed(*"abc") == 0


def test_what_is_silent_is_tried_again_with_the_new_ones(embed, tmp_path):
    write(tmp_path, *"abd")
    write(tmp_path, "c", level=0.0)
    assert embed(*"ac") == 1
    # Nothing of the new ones can be read
    write(tmp_path, "e", level=0.0)
    assert embed(*"ace") == 0
    assert embed(*"abcde") == 2
    # One that could be read cannot any longer: what it said is gone
    write(tmp_path, "b", level=0.0)
    assert embed(*"abcde") == 0


def test_goes_on_where_it_was_ended(embed, encoder, tmp_path):
    write(tmp_path, *"abcdef")
    assert embed(*"ab") == 2
    before = load_embeddings(tmp_path / "out")[1].tolist()
    encoder.last = 2
    with pytest.raises(KeyboardInterrupt):
        embed(*"abcdef")
    # What was there is still there
    assert load_embeddings(tmp_path / "out")[1].tolist() == before
    encoder.count, encoder.last = 0, None
    assert embed(*"abcdef") == 2


def test_goes_on_although_files_have_come_or_changed(
    embed, encoder, tmp_path, monkeypatch
):
    """As in an archive that grows each night, embedded by jobs that end."""
    write(tmp_path, *"abcdefgh")
    assert embed("d") == 1
    encoder.last = 2
    with pytest.raises(KeyboardInterrupt):
        embed(*"bdef")  # b, e
    encoder.count, encoder.last = 0, 2
    with pytest.raises(KeyboardInterrupt):
        embed(*"abdefgh")  # a, f
    write(tmp_path, "e", level=0.2)
    encoder.count, encoder.last = 0, None

    def ends(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract, "sync", ends)
        with pytest.raises(KeyboardInterrupt):
            embed(*"abdefgh")  # e anew, g, h
    encoder.count = 0
    assert embed(*"abcdefgh") == 1
    assert not (tmp_path / "out" / DONE).exists()


@pytest.mark.parametrize("names", ["abc", "abcd"])
def test_what_another_encoder_had_embedded_is_not_lost(
    embed, encoder, tmp_path, names
):
    """Nor what a killed run had, whether there are more files by now."""
    write(tmp_path, *"abcd")
    (tmp_path / "out").mkdir()
    for some in ("ab", "abc"):
        encoder.count, encoder.last = 0, 1
        with pytest.raises(KeyboardInterrupt):
            embed(*some)
    encoder.count, encoder.last = 0, None
    with pytest.raises(ValueError, match=r"out/\.more holds .* another enc"):
        embed(*names, weights=2.0)
    shutil.rmtree(tmp_path / "out" / MORE)
    with pytest.raises(ValueError, match=r"out/\.done holds .* another enc"):
        embed(*names, weights=2.0)
    shutil.rmtree(tmp_path / "out" / DONE)
    assert embed(*names, weights=2.0) == len(names)


def test_what_no_state_tells_of_is_embedded_anew(embed, tmp_path):
    write(tmp_path, *"abc")
    assert embed(*"ab") == 2
    path = tmp_path / "out" / "durations.csv"
    table = pd.read_csv(path).drop(columns="state")
    table.to_csv(path, index=False)
    assert embed(*"abc") == 3
    (tmp_path / "out" / "ids.txt").unlink()
    assert embed(*"abc") == 3


@pytest.mark.parametrize("name", ["durations.csv", "embeddings.npy", "ids.txt"])
def test_what_is_embedded_is_moved_in_the_end(
    embed, tmp_path, monkeypatch, name
):
    """Ended amid that, the next start goes on with it; and nobody takes old
    IDs for new rows meanwhile."""
    write(tmp_path, *"abc")
    (tmp_path / "out").mkdir()
    assert embed(*"ab") == 2
    (tmp_path / "out" / CALIBRATION).write_text("of these embeddings")
    for private in ("ids.txt", "embeddings.npy"):
        (tmp_path / "out" / private).chmod(0o600)
    write(tmp_path, "a", level=0.2)
    replace = pathlib.Path.replace

    def ends(path, target):
        if path.parent.name == WHOLE and path.name == name:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", ends)
        with pytest.raises(KeyboardInterrupt):
            embed(*"cab")
    with pytest.raises(FileNotFoundError, match=r"no ids\.txt"):
        load_embeddings(tmp_path / "out")
    embed.encoder.count = 0
    assert embed(*"cab") == 0
    text = (tmp_path / "out" / CALIBRATION).read_text()
    assert text == "of these embeddings"
    assert not (tmp_path / "out" / WHOLE).exists()
    for private in ("ids.txt", "embeddings.npy"):
        mode = (tmp_path / "out" / private).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_what_a_killed_run_was_joining_is_removed(embed, tmp_path):
    """A whole copy, in a hidden folder that no later run would look at."""
    write(tmp_path, *"ab")
    (tmp_path / "out").mkdir()
    gone = 2**22 + 1  # above Linux's highest number of a process
    left = tmp_path / "out" / f".{WHOLE}.{HOST}-{gone}.tmp"
    left.mkdir()
    (left / "embeddings.npy").write_text("many")
    assert embed(*"ab") == 2
    assert not left.exists()
