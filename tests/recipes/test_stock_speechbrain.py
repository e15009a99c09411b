"""Stock SpeechBrain trains on a pseudo-labelled manifest as it is."""

import pathlib
import re
import subprocess
import sys

from speechbrain_cadino.pseudo_labels import pseudo_label

SCRIPT = pathlib.Path(__file__).with_name("stock_speaker_embeddings.py")


def test_a_supervised_recipe_trains_on_pseudo_labels(
    encoder_folder, corpus, tmp_path
):
    assert "speechbrain_cadino" not in SCRIPT.read_text()
    manifest = corpus / "train.csv"
    pseudo_label(
        *(tmp_path, encoder_folder, manifest, corpus),
        num_clusters=4,
        device="cpu",
    )
    manifest = tmp_path / "pseudo_labels.csv"
    process = subprocess.run(
        [sys.executable, SCRIPT, manifest, corpus, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    assert "12 utterances, 4 speakers" in process.stdout
    losses = re.findall(r"^loss (\S+)$", process.stdout, re.MULTILINE)
    losses = [float(loss) for loss in losses]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
