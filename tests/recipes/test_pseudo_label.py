"""The real script as real processes."""

import json

import forked
import pandas as pd
import pytest
from recipe import RECIPE, script

from speechbrain_cadino.dataio.manifest import DATA_ROOT, read_manifest


def label(encoder_folder, corpus, folder, ranks=None, **flags):
    """Runs the script; its exit code and all that it said."""
    flags = {
        "encoder": encoder_folder,
        "manifest": corpus / "train.csv",
        "data_folder": corpus,
        "output_folder": folder,
        "num_clusters": 4,
        "num_workers": 0,
        "device": "cpu",
        **flags,
    }
    return forked.run(
        *script("pseudo_label.py", "pseudo_label.yaml", **flags), ranks=ranks
    )


@pytest.fixture(scope="module")
def labelled(encoder_folder, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    code, output = label(encoder_folder, corpus, folder)
    assert code == 0, output
    return folder


def test_output_folder_holds_what_is_promised(labelled, corpus):
    table = read_manifest(labelled / "pseudo_labels.csv", DATA_ROOT)
    pd.testing.assert_frame_equal(
        table.drop(columns="spk_id"),
        read_manifest(corpus / "train.csv", DATA_ROOT),
    )
    # The encoder is not trained on these "speakers", but their spectra differ.
    assert set(table["spk_id"]) == {"0", "1", "2", "3"}
    assert (labelled / "plots" / "clusters.png").stat().st_size > 0
    assert "nmi" not in (labelled / "clusters.json").read_text().lower()
    assert sorted(path.name for path in labelled.iterdir()) == [
        "clusters.json",
        "embeddings",
        "env.log",
        "hyperparams.yaml",
        "log.txt",
        "plots",
        "pseudo_label.py",
        "pseudo_labels.csv",
        "run.json",
    ]


def test_speakers_change_nothing_but_the_report(
    labelled, encoder_folder, corpus, tmp_path
):
    """And a second run gives the same bytes."""
    table = read_manifest(corpus / "train.csv", DATA_ROOT)
    table["spk_id"] = table["ID"].str[0]
    table[["ID", "spk_id"]].to_csv(tmp_path / "speakers.csv", index=False)
    folder = tmp_path / "out"
    speakers = tmp_path / "speakers.csv"
    code, output = label(encoder_folder, corpus, folder, speakers=speakers)
    assert code == 0, output
    name = "pseudo_labels.csv"
    assert (folder / name).read_bytes() == (labelled / name).read_bytes()
    with_speakers = json.loads((folder / "clusters.json").read_text())
    without = json.loads((labelled / "clusters.json").read_text())
    assert "nmi" in str(with_speakers).lower()
    assert {**without, **with_speakers} == with_speakers


def test_two_processes_equal_one(labelled, encoder_folder, corpus, tmp_path):
    code, output = label(
        encoder_folder,
        corpus,
        tmp_path,
        ranks=2,
        distributed_backend="gloo",
        shard_size=6,
    )
    assert code == 0, output
    for name in ["pseudo_labels.csv", "clusters.json"]:
        assert (tmp_path / name).read_bytes() == (labelled / name).read_bytes()


def test_sweep_chooses(encoder_folder, corpus, tmp_path):
    flags = {"num_clusters": "null", "sweep": "[2,3,5]"}
    code, output = label(encoder_folder, corpus, tmp_path, **flags)
    assert code == 0, output
    assert (tmp_path / "plots" / "sweep.png").stat().st_size > 0
    choice = json.loads((tmp_path / "sweep.json").read_text())["choice"]
    table = read_manifest(tmp_path / "pseudo_labels.csv", DATA_ROOT)
    assert table["spk_id"].nunique() == choice


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"num_clusters": 13}, "12 utterances cannot make 13"),
        ({"num_clusters": 0, "sweep": "[2,3]"}, "num_clusters is 0"),
        ({"sweep": "[1,3]"}, "each 2 or more"),
        ({"sweep": "[2.5]"}, "each 2 or more"),
        ({"whitening": 7}, "from 0 (none) to 1"),
        ({"speakers": "/gone.csv"}, "/gone.csv"),
        ({"clusters": 4}, "No such flag"),
    ],
)
def test_mistakes_are_one_sentence(
    encoder_folder, corpus, tmp_path, flags, sentence
):
    code, output = label(encoder_folder, corpus, tmp_path, **flags)
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "embeddings").exists()


def test_a_clusterer_in_a_file_of_ones_own(encoder_folder, corpus, tmp_path):
    """As the manual shows one: it was found by trainings alone."""
    (tmp_path / "halves.py").write_text(
        "import numpy as np\n\n\nclass Halves:\n"
        "    def fit_predict(self, points):\n"
        "        return np.arange(len(points)) // 6\n"
    )
    (tmp_path / "halves.yaml").write_text(
        f"base: {RECIPE / 'hparams' / 'pseudo_label.yaml'}\n"
        "clusterer: !new:halves.Halves\n"
    )
    flags = {
        "encoder": encoder_folder,
        "manifest": corpus / "train.csv",
        "data_folder": corpus,
        "output_folder": tmp_path / "out",
        "num_workers": 0,
        "device": "cpu",
    }
    code, output = forked.run(
        RECIPE / "pseudo_label.py",
        tmp_path / "halves.yaml",
        *(f"--{key}={value}" for key, value in flags.items()),
    )
    assert code == 0, output
    table = read_manifest(tmp_path / "out" / "pseudo_labels.csv", DATA_ROOT)
    assert table["spk_id"].tolist() == ["0"] * 6 + ["1"] * 6
