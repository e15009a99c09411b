"""Clusters a training set twice; run plainly or under torchrun.

> python recluster.py CORPUS ENCODER OUTPUT [--distributed_backend=gloo]

Each process writes what it ended with to OUTPUT/<rank>.pt.
"""

import functools
import pathlib
import sys

import torch

import speechbrain as sb
from speechbrain.utils.distributed import get_rank
from speechbrain_cadino.clustering.reclustering import Reclustering
from speechbrain_cadino.dataio.crops import MultiCropDataset
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.process.errors import user_errors


@user_errors()
def main(corpus, encoder, output, *options):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    data = MultiCropDataset(f"{corpus}/train.csv", corpus)
    embedder = load_encoder(encoder, device="cpu")
    # Shards for both processes
    embedder.extract = functools.partial(embedder.extract, shard_size=5)
    output = pathlib.Path(output)
    reclustering = Reclustering(
        output / "embeddings",
        first_epoch=2,
        every=3,
        last_epoch=5,
        start_clusters=2,
        num_clusters=5,
    )
    history = []
    for epoch in range(1, 6):
        if reclustering.due(epoch):
            reclustering(epoch, embedder, data.table)
            history.append(torch.from_numpy(reclustering.labels))
    output.mkdir(exist_ok=True)
    torch.save(
        {
            "history": history,
            "stats": reclustering.stats,
            "epoch": reclustering.epoch,
        },
        output / f"{get_rank() or 0}.pt",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
