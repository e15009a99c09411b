import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.crops import (
    MultiCropDataset,
    PseudoLabelDataset,
    count_classes,
)
from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.dataio.sampling import (
    ClusterSampling,
    GrowingSampling,
    Sampling,
)
from speechbrain_cadino.dataio.semi_supervised import SemiSupervisedDataset
from speechbrain_cadino.process.ranks import shield_worker
from speechbrain_cadino.training.schedules import LinearSchedule

RATE = 16000


def ramp(length, first=1):
    """Samples that tell their own position."""
    return (first + np.arange(length)) / 2**17


def positions(crop):
    return (crop.numpy() * 2**17).round().astype(int) - 1


@pytest.fixture
def folder(tmp_path):
    """a: 4 s; b: 1 s; c: 60 s, of which the manifest uses 10 s to 20 s."""
    spans = {"a": (0, 4), "b": (0, 1), "c": (10, 20)}
    rows = []
    for name, (start, stop) in spans.items():
        length = 60 * RATE if name == "c" else stop * RATE
        wav = ramp(length) if name != "c" else ramp(length) / 16
        subtype = "FLOAT"
        soundfile.write(tmp_path / f"{name}.wav", wav, RATE, subtype)
        wav_path = f"$data_root/{name}.wav"
        rows.append((name, stop - start, wav_path, start * RATE, stop * RATE))
    columns = ["ID", "duration", "wav", "start", "stop"]
    write_manifest(tmp_path / "train.csv", pd.DataFrame(rows, columns=columns))
    return tmp_path


def dataset(folder, **options):
    return MultiCropDataset(folder / "train.csv", folder, **options)


def test_crops_are_contiguous_pieces_of_the_utterance(folder):
    item = dataset(folder)[0]
    assert item["id"] == "a"
    assert item["globals"].shape == (2, 3 * RATE)
    assert item["locals"].shape == (4, 2 * RATE)
    for crop in [*item["globals"], *item["locals"]]:
        where = positions(crop)
        assert (np.diff(where) == 1).all()
        assert where[0] >= 0
        assert where[-1] < 4 * RATE
    assert len({positions(crop)[0] for crop in item["locals"]}) > 1


@pytest.mark.parametrize("seconds", [0, -1.0, 0.00001, float("nan"), None])
def test_crops_without_a_length(folder, seconds):
    with pytest.raises(ValueError, match=r"A crop of .* seconds: give"):
        MultiCropDataset(folder / "train.csv", folder, global_seconds=seconds)
    # Of none there is no length
    MultiCropDataset(
        folder / "train.csv", folder, local_crops=0, local_seconds=seconds
    )


def test_the_table_holds_the_rows_of_the_manifest(folder):
    expected = read_manifest(folder / "train.csv", folder)
    expected = expected.drop(columns="duration")
    pd.testing.assert_frame_equal(dataset(folder).table, expected)


def test_the_fingerprint_is_of_utterances_and_labels(folder):
    found = dataset(folder).fingerprint()
    assert dataset(folder, seed=9, global_crops=1).fingerprint() == found
    path = folder / "train.csv"
    table = pd.read_csv(path)
    for other in [
        table[::-1],
        table[1:],
        table.assign(ID=table["ID"] + "x"),
        table.assign(start=table["start"] + 1),
        table.assign(stop=table["stop"] - 1),
    ]:
        other.to_csv(folder / "other.csv", index=False)
        other = MultiCropDataset(folder / "other.csv", folder)
        assert other.fingerprint() != found
    names = [f"speaker{row}" for row in range(len(table))]
    prints = set()
    for labels in [names, names[::-1]]:
        table.assign(spk_id=labels).to_csv(folder / "labels.csv", index=False)
        labelled = PseudoLabelDataset(folder / "labels.csv", folder)
        prints.add(labelled.fingerprint())
        # Those of a source or a labelled set count too
        mixed = SemiSupervisedDataset(lambda one=labelled: one, path, folder)
        prints.add(mixed.fingerprint())
    assert len(prints) == 4


def test_samples_at_the_rate_of_the_files_are_refused(tmp_path):
    """They would be a half of each, without a word."""
    for name, seconds in {"a": 3.73, "b": 2.5, "c": 9.01}.items():
        noise = np.random.default_rng(0).standard_normal(round(8000 * seconds))
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * noise, 8000)
    table = pd.DataFrame({"ID": list("abc"), "duration": [3.73, 2.5, 9.01]})
    table["wav"] = "$data_root/" + table["ID"] + ".wav"
    table["start"] = 0
    for rate in (8000, 16000):
        table["stop"] = (rate * table["duration"]).round().astype(int)
        write_manifest(tmp_path / "train.csv", table)
        if rate == 16000:
            dataset(tmp_path, global_seconds=1.0, local_seconds=1.0)[0]
            continue
        with pytest.raises(ValueError, match=r"counts 8000 .* stop by 2\."):
            dataset(tmp_path)


@pytest.mark.parametrize("unit", [8000, 1000])
def test_pieces_that_count_otherwise_are_refused(tmp_path, unit):
    """At another rate, or in milliseconds: of two lengths, so that durations
    are those of the pieces."""
    noise = np.random.default_rng(0).standard_normal(16000 * 20)
    soundfile.write(tmp_path / "a.wav", 0.1 * noise, 16000)
    table = pd.DataFrame(
        {
            "ID": ["a_1", "a_2"],
            "duration": [3.0, 5.0],
            "wav": "$data_root/a.wav",
            "start": [0, 3 * unit],
            "stop": [3 * unit, 8 * unit],
        }
    )
    write_manifest(tmp_path / "train.csv", table)
    with pytest.raises(ValueError, match=rf"counts {unit} samples a second"):
        dataset(tmp_path)


@pytest.mark.parametrize(
    ("unit", "sentence"),
    [
        (16000, "duration of 48000.0 s. Of the duration, seconds are;"),
        (1000, "3000 seconds, and it has 3: the column is in another unit"),
    ],
)
def test_durations_in_another_unit_are_named(tmp_path, unit, sentence):
    """Samples, or milliseconds; start and stop are right."""
    for name, seconds in (("a", 3), ("b", 5)):
        noise = np.random.default_rng(0).standard_normal(16000 * seconds)
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * noise, 16000)
    (tmp_path / "train.csv").write_text(
        "ID,duration,wav,start,stop\n"
        f"a,{3 * unit},$data_root/a.wav,0,48000\n"
        f"b,{5 * unit},$data_root/b.wav,0,80000\n"
    )
    with pytest.raises(ValueError, match=sentence):
        dataset(tmp_path)


def test_crops_stay_between_start_and_stop(folder):
    data = dataset(folder, global_seconds=1.0, local_seconds=0.5)
    firsts = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        item = data[2]
        for crop in [*item["globals"], *item["locals"]]:
            where = positions(crop * 16)
            assert where[0] >= 10 * RATE - 1
            assert where[-1] <= 20 * RATE
            firsts.add(where[0])
    # All over the ten seconds, not at their beginning alone.
    assert max(firsts) - min(firsts) > 8 * RATE


def test_whole_span_and_crop_by_crop_read_the_same(folder):
    """Short crops of a long file are read one by one: the samples agree."""
    data = dataset(folder, global_seconds=0.1, local_seconds=0.1)
    for crop in data[2]["globals"]:
        where = positions(crop * 16)
        assert np.abs(np.diff(where) - 1).max() <= 1  # rounding
        expected = ramp(60 * RATE)[where[0] : where[0] + 1600] / 16
        np.testing.assert_allclose(crop.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("seconds", [1.0, 1.5, 3.0])
def test_a_short_utterance_is_repeated(folder, seconds):
    """At, just above and far above the boundary."""
    item = dataset(folder, global_seconds=seconds, local_crops=0)[1]
    expected = np.resize(ramp(RATE), round(seconds * RATE))
    for crop in item["globals"]:
        np.testing.assert_allclose(crop.numpy(), expected, atol=1e-6)
    assert item["locals"].numel() == 0


def test_depends_on_seed_epoch_and_index_alone(folder):
    data = dataset(folder, seed=3)
    data.set_epoch(1)
    first = data[0]["locals"]
    again = dataset(folder, seed=3)
    again.set_epoch(1)
    assert torch.equal(again[0]["locals"], first)
    again.set_epoch(2)
    assert not torch.equal(again[0]["locals"], first)
    other = dataset(folder, seed=4)
    other.set_epoch(1)
    assert not torch.equal(other[0]["locals"], first)


@pytest.mark.parametrize(
    ("workers", "method"), [(1, "fork"), (2, "fork"), (1, forked.SERVER)]
)
def test_workers_read_what_one_process_reads(folder, workers, method):
    """Forks, and those that get all they know sent, as by spawn."""
    data = dataset(folder, passes_per_epoch=2)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=3,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context=method,
        worker_init_fn=shield_worker,
    )
    for epoch in (1, 2):  # persistent workers must hear of the second one
        data.set_epoch(epoch)
        batches = [batch["globals"] for batch in loader]
        expected = torch.stack([data[i]["globals"] for i in range(6)])
        assert torch.equal(torch.cat(batches), expected)


def test_a_loop_over_it_ends(folder):
    data = dataset(folder, passes_per_epoch=2)
    items = [item["globals"] for item in data]
    assert len(items) == len(data)
    # Beyond it are other crops, of which an adaptation takes some
    assert not torch.equal(data[len(data)]["globals"], items[0])


def test_passes_draw_other_crops(folder):
    data = dataset(folder, passes_per_epoch=2)
    assert len(data) == 6
    assert data[0]["id"] == data[3]["id"]
    assert not torch.equal(data[0]["locals"], data[3]["locals"])


@pytest.mark.parametrize(
    ("seconds", "most"), [(4, 16), (14, 16), (16, 32), (300, 480)]
)
def test_a_pass_hears_a_long_recording_once_in_ten_seconds(
    tmp_path, seconds, most
):
    """Two recordings at two speeds in four passes, unless that is more than
    the steps ask for."""
    soundfile.write(tmp_path / "a.wav", ramp(seconds * RATE), RATE)
    rows = [
        f"{i},$data_root/a.wav,0,{seconds * RATE},{seconds}\n" for i in "ab"
    ]
    header = "ID,wav,start,stop,duration\n"
    (tmp_path / "train.csv").write_text(header + "".join(rows))
    for asked in (most + 1, most - 1):
        data = dataset(
            tmp_path,
            passes_per_epoch=4,
            samples_per_epoch=asked,
            speeds=[1.0, 0.9],
        )
        assert len(data) == min(asked, most)
        data.set_epoch(2)
        drawn = [data._sample(2, index) for index in range(len(data))]
        assert np.ptp(np.bincount(drawn, minlength=4)) <= 2
    data = dataset(tmp_path, passes_per_epoch=4, speeds=[1.0, 0.9])
    assert len(data) == 16  # an epoch by passes stays one


@pytest.mark.parametrize("speeds", [[1.0], [1.0, 0.9, 1.1]])
def test_while_data_grow_all_that_take_part_are_drawn_alike(tmp_path, speeds):
    """In windows of a permutation, some were drawn once and others ten
    times. Once all take part, it is as if they always had."""
    rows = [f"{i},$data_root/{i // 4}/{i}.wav,0,64000,4\n" for i in range(240)]
    header = "ID,wav,start,stop,duration\n"
    (tmp_path / "train.csv").write_text(header + "".join(rows))
    options = {"samples_per_epoch": 333, "passes_per_epoch": 2}
    options |= {"speeds": speeds, "seed": 3}
    growth = LinearSchedule(start=0.25, end=1, epochs=4)
    data = dataset(
        tmp_path, sampling=GrowingSampling(Sampling(), growth), **options
    )
    plain = dataset(tmp_path, **options)
    for epoch in range(1, 7):
        data.set_epoch(epoch)
        drawn = [data._sample(epoch, index) for index in range(len(data))]
        turns, places = np.divmod(drawn, 240)
        rows = data._rows(epoch)[places]
        counts = np.bincount(rows, minlength=240)
        active = np.sort(np.unique(rows))
        if epoch < 5:
            assert (active == data.sampling.active(epoch)).all()
            assert np.ptp(counts[active]) <= 2
            # None comes twice before all have come
            assert len(set(rows[: len(active)])) == len(active)
            assert set(turns) == set(range(len(speeds)))
        else:
            assert drawn == [plain._sample(epoch, i) for i in range(333)]


def test_a_sampling_that_has_an_utterance_oftener_keeps_it(tmp_path):
    class Heavy(Sampling):
        def order(self, epoch):
            return np.r_[np.zeros(50, int), np.arange(50)]

    rows = [f"{i},$data_root/{i}.wav,0,64000,4\n" for i in range(100)]
    header = "ID,wav,start,stop,duration\n"
    (tmp_path / "train.csv").write_text(header + "".join(rows))
    data = dataset(tmp_path, sampling=Heavy(), samples_per_epoch=40)
    drawn = [data._rows(1)[data._sample(1, index)] for index in range(40)]
    assert 12 <= drawn.count(0) <= 28


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.zeros(4 * RATE), "silent"),
        (np.full(4 * RATE, np.nan), "NaN"),
        (ramp(2 * RATE), "truncated"),
    ],
)
def test_a_bad_file_is_replaced_and_named(folder, content, reason):
    soundfile.write(folder / "a.wav", content, RATE, "FLOAT")
    item = dataset(folder)[0]
    assert item["id"] != "a"
    assert reason in item["problem"]
    assert "a.wav" in item["problem"]
    assert dataset(folder)[1]["problem"] == ""


@pytest.mark.parametrize("seconds", [3.0, 0.5])
def test_a_silent_crop_is_drawn_again_from_its_utterance(folder, seconds):
    """As of one side of a telephone call: two of ten seconds are speech. Read
    in one piece, or one by one."""
    wav = np.zeros(60 * RATE)
    wav[12 * RATE : 14 * RATE] = ramp(2 * RATE)
    soundfile.write(folder / "c.wav", wav, RATE, "FLOAT")
    data = dataset(folder, global_seconds=seconds, local_seconds=seconds / 2)
    for epoch in range(10):
        data.set_epoch(epoch)
        item = data[2]
        assert (item["id"], item["problem"]) == ("c", "")
        for crop in [*item["globals"], *item["locals"]]:
            assert crop.std() > 0
        assert torch.equal(item["globals"], data[2]["globals"])


def test_nothing_but_bad_files_ends_with_the_reason(folder):
    for name in "abc":
        (folder / f"{name}.wav").write_text("no audio")
    with pytest.raises(MediaError, match="not readable as audio"):
        dataset(folder)[0]


@pytest.fixture
def levels(tmp_path):
    """Twelve utterances of 1 s; the level of each tells its row."""
    rows = []
    for row in range(12):
        name = f"u{row:02}"
        # Exact sums, and not a signal that does not move
        wav = (row + 1) / 16 + np.tile([2**-12, -(2**-12)], RATE // 2)
        soundfile.write(tmp_path / f"{name}.wav", wav, RATE, "FLOAT")
        rows.append((name, 1.0, f"$data_root/{name}.wav", 0, RATE))
    columns = ["ID", "duration", "wav", "start", "stop"]
    write_manifest(tmp_path / "train.csv", pd.DataFrame(rows, columns=columns))
    return tmp_path


# Clusters of seven, three, one and one (no cluster) utterances
LABELS = np.array([4, 0, 0, 4, 4, 2, 0, 4, 4, -1, 4, 4])


def clustered(folder, labels=LABELS, utterances_per_sample=3, **options):
    data = dataset(
        folder,
        global_seconds=0.2,
        local_seconds=0.1,
        sampling=ClusterSampling(utterances_per_sample),
        **options,
    )
    data.sampling.set_clusters(labels)
    return data


def sources(item):
    """The row that each crop of an item comes from, globals first."""
    crops = [*item["globals"], *item["locals"]]
    return [round(crop[0].item() * 16) - 1 for crop in crops]


@pytest.mark.parametrize("utterances", [2, 3, 6])
def test_crops_come_from_distinct_utterances_of_the_anchors_cluster(
    levels, utterances
):
    data = clustered(levels, utterances_per_sample=utterances)
    for epoch in range(30):
        data.set_epoch(epoch)
        for row in range(12):
            rows = sources(data[row])
            assert data[row]["id"] == f"u{row:02}"
            assert rows[0] == row
            size = (LABELS == LABELS[row]).sum()
            assert len(set(rows)) == min(utterances, size)
            assert set(LABELS[rows]) == {LABELS[row]}
            # in turn, so that both teachers' views differ
            assert rows == [rows[i % len(set(rows))] for i in range(6)]


def test_a_cluster_of_one_gives_what_no_cluster_gives(levels):
    alone, without = clustered(levels), clustered(levels)
    without.sampling.set_clusters(np.full(12, -1))
    for row in (5, 9):
        for kind in ("globals", "locals"):
            assert torch.equal(alone[row][kind], without[row][kind])
        assert set(sources(alone[row])) == {row}


def test_each_utterance_is_used_equally_often_within_and_across_clusters(
    levels,
):
    data = clustered(levels, utterances_per_sample=2)
    counts = np.zeros(12)
    epochs = 150
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for row in range(12):
            np.add.at(counts, sources(data[row]), 1)
    # Six crops an anchor, twelve anchors: 6 per utterance and epoch.
    np.testing.assert_allclose(counts / epochs, 6, rtol=0.15)


def addresses(owner):
    tensors = filter(torch.is_tensor, vars(owner).values())
    return [tensor.data_ptr() for tensor in tensors]


def test_persistent_workers_see_new_clusters_in_the_same_memory(levels):
    data = clustered(levels)
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, num_workers=2, persistent_workers=True
    )
    memory = addresses(data.sampling._clusters)
    others = np.arange(12) // 4
    for labels in (LABELS, others, LABELS):
        data.sampling.set_clusters(labels)
        batches = [batch["globals"] for batch in loader]
        expected = torch.stack([data[i]["globals"] for i in range(12)])
        assert torch.equal(torch.cat(batches), expected)
        second = [sources(data[i])[1] for i in range(12)]
        assert (labels[second] == labels).all()
    assert memory == addresses(data.sampling._clusters)


def test_each_speed_and_pass_draws_partners_of_its_own(levels):
    data = clustered(levels, passes_per_epoch=4, utterances_per_sample=2)
    partners = {sources(data[turn * 12])[1] for turn in range(4)}
    assert len(partners) > 1


def test_labels_of_another_manifest_are_refused(levels):
    with pytest.raises(ValueError, match="11 cluster labels for 12 utter"):
        clustered(levels, labels=LABELS[:11])


def test_the_anchor_stands_in_for_a_partner_that_cannot_be_read(levels):
    """Of the cluster 1, 2, 6, nothing can be read but the anchor."""
    (levels / "u01.wav").write_text("no audio")
    (levels / "u02.wav").write_text("no audio")
    item = clustered(levels)[6]
    assert "not readable" in item["problem"]
    assert item["id"] == "u06"
    assert set(sources(item)) == {6}


@pytest.mark.parametrize("utterances", [0, 7])
def test_each_utterance_of_a_sample_needs_a_crop(levels, utterances):
    with pytest.raises(ValueError, match="give 1 to 6"):
        clustered(levels, utterances_per_sample=utterances)


class Halved(Sampling):
    """The first half of the utterances, twice, the other way round in each
    odd epoch."""

    def order(self, epoch):
        rows = np.tile(np.arange(self.size // 2), 2)
        return rows[::-1] if epoch % 2 else rows


def test_a_sampling_of_ones_own_chooses_the_utterances(levels):
    data = dataset(levels, global_seconds=0.2, sampling=Halved())
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, num_workers=1, persistent_workers=True
    )
    for epoch in (1, 2, 3):
        data.set_epoch(epoch)
        ids = [name for batch in loader for name in batch["id"]]
        expected = [f"u{row:02}" for row in [*range(6), *range(6)]]
        assert ids == (expected[::-1] if epoch % 2 else expected)


def test_a_curriculum_is_the_same_in_persistent_workers(levels):
    def growing():
        return GrowingSampling(Sampling(), LinearSchedule(0.3, 1, 3), seed=4)

    alone = dataset(levels, global_seconds=0.2, sampling=growing())
    shared = dataset(levels, global_seconds=0.2, sampling=growing())
    loader = torch.utils.data.DataLoader(
        shared, batch_size=4, num_workers=2, persistent_workers=True
    )
    seen = []
    for epoch in (1, 2, 4):
        alone.set_epoch(epoch)
        shared.set_epoch(epoch)
        seen.append([name for batch in loader for name in batch["id"]])
        assert seen[-1] == [item["id"] for item in alone]
    assert len(set(seen[0])) < len(set(seen[2])) == 12


def test_epochs_are_of_equal_length(levels):
    class Short(Sampling):
        def order(self, epoch):
            return np.arange(3)

    with pytest.raises(ValueError, match="Short gives 3 samples for 12"):
        dataset(levels, sampling=Short())[0]


@pytest.fixture
def labelled(folder):
    """a and c have the label y, b has x."""
    table = pd.read_csv(folder / "train.csv")
    table["spk_id"] = ["y", "x", "y"]
    write_manifest(folder / "labels.csv", table)
    return folder


def test_each_speed_of_a_label_is_a_class(labelled):
    speeds = [1.0, 0.9, 1.1]
    data = PseudoLabelDataset(
        labelled / "labels.csv", labelled, crop_seconds=0.5, speeds=speeds
    )
    items = [data[index] for index in range(len(data))]
    assert [item["id"] for item in items] == ["a", "b", "c"] * 3
    assert [item["sample"] for item in items] == list(range(9))
    assert [item["label"] for item in items] == [1, 0, 1, 3, 2, 3, 5, 4, 5]
    assert {item["wav"].shape for item in items} == {(RATE // 2,)}
    assert data.classes == 6
    assert data.sample_labels().tolist() == [item["label"] for item in items]
    assert count_classes(labelled / "labels.csv", speeds) == 6


def test_voices_at_other_speeds_are_of_no_cluster(labelled):
    data = dataset(labelled, speeds=[0.9, 1.0, 1.1])
    clusters = data.clusters_of_samples(np.array([5, -1, 7]))
    assert clusters.tolist() == [-1] * 3 + [5, -1, 7] + [-1] * 3
    assert len(clusters) == data.samples


@pytest.mark.parametrize("crops", [(0, 4), (2, -1)])
def test_a_teacher_needs_a_global_crop(folder, crops):
    counts = dict(zip(["global_crops", "local_crops"], crops))
    with pytest.raises(ValueError, match="1 or more global ones"):
        MultiCropDataset(folder / "train.csv", folder, **counts)


@pytest.mark.parametrize(
    "option",
    [
        {"passes_per_epoch": 0},
        {"samples_per_epoch": 0},
        {"samples_per_epoch": -1},
        {"seed": -1},
    ],
)
def test_an_epoch_of_nothing_is_refused(folder, option):
    with pytest.raises(ValueError, match="1 or more passes and samples"):
        MultiCropDataset(folder / "train.csv", folder, **option)


@pytest.mark.parametrize(("speed", "frequency"), [(0.8, 800), (1.25, 1250)])
def test_a_slower_voice_is_a_lower_one(tmp_path, speed, frequency):
    """A tone of 1000 Hz whose level rises, so that what is heard twice
    shows."""
    times = np.arange(2 * RATE) / RATE
    wav = 0.3 * (1 + times) * np.sin(2 * np.pi * 1000 * times)
    soundfile.write(tmp_path / "a.wav", wav, RATE, "FLOAT")
    row = [("a", 2.0, "$data_root/a.wav", 0, len(wav))]
    columns = ["ID", "duration", "wav", "start", "stop"]
    table = pd.DataFrame(row, columns=columns)
    write_manifest(tmp_path / "train.csv", table)
    data = dataset(tmp_path, global_seconds=1.0, speeds=[speed])
    crop = data[0]["globals"][0]
    assert len(crop) == RATE
    assert crop.numpy()[100:-100].size
    assert torch.fft.rfft(crop).abs().argmax() == frequency
    level = crop[100:-100].unfold(0, 1000, 1000).square().mean(1)
    assert (level.diff() > 0).all()


@pytest.mark.parametrize(
    "speeds",
    [[1.0, 0.98], [0.97], [1.0, 1.0], [0], [1.0, float("nan")], [float("inf")]],
)
def test_speeds_are_what_they_say(folder, speeds):
    with pytest.raises(ValueError, match=r"speeds=\[.* such as 0.9, 0.95"):
        MultiCropDataset(folder / "train.csv", folder, speeds=speeds)


def test_a_replaced_utterance_brings_its_own_label(labelled):
    (labelled / "a.wav").write_bytes(b"broken")
    (labelled / "c.wav").write_bytes(b"broken")
    data = PseudoLabelDataset(
        labelled / "labels.csv", labelled, crop_seconds=0.5, speeds=[1.0, 0.9]
    )
    item = data[3]  # a, slower
    assert (item["id"], item["sample"], item["label"]) == ("b", 4, 2)
    assert "a.wav" in item["problem"]


def test_a_manifest_without_labels_is_refused(folder):
    sentence = r"train\.csv has no column spk_id"
    with pytest.raises(ValueError, match=sentence):
        PseudoLabelDataset(folder / "train.csv", folder)
    with pytest.raises(ValueError, match=sentence):
        count_classes(folder / "train.csv")


def test_one_label_for_all_teaches_nothing(labelled):
    table = read_manifest(labelled / "labels.csv", labelled)
    write_manifest(labelled / "one.csv", table.assign(spk_id="0"))
    with pytest.raises(ValueError, match=r"one\.csv is of one speaker"):
        count_classes(labelled / "one.csv")
