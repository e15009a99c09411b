"""Needs of several benchmarks: recipes, peers, memory."""

import importlib.util
import multiprocessing
import pathlib
import resource

import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_cadino.config.overlays import parse_arguments

RECIPE = pathlib.Path(__file__).parents[2] / "recipes" / "VoxCeleb"


def load_recipe(arguments):
    """The hyperparameters and run options of a recipe's command line."""
    path, run_opts, overrides = parse_arguments(arguments)
    with open(path, encoding="utf-8") as fin:
        return load_hyperpyyaml(fin, overrides), run_opts


def load_from(source):
    """The class or function of FILE:NAME."""
    path, name = source.rsplit(":", 1)
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def added_memory(job, device):
    """MiB that a job adds to the peak of the process; of a GPU, what PyTorch
    has reserved, the memory of CUDA graphs among it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    job()
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak - before) / 2**10  # Linux counts in KiB


def in_own_process(function, names, flags):
    """{name: function(name, flags)}, each by a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = {}
    for name in names:
        with context.Pool(1) as pool:
            results[name] = pool.apply(function, (name, flags))
    return results
