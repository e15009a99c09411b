"""The work of the commands: each takes parsed arguments and returns the text
for stdout, if any."""

import pathlib
import tempfile

import pandas as pd
import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.map import plot_map
from speechbrain_cadino.clustering.ward import check_number, find_speakers
from speechbrain_cadino.commands import inference
from speechbrain_cadino.dataio.labels import labels_of, read_labels
from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings
from speechbrain_cadino.process.files import write_csv
from speechbrain_cadino.verification.compare import compare as compare_scores
from speechbrain_cadino.verification.compare import format_comparison

logger = get_logger(__name__)


def embed(arguments):
    """Writes embeddings.npy and ids.txt."""
    _check_device(arguments.device)
    files = inference.find_files(arguments.inputs)
    _check_folder(arguments.output)
    files, embeddings = inference.embed_files(
        *(arguments.encoder, files, arguments.device),
        trusted=not arguments.untrusted,
    )
    save_embeddings(arguments.output, files, embeddings)
    logger.info(
        f"{len(files)} embeddings of {embeddings.shape[1]} dimensions are in "
        f"{arguments.output}."
    )


def verify(arguments):
    """Gives a table: test file, score, and with a threshold the answer."""
    _check_device(arguments.device)
    if arguments.csv:
        _check_file(arguments.csv)
    table = inference.verify_files(
        arguments.encoder,
        inference.find_files([arguments.enrol]),
        inference.find_files(arguments.tests),
        arguments.threshold,
        arguments.device,
        trusted=not arguments.untrusted,
    )
    if arguments.csv:
        write_csv(arguments.csv, table)
    return _format(table)


def cluster(arguments):
    """Writes a table of file and cluster; gives the sizes of the clusters."""
    _check_device(arguments.device)
    files = inference.find_files(arguments.inputs)
    check_number(len(files), arguments.num_clusters)
    _check_file(arguments.csv)
    files, embeddings = inference.embed_files(
        *(arguments.encoder, files, arguments.device),
        trusted=not arguments.untrusted,
    )
    path = pathlib.Path(arguments.csv)
    labels = find_speakers(
        embeddings,
        path.with_name(f"{path.stem}_sweep"),
        arguments.num_clusters,
    )
    table = pd.DataFrame({"file": files, "cluster": labels})
    write_csv(path, table)
    logger.info(f"{len(files)} files, {labels.max() + 1} clusters: {path}")
    sizes = table.groupby("cluster", as_index=False)["file"].count()
    return _format(sizes.rename(columns={"file": "files"}))


def draw_map(arguments):
    """Draws embeddings in two dimensions."""
    _check_file(arguments.plot)
    ids, embeddings = load_embeddings(arguments.embeddings)
    labels = None
    if arguments.labels:
        labels = labels_of(arguments.labels, ids)
    logger.info("t-SNE takes up to a minute.")
    plot_map(embeddings, labels, arguments.plot)
    logger.info(f"The map is {arguments.plot}.")


def compare(arguments):
    """Gives the figures of each system, and their differences."""
    if arguments.output:
        _check_folder(arguments.output)
    speakers = arguments.speakers and read_labels(arguments.speakers)
    files = dict(arguments.scores)
    if len(files) < len(arguments.scores):
        raise ValueError("Give each score file a name of its own.")
    results = compare_scores(
        arguments.trials, files, speakers, folder=arguments.output
    )
    return format_comparison(results) + "\n"


def _check_device(name):
    """Raises if there is no such device."""
    if name is None:
        return
    try:
        torch.empty(0, device=name)
    # AssertionError: PyTorch was built without CUDA.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"There is no device {name}: {reason}") from error


def _check_file(path):
    """Raises before the work if it could not be written there."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file.")
    _check_folder(path.parent)


def _check_folder(folder):
    """Makes a folder; raises before the work if nothing can be put there."""
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"Nothing can be written into {folder} ({error.strerror}): give "
            "another place for the results."
        ) from error


def _format(table):
    """A table as lines with tabs between the columns."""
    return table.to_csv(
        sep="\t", index=False, float_format="%.4f", lineterminator="\n"
    )
