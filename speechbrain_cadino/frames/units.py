"""Units of speech: how far the codes of frames are phones."""

import numpy as np
from scipy.stats import entropy


def unit_figures(codes, phones, size):
    """How well codes tell phones.

    Arguments
    ---------
    codes : array_like
        The code of each frame, (frames,), int, below ``size``.
    phones : array_like
        The phone of each frame, (frames,).
    size : int
        The number of codes that there are.

    Returns
    -------
    dict of str:float
        ``pnmi``, the mutual information of codes and phones as a share of the
        entropy of the phones (Hsu et al., 2021, "HuBERT"): 1 if the code tells
        the phone; ``purity``, the share of frames whose phone is the most
        frequent one of their code; ``used``, the share of the codes that occur.

    Example
    -------
    >>> figures = unit_figures([0, 0, 1, 2], ["a", "a", "o", "o"], size=4)
    >>> {name: round(float(value), 6) for name, value in figures.items()}
    {'pnmi': 1.0, 'purity': 1.0, 'used': 0.75}
    """
    _, phones = np.unique(np.asarray(phones), return_inverse=True)
    joint = np.zeros((size, phones.max() + 1))
    np.add.at(joint, (np.asarray(codes), phones), 1)
    joint /= joint.sum()
    of_phones, of_codes = entropy(joint.sum(0)), entropy(joint.sum(1))
    information = of_phones + of_codes - entropy(joint.ravel())
    return {
        "pnmi": float(information / of_phones) if of_phones else 1.0,
        "purity": float(joint.max(1).sum()),
        "used": float((joint.sum(1) > 0).mean()),
    }
