import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.adaptation import AdaptationDataset
from speechbrain_cadino.dataio.crops import PseudoLabelDataset
from speechbrain_cadino.dataio.manifest import write_manifest


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """A function that writes manifests of so many recordings of source and of
    target."""
    folder = tmp_path_factory.mktemp("adaptation")

    def make(source, target):
        for kind, count in (("source", source), ("target", target)):
            rows = []
            for number in range(count):
                name = f"{kind}{number}"
                if not (folder / f"{name}.wav").exists():
                    wav = np.random.default_rng(number).standard_normal(16000)
                    soundfile.write(folder / f"{name}.wav", wav / 9, 16000)
                wav = f"$data_root/{name}.wav"
                rows.append((name, 1.0, wav, 0, 16000, number % 2))
            columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
            table = pd.DataFrame(rows, columns=columns)
            write_manifest(folder / f"{kind}.csv", table)
        return folder

    return make


def dataset(
    folder,
    source="source.csv",
    source_folder=None,
    samples_per_epoch=None,
    **options,
):
    def make_source():
        return PseudoLabelDataset(
            folder / source,
            source_folder or folder,
            crop_seconds=0.2,
            speeds=[1.0, 0.9],
            seed=3,
            samples_per_epoch=samples_per_epoch,
        )

    return AdaptationDataset(
        make_source,
        folder / "target.csv",
        folder,
        global_seconds=0.2,
        local_crops=0,
        seed=3,
        **options,
    )


@pytest.mark.parametrize(("source", "target"), [(40, 2), (2, 40)])
def test_any_ratio_of_sizes(manifests, source, target):
    data = dataset(manifests(source, target), passes_per_epoch=160 // target)
    data.set_epoch(1)
    items = [data[index] for index in range(len(data))]
    assert len(items) == 160
    assert data.classes == 2 * 2  # speakers and speeds
    seen = {(item["source_id"], item["label"]) for item in items}
    # Of each recording at both speeds, nearly all
    assert len(seen) > 0.75 * 2 * source
    for item in items:
        number = int(item["source_id"].removeprefix("source"))
        assert item["label"] % 2 == number % 2
        assert item["id"].startswith("target")
    # The same one comes again as another crop
    crops = {item["source"].numpy().tobytes() for item in items}
    assert len(crops) == len(items)


def test_an_item_depends_on_seed_epoch_and_index_alone(manifests):
    folder = manifests(6, 6)
    one, other = dataset(folder), dataset(folder)
    for data in (one, other):
        data.set_epoch(2)
    other[0], other[3]
    item, again = one[5], other[5]
    for key in ("source", "globals"):
        assert torch.equal(item[key], again[key])
    assert item["source_id"] == again["source_id"]
    other.set_epoch(3)
    assert not torch.equal(item["source"], other[5]["source"])


def test_what_cannot_be_adapted(manifests):
    folder = manifests(4, 4)
    with pytest.raises(ValueError, match="have 4 files in common"):
        dataset(folder, source="target.csv")
    # By a link, and by a detour
    link = folder.parent / f"{folder.name}_link"
    link.symlink_to(folder)
    for other in (link, folder / ".." / folder.name):
        with pytest.raises(ValueError, match="have 4 files in common"):
            dataset(folder, source="target.csv", source_folder=other)
    with pytest.raises(ValueError, match="The source has samples_per_epoch"):
        dataset(folder, samples_per_epoch=2)
    table = pd.read_csv(folder / "source.csv").assign(spk_id="anne")
    write_manifest(folder / "one.csv", table)
    with pytest.raises(ValueError, match="The source is of one speaker"):
        dataset(folder, source="one.csv")
    write_manifest(folder / "bare.csv", table.drop(columns="spk_id"))
    with pytest.raises(ValueError, match="has no column spk_id"):
        dataset(folder, source="bare.csv")
