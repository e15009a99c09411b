import pathlib
import sys
import time

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.demo.channel import LEVEL, degrade
from speechbrain_cadino.demo.corpus import VARIANTS, draw_voices, prepare_demo
from speechbrain_cadino.demo.espeak import synthesise
from speechbrain_cadino.demo.sentences import LANGUAGES, make_sentence
from speechbrain_cadino.process.files import HOST
from speechbrain_cadino.verification.trial_files import trial_files
from speechbrain_cadino.verification.trials import read_trials

SMALL = {"train_voices": 2, "test_voices": 3, "utterances": 3, "seed": 5}


@pytest.fixture
def espeak():
    return pytest.importorskip("espeakng_loader", reason="needs [demo]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("espeakng_loader", reason="needs [demo]")
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    prepare_demo(folder, **SMALL)
    return folder


def contents(folder):
    """The bytes of each file, by its path below the folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def octaves(samples):
    """The mean power in each of seven octaves, in dB."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    edges = len(power) // 2 ** np.arange(7, -1, -1)
    return 10 * np.log10([p.mean() for p in np.split(power, edges)[1:-1]])


def test_files_have_the_shape_of_voxceleb(corpus):
    files = sorted(corpus.glob("wav/*/*/*.flac"))
    assert len(files) == (2 + 3) * 3
    for file in files:
        info = soundfile.info(file)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.subtype == "PCM_16"
        assert 2 < info.duration < 8


def test_manifest_names_the_training_utterances_only(corpus):
    table = read_manifest(corpus / "train.csv", data_root=corpus)
    assert len(table) == 2 * 3
    for row in table.itertuples():
        frames = soundfile.info(row.wav).frames
        assert (row.start, row.stop) == (0, frames)
        assert row.duration == pytest.approx(frames / 16000, abs=1e-6)
    trials = read_trials(corpus / "meta" / "veri_test.txt")
    tested = trial_files(trials, corpus)["wav"]
    assert len(tested) == 3 * 3
    speakers = [
        {w.split("/")[-3] for w in wavs} for wavs in (table.wav, tested)
    ]
    assert not speakers[0] & speakers[1]


def test_labels_are_kept_out_of_the_manifest(corpus):
    table = pd.read_csv(corpus / "train.csv")
    assert list(table) == ["ID", "duration", "wav", "start", "stop"]
    speakers = pd.read_csv(corpus / "speakers.csv")
    assert list(speakers) == ["ID", "spk_id"]
    assert list(speakers["ID"]) == list(table["ID"])
    assert speakers["spk_id"].value_counts().tolist() == [3, 3]


def test_trials_hold_all_targets_and_enough_that_are_alike(espeak, tmp_path):
    # 5 languages, high and low: voices 10 and 11 are of the kind of 0 and 1.
    prepare_demo(tmp_path, train_voices=1, test_voices=12, utterances=3, seed=5)
    trials = read_trials(tmp_path / "meta" / "veri_test.txt")
    speakers = trials[["enrol", "test"]].map(lambda name: name.split("/")[0])
    pairs = pd.Series(list(speakers.itertuples(index=False, name=None)))
    assert (trials["target"] == (speakers["enrol"] == speakers["test"])).all()
    assert (trials["enrol"] < trials["test"]).all()
    assert not trials.duplicated().any()
    assert trials["target"].sum() == 12 * 3
    alike = pairs.isin([("v000", "v010"), ("v001", "v011")])
    assert alike.sum() == 2 * 3 * 3
    assert (~alike & ~trials["target"]).sum() == 12 * 3


def test_same_seed_gives_the_same_bytes(corpus, tmp_path):
    # A kill in its first write leaves a hidden name, which is no obstacle
    (tmp_path / ".demo.1a2b3c4d-77.tmp.json").touch()
    prepare_demo(tmp_path, **SMALL, num_workers=1)
    (tmp_path / ".demo.1a2b3c4d-77.tmp.json").unlink(missing_ok=True)
    assert contents(tmp_path) == contents(corpus)


def test_other_seed_gives_other_utterances(corpus, tmp_path):
    prepare_demo(tmp_path, **{**SMALL, "seed": 6})
    one, other = contents(corpus), contents(tmp_path)
    assert set(one) == set(other)
    assert not any(one[f] == other[f] for f in one if f.endswith(".flac"))


def test_killed_and_started_again_gives_the_same_files(corpus, tmp_path):
    folder = tmp_path / "corpus"
    code = (
        "from speechbrain_cadino.demo.corpus import prepare_demo\n"
        f"prepare_demo({str(folder)!r}, **{SMALL}, num_workers=1)"
    )
    process = forked.start("-c", code)
    while len(list(folder.glob("wav/*/*/*.flac"))) < 4:
        assert process.is_alive(), "it ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    process.join()
    assert 4 <= len(list(folder.glob("wav/*/*/*.flac"))) < 15
    # What a process leaves that dies while it writes.
    dead = f".00001.{HOST}-{2**22 + 1}.tmp.flac"
    (folder / "wav" / "v001" / dead).write_bytes(b"half")

    prepare_demo(folder, **SMALL)
    assert contents(folder) == contents(corpus)


def test_complete_corpus_is_left_alone(corpus, monkeypatch):
    def written():
        return {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}

    before = written()
    # Nor is there anything to install.
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    prepare_demo(corpus, **SMALL)
    assert written() == before


def test_skip_prep_makes_nothing(tmp_path):
    prepare_demo(tmp_path / "corpus", skip_prep=True)
    assert not list(tmp_path.iterdir())


def test_folder_with_other_settings_or_files_is_refused(corpus, tmp_path):
    before = contents(corpus)
    with pytest.raises(
        ValueError, match=r"other settings.*another data_folder"
    ):
        prepare_demo(corpus, **{**SMALL, "utterances": 4})
    assert contents(corpus) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty.*new folder"):
        prepare_demo(tmp_path, **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_too_few_voices_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 test voices"):
        prepare_demo(tmp_path, test_voices=1)


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'"speechbrain_cadino\[demo\]"'):
        prepare_demo(tmp_path)
    assert not list(tmp_path.iterdir())


def test_channels_of_a_voice_differ(corpus, espeak):
    heard = [
        octaves(soundfile.read(file)[0])
        for file in sorted(corpus.glob("wav/v000/*/*.flac"))
    ]
    rng = np.random.default_rng(0)
    sentence = {"rate": 150, "pitch": 50, "range": 50}
    texts = [make_sentence(LANGUAGES[0], rng) for _ in heard]
    spoken, _ = synthesise(
        f"{LANGUAGES[0]}+m1", [{**sentence, "text": text} for text in texts]
    )
    clean = [octaves(samples) for samples in spoken]
    assert np.std(heard, axis=0).mean() > 2 * np.std(clean, axis=0).mean()


def test_channel_is_drawn_from_the_generator():
    voice = np.random.default_rng(0).standard_normal(32000)
    spectra = []
    for seed in (1, 1, 2, 3):
        heard = degrade(voice, np.random.default_rng(seed)) / 32768
        level = 10 * np.log10(np.mean(heard**2))
        assert LEVEL[0] - 0.1 < level < LEVEL[1] + 0.1
        spectra.append(octaves(heard) - level)
    assert np.array_equal(spectra[0], spectra[1])
    for one, other in [(0, 2), (0, 3), (2, 3)]:
        assert np.std(spectra[one] - spectra[other]) > 1


def test_voices_differ_and_test_voices_stay():
    voices = draw_voices(80, seed=1)
    assert len({voice[1:] for voice in voices}) == 80
    assert draw_voices(20, seed=1) == voices[:20]
    assert {voice.language for voice in voices[:20]} == set(LANGUAGES)


def test_variants_are_in_the_wheel_and_have_no_breath(espeak):
    folder = pathlib.Path(espeak.get_data_path(), "voices", "!v")
    for variant in VARIANTS[0] + VARIANTS[1]:
        lines = (folder / variant).read_text().split("\n")
        settings = [line.split() for line in lines if line.strip()]
        breath = [line[1:] for line in settings if line[0] == "breath"]
        # The Klatt synthesiser has a breath of its own, the same at every run.
        klatt = any(line[0] == "klatt" for line in settings)
        assert klatt or all(set(b) == {"0"} for b in breath), variant


@pytest.mark.parametrize("language", LANGUAGES)
def test_speech_does_not_depend_on_what_was_said_before(espeak, language):
    rng = np.random.default_rng(0)
    sentence = {"rate": 150, "pitch": 50, "range": 50}
    sentence["text"] = make_sentence(language, rng)
    voice = f"{language}+m1"
    (first, _), sample_rate = synthesise(voice, [sentence] * 2)
    (alone,), _ = synthesise(voice, [sentence])
    assert np.array_equal(first, alone)
    assert 2 < len(alone) / sample_rate < 8
    assert np.abs(alone).max() > 1000


def test_unknown_voice_is_named(espeak):
    with pytest.raises(RuntimeError, match=r"xx\+nobody.*no such voice"):
        synthesise("xx+nobody", [])
