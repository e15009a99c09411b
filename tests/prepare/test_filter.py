import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.manifest import COLUMNS, write_manifest
from speechbrain_cadino.embeddings.confidence import score
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.prepare.filter import (
    DIGITS,
    SCORES,
    _scores,
    decide,
    filter_manifest,
    within,
)
from speechbrain_cadino.prepare.rules import Mixture, rule_of


@pytest.fixture
def scores():
    """Speech, noise that is as consistent as nothing else, and two voices."""
    rng = np.random.default_rng(1)
    speech = np.r_[rng.uniform(0.6, 0.9, 800), rng.uniform(0, 0.1, 200)]
    hills = [(0.6, 0.1, 560), (-0.1, 0.15, 240), (0.97, 0.01, 200)]
    consistency = np.concatenate([rng.normal(*hill) for hill in hills])
    return pd.DataFrame(
        {"segments": 3, "speech": speech, "consistency": consistency}
    )


def test_noise_is_gone_before_consistencies_are_looked_at(scores):
    ids = [f"{row:04}" for row in range(1000)]
    rules = {"speech": rule_of("speech", 0.3), "consistency": Mixture()}
    kept, report = decide(ids, scores, rules)
    assert not kept[800:].any()
    assert kept[:560].mean() > 0.97
    assert kept[560:800].mean() < 0.03
    found = report["scores"]["consistency"]
    assert 0.1 < found["threshold"] < 0.5
    assert report["kept"] == kept.sum()
    dropped = report["scores"]["speech"]["dropped"] + found["dropped"]
    assert dropped == 1000 - report["kept"]
    for name, low in [("speech", 800), ("consistency", 560)]:
        (first, _), *_ = report["scores"][name]["examples"]["lowest"]
        assert int(first) >= low


def test_a_mixture_refuses_one_hill_and_too_few(scores, caplog):
    rules = {"consistency": Mixture()}
    kept, report = decide(range(560), scores.iloc[:560], rules)
    assert kept.all()
    reason = report["scores"]["consistency"]["reason"]
    assert "one mode" in reason
    assert reason in caplog.text
    rng = np.random.default_rng(0)
    few = np.r_[rng.normal(0.7, 0.05, 100), rng.normal(0, 0.1, 900)]
    threshold, reason = Mixture().threshold(few)
    assert threshold is None
    assert "10% of the utterances, and less than 30% are not kept" in reason
    threshold, _ = Mixture(least_kept=0.05).threshold(few)
    assert 0.2 < threshold < 0.6
    with pytest.raises(ValueError, match="least_kept=30: give a number from 0"):
        Mixture(least_kept=30)


@pytest.mark.parametrize("voices", [4, 30])
def test_a_mixture_of_agreements_drops_wrong_labels(voices, tmp_path):
    """Clusters as tight as cosines of wrong labels near -1 want."""
    rng = np.random.default_rng(0)
    truth = np.arange(2000) % voices
    points = rng.standard_normal((voices, 16))[truth]
    points += rng.normal(0, 0.1, points.shape)
    wrong = rng.random(2000) < 0.15
    others = truth + 1 + rng.integers(voices - 1, size=2000)
    labels = np.where(wrong, others % voices, truth)
    ids = [f"{row:04}" for row in range(2000)]
    save_embeddings(tmp_path, ids, points)
    found = score(tmp_path, ids, labels).round(DIGITS)
    kept, _ = decide(ids, found, {"agreement": Mixture()})
    assert kept[~wrong].mean() > 0.99
    assert kept[wrong].mean() < 0.01


def test_what_has_no_label_passes(tmp_path, caplog):
    """An empty cell of a manifest is no label that all of these share."""
    rng = np.random.default_rng(0)
    labels = ["a"] * 10 + ["b"] * 10 + [""] * 20
    points = rng.standard_normal((40, 8))
    points[:10, 0] += 20
    points[10:20, 1] += 20
    ids = [f"{row:02}" for row in range(40)]
    save_embeddings(tmp_path / "stored", ids, points)
    rows = {"ID": ids, "duration": 1.0, "wav": ids, "start": 0, "stop": 16000}
    write_manifest(tmp_path / "a.csv", pd.DataFrame({**rows, "spk_id": labels}))
    report = filter_manifest(
        tmp_path / "out",
        None,
        tmp_path / "a.csv",
        embeddings=tmp_path / "stored",
        consistency=None,
        agreement=0.0,
    )
    assert report["scores"]["agreement"]["without"] == 20
    assert report["kept"] == 40
    assert "nobody looks for" not in caplog.text
    filter_manifest(
        tmp_path / "out",
        None,
        tmp_path / "a.csv",
        embeddings=tmp_path / "stored",
    )
    assert "No utterance has two segments: there is no consis" in caplog.text


def test_what_has_no_score_passes_what_is_unreadable_does_not():
    nan = np.nan
    scores = pd.DataFrame(
        {
            "segments": [0, 1, 2, 2],
            "speech": [nan, 0.9, nan, 0.9],
            "consistency": [nan, nan, 0.9, 0.1],
        }
    )
    rules = {name: rule_of(name, 0.5) for name in SCORES}
    kept, report = decide("abcd", scores, rules)
    assert kept.tolist() == [False, True, False, False]
    assert (report["unreadable"], report["one_segment"]) == (2, 1)
    assert report["scores"]["consistency"]["without"] == 1


@pytest.mark.parametrize(
    "value", ["most", "150%", "0%", True, "nan", [1], "80", 1.5]
)
def test_senseless_rules_are_refused(value):
    sentence = r"give m|are to be kept|scores are 1 at most; (80|1.5)% keeps"
    with pytest.raises(ValueError, match=sentence):
        rule_of("consistency", value)


def test_a_share_keeps_so_many():
    values = np.random.default_rng(0).permutation(100) / 100
    scores = pd.DataFrame({"segments": 2, "density": values})
    kept, _ = decide(range(100), scores, {"density": rule_of("density", "80%")})
    assert kept.sum() == 80
    assert values[kept].min() > values[~kept].max()


def test_pieces_by_a_plain_loop():
    rng = np.random.default_rng(0)
    spans = pd.DataFrame(
        {"wav": list("abaabc"), "start": [60, 50, 0, 10, 0, 9], "stop": 0}
    )
    # One lies in another
    spans["stop"] = spans["start"] + [40, 50, 50, 5, 50, 30]
    pieces = pd.DataFrame({"wav": rng.choice(list("abcd"), 200)})
    pieces["start"] = rng.integers(0, 90, 200)
    pieces["stop"] = pieces["start"] + rng.integers(1, 30, 200)
    expected = [
        any(
            wav == other and first <= start and stop <= last
            for other, first, last in spans.to_numpy()
        )
        for wav, start, stop in pieces.to_numpy()
    ]
    assert 20 < sum(expected) < 180
    pieces.index = pieces.index[::-1]
    assert within(pieces, spans).tolist() == expected


def test_segments_are_needed_where_they_are_compared(tmp_path):
    table = pd.DataFrame({"ID": ["a"], "wav": ["a.wav"], "start": [0]})
    embedder = Embedder(lambda wavs, lens: wavs)
    with pytest.raises(ValueError, match="and keep_segments=True"):
        filter_manifest(tmp_path, embedder, table.assign(stop=16000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["filtered.csv", "filtered_pieces.csv"])
def test_a_manifest_is_not_replaced_by_what_is_kept_of_it(tmp_path, name):
    manifest = tmp_path / name
    manifest.write_text("ID,duration,wav,start,stop\na,1.0,a.wav,0,16000\n")
    before = manifest.read_bytes()
    options = {"pieces": manifest} if "pieces" in name else {}
    with pytest.raises(ValueError, match="would be replaced by what is made"):
        filter_manifest(tmp_path, None, manifest, **options)
    assert manifest.read_bytes() == before


class Loud(torch.nn.Module):
    """The share of loud samples."""

    sample_rate = 1000

    def forward(self, wavs, lengths):
        return (wavs.abs() > 0.5).float().mean(1, keepdim=True)


def test_all_of_a_long_recording_is_listened_to(tmp_path):
    """Music for five minutes, or a welcome, tells nothing of the hour after."""
    rng = np.random.default_rng(0)
    quiet = 0.1 * rng.uniform(-1, 1, 900_000)
    loud = np.where(rng.random(900_000) < 0.5, 0.9, -0.9)
    rows = []
    for name, cut, waves in [
        ("late", 300_000, (quiet, loud)),
        ("early", 300_000, (loud, quiet)),
        ("short", 10_000, (loud[:20_000], quiet)),
        ("whole", 30_000, (loud[:120_000], quiet)),
    ]:
        wav = np.r_[waves[0][:cut], waves[1][cut : len(waves[0])]]
        soundfile.write(tmp_path / f"{name}.wav", wav, 1000)
        path = str(tmp_path / f"{name}.wav")
        rows.append([name, len(wav) / 1000, path, 0, len(wav)])
    table = pd.DataFrame(rows, columns=COLUMNS)
    detector = Loud()
    manifest = table.assign(wav=table["wav"].map("$data_root/{}".format))
    write_manifest(tmp_path / "converted.csv", manifest)
    filter_manifest(
        tmp_path / "out",
        Embedder(lambda wavs, lengths: wavs[:, :3], detector, 1000),
        tmp_path / "converted.csv",
        table,
        detector=detector,
        speech=0.1,
        consistency=None,
    )
    found = pd.read_csv(tmp_path / "out" / "confidence.csv", index_col="ID")
    expected = {"late": 0.7, "early": 0.3, "short": 0.5, "whole": 0.25}
    assert found["speech"].to_dict() == pytest.approx(expected, abs=0.01)


def test_a_silent_stretch_counts_as_one_without_speech(tmp_path):
    """Where all are silent, nothing is known."""
    shares = np.array([[0.8], [np.nan], [np.nan], [np.nan]])
    save_embeddings(tmp_path / "speech", list("aabb"), shares)
    save_embeddings(tmp_path / "segments", list("ab"), np.eye(2))
    table = pd.DataFrame({"ID": list("ab")})
    found = _scores(tmp_path / "segments", tmp_path / "speech", table)
    assert found["speech"][0] == pytest.approx(0.4)
    assert np.isnan(found["speech"][1])


def test_pieces_of_what_is_dropped_go_with_it(tmp_path):
    stored = tmp_path / "stored"
    save_embeddings(stored, list("aabbcc"), np.eye(4)[[0, 0, 1, 1, 2, 3]])
    names = list("abc")  # the last one: two voices
    rows = {"ID": names, "duration": 1.0, "wav": names, "start": 0}
    whole = pd.DataFrame(rows).assign(stop=16000)
    path = tmp_path / "pieces.csv"
    write_manifest(path, whole.assign(ID=whole["ID"] + "1", stop=8000))
    options = {"consistency": 0.5, "embeddings": stored, "pieces": path}
    filter_manifest(tmp_path, None, whole, **options)
    kept = pd.read_csv(tmp_path / "filtered_pieces.csv")
    assert kept["ID"].tolist() == ["a1", "b1"]
