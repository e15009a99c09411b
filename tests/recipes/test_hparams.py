"""Every YAML file loads, and every key in it is used."""

import functools
import io
import pathlib
import re

import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML

from speechbrain.utils.run_opts import RunOptions
from speechbrain_cadino.commands import filter as filtering
from speechbrain_cadino.config.overlays import (
    _load,
    dump_yaml,
    parse_arguments,
)
from speechbrain_cadino.config.settings import resolve
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.recording_lda import default_augment
from speechbrain_cadino.runs import maps
from speechbrain_cadino.runs.training import _check_windows

ROOT = pathlib.Path(__file__).parents[2]
HPARAMS = ROOT / "recipes" / "VoxCeleb" / "hparams"
TRAINING = [
    "dino.yaml",
    "small_dino.yaml",
    "demo_dino.yaml",
    "ca_dino.yaml",
    "small_ca_dino.yaml",
    "demo_ca_dino.yaml",
    "rdino.yaml",
    "small_rdino.yaml",
    "demo_rdino.yaml",
    "sdpn.yaml",
    "small_sdpn.yaml",
    "demo_sdpn.yaml",
    "dino_wespeaker.yaml",
    "one_gpu.yaml",
    "ca_dino_one_gpu.yaml",
    "sdpn_dr.yaml",
    "small_sdpn_dr.yaml",
    "demo_sdpn_dr.yaml",
    "contrastive.yaml",
    "small_contrastive.yaml",
    "curriculum.yaml",
    "small_curriculum.yaml",
    "demo_curriculum.yaml",
]
DINO = ["dino", "cosine"]
TERMS = {
    "rdino": ["variance", "covariance"],
    "sdpn": ["me_max", "koleo"],
    "sdpn_dr": ["me_max", "frobenius", "off_diagonal"],
}
STAGE_TWO = [
    "dlg_lc.yaml",
    "small_dlg_lc.yaml",
    "demo_dlg_lc.yaml",
    "large_margin.yaml",
    "small_large_margin.yaml",
    "lgl.yaml",
    "ssrl.yaml",
    "small_ssrl.yaml",
    "demo_ssrl.yaml",
]
ADAPTATION = [
    "adapt.yaml",
    "small_adapt.yaml",
    "demo_adapt.yaml",
    "adapt_contrastive.yaml",
    "small_adapt_contrastive.yaml",
    "adapt_clusters.yaml",
    "small_adapt_clusters.yaml",
]
OF_RECORDINGS = {"prepare_voxceleb", "prepare_folder", "prepare_noise"}
SMALL = ["--channels=16", "--out_dim=8", "--head_size=8"]


@functools.cache
def with_bases(name):
    """The text of a YAML file and of all that it is based on."""
    text = (HPARAMS / name).read_text(encoding="utf-8")
    bases = YAML().load(text).get("base", [])
    for base in [bases] if isinstance(bases, str) else bases:
        text += with_bases(base)
    return text


def load(name, *flags):
    """The objects of a YAML file of the recipe, or of another by its path."""
    path, _, overrides = parse_arguments([str(HPARAMS / name), *flags])
    with open(path, encoding="utf-8") as fin:
        return load_hyperpyyaml(fin, overrides)


@pytest.mark.parametrize("name", TRAINING)
def test_loads(name, tmp_path):
    aggregation = 1536 if name == "dino_wespeaker.yaml" else 48
    arguments = [*SMALL, f"--data_folder={tmp_path}"]
    arguments.append(f"--output_folder={tmp_path}")
    hparams = load(name, *arguments)
    channels = hparams["embedding_model"].channels
    assert channels == [16, 16, 16, 16, aggregation]
    if "contrastive" not in name:
        assert hparams["teacher"].network.head.prototypes.out_features == 8
    method = name.removeprefix("small_").removeprefix("demo_")[:-5]
    method = "sdpn" if name == "small_curriculum.yaml" else method
    terms = [*DINO, *TERMS.get(method, [])]
    if method == "contrastive":
        terms = ["contrastive"]
    assert set(hparams["objective"].terms) == set(terms)
    assert hparams["dino"].out_dim == 8
    assert hparams["lr_schedule"](hparams["number_of_epochs"]) > 0
    for prepare in hparams["prepare"]:
        assert callable(prepare)


WEIGHTS = {  # where training starts, and after the warm-up
    "rdino.yaml": {"variance": (0.5, 2.0), "covariance": (0.05, 0.2)},
    "sdpn.yaml": {"me_max": (1.0, 1.0), "koleo": (0.1, 0.1)},
    "sdpn_dr.yaml": {
        "me_max": (1.0, 1.0),
        "frobenius": (0.1, 0.1),
        "off_diagonal": (0, 0),
    },
}


# What makes the method, in its file and in those that are based on it
METHOD = {
    "dino": {"student_sees_globals": True, "shared_prototypes": False},
    "sdpn": {
        "global_crops": 1,
        "student_sees_globals": False,
        "shared_prototypes": True,
        "augment_globals": None,
        "cosine_weight": 0,
        "sinkhorn_rounds": 3,
        "teacher_temp": 0.025,
        "freeze_prototypes_epochs": 0,
    },
}
# Of the files for VoxCeleb, in the code of the papers
VALUES = {
    "rdino.yaml": {
        "teacher_temp": 0.04,
        "cosine_weight": 0,
        "expander_size": 8192,
        "out_dim": 65536,
    },
    "sdpn.yaml": {"freeze_prototypes_epochs": 0, "out_dim": 1024},
    # "each" is SpidR's
    "dinosr.yaml": {
        "momentum_epochs": 41,
        "code_decay": 0.9,
        "heads_at": "each",
    },
}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("dino", f"{size}dino.yaml") for size in ("", "small_", "demo_")),
        *(("dino", f"{size}ca_dino.yaml") for size in ("", "small_", "demo_")),
        *(("dino", f"{size}rdino.yaml") for size in ("", "small_", "demo_")),
        *(("sdpn", f"{size}sdpn.yaml") for size in ("", "small_", "demo_")),
        *(("sdpn", f"{size}sdpn_dr.yaml") for size in ("", "small_", "demo_")),
        ("sdpn", "small_curriculum.yaml"),
    ],
)
def test_a_file_is_of_its_method(method, name, tmp_path):
    """A line less would be another method, which trains as well."""
    found = resolved(name, tmp_path)
    for key, value in METHOD[method].items():
        assert found.get(key) == value, key


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_the_code(name, tmp_path):
    found = resolved(name, tmp_path)
    assert {key: found[key] for key in VALUES[name]} == VALUES[name]


def test_covariance_is_divided_by_the_prototypes(tmp_path):
    """As in RDINO's code, not by the size of what is expanded, an eighth."""
    found = resolved("rdino.yaml", tmp_path)
    assert found["covariance"]["divisor"] == 65536


@pytest.mark.parametrize("name", ["rdino.yaml", "sdpn.yaml"])
def test_crops_are_damaged_as_in_3d_speaker(name, tmp_path):
    """A sixth is clean, a half has reverberation (of four, one) or noise, a
    third has both; each band is normalised."""
    found = resolved(name, tmp_path)
    assert found["mean_var_norm"]["std_norm"]
    noises = [found[f"add_{kind}"] for kind in ("noise", "music", "babble")]
    assert found["any_noise"]["augmentations"] == noises
    augment = found["augment"]
    parts = [found["add_reverb"], found["any_noise"]]
    assert augment["augmentations"] == parts
    shares = [1 / 2 * 1 / 4 + 1 / 3, 1 / 2 * 3 / 4 + 1 / 3]
    assert augment["probs"] == pytest.approx(shares, abs=0.005)
    limits = [[noise["snr_low"], noise["snr_high"]] for noise in noises]
    assert limits == [[0, 15], [5, 15], [13, 20]]
    assert found["add_babble"]["clips"] == [1, 1]


def test_nine_frames_and_five_bands_at_most_are_erased():
    """One stretch of each, in a fifth of the crops but for lengths of 0."""
    entries = YAML().load(HPARAMS / "sdpn.yaml")
    erase = load_hyperpyyaml(dumped(entries["erase_locals"]))["entry"]
    torch.manual_seed(0)
    erased = erase(torch.full((1000, 60, 24), 3.0))
    zeros = erased == 0
    assert (zeros | (erased == 3)).all()
    frames, bands = zeros.all(2), zeros.all(1)
    assert torch.equal(zeros, frames.unsqueeze(2) | bands.unsqueeze(1))
    for places, most in [(frames, 9), (bands, 5)]:
        assert places.sum(1).max() == most
        edges = places.int().diff(dim=1, prepend=torch.zeros(1000, 1).int())
        assert (edges == 1).sum(1).max() == 1
    share = zeros.any(2).any(1).float().mean()
    assert 0.14 < share < 0.26


@pytest.mark.parametrize(
    "name", ["dino.yaml", "dlg_lc.yaml", "small_dinosr.yaml"]
)
def test_an_epoch_has_as_many_steps_as_said(name, tmp_path):
    """Each of several batches, on each process."""
    arguments = [
        f"--data_folder={tmp_path}",
        f"--output_folder={tmp_path}",
        "--steps_per_epoch=10",
        "--grad_accumulation_factor=2",
    ]
    if name == "dlg_lc.yaml":
        manifest = tmp_path / "pseudo_labels.csv"
        manifest.write_text(
            "ID,duration,wav,start,stop,spk_id\n"
            "a,4.0,$data_root/a.wav,0,64000,7\n"
            "b,4.0,$data_root/b.wav,0,64000,5\n"
        )
        arguments.append(f"--train_manifest={manifest}")
    if name != "small_dinosr.yaml":
        arguments.append("--channels=16")
    hparams = load(name, *arguments)
    samples = 10 * 2 * hparams["batch_size"]
    assert hparams["samples_per_epoch"] == samples
    assert hparams["train_data"].keywords["samples_per_epoch"] == samples


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_term_has_its_own_weight(name, tmp_path):
    arguments = [*SMALL, f"--data_folder={tmp_path}"]
    arguments.append(f"--output_folder={tmp_path}")
    weights = load(name, *arguments)["objective"].weights
    for term, values in {**WEIGHTS[name], "dino": (1, 1)}.items():
        weight = weights[term]
        weight = weight if callable(weight) else lambda _, value=weight: value
        assert (weight(0), weight(10)) == pytest.approx(values), term


def test_noises_are_those_of_their_folders(tmp_path):
    """In the layout of MUSAN and of RIRS_NOISES."""
    kinds = {
        "noise": "musan/noise/free/a.wav",
        "music": "musan/music/jamendo/b.wav",
        "babble": "musan/speech/us-gov/c.wav",
        "reverb": "rirs/simulated_rirs/smallroom/d.wav",
    }
    for path in [*kinds.values(), "rirs/real_rirs/e.wav", "musan/f.wav"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, [0.5] * 16000, 16000)
    hparams = load(
        "dino.yaml",
        *SMALL,
        f"--data_folder={tmp_path}",
        f"--output_folder={tmp_path / 'out'}",
        f"--noise_folder={tmp_path / 'musan'}",
        "--id_parts=null",
        f"--rir_folder={tmp_path / 'rirs'}",
    )
    for prepare in hparams["prepare"]:
        if prepare.func.__name__ == "prepare_noise":
            prepare()
    for kind, path in kinds.items():
        bank = hparams[f"add_{kind}"].bank
        table = read_manifest(bank.manifest, bank.data_folder)
        assert table["wav"].tolist() == [str(tmp_path / path)], kind


@pytest.mark.parametrize("name", sorted(p.name for p in HPARAMS.glob("*.yaml")))
def test_noises_that_are_heard_are_prepared(name, tmp_path):
    """Else their folders are taken, and their lists are missed in the first
    step of the training."""
    text = with_bases(name)
    if "augment:" not in text or "prepare:" not in text:
        return
    flags = [
        f"--{key}=here"
        for key in re.findall(r"^(\w+): !PLACEHOLDER", text, re.MULTILINE)
    ]
    path, _, _ = parse_arguments([str(HPARAMS / name), *flags])
    merged = YAML().load(pathlib.Path(path))
    text = dumped(merged["augment"])
    if "<any_noise>" in text:
        text += dumped(merged["any_noise"])
    heard = set(re.findall(r"<add_(\w+)>", text))
    prepared = re.findall(r"<prepare_(\w+)>", dumped(merged["prepare"]))
    heard = {"rir" if kind == "reverb" else kind for kind in heard}
    assert heard <= set(prepared)


def dumped(entry):
    """The text of an entry of a YAML file."""
    text = io.StringIO()
    YAML().dump({"entry": entry}, text)
    return text.getvalue()


def test_what_has_not_been_run_on_voxceleb_says_so():
    told = set()
    for path in HPARAMS.glob("*.yaml"):
        head = re.match("(#.*\n)+", path.read_text(encoding="utf-8"))[0]
        head = head.replace("\n# ", " ")
        if re.search(
            r"(train_\w+|finetune|run_pipeline)\.py .*=/path/to/[VfL]", head
        ):
            assert re.search("not (been )?run", head), path.name
            told.add(path.name)
    assert {"dino.yaml", "sdpn.yaml", "av_pipeline.yaml"} < told


def resolved(name, tmp_path, *flags):
    """The values of a YAML file, references resolved."""
    text = with_bases(name)
    flags = [f"--output_folder={tmp_path}", *flags]
    flags += [
        f"--{key}=here"
        for key in re.findall(r"^(\w+): !PLACEHOLDER", text, re.MULTILINE)
    ]
    path, _, overrides = parse_arguments([str(HPARAMS / name), *flags])
    return resolve(path, overrides)


@pytest.mark.parametrize("name", TRAINING)
def test_an_own_rate_reaches_all_that_prepares(name, tmp_path):
    arguments = [*SMALL, f"--data_folder={tmp_path}", "--sample_rate=8000"]
    arguments += [f"--output_folder={tmp_path}", "--id_parts=2"]
    hparams = load(name, *arguments)
    names = [f"prepare_{kind}" for kind in ("noise", "music", "babble", "rir")]
    steps = [*hparams["prepare"], *(hparams[name] for name in names)]
    steps = [step for step in steps if step.func.__name__ in OF_RECORDINGS]
    assert len(steps) >= len(names)
    assert {step.keywords["sample_rate"] for step in steps} == {8000}
    of_speech = [s for s in steps if s.func.__name__ != "prepare_noise"]
    assert {step.keywords["id_parts"] for step in of_speech} <= {2}


@pytest.mark.parametrize("name", ["dino.yaml", "small_dinosr.yaml"])
def test_a_window_that_no_fft_holds_is_seen_before_training(name, tmp_path):
    """In features that are a part of a network, too."""
    arguments = [f"--data_folder={tmp_path}", f"--output_folder={tmp_path}"]
    arguments += SMALL if name == "dino.yaml" else []
    _check_windows(load(name, *arguments))
    hparams = load(name, *arguments, "--sample_rate=24000")
    with pytest.raises(ValueError, match="600 samples at 24000 Hz, is longer"):
        _check_windows(hparams)


@pytest.mark.parametrize("name", [*TRAINING, *STAGE_TWO])
def test_noise_is_as_long_as_the_crops(name, tmp_path):
    found = resolved(name, tmp_path)
    lengths = ["crop_seconds", "global_seconds", "local_seconds"]
    longest = max(found[key] for key in lengths if key in found)
    for kind in ("add_noise", "add_music", "add_babble"):
        assert found[kind]["clip_seconds"] >= longest


@pytest.mark.parametrize("name", ["dino.yaml", "ca_dino.yaml", "adapt.yaml"])
def test_a_shorter_run_ends_at_the_same_temperature(name, tmp_path):
    found = resolved(name, tmp_path, "--number_of_epochs=20")
    assert found["temperature_schedule"]["epochs"] == 4


def test_prototypes_of_any_width_begin_as_layers_do(tmp_path):
    for width, length in [(256, 0.0625), (64, 0.125)]:
        flags = [f"--bottleneck_size={width}", "--channels=16"]
        arguments = [f"--data_folder={tmp_path}", f"--output_folder={tmp_path}"]
        head = load("sdpn.yaml", *flags, *arguments)["head"]
        largest = head.prototypes.weight.abs().max().item()
        assert largest == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("name", ADAPTATION)
def test_adaptation_loads(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "ID,duration,wav,start,stop"
    rows = [f"{i},4.0,$data_root/{i}.wav,0,64000" for i in "ab"]
    (tmp_path / "demo_corpus").mkdir()
    for folder in (tmp_path, tmp_path / "demo_corpus"):
        (folder / "train.csv").write_text("\n".join([head, *rows]))
        (folder / "speakers.csv").write_text("ID,spk_id\na,anne\nb,bob\n")
    labelled = [f"{row},{row[0]}" for row in rows]
    (tmp_path / "source.csv").write_text(
        "\n".join([f"{head},spk_id", *labelled])
    )
    arguments = [*SMALL, f"--output_folder={tmp_path / 'out'}"]
    if "demo" not in name:
        arguments += [
            f"--data_folder={tmp_path}",
            f"--source_folder={tmp_path}",
        ]
        arguments.append(f"--source_manifest={tmp_path / 'source.csv'}")
    if "clusters" in name:
        arguments.append("--start_encoder=encoder")
    hparams = load(name, *arguments)
    classes = 2 * len(hparams["source_speeds"])
    student = hparams["student"]
    assert len(student.classifier.weight) == classes
    assert student.encoder is hparams["embedding_model"]
    assert hparams["teacher"].network.encoder is not student.encoder
    source = hparams["source"]()
    assert source.classes == classes
    assert source.crops.lengths == [round(16000 * hparams["global_seconds"])]
    terms = {"contrastive"} if "contrastive" in name else set(DINO)
    if "clusters" in name:
        terms = {"contrastive", "center"}
        reclustering = hparams["reclustering"]
        assert reclustering.due(1)
        assert hparams["sampling"].utterances_per_sample == 1
    assert set(hparams["objective"].terms) == terms
    assert hparams["label_loss"].scale == 30
    assert hparams["lr_schedule"](hparams["number_of_epochs"]) > 0
    steps = hparams["number_of_epochs"] * (hparams["steps_per_epoch"] or 0)
    assert steps <= 425
    data = hparams["train_data"].keywords
    for key in ("speeds", "passes_per_epoch", "samples_per_epoch", "seed"):
        assert data[key] == hparams[key], key
    assert_grows(name, arguments, tmp_path)


@pytest.mark.parametrize("name", STAGE_TWO)
def test_stage_two_loads(name, tmp_path):
    manifest = tmp_path / "pseudo_labels.csv"
    manifest.write_text(
        "ID,duration,wav,start,stop,spk_id\n"
        "a,4.0,$data_root/a.wav,0,64000,7\n"
        "b,4.0,$data_root/b.wav,0,64000,5\n"
    )
    arguments = [
        "--channels=16",
        f"--data_folder={tmp_path}",
        f"--train_manifest={manifest}",
        f"--output_folder={tmp_path}",
    ]
    if "margin" in name:
        arguments += ["--start_encoder=a", "--start_classifier=b"]
    hparams = load(name, *arguments)
    large = "margin" in name
    assert hparams["label_loss"].margin == (0.5 if large else 0.2)
    assert hparams["embedding_model"].channels == [16, 16, 16, 16, 48]
    data = hparams["train_data"]()
    assert len(hparams["classifier"].weight) == data.classes
    assert data.crops.lengths == [round(hparams["crop_seconds"] * 16000)]
    assert hparams["lr_schedule"](hparams["number_of_epochs"]) > 0


@pytest.mark.parametrize("name", TRAINING)
def test_a_curriculum_goes_over(name, tmp_path):
    assert_grows(name, [*SMALL, f"--data_folder={tmp_path}"], tmp_path)


def assert_grows(name, arguments, folder):
    """By curriculum.yaml over this file."""
    overlay = folder / "over.yaml"
    bases = f"[{HPARAMS / name}, {HPARAMS / 'curriculum.yaml'}]"
    overlay.write_text(f"base: {bases}\noutput_folder: {folder / 'out'}\n")
    hparams = load(overlay, *arguments)
    sampling = hparams["train_data"].keywords["sampling"]
    assert sampling.share is hparams["data_share"]
    assert sampling.sampling is hparams["sampling"]
    assert hparams["augment"].strength is hparams["augmentation_strength"]
    assert hparams["add_noise"].snr_shift is hparams["snr_shift"]
    # From less to all, which it reaches at the end of the curriculum
    end = hparams["curriculum_epochs"]
    assert 0 < end < hparams["number_of_epochs"]
    data = 1 if name == "small_curriculum.yaml" else 0.25
    for key, start in [("data_share", data), ("augmentation_strength", 0)]:
        values = [hparams[key](place) for place in (0, end / 2, end)]
        assert values == [start, (start + 1) / 2, 1], key
    assert hparams["snr_shift"](0) == hparams["snr_shift"](end) == 0
    milder = load(overlay, *arguments, "--start_snr_shift=20")["snr_shift"]
    assert (milder(0), milder(end)) == (20, 0)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("dinosr.yaml", 8),
        ("small_dinosr.yaml", 4),
        ("demo_dinosr.yaml", 3),
        ("demo_bestrq.yaml", 1),
    ],
)
def test_frames_load(name, depth, tmp_path):
    arguments = [
        f"--data_folder={tmp_path}",
        f"--output_folder={tmp_path}",
        "--d_model=24",
        "--d_ffn=8",
        "--latent_size=512",
    ]
    hparams = load(name, *arguments)
    student = hparams["student"].eval()
    layers, codes = student.describe(torch.randn(2, 16000))
    assert (len(layers), len(codes)) == (hparams["layers"], depth)
    # A frame each 20 ms, but for the edges
    assert 49 <= layers[0].shape[1] <= 51
    telephone = load(name, *arguments, "--sample_rate=8000")
    layers, _ = telephone["student"].eval().describe(torch.randn(2, 16000))
    seconds = layers[0].shape[1] * telephone["frame_hop"]
    assert seconds == pytest.approx(2, abs=0.05)
    assert hparams["lr_schedule"](hparams["number_of_epochs"]) > 0


@pytest.mark.parametrize(
    ("name", "flag", "least"),
    [
        ("dino.yaml", "local_crops", 0),
        ("dino.yaml", "out_dim", 1),
        ("dlg_lc.yaml", "gate_window", 0),
        ("ssrl.yaml", "queue_length", 1),
        ("dinosr.yaml", "codebooks", 1),
    ],
)
def test_what_is_counted_is_whole(name, flag, least):
    """A slice, or a range, of 1e2 ended amid a training."""
    file = str(HPARAMS / name)
    for value in ("2.5", str(least - 1)):
        with pytest.raises(ValueError, match=f"whole number, {least} or more"):
            parse_arguments([file, "--data_folder=x", f"--{flag}={value}"])
    _, _, overrides = parse_arguments(
        [file, "--data_folder=x", f"--{flag}=1e2"]
    )
    assert re.search(f"{flag}: 100$", overrides, re.MULTILINE)


# What they are made for is in the files that are based on them
BASES = {"encoder.yaml", "noises.yaml", "small_encoder.yaml"}


@pytest.mark.parametrize(
    "name", sorted({path.name for path in HPARAMS.glob("*.yaml")} - BASES)
)
def test_each_key_is_used(name):
    keys = YAML().load((HPARAMS / name).read_text(encoding="utf-8"))
    text = with_bases(name)
    for key in ("own_keys", "base"):
        keys.pop(key, None)
    for key in keys:
        assert is_used(key, text), f"{name}: {key} is used nowhere"


# Keys of the preparation, in the place of which demo files have their own
PREPARED = {
    "glob",
    "id_parts",
    "cut_seconds",
    "convert_folder",
    "layout",
    "min_duration",
    "max_duration",
    "frames_per_second",
    "audio_manifest",
    "manifest_folder",
}


@pytest.mark.parametrize(
    "name", sorted({path.name for path in HPARAMS.glob("*.yaml")} - BASES)
)
def test_a_key_without_effect_is_told(name):
    """As what it was for is replaced by another entry."""
    merged, _ = _load(HPARAMS / name)
    comments = " ".join(re.findall("^# (.*)", with_bases(name), re.MULTILINE))
    told = re.findall(r"Without effect: ([^.]*)\.", comments)
    told = set(re.findall(r"\w+", " ".join(told)))
    if name.startswith("demo"):
        told |= PREPARED
    text = with_bases(name)
    if "pipeline.yaml" not in text:
        text = dump_yaml(merged)
    for key, value in merged.items():
        made = str(getattr(value, "tag", "")).startswith("!new")
        entry = made or isinstance(value, (dict, list))
        if not entry and not is_used(key, text):
            assert key in told, f"{name}: {key} has no effect"


@functools.cache
def code():
    """All code, that of the plans of pipelines, and SpeechBrain's options."""
    everything = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("recipes", "speechbrain_cadino")
        for path in (ROOT / folder).rglob("*.py")
    )
    plans = "".join(
        (ROOT / "speechbrain_cadino" / path).read_text(encoding="utf-8")
        for path in ["runs/plan.py", "runs/steps.py", "audio_visual/plan.py"]
    )
    return everything, plans, RunOptions().as_dict()


def is_used(key, text):
    """Whether a key of a YAML file's text is, by it or by the code."""
    return f"<{key}>" in text or is_used_by_code(key, "pipeline.yaml" in text)


@functools.cache
def is_used_by_code(key, of_pipeline):
    """Whether the code uses a key."""
    everything, plans, options = code()
    used = key in options or key == "__set_seed"
    used = used or re.search(rf'hparams\["{key}"\]', everything)
    used = used or re.search(rf"hparams\.{key}\b", everything)
    used = used or f'hparams, "{key}"' in everything
    used = used or f'hparams.get("{key}"' in everything
    # the entries of a pipeline
    used = used or (of_pipeline and f'"{key}"' in plans)
    # of the weights to start from: see runs.training
    return used or f'"{key}": (start_from' in everything


def test_an_overlay_may_only_name_what_its_base_has(tmp_path):
    (tmp_path / "base.yaml").write_text("lr: 1\n")
    overlay = tmp_path / "small.yaml"
    overlay.write_text("base: base.yaml\nrl: 2\n")
    with pytest.raises(ValueError, match=r"small\.yaml: its base has no rl"):
        parse_arguments([str(overlay)])
    with pytest.raises(ValueError, match="No hyperparameter file"):
        parse_arguments([str(tmp_path / "gone.yaml")])


def test_an_overlay_of_two_bases_and_keys_of_its_own(tmp_path):
    (tmp_path / "full.yaml").write_text("a: 1\nb: 2\nc: null\n")
    (tmp_path / "method.yaml").write_text(
        "base: full.yaml\n"
        "b: 3\n"
        "number: 7\n"
        "start: !ref <number>\n"
        "c: !new:collections.Counter {d: !ref <start>}\n"
    )
    (tmp_path / "small.yaml").write_text("base: full.yaml\na: 4\nb: 5\n")
    (tmp_path / "both.yaml").write_text(
        "base: [method.yaml, small.yaml]\nnumber: 8\n"
    )
    hparams = load(tmp_path / "both.yaml")
    # small.yaml comes after method.yaml; full.yaml is not put over it again.
    assert (hparams["a"], hparams["b"]) == (4, 5)
    assert hparams["c"] == {"d": 8}


def test_run_options_reach_the_yaml_and_an_overlay_may_have_an_overlay(
    tmp_path,
):
    (tmp_path / "a.yaml").write_text(
        "grad_accumulation_factor: 1\n"
        "batch: !ref <grad_accumulation_factor> * 8"
    )
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    (tmp_path / "c.yaml").write_text("base: b.yaml\n")
    path, run_opts, overrides = parse_arguments(
        [str(tmp_path / "c.yaml"), "--grad_accumulation_factor=4"]
    )
    with open(path, encoding="utf-8") as fin:
        assert load_hyperpyyaml(fin, overrides)["batch"] == 32
    assert run_opts["grad_accumulation_factor"] == 4


def test_defaults_that_are_said_to_be_those_of_yaml_files_are(tmp_path):
    found = resolved("filter.yaml", tmp_path)
    assert found["segment_seconds"] == filtering.SEGMENT_SECONDS
    assert found["max_segments"] == filtering.MAX_SEGMENTS
    found = resolved("verify.yaml", tmp_path)
    assert found["whitening"] == maps.WHITENING
    folders = [f"--{key}_folder={tmp_path}" for key in ("data", "output")]
    files = load("dino.yaml", *SMALL, *folders)["augment"]
    without = default_augment()
    assert files.probs == without.probs
    for one, other in zip(files.augmentations, without.augmentations):
        assert type(one) is type(other)
        for name in ["snr_low", "snr_high"]:
            assert getattr(one, name, None) == getattr(other, name, None)
