"""Figures against plain loops, and the picture's content."""

import forked
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from recipe import script
from scipy.stats import norm

from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.gate.mixture import log_odds, losses_of
from speechbrain_cadino.gate.plots import plot_gate
from speechbrain_cadino.gate.record import checksum_of
from speechbrain_cadino.gate.report import format_gate, report_gate

UTTERANCES = 60
# As text, "10" comes before "2".
CLUSTERS = ["0", "1", "10", "2", "3", "4"]
TRAINED = [
    "epoch",
    "gate",
    "mean_low",
    "mean_high",
    "variance_low",
    "variance_high",
    "weight_low",
    "weight_high",
    "crossing",
    "reliable",
    "corrected",
    "dropped",
]
JUDGED = [
    "right",
    "reliable_right",
    "corrected_right",
    "dropped_right",
    "recall",
    "wrong_recall",
]


def write_run(folder, epochs=3, speeds=2, ungated=1, fitted=True):
    """A run folder as training leaves it, with random decisions."""
    rng = np.random.default_rng(3)
    samples, classes = speeds * UTTERANCES, speeds * len(CLUSTERS)
    (folder / "gate").mkdir(parents=True)
    rows, gate = [], np.inf
    for epoch in range(1, epochs + 1):
        decisions = rng.integers(-1, 3, samples)
        if epoch <= ungated:
            decisions[decisions >= 0] = 1
        losses = np.exp(rng.normal(-1, 2, samples)).astype(np.float32)
        losses[decisions < 0] = np.nan
        corrected = rng.integers(0, classes, samples)
        corrected[decisions != 2] = -1
        np.savez_compressed(
            folder / "gate" / f"epoch{epoch:03}.npz",
            losses=losses,
            decisions=decisions.astype(np.int8),
            corrected=corrected.astype(np.int32),
        )
        fit = [np.nan] * 7
        if fitted:
            # pandas 2 loses a digit of the first, if it is let.
            fit = [0.022332305940548556, 1.5, 0.7, 0.1, 0.75, 0.25]
            fit.append(rng.uniform(1, 3))
        counts = [int((decisions == decision).sum()) for decision in (1, 2, 0)]
        rows.append([epoch, gate, *fit, *counts])
        if fitted and epoch >= ungated:
            gate = fit[-1]
    table = pd.DataFrame(rows, columns=TRAINED)
    table.to_csv(folder / "gate.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    rng = np.random.default_rng(4)
    clusters = rng.choice(CLUSTERS[:-1], UTTERANCES)
    clusters[:4] = CLUSTERS[-1]
    table = pd.DataFrame(
        {
            "ID": [f"u{number:02}" for number in range(UTTERANCES)],
            "duration": 3.0,
            "wav": "$data_root/all.wav",
            "start": 0,
            "stop": 48000,
            "spk_id": clusters,
        }
    )
    path = tmp_path_factory.mktemp("labels") / "pseudo_labels.csv"
    write_manifest(path, table)
    return path


@pytest.fixture(scope="module")
def speakers(manifest):
    """In an order of its own, without the last cluster and u20 ... u23."""
    ids = [f"u{number:02}" for number in range(UTTERANCES)]
    names = np.random.default_rng(5).choice(["anne", "bob", "cleo"], UTTERANCES)
    table = pd.DataFrame({"ID": ids, "spk_id": names})
    table = table.drop(index=[*range(4), *range(20, 24)]).iloc[::-1]
    path = manifest.with_name("speakers.csv")
    table.to_csv(path, index=False)
    return path


def reference(folder, manifest, speakers, epoch):
    """The figures of an epoch, sample by sample."""
    table = read_manifest(manifest, "")
    speaker = dict(pd.read_csv(speakers).itertuples(index=False))
    members = {name: [] for name in CLUSTERS}
    for name, cluster in zip(table["ID"], table["spk_id"]):
        if name in speaker:
            members[cluster].append(speaker[name])
    main = {
        cluster: max(sorted(set(names)), key=names.count) if names else None
        for cluster, names in members.items()
    }
    groups = {name: [] for name in JUDGED}
    arrays = np.load(folder / "gate" / f"epoch{epoch:03}.npz")
    for sample, decision in enumerate(arrays["decisions"]):
        row = table.loc[sample % UTTERANCES]
        truth = speaker.get(row["ID"])
        if decision == -1 or truth is None:
            continue
        right = main[row["spk_id"]] == truth
        groups["right"].append(right)
        groups["recall" if right else "wrong_recall"].append(
            right == (decision == 1)
        )
        if decision == 2:
            new = CLUSTERS[arrays["corrected"][sample] % len(CLUSTERS)]
            if main[new] is not None:
                groups["corrected_right"].append(main[new] == truth)
        else:
            name = {0: "dropped_right", 1: "reliable_right"}[decision]
            groups[name].append(right)
    return {
        name: sum(group) / len(group) if group else np.nan
        for name, group in groups.items()
    }


@pytest.mark.parametrize("speeds", [1, 3])
def test_shares_against_a_loop(speeds, manifest, speakers, tmp_path):
    folder = write_run(tmp_path / "run", speeds=speeds)
    table = report_gate(folder, manifest, speakers)
    assert [*table] == TRAINED + JUDGED
    for row in table.to_dict("records"):
        expected = reference(folder, manifest, speakers, row["epoch"])
        judged = {name: row[name] for name in JUDGED}
        assert judged == pytest.approx(expected, nan_ok=True)
    # Otherwise the data would not tell the columns apart.
    assert len(set(table.loc[2, JUDGED])) == len(JUDGED)


def test_of_equals_the_first_speaker_by_name(tmp_path):
    folder, manifest = tmp_path / "run", tmp_path / "pseudo_labels.csv"
    manifest.write_text(
        "ID,duration,wav,start,stop,spk_id\n"
        "a,1,a.wav,0,16000,7\nb,1,b.wav,0,16000,7\nc,1,c.wav,0,16000,7\n"
        "d,1,d.wav,0,16000,7\ne,1,e.wav,0,16000,7\n"
    )
    speakers = tmp_path / "speakers.csv"
    speakers.write_text("ID,spk_id\na,zoe\nb,bob\nc,bob\nd,zoe\ne,anne\n")
    (folder / "gate").mkdir(parents=True)
    row = [1, np.inf, *[np.nan] * 7, 2, 0, 3]
    pd.DataFrame([row], columns=TRAINED).to_csv(folder / "gate.csv")
    np.savez(
        folder / "gate" / "epoch001.npz",
        losses=np.ones(5),
        decisions=np.array([0, 1, 1, 0, 0]),
        corrected=np.full(5, -1),
    )
    row = report_gate(folder, manifest, speakers).loc[0]
    assert row["right"] == 0.4
    assert row["reliable_right"] == row["recall"] == row["wrong_recall"] == 1
    assert row["dropped_right"] == 0


def test_empty_groups_are_empty_cells(manifest, speakers, tmp_path):
    report_gate(write_run(tmp_path, ungated=1), manifest, speakers)
    lines = (tmp_path / "gate.csv").read_text().splitlines()
    first = dict(zip(lines[0].split(","), lines[1].split(",")))
    assert first["gate"] == "inf"
    assert first["corrected_right"] == first["dropped_right"] == ""
    assert first["right"] == first["reliable_right"]
    assert (first["recall"], first["wrong_recall"]) == ("1.0", "0.0")


def test_run_twice_gives_the_same_files(manifest, speakers, tmp_path):
    folder = write_run(tmp_path)
    before = (folder / "gate.csv").read_text().splitlines()
    files = []
    for _ in range(2):
        report_gate(folder, manifest, speakers)
        names = ["gate.csv", "plots/gate.png"]
        files.append([(folder / name).read_bytes() for name in names])
    assert files[0] == files[1]
    # What training wrote is still there, to the last digit.
    after = (folder / "gate.csv").read_text().splitlines()
    assert [",".join(line.split(",")[: len(TRAINED)]) for line in after] == (
        before
    )
    assert {path.name for path in folder.rglob("*")} == {
        "gate",
        "epoch001.npz",
        "epoch002.npz",
        "epoch003.npz",
        "gate.csv",
        "plots",
        "gate.png",
    }


def test_without_speakers_only_what_is_drawn_is_read(tmp_path):
    """The first epoch with a fit, one between and the last."""
    folder = write_run(tmp_path, epochs=9)
    table = pd.read_csv(folder / "gate.csv")
    fit = TRAINED[2:9]
    table.loc[table["epoch"].isin([1, 2, 7]), fit] = np.nan
    table.to_csv(folder / "gate.csv", index=False)
    before = (folder / "gate.csv").read_bytes()
    for epoch in [1, 2, 4, 5, 7, 8]:
        (folder / "gate" / f"epoch{epoch:03}.npz").unlink()
    report_gate(folder, "nowhere.csv")
    assert (folder / "gate.csv").read_bytes() == before
    assert (folder / "plots" / "gate.png").is_file()


def test_the_picture_is_of_the_losses_that_were_drawn(tmp_path, monkeypatch):
    folder = write_run(tmp_path, epochs=1)
    seen = []
    monkeypatch.setattr(
        "speechbrain_cadino.gate.report.plot_gate",
        lambda path, table, epochs: seen.append(epochs[1][0]),
    )
    path = folder / "gate" / "epoch001.npz"
    with np.load(path) as arrays:
        record = dict(arrays)
    losses = record["losses"]
    drawn = np.isfinite(losses)
    trusted = np.arange(len(losses)) % 3 == 0
    report_gate(folder, "nowhere.csv")
    np.savez(path, **record, trusted=trusted)
    report_gate(folder, "nowhere.csv")
    for found, expected in zip(seen, [drawn, drawn & ~trusted], strict=True):
        np.testing.assert_array_equal(found, losses[expected])


@pytest.mark.parametrize(
    ("mistake", "error", "sentence"),
    [
        ("run", FileNotFoundError, "no .*gate.csv: give the output folder of"),
        ("epoch", FileNotFoundError, r"no .*epoch002\.npz, but .*has the"),
        ("half", ValueError, r"epoch002\.npz is damaged .*copy the run folder"),
        (
            "empty",
            ValueError,
            r"epoch002\.npz is damaged .*copy the run folder",
        ),
        ("foreign", ValueError, r"epoch002\.npz is damaged .*copy the run"),
        ("uneven", ValueError, r"epoch002\.npz is damaged .*several lengths"),
        ("scalar", ValueError, r"epoch002\.npz is damaged .*copy the run"),
        ("table", ValueError, r"gate\.csv is damaged, or not of train_dlg_lc"),
        ("word", ValueError, r"gate\.csv is damaged, or not .*'gone'"),
        ("crossing", ValueError, r"gate\.csv is damaged, or not .*'gone'"),
        ("binary", ValueError, r"gate\.csv is damaged, or not of train_dlg_lc"),
        ("no epoch", ValueError, r"gate\.csv has no epoch: copy the run"),
        ("manifest", FileNotFoundError, r"No manifest at .*gone\.csv"),
        ("size", ValueError, "has 120 samples, no multiple of the 59 utter"),
        ("iteration", ValueError, r"has other labels than .*after\.csv: give"),
        ("labels", ValueError, r"bare\.csv has no column spk_id: give the"),
        ("speakers", ValueError, "knows none of the 60 utterances"),
    ],
)
def test_mistakes(mistake, error, sentence, manifest, speakers, tmp_path):
    folder = write_run(tmp_path / "run")
    table = read_manifest(manifest, "$data_root")
    if mistake == "run":
        folder = tmp_path
    elif mistake == "epoch":
        (folder / "gate" / "epoch002.npz").unlink()
    elif mistake in ("half", "empty"):
        path = folder / "gate" / "epoch002.npz"
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2 * (mistake == "half")])
    elif mistake == "foreign":
        np.savez(folder / "gate" / "epoch002.npz", other=np.zeros(3))
    elif mistake in ("uneven", "scalar"):
        path = folder / "gate" / "epoch002.npz"
        with np.load(path) as arrays:
            record = dict(arrays)
        decisions = record["decisions"]
        decisions = decisions[1:] if mistake == "uneven" else decisions[0]
        np.savez(path, **record | {"decisions": decisions})
    elif mistake == "table":
        (folder / "gate.csv").write_text("epoch,loss\n1,0.5\n")
    elif mistake == "word":
        path = folder / "gate.csv"
        path.write_text(path.read_text().replace("\n1,", "\ngone,"))
    elif mistake == "crossing":
        path = folder / "gate.csv"
        table = pd.read_csv(path).assign(crossing="gone")
        table.to_csv(path, index=False)
    elif mistake == "binary":
        (folder / "gate.csv").write_bytes(bytes(range(256)) * 4)
    elif mistake == "no epoch":
        path = folder / "gate.csv"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    elif mistake == "manifest":
        manifest = tmp_path / "gone.csv"
    elif mistake == "size":
        manifest = tmp_path / "other.csv"
        write_manifest(manifest, table[1:])
    elif mistake == "iteration":
        trained = pd.factorize(table["spk_id"], sort=True)[0]
        other = table["spk_id"].to_numpy()[::-1]
        manifest = tmp_path / "after.csv"
        write_manifest(manifest, table.assign(spk_id=other))
        for path in (folder / "gate").iterdir():
            with np.load(path) as arrays:
                record = dict(arrays)
            np.savez(path, **record, labels=checksum_of(trained))
    elif mistake == "labels":
        manifest = tmp_path / "bare.csv"
        write_manifest(manifest, table.drop(columns="spk_id"))
    else:
        speakers = tmp_path / "speakers.csv"
        speakers.write_text("ID,spk_id\nx,anne\n")
    before = (tmp_path / "run" / "gate.csv").read_bytes()
    with pytest.raises(error, match=sentence):
        report_gate(folder, manifest, speakers)
    assert (tmp_path / "run" / "gate.csv").read_bytes() == before


@pytest.fixture
def figures(monkeypatch):
    """The figures, as they are when they are closed."""
    kept, close = [], plt.close
    monkeypatch.setattr(plt, "close", kept.append)
    yield kept
    for figure in kept:
        close(figure)


@pytest.mark.parametrize(
    ("epochs", "fitted", "judged"),
    [
        (1, True, True),
        (1, False, False),
        (2, True, False),
        (2, False, True),
        (3, True, False),
        (45, True, True),
    ],
)
def test_picture_has_the_panels_that_have_content(
    epochs, fitted, judged, figures, manifest, speakers, tmp_path
):
    folder = write_run(tmp_path, epochs, fitted=fitted)
    report_gate(folder, manifest, speakers if judged else None)
    top, bottom = figures[0].subfigs
    assert len(top.axes) == min(epochs, 3)
    titles = [axis.get_title().split()[0] for axis in bottom.axes]
    assert titles == ["decisions"] + ["gate"] * fitted + ["right"] * judged
    with Image.open(folder / "plots" / "gate.png") as image:
        width, height = image.size
    columns = max(len(top.axes), len(titles))
    assert (width, height) == (760 * columns, 1280)
    names = [text.get_text() for text in top.legends[0].texts]
    assert ("losses" in names) != judged
    assert ("right label" in names) == judged
    assert ("crossing" in names) == fitted
    assert ("gate in force" in names) == (fitted and epochs > 1)
    # Every word of the legends is on the picture.
    for part in (top, bottom):
        box = part.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= part.bbox.x1


def test_picture_shows_losses_components_and_gates(figures, tmp_path):
    rng = np.random.default_rng(6)
    right = rng.choice([1, 0, np.nan], 900, p=[0.7, 0.2, 0.1])
    losses = losses_of(rng.normal(np.where(right == 0, 7, -1), 2))
    losses[:50] = 0
    row = [5, 2.5, -1.1, 7.2, 4.1, 3.9, 0.7, 0.3, 1.75, 700, 150, 50]
    table = pd.DataFrame([row], columns=TRAINED)
    plot_gate(tmp_path / "gate.png", table, {5: (losses, right)})
    axis = figures[0].subfigs[0].axes[0]
    assert axis.get_xscale() == "function"
    stack = axis.patches
    edges = stack[0].get_data().edges
    assert (edges[0], edges[-1]) == pytest.approx((1e-4, losses.max()))
    edges[[0, -1]] += [-1e-9, 1e-9]  # rounding
    clipped = np.maximum(losses, 1e-4)
    widths = np.diff(log_odds(edges))
    base = 0
    for part, chosen in zip(stack, [right == 1, right == 0, np.isnan(right)]):
        heights = np.histogram(clipped[chosen], edges)[0] / (900 * widths)
        values, _, below = part.get_data()
        np.testing.assert_allclose(below, base + np.zeros_like(heights))
        np.testing.assert_allclose(values, base + heights, rtol=1e-4)
        base = values
    assert (base * widths).sum() == pytest.approx(1, abs=1e-3)
    lines = {line.get_label(): line for line in axis.lines}
    x, low = lines["low component"].get_data()
    x, high = lines["high component"].get_data()
    # As high as the bars of the losses that they were fitted to
    fitted = (losses >= 1e-4).mean()
    assert fitted < 0.95
    expected = fitted * 0.7 * norm.pdf(log_odds(x), -1.1, 4.1**0.5)
    np.testing.assert_allclose(low, expected)
    expected = fitted * 0.3 * norm.pdf(log_odds(x), 7.2, 3.9**0.5)
    np.testing.assert_allclose(high, expected)
    np.testing.assert_allclose(lines["sum"].get_ydata(), low + high)
    assert lines["crossing"].get_xdata() == [1.75, 1.75]
    assert lines["gate in force"].get_xdata() == [2.5, 2.5]


def test_picture_numbers_the_losses_plainly(figures, tmp_path):
    row = [1, np.inf, *[np.nan] * 7, 4, 0, 0]
    table = pd.DataFrame([row], columns=TRAINED)
    losses = np.array([0.002, 0.1, 0.1, 20])
    plot_gate(tmp_path / "gate.png", table, {1: (losses, None)})
    axis = figures[0].subfigs[0].axes[0]
    low, high = axis.get_xlim()
    shown = [
        tick.label1.get_text()
        for tick in axis.xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]
    assert shown == ["0.01", "0.1", "1", "5", "10", "15", "20"]


@pytest.mark.parametrize("losses", [[0.5, 0.5], [0, 0]])
def test_picture_of_losses_that_are_all_the_same(losses, figures, tmp_path):
    row = [1, np.inf, *[np.nan] * 7, 2, 0, 0]
    table = pd.DataFrame([row, [2, *row[1:]]], columns=TRAINED)
    same = np.array(losses, np.float32), None
    plot_gate(tmp_path / "gate.png", table.iloc[:1], {1: same})
    plot_gate(tmp_path / "gate.png", table, {1: same, 2: (np.ones(2), None)})
    for figure, axis in [(0, 0), (1, 0), (1, 1)]:
        axis = figures[figure].subfigs[0].axes[axis]
        values, _, _ = axis.patches[0].get_data()
        assert (values > 0).sum() == 1
        assert 0.9 <= values.max() / axis.get_ylim()[1] <= 1


def test_where_all_labels_are_given_no_losses_are_drawn(
    figures, manifest, speakers, tmp_path
):
    folder = write_run(tmp_path, 2)
    for path in (folder / "gate").glob("*.npz"):
        with np.load(path) as arrays:
            content = dict(arrays)
        trusted = np.ones(len(content["losses"]), bool)
        np.savez(path, **content, trusted=trusted)
    report_gate(folder, manifest, speakers)
    (panels,) = figures[0].subfigs
    assert panels.axes[0].get_title().startswith("decisions")
    assert (folder / "plots" / "gate.png").is_file()


def test_last_epoch_as_text():
    row = [12, np.inf, *[np.nan] * 7, 1500, 0, 500]
    judged = [0.8, 0.95, np.nan, 0.35, 0.875, 0.125]
    table = pd.DataFrame([row, row], columns=TRAINED)
    table[JUDGED] = [judged, judged]
    assert format_gate(table).splitlines() == [
        "epoch 12: no gate, crossing none",
        "            samples   share   right",
        "reliable      1,500   75.0%   95.0%",
        "corrected         0    0.0%       -",
        "dropped         500   25.0%   35.0%",
        "all           2,000  100.0%   80.0%",
        " 87.5% of the right labels are reliable",
        " 12.5% of the wrong labels are not",
    ]


def run_report(folder, **flags):
    """Runs the script; its exit code and all that it said."""
    return forked.run(
        *script("report_gate.py", "report_gate.yaml", **flags), cwd=folder
    )


def test_script(manifest, speakers, tmp_path):
    folder, same = write_run(tmp_path / "run"), write_run(tmp_path / "same")
    (folder / "hyperparams.yaml").write_text("seed: 1986\n")
    flags = {"manifest": manifest, "speakers": speakers}
    code, output = run_report(tmp_path, run_folder=folder, **flags)
    assert code == 0, output
    table = report_gate(same, manifest, speakers)
    assert format_gate(table) in output
    csv = (folder / "gate.csv").read_bytes()
    assert csv == (same / "gate.csv").read_bytes()
    # The run folder is the training's, and the script has no other.
    assert (folder / "hyperparams.yaml").read_text() == "seed: 1986\n"
    assert sorted(path.name for path in folder.iterdir()) == [
        "gate",
        "gate.csv",
        "hyperparams.yaml",
        "plots",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "same"]
