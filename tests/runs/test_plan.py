"""The steps of pipelines, from the real YAML files."""

import re

import pytest
from hyperpyyaml import load_hyperpyyaml
from recipe import RECIPE

from speechbrain_cadino.config import overlays
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.dataio.manifest import DATA_ROOT
from speechbrain_cadino.runs.pipeline import _later, outline
from speechbrain_cadino.runs.plan import plan


@pytest.fixture
def planned(tmp_path):
    """A function that plans a pipeline, with flags."""

    def make(*flags, yaml="demo_av.yaml"):
        path, run_opts, overrides = parse_arguments(
            [
                str(RECIPE / "hparams" / yaml),
                f"--output_folder={tmp_path}",
                "--data_folder=corpus",
                *flags,
            ]
        )
        with open(path, encoding="utf-8") as fin:
            hparams = load_hyperpyyaml(fin, overrides)
        return plan(hparams, RECIPE / "hparams", RECIPE, run_opts)

    return make


@pytest.fixture
def steps(planned, tmp_path):
    """A function that plans a pipeline, with flags: its commands by name."""

    def make(*flags, **options):
        return {
            step.name: [
                word.replace(f"{tmp_path}/", "") for word in step.command
            ]
            for step in planned(*flags, **options)
        }

    return make


def test_voices_faces_and_both_go_their_own_ways(steps):
    commands = steps("--iterations=2", "--systems=[audio, face, audio_visual]")
    trainings = [
        name
        for name in commands
        if not name.endswith("gate") and name != "verify"
    ]
    assert trainings == [
        "stage_1",
        "stage_1_face",
        *(
            f"{system}/iteration_{number}/{part}"
            for system in ("audio", "face", "audio_visual")
            for number in (1, 2)
            for part in ("labels", "train")
        ),
    ]
    first = commands["audio_visual/iteration_1/labels"]
    assert "--encoder=stage_1/encoder" in first
    assert "--face_encoder=stage_1_face/encoder" in first
    second = commands["audio_visual/iteration_2/train"]
    before = "audio_visual/iteration_1/train"
    assert f"--start_encoder={before}/encoder" in second
    assert f"--start_face_encoder={before}/face_encoder" in second
    labels = "audio_visual/iteration_2/labels/pseudo_labels.csv"
    assert f"--train_manifest={labels}" in second
    # Faces read their own manifest and folder, and no noises
    face = commands["face/iteration_1/labels"]
    assert "--manifest=corpus/faces.csv" in face
    assert "--encoder=stage_1_face/encoder" in face
    # A gate of voices and one of faces
    assert {
        "audio_visual/iteration_1/train/audio/gate",
        "audio_visual/iteration_1/train/face/gate",
    } < set(commands)
    last = "audio_visual/iteration_2/train"
    assert f"--face_encoder={last}/face_encoder" in commands["verify"]
    assert DATA_ROOT not in str(commands)


def test_trials_without_their_faces_are_refused_at_once(steps):
    trials = "--trials=list.txt", "--face_trials_manifest=null"
    with pytest.raises(ValueError, match="trials without face_trials_manif"):
        steps(*trials, yaml="demo_av.yaml")


def test_faces_are_looked_for_before_voices_are_trained(steps, tmp_path):
    yaml = "av_pipeline.yaml"
    with pytest.raises(FileNotFoundError, match="typo: face_folder is where"):
        steps(f"--face_folder={tmp_path / 'typo'}", yaml=yaml)
    (tmp_path / "faces").mkdir()
    folders = [
        f"--{key}_folder={tmp_path / 'faces'}" for key in ("face", "frame")
    ]
    commands = steps(*folders, yaml=yaml)
    assert "--frame_folder=faces" in commands["stage_1_face"]
    # Those to test on lie there, too, if nothing else is said
    table = tmp_path / "faces.csv"
    trials = ["--trials=list.txt", f"--face_trials_manifest={table}"]
    with pytest.raises(
        FileNotFoundError, match=r"no face_trials_manifest .*fa"
    ):
        steps(*folders, *trials, yaml=yaml)
    table.touch()
    commands = steps(*folders, *trials, yaml=yaml)
    assert "--face_folder=faces" in commands["verify"]
    (tmp_path / "faces" / "id1" / "1").mkdir(parents=True)
    steps(folders[0], yaml=yaml)
    (tmp_path / "faces" / "id1" / "1.mp4").touch()
    with pytest.raises(ValueError, match="are videos: give frame_folder"):
        steps(folders[0], yaml=yaml)
    own = f"--stage_1_face={{frame_folder: {tmp_path}}}"
    steps(folders[0], own, yaml=yaml)
    # Of what is there twice, what needs no decoding is taken
    (tmp_path / "faces" / "id1" / "1" / "0.jpg").touch()
    steps(folders[0], yaml=yaml)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--dlg_lc={number_of_epochs: 10}", "dlg_lc: first_gated_epoch=11 of"),
        (
            "--large_margin={number_of_epochs: 1}",
            "large_margin: A warm-up of 1",
        ),
        ("--dlg_lc={gate: dynamc}", "dlg_lc: .*dynamc"),
        ("--dlg_lc={gate_rule: paper}", "dlg_lc: gate_rule=paper"),
        ("--dlg_lc={gate: 5, gate_window: 100}", "dlg_lc: gate_window=100"),
        ("--dlg_lc={hparams: ssrl.yaml}", "not those that SSRL has learnt"),
        ("--debug", "stage_1: with debug a training leaves no encoder"),
        ("--profile_training", "stage_1: with profile_training a training"),
        ("--dlg_lc={debug: True}", "dlg_lc: with debug a training leaves no"),
        ("--test_only", "--test_only: an encoder is verified by"),
        (
            "--pseudo_label={precision: bf16}",
            "pseudo_label: --precision is for",
        ),
        ("--filter={hparams: filter.yaml, density: 80}", "filter: density=80:"),
        ("--pseudo_label={engine: fais}", "pseudo_label: There is no engine"),
        ("--pseudo_label={whitening: 1.5}", "pseudo_label: .*1.5"),
        ("--pseudo_label={num_clusters: null}", "pseudo_label: Give num_clust"),
        ("--pseudo_label={sweep: [1]}", r"pseudo_label: sweep=\[1\]: give"),
        (
            "--pseudo_label={num_clusters: 0.7, sweep: [1]}",
            r"pseudo_label: sweep=\[1\]: give",
        ),
        ("--pseudo_label={merge_to: 7500}", "pseudo_label: merge_to is 7500"),
        (
            "--pseudo_label={num_clusters: -3, merge_to: 0.5}",
            "pseudo_label: num_clusters is -3: give",
        ),
        (
            "--pseudo_label={num_clusters: 0.5, merge_to: 0}",
            "pseudo_label: merge_to is 0: give",
        ),
        ("--dlg_lc={least_trusted: 30}", "dlg_lc: least_trusted=30: give"),
        ("--dlg_lc={margin: 11.5}", "dlg_lc: margin=11.5: give an angle"),
        (
            "--filter={hparams: filter.yaml, least_kept: 30}",
            "filter: least_kept=30: give",
        ),
        (
            "--pseudo_label={embeddings: mine}",
            "pseudo_label: encoder=.* and embeddings=mine: give one",
        ),
    ],
)
def test_what_a_later_step_would_refuse_is_seen_at_once(steps, flag, sentence):
    with pytest.raises(ValueError, match=sentence):
        steps(flag, "--iterations=1", yaml="pipeline.yaml")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("back_ends: [mean+asnorm]", "There is no back-end 'mean+asnorm'"),
        ("back_ends: [calibrated]", "calibrated needs calibration_trials"),
        ("back_ends: [coral]", "coral needs source_manifest"),
        ("source_manifest: x.csv", "source_manifest is for a back-end with"),
        ("calibration_trials: a.txt", "are for a back-end with calibrated"),
        ("operating_points: [5]", "operating_points: 5 is no prior"),
    ],
)
def test_a_verification_is_looked_at_before_the_trainings(
    steps, flags, sentence
):
    sentence = f"verify: .*{re.escape(sentence)}"
    with pytest.raises(ValueError, match=sentence):
        steps(
            "--trials=a",
            f"--verify={{{flags}}}",
            "--iterations=1",
            yaml="pipeline.yaml",
        )


def test_speakers_that_the_run_writes_need_not_be_there(steps, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone.csv with lab"):
        steps("--speakers=/elsewhere/gone.csv", yaml="pipeline.yaml")
    speakers = tmp_path / "run" / "stage_1" / "save" / "speakers.csv"
    flags = f"--output_folder={tmp_path / 'run'}", f"--speakers={speakers}"
    assert steps(*flags, yaml="pipeline.yaml")
    speakers.parent.mkdir(parents=True)
    speakers.touch()
    assert steps(*flags, yaml="pipeline.yaml")
    speakers = tmp_path / "speakers.csv"
    speakers.write_text("ID,name\na,anna\n")
    with pytest.raises(ValueError, match="has to name a column"):
        steps(flags[0], f"--speakers={speakers}", yaml="pipeline.yaml")


def test_speakers_that_a_preparation_writes_need_not_be_there(steps, tmp_path):
    """As of a demo corpus that was killed amid its making."""
    (tmp_path / "corpus").mkdir()
    words = [
        f"--data_folder={tmp_path / 'corpus'}",
        f"--output_folder={tmp_path / 'run'}",
    ]
    assert steps(*words, yaml="demo.yaml")
    manifests = tmp_path / "manifests"
    own = [*words, f"--speakers={manifests / 'speakers.csv'}"]
    with pytest.raises(FileNotFoundError, match=r"no file .*speakers.csv with"):
        steps(*own, yaml="demo.yaml")
    stage_1 = f"{{hparams: demo_ca_dino.yaml, manifest_folder: {manifests}}}"
    assert steps(*own, f"--stage_1={stage_1}", yaml="demo.yaml")
    words.append(f"--speakers={tmp_path / 'corpus' / 'speaker.csv'}")
    with pytest.raises(FileNotFoundError, match=r"no file .*speaker.csv with"):
        steps(*words, yaml="demo.yaml")


def test_options_of_trainings_go_to_trainings(steps):
    commands = steps("--noprogressbar", "--device=cpu", yaml="pipeline.yaml")
    labels = commands["iteration_1/labels"]
    assert "--device=cpu" in labels
    assert "--noprogressbar" not in labels
    assert "--noprogressbar" in commands["iteration_1/train"]


@pytest.mark.parametrize(
    ("end", "gate", "sentence"),
    [
        (0.2, "dynamic", "The margin goes from 0 to 0.2, but a dynamic gate"),
        (2.0, "none", "margin=2.0: give an angle"),
        (0.2, "none", None),
    ],
)
def test_a_margin_that_grows_is_looked_at_before_the_trainings(
    steps, tmp_path, end, gate, sentence
):
    own = tmp_path / "grows.yaml"
    own.write_text(
        f"base: {RECIPE / 'hparams' / 'dlg_lc.yaml'}\n"
        "margin: !new:speechbrain_cadino.training.schedules.LinearSchedule\n"
        f"    start: 0\n    end: {end}\n    epochs: 3\n"
    )
    flags = f"--dlg_lc={{hparams: {own}, gate: {gate}}}", "--iterations=1"
    if sentence is None:
        assert steps(*flags, yaml="pipeline.yaml")
        return
    with pytest.raises(ValueError, match=f"dlg_lc: {re.escape(sentence)}"):
        steps(*flags, yaml="pipeline.yaml")


def test_a_gate_and_rates_of_ones_own_are_not_ours_to_judge(steps, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        f"base: {RECIPE / 'hparams' / 'dlg_lc.yaml'}\n"
        "loss_gate: !new:mine.Gate\n"
        "lr_schedule: !new:mine.Schedule\n"
    )
    entry = f"--dlg_lc={{hparams: {own}, number_of_epochs: 1, gate: mine}}"
    # Nor is a gate of ours with a mixture that is none
    margin = tmp_path / "margin.yaml"
    margin.write_text(
        f"base: {RECIPE / 'hparams' / 'large_margin.yaml'}\n"
        "mixture: !new:mine.Mixture\n"
    )
    (tmp_path / "mine.py").write_text("class Mixture:\n    pass\n")
    flags = entry, f"--large_margin={margin}"
    commands = steps(*flags, yaml="pipeline.yaml")
    assert "--gate=mine" in commands["iteration_1/train"]
    assert "large_margin" in commands


def test_a_large_margin_has_the_rule_of_the_gate_before(steps):
    commands = steps(
        "--dlg_lc={gate_rule: papers, least_trusted: 0.1}", yaml="pipeline.yaml"
    )
    assert "--gate_rule=papers" in commands["large_margin"]
    assert "--least_trusted=0.1" in commands["large_margin"]


def test_an_unknown_system_is_refused(steps):
    with pytest.raises(ValueError, match=r"systems is .*give some of audio"):
        steps("--systems=[both]")


def test_both_are_verified_wherever_they_stand(steps):
    commands = steps("--systems=[audio_visual, audio]", "--iterations=1")
    last = "--encoder=audio_visual/iteration_1/train/encoder"
    assert last in commands["verify"]


@pytest.mark.parametrize(
    ("key", "value"), [("filter", "filter"), ("large_margin", "large_margin")]
)
def test_what_is_of_voices_alone_is_refused(steps, key, value):
    with pytest.raises(ValueError, match=f"{key} is of voices alone"):
        steps(f"--{key}={{hparams: {value}.yaml}}")


def test_one_system_has_what_it_needs_and_no_more(steps):
    commands = steps("--systems=[face]")
    assert "verify" not in commands
    assert not any(name.startswith("audio") for name in commands)


def test_little_data_is_learnt_whole_and_labelled_in_pieces(steps):
    commands = steps("--iterations=2", yaml="small.yaml")
    assert not any("cut_seconds" in flag for flag in commands["stage_1"])
    for number, last in (1, "stage_1"), (2, "iteration_1/train"):
        labels = commands[f"iteration_{number}/labels"]
        assert "--manifest=stage_1/save/pieces.csv" in labels
        assert f"--encoder={last}/encoder" in labels
        train = commands[f"iteration_{number}/train"]
        assert "--start_encoder=stage_1/encoder" in train


def test_voices_without_noise_are_learnt_as_they_are(steps):
    commands = steps(yaml="small_clean.yaml")
    assert any("small_sdpn.yaml" in word for word in commands["stage_1"])
    for training in ("stage_1", "iteration_1/train"):
        assert "--augment=null" in commands[training]
    assert "--num_clusters=0.7" in commands["iteration_1/labels"]


def test_pieces_of_what_is_kept_are_labelled(steps):
    commands = steps(yaml="small_filtered.yaml")
    assert list(commands)[:4] == [
        "unfiltered",
        "unfiltered/filter",
        "stage_1",
        "iteration_1/labels",
    ]
    kept = "unfiltered/filter/filtered"
    pieces = "--pieces=unfiltered/save/pieces.csv"
    assert pieces in commands["unfiltered/filter"]
    labels = commands["iteration_1/labels"]
    assert f"--manifest={kept}_pieces.csv" in labels
    assert f"--train_manifest={kept}.csv" in commands["stage_1"]
    with pytest.raises(
        ValueError, match=r"pieces\.csv, is not what the filter"
    ):
        steps("--filter=filter.yaml", yaml="small.yaml")
    with pytest.raises(ValueError, match=r"mine\.csv, is not what the filter"):
        steps(
            "--stage_1={train_manifest: mine.csv}", yaml="small_filtered.yaml"
        )


def test_own_manifests_are_filtered_and_subsets_of_what_is_kept_trained_on(
    steps, tmp_path
):
    kept = f"{tmp_path}/unfiltered/filter/filtered"
    commands = steps(
        "--unfiltered={train_manifest: mine.csv}",
        f"--stage_1={{hparams: dino.yaml, train_manifest: {kept}_pieces.csv}}",
        yaml="small_filtered.yaml",
    )
    # Of the same recipe, but for the manifest
    assert commands["unfiltered"][1].endswith("hparams/dino.yaml")
    assert "--train_manifest=mine.csv" in commands["unfiltered"]
    assert "--manifest=mine.csv" in commands["unfiltered/filter"]
    kept = "--train_manifest=unfiltered/filter/filtered_pieces.csv"
    assert kept in commands["stage_1"]


def test_each_process_finds_a_gpu_of_its_own(steps, monkeypatch):
    monkeypatch.setattr(overlays, "check_device", lambda name: None)
    alone = steps("--device=cuda", yaml="demo.yaml")["stage_1"]
    assert "--device=cuda:0" in alone
    both = steps("--device=cuda", "--processes=2", yaml="demo.yaml")["stage_1"]
    assert not any(word.startswith("--device") for word in both)


def test_pieces_are_of_what_stage_one_has_learnt(steps):
    own = "--stage_1={train_manifest: mine.csv}"
    with pytest.raises(ValueError, match="has pieces of all of the data"):
        steps(own, yaml="small.yaml")
    pieces = "--pseudo_label={manifest: mine_pieces.csv}"
    labels = steps(own, pieces, yaml="small.yaml")["iteration_1/labels"]
    assert "--manifest=mine_pieces.csv" in labels


def test_pieces_that_no_filter_keeps_are_not_labelled(steps):
    with pytest.raises(ValueError, match="what a filter keeps, and filter is"):
        steps("--filter=null", yaml="small_filtered.yaml")


def test_faces_are_not_filtered(steps):
    with pytest.raises(ValueError, match="voices alone: give filter: null"):
        steps("--filter=filter.yaml")


def test_work_is_that_of_all_steps_or_of_an_utterance(planned):
    """858 steps of 32 utterances, 2 crops of 2.5 s and 4 of 1.5 s, of which
    the teacher sees the former; 1148 of 32 crops of 2 s."""
    dino = "--stage_1={hparams: small_dino.yaml}"
    small = {step.name: step.work for step in planned(dino, yaml="small.yaml")}
    assert small["stage_1"] == (858 * 32 * (4 * 5 + 3 * 6), "all")
    assert small["iteration_1/train"] == (1148 * 32 * 3.5 * 2, "all")
    demo = {step.name: step.work for step in planned(yaml="demo.yaml")}
    assert demo["stage_1"] == (8 * (4 * 5 + 3 * 6), "utterance")
    # At three speeds
    assert demo["iteration_1/train"] == (3 * 8 * 3.5 * 2, "utterance")
    assert small["iteration_1/labels"] is None


def test_what_is_left_of_a_pipeline_is_told_by_the_work(planned):
    """As many seconds of speech are as much time."""
    steps = planned(yaml="demo.yaml")
    trainings = [step.work.seconds for step in steps if step.manifest]
    left = [_later(steps, step) for step in steps if step.manifest]
    expected = [
        sum(trainings[place + 1 :]) / seconds
        for place, seconds in enumerate(trainings)
    ]
    assert left == pytest.approx(expected)
    assert left[0] > 1 > left[-1] == 0
    # Steps and utterances are not to be compared
    steps = planned("--stage_1={hparams: small_dino.yaml}", yaml="demo.yaml")
    assert _later(steps, steps[0]) is None


def test_stages_are_looked_up_beside_the_overlay_then_in_the_recipe(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", [str(RECIPE / "run_pipeline.py")])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "my.yaml").write_text(
        "base: demo.yaml\nstage_1:\n    hparams: my_dino.yaml\n"
    )
    (mine / "my_dino.yaml").write_text(
        "base: demo_ca_dino.yaml\nnumber_of_epochs: 5\n"
    )
    path, run_opts, overrides = parse_arguments(
        [str(mine / "my.yaml"), "--data_folder=corpus"]
    )
    with open(path, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    steps = {step.name: step for step in plan(hparams, mine, RECIPE, run_opts)}
    assert str(mine / "my_dino.yaml") in steps["stage_1"].command
    assert steps["stage_1"].settings["number_of_epochs"] == 5
    recipes = str(RECIPE / "hparams" / "demo_dlg_lc.yaml")
    (given,) = [
        word
        for word in steps["iteration_1/train"].command
        if word.endswith("demo_dlg_lc.yaml")
    ]
    assert recipes.endswith(given)


def test_sdpn_is_scored_with_the_last_pseudo_labels_as_cohort(steps):
    commands = steps(
        "--iterations=3", "--trials=list.txt", yaml="pipeline_sdpn.yaml"
    )
    assert any("sdpn_dr.yaml" in word for word in commands["stage_1"])
    labels = "iteration_3/labels"
    assert labels in commands
    verify = commands["verify"]
    assert f"--train_manifest={labels}/pseudo_labels.csv" in verify
    assert "--train_data_folder=corpus" in verify
    assert any("as_norm" in word for word in verify)
    assert "--encoder=large_margin/encoder" in verify


def test_a_large_margin_starts_with_centroids_where_no_classifier_fits(steps):
    plain = steps(yaml="pipeline.yaml")
    classifier = "--start_classifier=iteration_2/train/classifier.ckpt"
    assert classifier in plain["large_margin"]
    mapped = steps(
        "--dlg_lc={hparams: small_dlg_lc.yaml}", yaml="pipeline.yaml"
    )
    assert "--start_classifier=centroids" in mapped["large_margin"]


def test_a_large_margin_has_the_classes_of_its_classifier(steps):
    speeds = "--speeds=[1.0, 0.9, 1.1]"
    commands = steps(
        "--dlg_lc={speeds: [1.0, 0.9, 1.1], scale: 30}",
        "--large_margin={scale: 40}",
        yaml="pipeline.yaml",
    )
    assert speeds in commands["large_margin"]
    assert "--scale=40" in commands["large_margin"]  # the last word
    assert not any("speeds" in word for word in commands["stage_1"])


def test_a_yaml_file_has_its_own_precision(steps):
    """A pipeline that is not asked for one leaves it alone."""
    commands = steps("--stage_1={hparams: one_gpu.yaml}", yaml="pipeline.yaml")
    assert not any("--precision" in word for word in commands["stage_1"])
    commands = steps("--precision=bf16", yaml="pipeline.yaml")
    assert "--precision=bf16" in commands["stage_1"]
    commands = steps("--compile_encoder=False", yaml="pipeline.yaml")
    for name in ("stage_1", "iteration_1/train", "large_margin"):
        assert "--compile_encoder=false" in commands[name]


def test_sdpn_that_stops_early_has_the_last_training_and_its_labels(
    steps, tmp_path
):
    """The third labels, which have not changed, end it: five are allowed."""
    for number in (1, 2, 3):
        folder = tmp_path / f"iteration_{number}" / "labels"
        folder.mkdir(parents=True)
        rows = "".join(f"{i},1,{i}.wav,0,16000,{i % 2}\n" for i in range(4))
        (folder / "pseudo_labels.csv").write_text(
            f"ID,duration,wav,start,stop,spk_id\n{rows}"
        )
    flags = "--iterations=5", "--least_growth=0.01", "--trials=list.txt"
    # Killed before they were done, they may be made anew
    assert "iteration_5/train" in steps(*flags, yaml="pipeline_sdpn.yaml")
    for folder in tmp_path.glob("*/labels"):
        (folder / "step.json").write_text('{"done": true}')
    commands = steps(*flags, yaml="pipeline_sdpn.yaml")
    assert list(commands)[-3:] == [
        "iteration_3/labels",
        "large_margin",
        "verify",
    ]
    labels = "--train_manifest=iteration_2/labels/pseudo_labels.csv"
    assert labels in commands["large_margin"]
    assert (
        "--start_encoder=iteration_2/train/encoder"
        in (commands["large_margin"])
    )
    assert labels in commands["verify"]


def test_each_iteration_of_lgl_has_its_gate_and_begins_anew(planned, tmp_path):
    found = planned(yaml="pipeline_lgl.yaml")
    commands = {
        step.name: " ".join(step.command).replace(f"{tmp_path}/", "")
        for step in found
    }
    for number, gate in enumerate([1, 3, 3, 5, 6], 1):
        train = commands[f"iteration_{number}/train"]
        assert f"--gate={gate} " in f"{train} "
        assert "--start_encoder=stage_1/encoder " in f"{train} "
        assert "--num_clusters=6000" in commands[f"iteration_{number}/labels"]
    assert found[-1].settings["confidence"] == 1
    assert found[-1].settings["mean_over"] == "selected"
    text = outline(found)
    assert re.search("iteration_2/train +gate=3 ", text)
    assert re.search("iteration_5/train +gate=6 ", text)


def test_a_list_has_a_value_for_each_iteration(steps):
    entry = "--dlg_lc={hparams: demo_dlg_lc.yaml, margin: [0.1, 0.2], "
    entry += "speeds: [1.0, 0.9, 1.1], noise_folder: [musan, own]}"
    labels = "--pseudo_label={hparams: pseudo_label.yaml, sweep: [5, 7, 9]}"
    commands = steps(entry, labels, "--iterations=2", yaml="demo.yaml")
    # What takes a list gets it whole
    for number in (1, 2):
        train = commands[f"iteration_{number}/train"]
        assert {f"--margin=0.{number}", "--speeds=[1.0, 0.9, 1.1]"} < set(train)
        assert '--noise_folder=["musan", "own"]' in train
        labels = commands[f"iteration_{number}/labels"]
        assert "--sweep=[5, 7, 9]" in labels
    with pytest.raises(
        ValueError, match="dlg_lc: margin has 2 values, one for each iteration"
    ):
        steps(entry, "--iterations=3", yaml="demo.yaml")


def test_each_iteration_may_have_its_own_file(steps):
    entry = "--dlg_lc={hparams: [demo_dlg_lc.yaml, demo_ssrl.yaml]}"
    commands = steps(entry, "--iterations=2", yaml="demo.yaml")
    for number, name in enumerate(["demo_dlg_lc.yaml", "demo_ssrl.yaml"], 1):
        assert commands[f"iteration_{number}/train"][1].endswith(name)
    with pytest.raises(ValueError, match="hparams has 2 values, one for each"):
        steps(entry, "--iterations=3", yaml="demo.yaml")


def test_dlg_lc_of_2022_is_on_plain_dino(steps):
    commands = steps(yaml="pipeline_dlg_lc_2022.yaml")
    assert commands["stage_1"][1].endswith("hparams/dino.yaml")
    assert "--gate_rule=papers" in commands["iteration_5/train"]
    before = "--start_encoder=iteration_4/train/encoder"
    assert before in commands["iteration_5/train"]


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        (
            "dlg_lc",
            "{hparams: demo_ssrl.yaml, start_encoder: null}",
            "start_classifier=centroids: .* Give start_encoder",
        ),
        (
            "dlg_lc",
            "{hparams: demo_dlg_lc.yaml, start_encoder: centroids}",
            "start_encoder=centroids: only start_classifier can be that",
        ),
        (
            "av_dlg_lc",
            "{hparams: demo_av_dlg_lc.yaml, start_classifier: centroids}",
            "start_classifier=centroids is for one signal",
        ),
    ],
)
def test_starts_that_do_not_go_together_are_refused(
    steps, entry, value, sentence
):
    system = "audio_visual" if entry == "av_dlg_lc" else "audio"
    with pytest.raises(ValueError, match=f"^{entry}: {sentence}"):
        steps(f"--{entry}={value}", f"--systems=[{system}]")


@pytest.mark.parametrize("value", ["3", "[a]", "{hparams: 3}", "{a: [1, 2}"])
def test_a_step_is_a_file_or_its_flags(steps, value):
    with pytest.raises(ValueError, match=r"is not YAML|': a step of"):
        steps(f"--stage_1={value}", yaml="demo.yaml")


@pytest.mark.parametrize(
    ("key", "place"), [("encoder_folder", "encoder"), ("save_folder", "save")]
)
def test_what_later_steps_look_for_stays_where_it_is(steps, key, place):
    flags = f"--stage_1={{hparams: demo_ca_dino.yaml, {key}: elsewhere}}"
    with pytest.raises(
        ValueError, match=f"^stage_1: its {key} is .*/stage_1/{place}.$"
    ):
        steps(flags, yaml="demo.yaml")


def test_a_step_can_be_told_to_end_now(planned):
    """One of several iterations, too."""
    (before, *_, first, second) = (
        step for step in planned(yaml="demo.yaml") if step.work is not None
    )
    flags = "--stage_1={hparams: demo_ca_dino.yaml, optimizer_step_limit: 1}"
    now = planned(flags, yaml="demo.yaml")[0]
    assert "--optimizer_step_limit=1" in now.command
    assert now.settings == before.settings | {"optimizer_step_limit": 1}
    flags = "--dlg_lc={hparams: demo_dlg_lc.yaml, optimizer_step_limit: [1, ~]}"
    ends = [
        step
        for step in planned(flags, yaml="demo.yaml")
        if step.name in (first.name, second.name)
    ]
    assert ends[0].settings == first.settings | {"optimizer_step_limit": 1}
    assert ends[1].settings == second.settings


def test_the_end_of_one_stage_one_is_not_that_of_the_other(planned):
    """Of the one on everything, and of the one on what is kept."""
    for entry in ("stage_1", "unfiltered"):
        steps = planned(
            f"--{entry}={{hparams: small_dino.yaml, optimizer_step_limit: 1}}",
            yaml="small_filtered.yaml",
        )
        ended = [s.name for s in steps if "optimizer_step_limit" in s.settings]
        assert ended == [entry]
