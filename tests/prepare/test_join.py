import pandas as pd
import pytest

from speechbrain_cadino.prepare.join import join_manifests

HEAD = "ID,duration,wav,start,stop,spk_id\n"


def test_folders_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ["source", "target"]:
        rows = [f"{name}{i},1,$data_root/{i}.wav,0,16000,{i}" for i in (1, 2)]
        (tmp_path / f"{name}.csv").write_text(HEAD + "\n".join(rows) + "\n")
    arguments = "source.csv", "target.csv", "joined.csv", "vox", "cn"
    with pytest.raises(FileNotFoundError, match="No folder vox: source_folder"):
        join_manifests(*arguments)
    for folder in ["vox", "cn"]:
        (tmp_path / folder).mkdir()
    with pytest.raises(FileNotFoundError, match="is source_folder right"):
        join_manifests(*arguments)
    for folder in ["vox", "cn"]:
        (tmp_path / folder / "1.wav").touch()
    with pytest.raises(OSError, match=r"can be written into source\.csv"):
        join_manifests(*arguments[:2], "source.csv/joined.csv", "vox", "cn")
    join_manifests(*arguments)
    table = pd.read_csv("joined.csv")
    paths = [f"{folder}/{i}.wav" for folder in ["cn", "vox"] for i in (1, 2)]
    assert sorted(table["wav"]) == [f"{tmp_path}/{path}" for path in paths]
