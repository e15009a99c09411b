import hashlib
import json
import os
import pathlib
import time

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from recipe import script

from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings import extract as extract_module
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.extract import SIZE, extract
from speechbrain_cadino.encoders.load import load_encoder


def table_of(folder, lengths):
    """A manifest of noise, and one of lengths; 100 samples are cut off."""
    rows = []
    for row, length in enumerate(lengths):
        path = folder / f"{row}.wav"
        wav = np.random.default_rng(row).uniform(-0.5, 0.5, length + 100)
        soundfile.write(path, wav, 16000, "FLOAT")
        rows.append((f"u{row}", str(path), 100, length + 100))
    return pd.DataFrame(rows, columns=["ID", "wav", "start", "stop"])


def first_and_length(wavs, wav_lens):
    """Tells which stretch was read: its first two samples, its seconds."""
    seconds = torch.full((len(wavs), 1), wavs.shape[1] / 16000)
    return torch.cat([wavs[:, :2], seconds], dim=1)


class Counter:
    """An encoder that counts what it encodes."""

    def __init__(self):
        self.count = 0

    def __call__(self, wavs, wav_lens):
        self.count += len(wavs)
        return first_and_length(wavs, wav_lens)


@pytest.fixture
def weights():
    return torch.nn.Linear(2, 2)


def test_a_table_hashed_in_parts_is_that_of_its_text(monkeypatch):
    monkeypatch.setattr(extract_module, "ROWS_OF_TEXT", 3)
    rows = {"ID": list("abcdefg"), "wav": '/x, "y".wav', "start": 0, "stop": 9}
    for count in (0, 3, 7):
        table = pd.DataFrame(rows).head(count)
        text = table.to_csv(index=False).encode()
        found = extract_module.hash_table(table.assign(other=1))
        assert found == hashlib.sha256(text).hexdigest()


def test_equals_embed_where_nothing_is_trimmed(encoder_folder, tmp_path):
    table = table_of(tmp_path, [8000, 4800, 8000, 8000, 4800])
    embedder = load_encoder(encoder_folder)
    expected = embedder.embed(table)
    ids, embeddings = extract(embedder, tmp_path / "out", table, shard_size=2)
    assert ids == list(table["ID"])
    assert isinstance(embeddings, np.memmap)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "embeddings.npy",
        "extraction.json",
        "ids.txt",
    ]


def test_a_batch_holds_utterances_of_almost_the_same_length(tmp_path, weights):
    table = table_of(tmp_path, [16000, 16030, 16100, 16150])
    shapes = []

    def encode_batch(wavs, wav_lens):
        shapes.append(tuple(wavs.shape))
        return first_and_length(wavs, wav_lens)

    embedder = Embedder(encode_batch, weights)
    _, embeddings = extract(embedder, tmp_path / "out", table)
    assert shapes == [(4, 16000)]
    for row, path in enumerate(table["wav"]):
        assert embeddings[row, 0] == AudioReader(path).read()[100]


def test_mean_of_segments_against_a_plain_loop(tmp_path, weights):
    lengths = [4000, 8000, 8100, 16000, 31990, 50000]
    table = table_of(tmp_path, lengths)
    embedder = Embedder(
        first_and_length, weights, segment_seconds=0.5, max_segments=3
    )
    _, embeddings = extract(embedder, tmp_path / "out", table)
    starts = {
        0: [0],
        1: [0],
        2: [50],  # in the middle
        3: [0, 8000],
        4: [1331, 11995, 22658],  # thirds of 10663.3, in their middles
        5: [4333, 21000, 37666],
    }
    for row, path in enumerate(table["wav"]):
        mean, norm = np.zeros(3), 0.0
        for start in starts[row]:
            first = AudioReader(path).read(100 + start, 102 + start).numpy()
            segment = np.append(first, 0.25 if row == 0 else 0.5)
            mean += segment / np.sqrt((segment**2).sum())
            norm += np.sqrt((segment**2).sum())
        expected = mean / len(starts[row]) * norm / len(starts[row])
        np.testing.assert_allclose(embeddings[row], expected, atol=1e-6)


def test_unreadable_files_are_nan_and_counted(tmp_path, weights, caplog):
    table = table_of(tmp_path, [8000] * 5)
    for row in (2, 3):  # a whole shard
        pathlib.Path(table["wav"][row]).write_text("no audio")
    embedder = Embedder(first_and_length, weights)
    _, embeddings = extract(embedder, tmp_path / "out", table, shard_size=2)
    expected = [False, False, True, True, False]
    assert np.isnan(embeddings).all(1).tolist() == expected
    assert "2 of all 5 utterances cannot be read" in caplog.text
    assert "2.wav" in caplog.text


def test_mean_of_the_readable_segments(tmp_path, weights):
    table = table_of(tmp_path, [16000, 16000])
    # Cut off within the second segment.
    whole = AudioReader(table["wav"][0]).read()
    soundfile.write(table["wav"][0], whole[:12000].numpy(), 16000, "FLOAT")
    pathlib.Path(table["wav"][1]).write_text("no audio")
    embedder = Embedder(first_and_length, weights, segment_seconds=0.5)
    _, embeddings = extract(embedder, tmp_path / "out", table)
    segment = np.append(whole[100:102].numpy(), 0.5)
    np.testing.assert_allclose(embeddings[0], segment, atol=1e-6)
    assert np.isnan(embeddings[1]).all()


def test_all_unreadable(tmp_path, weights):
    table = table_of(tmp_path, [8000] * 3)
    for path in table["wav"]:
        pathlib.Path(path).rename(f"{path}.away")
    arguments = Embedder(first_and_length, weights), tmp_path / "out", table
    with pytest.raises(MediaError, match=r"None of the 3 .*/0.wav"):
        extract(*arguments, shard_size=2)
    for path in table["wav"]:
        pathlib.Path(f"{path}.away").rename(path)
    _, embeddings = extract(*arguments, shard_size=2)
    assert np.isfinite(embeddings).all()


def test_finished_is_not_done_again(tmp_path, weights, caplog):
    table = table_of(tmp_path, [8000] * 3)
    encode_batch = Counter()
    embedder = Embedder(encode_batch, weights)
    _, first = extract(embedder, tmp_path / "out", table)
    with caplog.at_level("INFO"):
        single = Embedder(encode_batch, weights, batch_size=1)
        _, second = extract(single, tmp_path / "out", table)
    assert encode_batch.count == 3
    assert "up to date" in caplog.text
    np.testing.assert_array_equal(first, second)


def other_weights(table, weights):
    with torch.no_grad():
        weights.bias[1] += 0.1
    return {}


def other_files(table, weights):
    table.loc[1, "wav"] = table["wav"][2]
    return {}


def fewer_utterances(table, weights):
    table.drop(index=2, inplace=True)
    return {}


def segments(table, weights):
    return {"segment_seconds": 0.2}


@pytest.mark.parametrize(
    "change", [other_weights, other_files, fewer_utterances, segments]
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_start_anew(tmp_path, weights, change, finished):
    table = table_of(tmp_path, [8000] * 3)
    folder = tmp_path / "out"
    if finished:
        embedder = Embedder(first_and_length, weights)
        extract(embedder, folder, table, shard_size=1)
    else:
        embedder = Embedder(dies_at(2), weights)
        with pytest.raises(ZeroDivisionError):
            extract(embedder, folder, table, shard_size=1)
        assert len(list((folder / "shards").iterdir())) == 1
    old = [folder / "calibration.json", folder / "durations.csv"]
    for path in old:
        path.write_text("of the old ones")
    options = change(table, weights)
    encode_batch = Counter()
    embedder = Embedder(encode_batch, weights, **options)
    ids, embeddings = extract(embedder, folder, table, shard_size=1)
    assert ids == list(table["ID"])
    assert encode_batch.count >= len(table)
    assert not any(path.exists() for path in old)
    _, fresh = extract(embedder, tmp_path / "fresh", table, shard_size=1)
    np.testing.assert_array_equal(embeddings, fresh)


def test_shards_of_others_stay(tmp_path, weights):
    """Such as those of a corpus in tar files."""
    theirs = tmp_path / "shards" / "000001.tar"
    theirs.parent.mkdir()
    theirs.write_text("speech")
    table = table_of(tmp_path, [8000] * 3)
    extract(Embedder(first_and_length, weights), tmp_path, table, shard_size=1)
    assert list(theirs.parent.iterdir()) == [theirs]


def dies_at(call):
    def encode_batch(wavs, wav_lens):
        nonlocal call
        call -= 1
        return first_and_length(wavs, wav_lens) / (1 if call else 1 // call)

    return encode_batch


@pytest.mark.parametrize("name", ["ids.txt", "embeddings.npy"])
def test_dies_between_joining_and_ids(tmp_path, weights, name):
    """Whatever of the end result is missing is made again."""
    table = table_of(tmp_path, [8000] * 3)
    arguments = Embedder(first_and_length, weights), tmp_path / "out", table
    extract(*arguments)
    expected = (tmp_path / "out" / "embeddings.npy").read_bytes()
    (tmp_path / "out" / name).unlink()
    ids, _ = extract(*arguments)
    assert ids == ["u0", "u1", "u2"]
    assert (tmp_path / "out" / "embeddings.npy").read_bytes() == expected


@pytest.mark.parametrize(
    ("options", "size", "sentence"),
    [
        (
            {"segment_seconds": 0.05},
            9,
            "segment_seconds=0.05: give 0.1 s or more",
        ),
        ({"segment_seconds": 1, "max_segments": 0}, 9, "max_segments=0"),
        ({}, 0, "shard_size=0"),
    ],
)
def test_senseless_options(tmp_path, weights, options, size, sentence):
    table = table_of(tmp_path, [8000])
    with pytest.raises(ValueError, match=sentence):
        extract(
            Embedder(Counter(), weights, **options),
            tmp_path / "out",
            table,
            shard_size=size,
        )
    assert not (tmp_path / "out").exists()


def test_what_would_be_lost_is_named(tmp_path, weights, caplog):
    """All embeddings, or shards of a run that was killed."""
    table = table_of(tmp_path, [8000, 9000])
    embedder, folder = Embedder(Counter(), weights), tmp_path / "out"
    extract(embedder, folder, table)
    extract(embedder, folder, table, keep=True)
    more = pd.concat([table, table.assign(ID="again" + table["ID"])])
    other = Embedder(Counter(), torch.nn.Linear(2, 2))
    for changed, sentence in [
        ((other, folder, table), "of another encoder, which would be lost"),
        ((embedder, folder, more), r"another list of files \(or data_folder\)"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            extract(*changed, keep=True)
    (folder / "shards").mkdir()
    (folder / "embeddings.npy").rename(folder / "shards" / "00000.npy")
    with pytest.raises(ValueError, match="another encoder"):
        extract(other, folder, table, keep=True)
    (folder / "extraction.json").write_bytes(bytes(9))
    with pytest.raises(ValueError, match="another encoder"):
        extract(embedder, folder, table, keep=True)
    assert len(np.load(folder / "shards" / "00000.npy")) == 2
    # Elsewhere it is told
    extract(other, folder, table)
    assert f"The embeddings in {folder} are of another encoder" in caplog.text


def extract_script(corpus, encoder_folder, folder, **flags):
    flags = {
        "data_folder": corpus,
        "manifest": corpus / "train.csv",
        "encoder": encoder_folder,
        "output_folder": folder,
        "device": "cpu",
        "num_workers": 0,
        "shard_size": 5,
        **flags,
    }
    return script("extract.py", "extract.yaml", **flags)


def result(folder):
    names = ["embeddings.npy", "ids.txt", "extraction.json"]
    return [(folder / name).read_bytes() for name in names]


def test_script_and_two_processes_equal_one(encoder_folder, corpus, tmp_path):
    command = extract_script(corpus, encoder_folder, tmp_path / "one")
    code, output = forked.run(*command)
    assert code == 0, output
    two = extract_script(
        corpus, encoder_folder, tmp_path / "two", distributed_backend="gloo"
    )
    code, output = forked.run(*two, ranks=2)
    assert code == 0, output
    assert result(tmp_path / "one") == result(tmp_path / "two")
    _, embeddings = extract(
        load_encoder(encoder_folder),
        tmp_path / "here",
        read_manifest(corpus / "train.csv", corpus),
    )
    np.testing.assert_allclose(
        embeddings,
        np.load(tmp_path / "two" / "embeddings.npy"),
        rtol=1e-4,
        atol=1e-5,
    )
    code, output = forked.run(*command)
    assert code == 0
    assert "up to date" in output
    before = result(tmp_path / "one")
    code, output = forked.run(*command, "--shard_size=4")
    assert code == 0
    assert "up to date" in output
    assert result(tmp_path / "one") == before


def test_another_shard_size_keeps_the_shards_that_are_there(
    tmp_path, weights, caplog
):
    """Whoever is killed often lowers it."""
    caplog.set_level("INFO")
    table = table_of(tmp_path, [8000] * 10)
    calls = []

    def encode(wavs, lens):
        calls.append(len(wavs))
        if sum(calls) > 8:
            raise KeyboardInterrupt
        return first_and_length(wavs, lens)

    with pytest.raises(KeyboardInterrupt):
        extract(Embedder(encode, weights), tmp_path / "out", table, 4)
    embedder = Embedder(first_and_length, weights)
    ids, embeddings = extract(embedder, tmp_path / "out", table, 3)
    assert "2 of 3 shards" in caplog.text
    _, expected = extract(embedder, tmp_path / "whole", table)
    assert ids == list(table["ID"])
    np.testing.assert_array_equal(embeddings, expected)
    assert "It goes on in shards of 4, as it began" in caplog.text
    # Where there is none yet, it is as it is wanted now
    folder = tmp_path / "none"
    calls += [8]
    with pytest.raises(KeyboardInterrupt):
        extract(Embedder(encode, weights), folder, table, 8)
    assert not list(folder.glob("shards/*.npy"))
    extract(embedder, folder, table, 3)
    assert json.loads((folder / "extraction.json").read_text())[SIZE] == 3


def test_what_an_encoder_is_beside_its_weights_counts(tmp_path, weights):
    """Such as the hop of its features; not a comment, nor what older versions
    have not recorded."""
    table = table_of(tmp_path, [8000] * 2)
    source = tmp_path / "encoder"
    source.mkdir()

    def made(text):
        (source / "hyperparams.yaml").write_text(text)
        encode = Counter()
        embedder = Embedder(encode, weights, source=str(source))
        extract(embedder, tmp_path / "out", table)
        return encode.count

    assert made("hop: 10") == 2
    assert made("# Threshold: 0.5\nhop: 10\n") == 0
    assert made("hop: 20") == 2
    path = tmp_path / "out" / "extraction.json"
    record = json.loads(path.read_text())
    del record["settings"]
    path.write_text(json.dumps(record))
    assert made("hop: 20") == 0


def test_means_of_segments_of_another_scale_are_made_anew(tmp_path, weights):
    """Those of version 0.2.0 were of unit vectors."""
    table = table_of(tmp_path, [48000] * 2)
    encode = Counter()
    embedder = Embedder(encode, weights, segment_seconds=1.0)
    extract(embedder, tmp_path / "out", table)
    path = tmp_path / "out" / "extraction.json"
    record = json.loads(path.read_text())
    del record["scale"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="another scale of the means"):
        extract(embedder, tmp_path / "out", table, keep=True)


def test_killed_ends_as_if_it_was_not(encoder_folder, tmp_path):
    table = table_of(tmp_path, [32000] * 400)
    table["wav"] = "$data_root/" + table["ID"].str[1:] + ".wav"
    table["duration"] = 2.0
    table.to_csv(tmp_path / "train.csv", index=False)
    folder = tmp_path / "killed"
    command = extract_script(tmp_path, encoder_folder, folder)
    process = forked.start(*command)
    deadline = time.time() + forked.LONGEST
    while len(list(folder.glob("shards/0*.npy"))) < 10:
        assert process.is_alive(), "ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (folder / "ids.txt").exists()
    shards = sorted(folder.glob("shards/0*.npy"))
    assert len(shards) < 70
    os.mkdir(tmp_path / "links")  # to see them after the end
    for shard in shards:
        os.link(shard, tmp_path / "links" / shard.name)
    code, output = forked.run(*command)
    assert code == 0, output
    assert f"{len(shards)} of 80 shards" in output

    ids, expected = extract(
        load_encoder(encoder_folder),
        tmp_path / "whole",
        read_manifest(tmp_path / "train.csv", tmp_path),
        shard_size=5,
    )
    assert ids == list(table["ID"])
    assert result(folder) == result(tmp_path / "whole")
    for number, shard in enumerate(shards):
        kept = np.load(tmp_path / "links" / shard.name)
        np.testing.assert_array_equal(kept, expected[5 * number :][:5])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"manifest": "/gone.csv"}, "No manifest at /gone.csv"),
        ({"encoder": "/gone"}, "There is no folder /gone"),
        ({"data_folder": "/gone"}, "None of the 12 utterances can be read"),
        ({"bach_size": 2}, "bach_size"),
    ],
)
def test_mistakes_are_one_sentence(
    encoder_folder, corpus, tmp_path, flags, sentence
):
    code, output = forked.run(
        *extract_script(corpus, encoder_folder, tmp_path / "out", **flags)
    )
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["embeddings.npy", "ids.txt"])
@pytest.mark.parametrize("length", [0, 100])
def test_damaged_embeddings_are_made_again(length, name, tmp_path, weights):
    table = table_of(tmp_path, [8000] * 3)
    embedder = Embedder(first_and_length, weights)
    ids, found = extract(embedder, tmp_path / "out", table)
    expected = np.array(found)
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:length] + b"\xff" * (length > 0))
    again, found = extract(embedder, tmp_path / "out", table)
    np.testing.assert_array_equal(found, expected)
    assert again == ids


def test_ids_that_are_no_text_are_refused(tmp_path, weights):
    """As of a manifest that pandas alone has read."""
    table = table_of(tmp_path, [8000] * 2).assign(ID=[1, 2])
    with pytest.raises(ValueError, match="ID 1 is no text"):
        extract(Embedder(first_and_length, weights), tmp_path / "out", table)


def test_a_manifest_of_another_rate_is_not_extracted(tmp_path, weights):
    """It would be a half of each file."""
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, 32000)
    soundfile.write(tmp_path / "a.wav", wav, 16000)
    table = pd.DataFrame({"ID": ["a"], "wav": [str(tmp_path / "a.wav")]})
    table = table.assign(start=0, stop=16000, duration=2.0)
    with pytest.raises(ValueError, match=r"counts 8000 .* stop by 2"):
        extract(Embedder(Counter(), weights), tmp_path / "out", table)
    assert not (tmp_path / "out").exists()


def test_more_segments_are_other_embeddings(tmp_path, weights):
    table = table_of(tmp_path, [16000, 16000])
    counts = []
    for most in (1, 2, 2):
        encode = Counter()
        options = {"segment_seconds": 0.5, "max_segments": most}
        embedder = Embedder(encode, weights, **options)
        extract(embedder, tmp_path / "out", table)
        counts.append(encode.count)
    assert counts == [2, 4, 0]


def test_of_kept_segments_one_that_can_be_read_is_enough(tmp_path, weights):
    table = table_of(tmp_path, [16000, 16000])
    # Cut off within the second segment
    whole = AudioReader(table["wav"][0]).read()[:12000].numpy()
    soundfile.write(table["wav"][0], whole, 16000, "FLOAT")
    pathlib.Path(table["wav"][1]).write_text("no audio")
    options = {"segment_seconds": 0.5, "keep_segments": True}
    embedder = Embedder(first_and_length, weights, **options)
    _, embeddings = extract(embedder, tmp_path / "out", table)
    assert np.isnan(embeddings).any(1).tolist() == [False, True, True, True]
    skipped = pd.read_csv(tmp_path / "out" / "skipped.csv")
    assert skipped["ID"].tolist() == ["u1"]
