"""Confidence intervals of error rates, over speakers.

Trials are not independent: each speaker takes part in many. What limits what
a trial list can tell is the number of its speakers, so it is speakers that are
drawn again, and their trials follow.
"""

import numpy as np
import pandas as pd
from scipy import sparse, stats
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.names import match, parts_of
from speechbrain_cadino.verification.metrics import SortedTrials

logger = get_logger(__name__)


def trial_speakers(trials, speakers=None):
    """Who speaks on both sides of each trial.

    Without a table, a speaker is the first folder of a name, as in
    VoxCeleb's ``id10270/x6uYqmx31kE/00001.wav``, if this agrees with every
    trial. Otherwise it is whatever the target trials link together, which
    needs no rule of names; but an utterance in non-target trials only then
    counts as a speaker of its own.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    speakers : dict or pandas.Series, optional
        The speaker of each name.

    Returns
    -------
    enrol : numpy.ndarray
        The speakers of the one side, shape (T,), int, numbered from 0.
    test : numpy.ndarray
        The speakers of the other side, shape (T,), int.

    Raises
    ------
    ValueError
        If a name is not in the table or there more than once, or a trial
        contradicts it, or other trials where there is none.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     [(True, "a/1", "a/2"), (False, "b/1", "a/2")],
    ...     columns=["target", "enrol", "test"],
    ... )
    >>> enrol, test = trial_speakers(trials)
    >>> enrol.tolist(), test.tolist()
    ([0, 1], [0, 0])
    """
    targets = trials["target"].to_numpy(bool)
    sides, names = pd.factorize(
        np.concatenate([trials["enrol"], trials["test"]])
    )
    enrol, test = np.split(sides, 2)

    def wrong(codes):
        """Which trials contradict the speakers of the names."""
        return (codes[enrol] == codes[test]) != targets

    if speakers is not None:
        source = "the table of speakers"
        codes = _codes_of_table(names, speakers)
    else:
        source = "other target trials"
        first = [parts_of(name)[0] or name for name in names]
        codes = pd.factorize(np.array(first))[0]
        if wrong(codes).any():
            codes = _linked(len(names), enrol[targets], test[targets])
    if wrong(codes).any():
        trial = trials.iloc[wrong(codes).argmax()]
        said, known = "a non-target", "one speaker"
        if trial["target"]:
            said, known = "a target", "two speakers"
        raise ValueError(
            f"The trial '{trial['enrol']} {trial['test']}' is {said}, but by "
            f"{source} these are of {known}: correct the one or the other."
        )
    return codes[enrol], codes[test]


def _codes_of_table(names, speakers):
    """The speakers of the names, numbered."""
    speakers = pd.Series(speakers)
    twice = speakers.index.duplicated()
    if twice.any():
        raise ValueError(
            f"The table of speakers has '{speakers.index[twice][0]}' more than "
            "once: give each name one speaker."
        )
    rows = match(names, speakers.index)
    found = pd.Series(np.append(speakers.to_numpy(object), np.nan)[rows])
    if found.isna().any():
        raise ValueError(
            f"The table of speakers lacks {found.isna().sum()} of the "
            f"{len(names)} names in the trial list; the first is "
            f"'{names[found.isna().argmax()]}'."
        )
    return pd.factorize(found)[0]


def _linked(count, enrol, test):
    """The components of the graph of target trials, numbered."""
    links = sparse.coo_array(
        (np.ones(len(enrol)), (enrol, test)), shape=(count, count)
    )
    return connected_components(links, directed=False)[1]


def count_speakers(targets, enrol, test):
    """The number of speakers that intervals rest on.

    Arguments
    ---------
    targets : array_like
        Mask of the target trials, shape (T,), bool.
    enrol : numpy.ndarray
        Shape (T,), int, of ``trial_speakers``.
    test : numpy.ndarray
        Shape (T,), int, of ``trial_speakers``.

    Returns
    -------
    int
        The number of speakers with target trials, or with non-target trials,
        whichever is lower.

    Raises
    ------
    ValueError
        If they are too few for replicates to differ.

    Example
    -------
    >>> enrol, test = np.array([0, 1, 0, 0, 1]), np.array([0, 1, 1, 2, 2])
    >>> count_speakers(enrol == test, enrol, test)
    2
    """
    targets = np.asarray(targets, bool)
    with_targets, with_others = (
        len(np.union1d(enrol[kind], test[kind])) for kind in (targets, ~targets)
    )
    if with_targets < 2 or with_others < 3:
        raise ValueError(
            f"Target trials of {with_targets} speaker(s) and non-target trials "
            f"among {with_others}: intervals over speakers need at least 2 and "
            "3, and are of use from about 10."
        )
    return min(with_targets, with_others)


class Bootstrap:
    """Figures of several systems in samples of speakers drawn again.

    Each replicate draws as many speakers as there are, with replacement. If
    it has speaker a n_a times, a target trial of a counts n_a times and a
    non-target trial of a and b n_a n_b times: the pigeonhole bootstrap (Owen
    2007), by speakers as in Poh and Bengio (2007), "Performance
    Generalization in Biometric Authentication Using Joint User-Specific and
    Sample Bootstraps". All systems see the same replicates. One without any
    target or any non-target trial is drawn again.

    Arguments
    ---------
    scores : dict
        The scores of each system by its name, shape (T,).
    targets : array_like
        Mask of the target trials, shape (T,), bool.
    enrol : numpy.ndarray
        Shape (T,), int, of ``trial_speakers``.
    test : numpy.ndarray
        Shape (T,), int, of ``trial_speakers``.
    replicates : int
        The number of replicates.
    seed : int
        The seed of the draws.
    **summary_options
        Further arguments of ``summary``, which gives the figures.

    Attributes
    ----------
    speakers : int
        See ``count_speakers``.
    figures : dict
        The ``summary`` of each system.
    samples : dict
        The figures of each system as a pandas.DataFrame, one replicate a row.

    Raises
    ------
    ValueError
        If there are too few speakers: see ``count_speakers``.

    Example
    -------
    >>> enrol, test = np.triu_indices(30, 1)
    >>> rng = np.random.default_rng(0)
    >>> speaker = np.arange(30) // 3
    >>> targets = speaker[enrol] == speaker[test]
    >>> noise = rng.standard_normal(len(targets))
    >>> bootstrap = Bootstrap(
    ...     {"good": noise + 3 * targets, "bad": noise + targets},
    ...     targets,
    ...     speaker[enrol],
    ...     speaker[test],
    ...     replicates=200,
    ... )
    >>> low, high = bootstrap.intervals()["good"]["eer"]
    >>> low < bootstrap.figures["good"]["eer"] < high
    True
    >>> comparison = bootstrap.compare("bad", "good")["eer"]
    >>> comparison["interval"][0] > 0, comparison["p_value"] < 0.05
    (True, True)
    """

    def __init__(
        self,
        scores,
        targets,
        enrol,
        test,
        replicates=1000,
        seed=0,
        **summary_options,
    ):
        targets = np.asarray(targets, bool)
        self.speakers = count_speakers(targets, enrol, test)
        systems = {
            name: SortedTrials(values, targets)
            for name, values in scores.items()
        }
        self.figures = {
            name: trials.summary(**summary_options)
            for name, trials in systems.items()
        }
        drawn = {name: [] for name in systems}
        weights = trial_weights(
            targets, enrol, test, np.random.default_rng(seed)
        )
        progress = tqdm(
            range(replicates), desc="Bootstrap", unit="replicate", delay=1
        )
        for _, weight in zip(progress, weights):
            for name, trials in systems.items():
                drawn[name].append(trials.summary(weight, **summary_options))
        self.samples = {
            name: pd.DataFrame(rows) for name, rows in drawn.items()
        }

    def intervals(self):
        """A 95% interval of each figure, see ``interval``.

        Returns
        -------
        dict
            The intervals of each system: a dict from the figure's name to
            (low, high).
        """
        return {
            name: {
                figure: interval(rows[figure], estimate, self.speakers)
                for figure, estimate in self.figures[name].items()
            }
            for name, rows in self.samples.items()
        }

    def compare(self, first, second):
        """How far two systems differ, on the same replicates.

        Arguments
        ---------
        first : str
            The name of a system.
        second : str
            The name of the system whose figures are taken off.

        Returns
        -------
        dict
            A dict for each figure: ``difference``, its 95% ``interval`` as
            (low, high), and the two-sided ``p_value`` of there being none. Two
            figures that are both infinite do not differ.
        """
        result = {}
        for figure, value in self.figures[first].items():
            difference = float(_minus(value, self.figures[second][figure]))
            sample = (
                _minus(*(self.samples[s][figure] for s in (first, second))),
                difference,
                self.speakers,
            )
            result[figure] = {
                "difference": difference,
                "interval": interval(*sample),
                "p_value": p_value(*sample),
            }
        return result


def _minus(first, second):
    """The difference, which is 0 of equal infinities too."""
    first, second = np.asarray(first), np.asarray(second)
    return np.subtract(
        first, second, out=np.zeros(first.shape), where=first != second
    )


def trial_weights(targets, enrol, test, rng):
    """How often each trial counts in a replicate: see Bootstrap.

    Arguments
    ---------
    targets : numpy.ndarray
        Mask of the target trials, shape (T,), bool.
    enrol, test : numpy.ndarray
        Shape (T,), int: the speakers.
    rng : numpy.random.Generator
        The source of all that is random.

    Yields
    ------
    numpy.ndarray
        Weights of the trials, shape (T,), whole numbers as floats.

    Example
    -------
    >>> speakers = np.array([0, 1, 0]), np.array([0, 1, 1])
    >>> draws = trial_weights(
    ...     np.array([True, True, False]), *speakers, np.random.default_rng(1)
    ... )
    >>> len(next(draws))
    3
    """
    count = max(enrol.max(), test.max()) + 1
    # The second side of a target trial is the first again: it counts once.
    second = np.where(targets, count, test)
    while True:
        drawn = rng.multinomial(count, np.full(count, 1 / count))
        times = np.append(drawn, 1).astype(np.float64)
        weights = times[enrol] * times[second]
        if weights[targets].any() and weights[~targets].any():
            yield weights


def interval(replicates, estimate, speakers, level=0.95):
    """The expanded, bias-corrected percentile interval of a bootstrap.

    Plain percentiles of replicates are too narrow for few speakers. Those
    taken here are where a normal distribution has ``sqrt(n / (n - 1))`` times
    the quantile of Student's t with n - 1 degrees of freedom (Hesterberg
    2015, "What Teachers Should Know About the Bootstrap"); for fewer than 6
    speakers that is beyond 1000 replicates, of which the outermost are taken.

    They are also moved by ``2 z``, where z is the normal quantile of the
    share of replicates below the estimate (Efron 1981, "Nonparametric
    Standard Errors and Confidence Intervals"): a minimum over thresholds is
    lower in each sample than in the population, and in each replicate lower
    again.

    Arguments
    ---------
    replicates : array_like
        Shape (R,): a figure in each replicate.
    estimate : float
        The figure in the sample.
    speakers : int
        n, the number of speakers, above 1.
    level : float
        The confidence level of the interval, between 0 and 1.

    Returns
    -------
    low : float
        The lower end.
    high : float
        The upper end.

    Example
    -------
    >>> interval(np.arange(999), 499, speakers=10**6)
    (23.0, 975.0)
    >>> interval(np.arange(999), 499, speakers=10)
    (7.0, 991.0)
    >>> interval(np.arange(999), 510, speakers=10)
    (8.0, 992.0)
    """
    values = np.sort(np.asarray(replicates, np.float64))
    shift = _shift(values, estimate)
    reach = stats.t.isf((1 - level) / 2, speakers - 1) * _expansion(speakers)
    ends = stats.norm.cdf([shift - reach, -shift - reach])
    # Order statistics: they take no arithmetic, so values may be infinite.
    ranks = (ends * (len(values) + 1)).astype(int)
    low, high = np.clip(ranks, 1, len(values))
    return float(values[low - 1]), float(values[-high])


def warn_of_few(replicates, speakers):
    """Warns if the ends of ``interval`` are beyond the replicates, and fewer
    than 1000 more would do.

    Arguments
    ---------
    replicates : int
        The number of replicates.
    speakers : int
        n, the number of speakers, above 1.

    Example
    -------
    >>> warn_of_few(1000, speakers=10)
    """
    reach = stats.t.isf(0.025, speakers - 1) * _expansion(speakers)
    least = int(np.ceil(1 / stats.norm.cdf(-reach)))
    if replicates < least <= 1000:
        logger.warning(
            f"replicates={replicates} are too few for 95% intervals over "
            f"{speakers} speakers, and the outermost are taken: give {least} "
            "or more."
        )


def p_value(differences, estimate, speakers):
    """The two-sided p-value of there being no difference.

    One less the level at which ``interval`` begins to hold 0. The fewer the
    replicates, the sooner it can fall no further: 1000 of them give 10
    speakers 0.017 at least where half of them lie below the estimate, and
    less or more where not, by the bias.

    Arguments
    ---------
    differences : array_like
        The difference of two systems' figures in each replicate, shape (R,).
    estimate : float
        The difference of the figures in the sample.
    speakers : int
        See ``interval``.

    Returns
    -------
    float
        The p-value, up to 1, which two systems without any difference have.

    Example
    -------
    >>> p_value(np.zeros(999), 0, speakers=40)
    1.0
    >>> round(p_value(np.arange(999) - 23.5, 475.5, speakers=10**6), 3)
    0.05
    """
    differences = np.asarray(differences)
    shift = _shift(differences, estimate)
    beyond = np.array([(differences <= 0).sum(), (differences >= 0).sum()])
    ends = stats.norm.ppf((beyond + 1) / (len(differences) + 1))
    reach = min(ends - [shift, -shift]) / _expansion(speakers)
    return float(min(1, 2 * stats.t.cdf(reach, speakers - 1)))


def _shift(replicates, estimate):
    """How far the bias moves the ends of an interval, as a normal variable."""
    below = (replicates < estimate).sum() + (replicates == estimate).sum() / 2
    return 2 * stats.norm.ppf((below + 0.5) / (len(replicates) + 1))


def _expansion(speakers):
    return np.sqrt(speakers / (speakers - 1))
