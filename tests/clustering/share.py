"""Clusters in several ways; run plainly or under torchrun.

> python share.py OUTPUT [--distributed_backend=gloo]

The main process writes what it found to OUTPUT/found.pt, each process how many
rows it has held to OUTPUT/held_<rank>.txt.
"""

import pathlib
import sys

import numpy as np
import torch

import speechbrain as sb
from speechbrain.utils.distributed import get_rank
from speechbrain_cadino.clustering import kmeans
from speechbrain_cadino.clustering.sweep import compare_numbers
from speechbrain_cadino.process.errors import user_errors

CASES = {
    "torch": {"num_clusters": 61, "engine": "torch"},
    "sklearn": {"num_clusters": 61, "engine": "sklearn", "seed": 3},
    "merged": {"num_clusters": 40, "merge_to": 7, "iterations": 2},
    "alone": {"num_clusters": 1003},  # each utterance
}


def speech_like():
    """Overlapping speakers of 17 utterances; lengths differ."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(rng.standard_normal((59, 11)), 17, axis=0)
    lengths = rng.uniform(0.1, 30, (len(speakers), 1))
    points = lengths * (speakers + 0.7 * rng.standard_normal(speakers.shape))
    return points.astype(np.float32)


def find(folder):
    """What is found in some embeddings on disk, and in some that are alike."""
    np.save(folder / "embeddings.npy", speech_like())
    points = np.load(folder / "embeddings.npy", mmap_mode="r")
    found = {
        name: kmeans.cluster(points, device="cpu", **case)
        for name, case in CASES.items()
    }
    # Of 50 clusters of 9 kinds of points, most are empty at first
    same = np.repeat(points[:9], 23, axis=0)
    found["empty"] = kmeans.cluster(same, 50, engine="torch", device="cpu")
    found["few"] = kmeans.cluster(points[:2], 1)
    clusterer = kmeans.SphericalKMeans(engine="torch", device="cpu")
    sweep = compare_numbers(points, [5, 20], clusterer)
    found = {
        name: {key: torch.from_numpy(x) for key, x in pair._asdict().items()}
        for name, pair in found.items()
    }
    return {**found, "sweep": sweep.to_dict("list")}


@user_errors()
def main(output, *options):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    folder = pathlib.Path(output)
    held, rank = [], get_rank() or 0
    cluster = kmeans._cluster

    def noted(rows, **task):
        held.append(len(rows.points))
        return cluster(rows, **task)

    kmeans._cluster = noted
    found = kmeans.run_clustering(find, args=[folder])
    if rank == 0:
        torch.save(found, folder / "found.pt")
    np.savetxt(folder / f"held_{rank}.txt", held)


if __name__ == "__main__":
    main(*sys.argv[1:])
