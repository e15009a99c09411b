"""Times the engines of k-means on embeddings with the size of a corpus.

> python tests/benchmarks/clustering.py --utterances 50000 --speakers 400 \
>     --clusters 500

The embeddings are drawn around speaker centres; `--spread` sets how far the
speakers overlap. Without flags they have the size of VoxCeleb 2, and 7500
clusters: minutes on a GPU, a long time on few cores. Every engine works in a
process of its own, whose peak memory includes the embeddings on disk, as they
are mapped into it.

With `--processes 2` two of them share the work as under torchrun, by gloo, with
their part of the cores each; the labels are those of one process.

> python tests/benchmarks/clustering.py --engines torch --processes 1 2
"""

import argparse
import hashlib
import itertools
import multiprocessing
import os
import pathlib
import resource
import tempfile
import time

import numpy as np
import torch

from speechbrain_cadino.clustering.kmeans import cluster, run_clustering
from speechbrain_cadino.clustering.quality import quality
from speechbrain_cadino.process.files import write_json

CHUNK = 2**14


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=1_092_009)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--speakers", type=int, default=5994)
    parser.add_argument("--clusters", type=int, default=7500)
    parser.add_argument(
        "--engines", nargs="+", default=["sklearn", "faiss", "torch"]
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--device", help="of the torch engine")
    parser.add_argument(
        "--spread",
        type=float,
        default=2.4,
        help="standard deviation within a speaker, that between them being 1",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def write_embeddings(path, arguments):
    """Draws embeddings into a .npy file; returns the speakers."""
    rng = np.random.default_rng(arguments.seed)
    # Few speakers with many utterances, many with few, as in VoxCeleb.
    shares = rng.gamma(4, size=arguments.speakers)
    speakers = rng.choice(
        arguments.speakers, arguments.utterances, p=shares / shares.sum()
    )
    shape = arguments.utterances, arguments.dim
    centres = rng.standard_normal((arguments.speakers, arguments.dim))
    embeddings = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for first in range(0, len(embeddings), CHUNK):
        means = centres[speakers[first : first + CHUNK]]
        noise = rng.standard_normal(means.shape)
        embeddings[first : first + CHUNK] = means + arguments.spread * noise
    embeddings.flush()
    return speakers


def measure(engine, path, speakers, arguments, processes=1, rank=0):
    """Clusters in this process, with others or alone; a dict of figures."""
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        torch.distributed.init_process_group(
            "gloo",
            f"file://{path}.{engine}.{processes}",
            rank=rank,
            world_size=processes,
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    clusters = run_clustering(find, args=[engine, path, arguments])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "seconds": seconds,
        "peak memory (MiB)": (peak - before) / 2**10,  # Linux counts in KiB
    }
    if engine == "torch" and torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated(arguments.device)
        figures["peak GPU memory (MiB)"] = peak / 2**20
    if processes > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        start = time.perf_counter()
        measures = quality(clusters, speakers=speakers)
        figures["seconds of AMI"] = time.perf_counter() - start
        figures |= {name: measures[name] for name in ["nmi", "ami"]}
        labels = hashlib.sha256(clusters.labels.tobytes()).hexdigest()
        figures["labels"] = labels[:8]
    return figures


def find(engine, path, arguments):
    return cluster(
        np.load(path, mmap_mode="r"),
        arguments.clusters,
        engine=engine,
        iterations=arguments.iterations,
        seed=arguments.seed,
        device=arguments.device,
    )


def main():
    arguments = parse_arguments()
    context = multiprocessing.get_context("spawn")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "embeddings.npy"
        # A process starts with the peak of its parent: this one stays small.
        with context.Pool(1) as pool:
            speakers = pool.apply(write_embeddings, (path, arguments))
        for engine, processes in itertools.product(
            arguments.engines, arguments.processes
        ):
            task = (engine, path, speakers, arguments, processes)
            with context.Pool(processes) as pool:
                main, *others = pool.starmap(
                    measure, [(*task, rank) for rank in range(processes)], 1
                )
            if others:
                peaks = [other["peak memory (MiB)"] for other in others]
                main["of another process (MiB)"] = max(peaks)
            results[f"{engine} {processes}"] = main
            print(engine, processes, main, flush=True)
    columns = list(
        dict.fromkeys(key for row in results.values() for key in row)
    )
    print(f"{'':10}" + "".join(f"{column:>25}" for column in columns))
    for engine, row in results.items():
        cells = [row.get(key, "") for key in columns]
        cells = [f"{x:.3f}" if isinstance(x, float) else x for x in cells]
        print(f"{engine:10}" + "".join(f"{cell:>25}" for cell in cells))
    if arguments.json:
        setting = vars(arguments) | {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        write_json(arguments.json, {"setting": setting, "figures": results})


if __name__ == "__main__":
    main()
