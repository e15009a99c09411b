#!/usr/bin/env python3
r"""Embeds all utterances of a manifest: embeddings.npy and ids.txt.

To run this recipe, use one of the following commands:
> python extract.py hparams/extract.yaml --encoder=FOLDER --manifest=FILE \
    --data_folder=FOLDER
> torchrun --nproc_per_node=8 extract.py hparams/extract.yaml ...
> python extract.py hparams/extract.yaml ... --part=3/8

Killed and started again, the same command goes on where it was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.parts import extract_part, part_folder
from speechbrain_cadino.embeddings.store import readable_rows
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.open_run import load_run

logger = get_logger(__name__)


@user_errors()
def main(arguments):
    """Reads the flags, embeds."""
    hparams_file, run_opts, overrides = parse_arguments(arguments, trains=False)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_run(
        hparams_file,
        run_opts,
        overrides,
        resumes=False,
        run_folder=lambda s: part_folder(s["output_folder"], s.get("part")),
    )
    embedder = hparams["embedder"](device=run_opts["device"])
    table = read_manifest(hparams["manifest"], hparams["data_folder"])
    folder, shard_size = hparams["output_folder"], hparams["shard_size"]
    if hparams.get("part") is not None:
        extract_part(embedder, folder, table, hparams["part"], shard_size)
        return
    ids, embeddings = embedder.extract(folder, table, shard_size, keep=True)
    if not if_main_process():
        return
    count = int(readable_rows(embeddings).sum())
    logger.info(
        f"{count} embeddings of {embeddings.shape[1]} dimensions are in "
        f"{folder}; {len(ids) - count} of {len(ids)} utterances have none."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
