"""The parts of a manifest, embedded by real processes side by side."""

import logging
import shutil

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from recipe import script

from speechbrain_cadino.commands.main import main
from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.embeddings import parts
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.parts import extract_part
from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.prepare.folder import prepare_folder
from speechbrain_cadino.process.files import HOST, remove


@pytest.fixture(scope="module")
def command(speech, encoder_folder, tmp_path_factory):
    """A function: the command line of a part."""
    folder = tmp_path_factory.mktemp("manifest")
    prepare_folder(speech, folder, min_duration=0.1)

    def make(output, part=None):
        flags = {} if part is None else {"part": part}
        return script(
            "extract.py",
            "extract.yaml",
            encoder=encoder_folder,
            manifest=folder / "train.csv",
            data_folder=speech,
            output_folder=output,
            num_workers=0,
            **flags,
        )

    return make


def test_parts_of_jobs_side_by_side_are_the_whole(command, tmp_path):
    assert forked.run(*command(tmp_path / "whole"))[0] == 0
    jobs = [
        forked.start(*command(tmp_path / "parts", f"{i}/3")) for i in (1, 2, 3)
    ]
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    whole, parts = (
        load_embeddings(tmp_path / name) for name in ("whole", "parts")
    )
    assert parts[0] == whole[0]
    assert np.allclose(parts[1], whole[1], rtol=1e-4, atol=1e-5)
    # Whoever asks for all of it then finds it done
    code, output = forked.run(*command(tmp_path / "parts"))
    assert code == 0
    assert "up to date" in output
    # The commands take such a folder in the place of an encoder
    csv = tmp_path / "clusters.csv"
    main(
        [
            "cluster",
            "--embeddings",
            str(tmp_path / "whole"),
            "--num_clusters=2",
            f"--csv={csv}",
        ]
    )
    assert pd.read_csv(csv)["file"].tolist() == whole[0]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/1000"])
def test_senseless_parts_are_refused(command, tmp_path, part):
    code, output = forked.run(*command(tmp_path, part))
    assert code != 0
    assert f"--part={part}" in output
    assert "Traceback" not in output


def test_joined_once_all_parts_of_one_encoder_are_there(
    write_tone, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    write_tone(tmp_path / "a.wav", seconds=1.0)
    table = pd.DataFrame(
        [(f"u{i}", tmp_path / "a.wav", 0, 4000 + 100 * i) for i in range(7)],
        columns=["ID", "wav", "start", "stop"],
    )

    def embed(part, factor=1.0):
        layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(layer.weight, factor)
        embedder = Embedder(
            lambda wavs, lengths: factor * wavs.abs().mean(1, keepdim=True),
            layer,
        )
        return extract_part(embedder, tmp_path / "out", table, part)

    assert not embed("2/2")
    assert not embed("1/2", factor=2.0)
    assert "to come: part_2_of_2 (there is one of other files" in caplog.text
    assert not (tmp_path / "out" / "embeddings.npy").exists()
    with pytest.raises(ValueError, match=r"part_2_of_2 holds .* another enc"):
        embed("2/2", factor=2.0)
    shutil.rmtree(tmp_path / "out" / "part_2_of_2")
    assert embed("2/2", factor=2.0)
    ids, embeddings = load_embeddings(tmp_path / "out")
    assert ids == list(table["ID"])
    assert np.isfinite(embeddings).all()
    # The whole of another encoder is not lost, nor does what its scores mean
    # pass for that of the new one
    (tmp_path / "out" / "calibration.json").write_text("{}")
    with pytest.raises(ValueError, match="out holds embeddings of another enc"):
        embed("1/2", factor=3.0)
    for path in [*tmp_path.glob("out/part*"), tmp_path / "out/embeddings.npy"]:
        remove(path)
    assert not embed("1/2", factor=3.0)
    assert embed("2/2", factor=3.0)
    assert not (tmp_path / "out" / "calibration.json").exists()
    assert np.allclose(
        load_embeddings(tmp_path / "out")[1], 1.5 * embeddings, rtol=1e-5
    )


def test_killed_while_it_joins_the_same_goes_on(
    write_tone, tmp_path, monkeypatch
):
    """With a list of what is skipped, which is there before the rest."""
    write_tone(tmp_path / "a.wav", seconds=1.0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    rows = [("a", "a.wav"), ("b", "silent.wav"), ("c", "a.wav")]
    table = pd.DataFrame(
        [(name, tmp_path / wav, 0, 8000) for name, wav in rows],
        columns=["ID", "wav", "start", "stop"],
    )

    def embed(part):
        embedder = Embedder(
            lambda wavs, lengths: wavs.abs().mean(1, keepdim=True),
            torch.nn.Identity(),
        )
        return extract_part(embedder, tmp_path / "out", table, part)

    assert not embed("1/2")
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_joined", None)
        with pytest.raises(TypeError):
            embed("2/2")
    dead = f".embeddings.{HOST}-{2**22 + 1}.tmp.npy"
    (tmp_path / "out" / dead).touch()
    assert embed("2/2")
    assert load_embeddings(tmp_path / "out")[0] == ["a", "b", "c"]
    assert not (tmp_path / "out" / dead).exists()


def test_others_have_embeddings_where_parts_are_to_go(write_tone, tmp_path):
    save_embeddings(tmp_path, ["a"], np.ones((1, 2)))
    table = pd.DataFrame({"ID": ["a", "b"], "wav": "a", "start": 0, "stop": 9})
    with pytest.raises(ValueError, match=r"embeddings\.npy would be replaced"):
        extract_part(None, tmp_path, table, "1/2")
    with pytest.raises(ValueError, match="not read in parts: leave --part"):
        extract_part(StoredEmbeddings(tmp_path), tmp_path / "o", table, "1/2")


def test_embeddings_in_the_place_of_an_encoder_replace_none(tmp_path):
    """But those that came from them."""
    save_embeddings(tmp_path / "given", ["a"], np.ones((1, 2)))
    stored, table = StoredEmbeddings(tmp_path / "given"), pd.DataFrame()
    table["ID"] = ["a"]
    for _ in range(2):
        stored.extract(tmp_path / "out", table, keep=True)
    (tmp_path / "out" / "extraction.json").write_text('{"weights": "of one"}')
    with pytest.raises(ValueError, match="out holds embeddings of another enc"):
        stored.extract(tmp_path / "out", table, keep=True)


def test_a_part_of_which_nothing_can_be_read(write_tone, tmp_path):
    write_tone(tmp_path / "fine.wav", seconds=1.0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    embedder = Embedder(
        lambda wavs, lengths: wavs.abs().mean(1, keepdim=True).expand(-1, 3),
        torch.nn.Identity(),
    )

    def table(*names):
        return pd.DataFrame(
            [
                (f"u{row}", str(tmp_path / f"{name}.wav"), 0, 8000)
                for row, name in enumerate(names)
            ],
            columns=["ID", "wav", "start", "stop"],
        )

    folder = tmp_path / "some"
    some = table("fine", "silent", "fine", "fine", "silent", "silent")
    done = [extract_part(embedder, folder, some, f"{i}/3") for i in (1, 2, 3)]
    assert done == [False, False, True]
    _, embeddings = load_embeddings(folder)
    assert embeddings.shape == (6, 3)
    assert np.isnan(embeddings[[1, 4, 5]]).all()
    assert np.isfinite(embeddings[[0, 2, 3]]).all()
    skipped = pd.read_csv(folder / "skipped.csv")
    assert skipped["ID"].tolist() == ["u1", "u4", "u5"]
    # None at all is an error, whoever comes last
    none = table(*["silent"] * 4)
    assert not extract_part(embedder, tmp_path / "none", none, "1/2")
    with pytest.raises(MediaError, match="None of the 4 utterances"):
        extract_part(embedder, tmp_path / "none", none, "2/2")
    assert not (tmp_path / "none" / "embeddings.npy").exists()
    # ... until somebody has put the files right
    write_tone(tmp_path / "silent.wav", seconds=1.0)
    assert not extract_part(embedder, tmp_path / "none", none, "1/2")
    assert extract_part(embedder, tmp_path / "none", none, "2/2")
    assert not (tmp_path / "none" / "skipped.csv").exists()
