import numpy as np
import pytest

from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings


def test_embeddings_on_disk(tmp_path):
    ids = ["a", "b b", "ü"]
    embeddings = np.random.default_rng(0).standard_normal((3, 4))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "extraction.json").write_text("{}")
    save_embeddings(tmp_path / "new", ids, embeddings)
    assert not (tmp_path / "new" / "extraction.json").exists()
    loaded_ids, loaded = load_embeddings(tmp_path / "new")
    assert loaded_ids == ids
    assert isinstance(loaded, np.memmap)
    assert np.array_equal(loaded, embeddings.astype(np.float32))


def test_embeddings_and_ids_of_two_runs_are_never_paired(tmp_path):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    with pytest.raises(ValueError):  # dies before the new array is written
        save_embeddings(tmp_path, ["c", "d"], [["x"]])
    assert load_embeddings(tmp_path)[0] == ["a", "b"]
    (tmp_path / "ids.txt").unlink()  # killed before the new one is there
    with pytest.raises(FileNotFoundError, match=r"no ids.txt"):
        load_embeddings(tmp_path)
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"1 lines in ids.txt, 2 rows"):
        load_embeddings(tmp_path)
