"""On which scale are the losses of stage II two Gaussians?

> python tests/benchmarks/loss_scales.py results/demo_dlg_lc/1986 ...

For each epoch, the log-likelihood of the losses, in nats for each label, under
two Gaussians that are fitted to the logarithms of the losses, as in the papers
of DLG, and to their log-odds, as DynamicLossGate does it. Both are likelihoods
of the losses themselves, and so can be compared.
"""

import argparse
import pathlib

import numpy as np
from sklearn.mixture import GaussianMixture

from speechbrain_cadino.gate.mixture import LOWEST, log_odds

# The scale, and by how much it stretches the losses, as a logarithm.
SCALES = {
    "log": (np.log, lambda losses: -np.log(losses)),
    "log_odds": (log_odds, lambda losses: -np.log(-np.expm1(-losses))),
}


def main():
    """Reads the flags, fits, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    flags = parser.parse_args()
    for run in flags.runs:
        print(f"{run}\nepoch       log  log-odds")
        for path in sorted(run.glob("gate/epoch*.npz")):
            losses = np.load(path)["losses"].astype(np.float64)
            losses = losses[losses >= LOWEST]
            fits = [likelihood(losses, *scale) for scale in SCALES.values()]
            print(f"{path.stem[5:]:>5}" + "".join(f"{f:10.3f}" for f in fits))


def likelihood(losses, scale, stretch):
    """The mean log-likelihood of losses under two Gaussians on a scale."""
    values = scale(losses)[:, None]
    mixture = GaussianMixture(2, reg_covar=1e-3, max_iter=1000, random_state=0)
    return mixture.fit(values).score(values) + stretch(losses).mean()


if __name__ == "__main__":
    main()
