import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.frames import evaluate, features
from speechbrain_cadino.frames.abx import score_abx, summarise
from speechbrain_cadino.frames.phones import frames_of, read_phones
from speechbrain_cadino.frames.units import unit_figures

RATE, HOP = 1000, 10  # samples


def describe(signal):
    """Frames that are samples, so that none knows of others."""
    frames = signal.unfold(1, HOP, HOP)
    codes = frames[..., :5].softmax(-1)
    return {"layer_1": frames[..., :4], "layer_2": frames, "codes_2": codes}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Noise: short files of six voices, and one above two minutes."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for voice in range(6):
        wav, seconds = f"{voice}.wav", 131.23 if voice == 3 else 2.5
        noise = rng.normal(size=round(seconds * RATE)) / 9
        soundfile.write(folder / wav, noise, RATE)
        for place in range(24):
            phone = rng.choice([*("pt" if place % 2 else "ao")])
            start = 0.1 * place
            if voice == 3:  # across where its stretches meet
                start += 49.43 if place < 12 else 98.23
            row = wav, f"v{voice}", phone, start, start + 0.1
            rows.append(row)
    # Between two frames, and up to the end and beyond, and after it
    rows.append(("0.wav", "v0", "a", 2.45, 2.451))
    rows.append(("1.wav", "v1", "a", 2.49, 2.6))
    rows.append(("3.wav", "v3", "o", 140, 141))
    columns = "wav spk_id phone start stop".split()
    pd.DataFrame(rows, columns=columns).to_csv(folder / "p.csv", index=False)
    return folder


def in_memory(folder):
    """The figures of all frames of whole files, kept together."""
    table = read_phones(folder / "p.csv")
    table = table[table["start"] < 140]
    said = {}
    for wav in table["wav"].unique():
        signal = torch.as_tensor(soundfile.read(folder / wav)[0]).float()
        for name, frames in describe(signal[None]).items():
            said.setdefault(name, {})[wav] = frames[0].numpy()
    inside = table[["before", "after"]].notna().all(axis=1).to_numpy()
    items = table[inside].reset_index(drop=True)
    rows = []
    for name, frames in said.items():
        cut = frames_of(table, frames, HOP / RATE, 0)
        chosen = [cut[place] for place in np.flatnonzero(inside)]
        figures = summarise(score_abx(items, chosen), seed=4)
        row = {k: 100 * figures[k]["error"] for k in ("within", "across")}
        row["low"] = 100 * figures["across"]["low"]
        if name == "codes_2":
            codes = np.concatenate([each.argmax(1) for each in cut])
            phones = np.repeat(table["phone"], [len(each) for each in cut])
            row |= unit_figures(codes, phones, 5)
        rows.append(row)
    return rows


@pytest.mark.parametrize("kept", [evaluate.KEPT, 1], ids=["all", "a layer"])
def test_figures_do_not_depend_on_what_is_kept(corpus, monkeypatch, kept):
    monkeypatch.setattr(evaluate, "KEPT", kept)
    lengths = []

    def listen(signal):
        lengths.append(signal.shape[1] / RATE)
        return describe(signal)

    heard = features.Features(listen, HOP / RATE)
    judge = evaluate.FrameEvaluator(corpus / "p.csv", corpus, RATE, seed=4)
    rows = judge("x", heard)
    assert [row["features"] for row in rows] == [*describe(torch.ones(1, 10))]
    for row, expected in zip(rows, in_memory(corpus)):
        row["low"] = row["across_low"]
        assert {name: row[name] for name in expected} == expected
    # The first file once more, to know the names; the long one in stretches
    passes = 3 if kept == 1 else 1
    files = [*[2.5] * 3, 55, 60, 36.23, *[2.5] * 2]
    assert lengths == pytest.approx([2.5, *files * passes])


def test_tables_that_cannot_be_judged_are_refused_at_once(corpus, tmp_path):
    table = pd.read_csv(corpus / "p.csv")
    times = ["start", "stop"]
    path = tmp_path / "other.csv"
    for other, sentence in [
        (table.assign(**RATE * table[times]), "in seconds, not in samples"),
        (table.assign(stop=table["start"] + 5e-4), "nothing to compare"),
        (table.assign(wav="gone.wav"), "data_folder of evaluate_frames"),
        # Each phone of a voice of its own
        (table.assign(spk_id=table["phone"]), "one of its voices says another"),
        # Nothing is said twice
        (table[:4].assign(phone=[*"paka"]), "no phone is said twice"),
    ]:
        other.to_csv(path, index=False)
        with pytest.raises(ValueError, match=sentence):
            evaluate.FrameEvaluator(path, corpus, RATE)


def test_files_that_cannot_be_used_are_left_out(corpus, tmp_path, caplog):
    """A silent one and a damaged one, whose headers say nothing of it; and one
    of no sample and one that is no audio, whose headers do."""
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    soundfile.write(tmp_path / "0.wav", np.zeros(2500), RATE)
    broken, _ = soundfile.read(tmp_path / "1.wav")
    broken[1000] = np.nan
    soundfile.write(tmp_path / "1.wav", broken, RATE, "FLOAT")
    evaluator = evaluate.FrameEvaluator(tmp_path / "p.csv", tmp_path, RATE)
    assert "2 of 6 files" in caplog.text
    assert "0.wav: silent" in caplog.text
    assert set(evaluator.table["wav"]) == {f"{i}.wav" for i in range(2, 6)}
    (tmp_path / "0.wav").write_text("not found")
    soundfile.write(tmp_path / "1.wav", [], RATE)
    again = evaluate.FrameEvaluator(tmp_path / "p.csv", tmp_path, RATE)
    pd.testing.assert_frame_equal(again.table, evaluator.table)
    rows = evaluator("system", features.Features(describe, HOP / RATE))
    assert len(rows) == 3
    for wav in evaluator.table["wav"].unique():
        soundfile.write(tmp_path / wav, np.zeros(150 * RATE), RATE)
    with pytest.raises(ValueError, match=r"No file of .* can be used"):
        evaluate.FrameEvaluator(tmp_path / "p.csv", tmp_path, RATE)


def test_codes_in_numbers_are_those_of_their_probabilities(corpus):
    judge = evaluate.FrameEvaluator(corpus / "p.csv", corpus, RATE)
    likely = features.Features(
        lambda signal: {
            "codes": describe(signal)["codes_2"].argmax(-1, keepdim=True)
        },
        HOP / RATE,
    )
    found = judge.units("k-means", "mine", likely, 5)
    expected = in_memory(corpus)[-1]
    for name in ("pnmi", "purity", "used"):
        assert found[name] == expected[name]


def test_clusters_are_learnt_of_the_beginning_of_long_files(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "LONGEST", 1)
    rng = np.random.default_rng(1)
    first, rest, probe = rng.normal(size=(3, 16000)) / 9
    codes = []
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    for name, tail in (("short", []), ("long", rest)):
        soundfile.write(tmp_path / f"{name}.wav", [*first, *tail], 16000)
        stops = np.array([16000, 16000 + len(tail)])
        pd.DataFrame(
            {
                "ID": ["silent", name],
                "duration": stops / 16000,
                "wav": ["$data_root/silent.wav", f"$data_root/{name}.wav"],
                "start": 0,
                "stop": stops,
            }
        ).to_csv(tmp_path / "train.csv", index=False)
        said = features.kmeans_codes(tmp_path / "train.csv", tmp_path, 4, 16000)
        probe = torch.as_tensor(probe).float()
        codes.append(said.describe(probe[None])["codes"])
    assert torch.equal(*codes)
    assert len(codes[0].unique()) > 1


def test_layers_have_mean_0_and_variance_1_over_a_file():
    """As the MFCC that they are compared with: angles depend on it."""
    student = torch.nn.Linear(1, 1)
    student.describe = lambda wavs: ([3 * wavs.unfold(1, 4, 4) + 5], [])
    heard = features.network_features(student, HOP / RATE, 0)
    signal = torch.as_tensor(np.random.default_rng(0).normal(size=(1, 4000)))
    frames = heard.describe(signal.float())["layer_1"][0]
    torch.testing.assert_close(
        frames.mean(0), torch.zeros(4), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(frames.std(0), torch.ones(4), atol=1e-2, rtol=0)
