import json

import forked
import numpy as np
from recipe import script

from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.verification.trials import read_trials, trial_names


def verify(tmp_path, **flags):
    """Runs the script; its exit code and all that it said."""
    flags = {"output_folder": tmp_path / "out", "device": "cpu", **flags}
    return forked.run(
        *script("verify.py", "verify.yaml", **flags), cwd=tmp_path
    )


def test_with_baselines(encoder_folder, corpus, tmp_path):
    code, output = verify(
        tmp_path,
        encoder=encoder_folder,
        trials=corpus / "trials.txt",
        data_folder=corpus,
        baselines=True,
        train_manifest=corpus / "train.csv",
    )
    assert code == 0, output
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for system, figures in results["systems"].items():
        assert len(open(tmp_path / "out" / f"scores_{system}.txt").readlines())
        (line,) = [
            line for line in output.splitlines() if line.split()[:1] == [system]
        ]
        assert line.split()[1] == f"{figures['eer']:.2f}"
    assert "66 trials, 12 of them targets" in output
    # Nothing but the output folder, and nothing in the encoder folder.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list(encoder_folder.iterdir())) == 3


def test_coral_from_a_source(encoder_folder, corpus, tmp_path):
    flags = {
        "encoder": encoder_folder,
        "trials": corpus / "trials.txt",
        "data_folder": corpus,
        "train_manifest": corpus / "train.csv",
        "source_manifest": corpus / "train.csv",
        "back_ends": "[mean, coral]",
    }
    code, output = verify(tmp_path, **flags)
    assert code == 1
    assert "wav column: give source_data_folder, the folder it" in output
    assert not (tmp_path / "out" / "training_set").exists()
    code, output = verify(tmp_path, **flags, source_data_folder=corpus)
    assert code == 0, output
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(results["systems"]) == ["encoder+mean", "encoder+coral"]


def test_a_folder_of_embeddings_in_the_place_of_an_encoder(corpus, tmp_path):
    """It needs no audio, as by --embeddings."""
    trials = read_trials(corpus / "trials.txt")
    names = trial_names(trials)
    points = np.random.default_rng(0).standard_normal((len(names), 8))
    save_embeddings(tmp_path / "embeddings", names, points)
    code, output = verify(
        tmp_path,
        encoder=tmp_path / "embeddings",
        trials=corpus / "trials.txt",
    )
    assert code == 0, output
    assert "66 trials, 12 of them targets" in output


def test_a_wrong_flag_is_one_sentence(encoder_folder, corpus, tmp_path):
    code, output = verify(
        tmp_path, encoder=encoder_folder, trials="gone.txt", data_folder=corpus
    )
    assert code == 1
    assert "No trial list at gone.txt" in output
    assert "Traceback" not in output
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()


def test_an_encoder_of_faces_is_none_of_voices(face_encoder, corpus, tmp_path):
    code, output = verify(
        tmp_path,
        encoder=face_encoder,
        trials=corpus / "trials.txt",
        data_folder=corpus,
    )
    assert code == 1
    assert f"{face_encoder} is no encoder of voices" in output
