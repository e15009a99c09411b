import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.extract import extract
from speechbrain_cadino.embeddings.store import (
    check_our_embeddings,
    load_embeddings,
    save_embeddings,
)


def test_embeddings_on_disk(tmp_path):
    ids = ["a", "b b", "ü"]
    embeddings = np.random.default_rng(0).standard_normal((3, 4))
    (tmp_path / "new").mkdir()
    for name in ["extraction", "calibration"]:
        (tmp_path / "new" / f"{name}.json").write_text('{"of": "others"}')
    save_embeddings(tmp_path / "new", ids, embeddings)
    assert not (tmp_path / "new" / "calibration.json").exists()
    assert (tmp_path / "new" / "extraction.json").read_text() == "{}\n"
    loaded_ids, loaded = load_embeddings(tmp_path / "new")
    assert loaded_ids == ids
    assert isinstance(loaded, np.memmap)
    assert np.array_equal(loaded, embeddings.astype(np.float32))


@pytest.mark.parametrize("name", ["embeddings.npy", "skipped.csv"])
def test_what_others_have_made_is_not_thrown_away(name, tmp_path):
    (tmp_path / name).write_text("of another tool")
    with pytest.raises(ValueError, match=f"{name} would be replaced"):
        check_our_embeddings(tmp_path)
    with pytest.raises(ValueError, match=f"{name} would be replaced"):
        extract(
            Embedder(torch.nn.Identity(), torch.nn.Identity()),
            tmp_path,
            pd.DataFrame({"ID": ["a"], "wav": "a", "start": 0, "stop": 99}),
        )
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_blank_line_at_the_end_of_the_ids_of_others(tmp_path):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    (tmp_path / "ids.txt").write_text("a\nb\n\n\n")
    assert load_embeddings(tmp_path)[0] == ["a", "b"]


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


@pytest.mark.parametrize("name", ["a\nb", "a\r", "\n", ""])
def test_an_id_that_is_not_one_line_is_refused(tmp_path, name):
    said = "has a line break in it" if name else "An ID is empty"
    with pytest.raises(ValueError, match=said):
        save_embeddings(tmp_path, ["a", name], np.eye(2))
    table = pd.DataFrame({"ID": ["a", name]})
    with pytest.raises(ValueError, match=said):
        extract(Embedder(None), tmp_path, table)
    assert not list(tmp_path.iterdir())


def test_lists_of_others(tmp_path):
    """In what spreadsheets and other systems write."""
    save_embeddings(tmp_path, [], np.empty((0, 3)))
    assert load_embeddings(tmp_path)[0] == []
    ids = ["a\u0085b", "\u2028c", "d"]
    save_embeddings(tmp_path, ids, np.eye(3))
    assert load_embeddings(tmp_path)[0] == ids
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r\nc")
    assert load_embeddings(tmp_path)[0] == ["a", "b", "c"]
    for encoding, sentence in [
        ("utf-16", "ids.txt is in UTF-16"),
        ("latin-1", "ids.txt is not in UTF-8"),
    ]:
        path.write_text("ä\nb\nc\n", encoding=encoding)
        with pytest.raises(ValueError, match=sentence):
            load_embeddings(tmp_path)
    path.write_text("a\nb\nc\n")
    np.savez(tmp_path / "embeddings.npz", np.eye(3))
    (tmp_path / "embeddings.npz").replace(tmp_path / "embeddings.npy")
    with pytest.raises(ValueError, match="is an archive of arrays"):
        load_embeddings(tmp_path)


def test_a_wrong_call_costs_no_embeddings(tmp_path):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    save_embeddings(tmp_path, (name for name in "ab"), 2 * np.eye(2))
    for ids, embeddings in [("a", np.eye(2)), ("ab", np.ones(2))]:
        with pytest.raises(ValueError, match="give a row for each"):
            save_embeddings(tmp_path, ids, embeddings)
    ids, embeddings = load_embeddings(tmp_path)
    assert ids == ["a", "b"]
    np.testing.assert_array_equal(embeddings, 2 * np.eye(2))
