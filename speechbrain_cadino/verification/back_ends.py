"""Back-ends: what happens between embeddings and scores.

A back-end is named by its steps, such as ``mean+as_norm``; see ``BackEnd``.
"""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import pseudo_labels, read_manifest
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.coral import Coral
from speechbrain_cadino.embeddings.embedder import MEAN_UTTERANCES
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.whitening import Whitening
from speechbrain_cadino.verification.normalisation import (
    cohort_means,
    cohort_statistics,
    normalise,
)
from speechbrain_cadino.verification.scoring import PLDA, cosine, trial_scores

logger = get_logger(__name__)

# In the order in which they work; of each group one at most.
GROUPS = [
    ("mean", "whiten", "recording_lda", "coral"),
    ("cosine", "plda"),
    ("s_norm", "as_norm"),
    ("calibrated",),
]
PLACES = {step: place for place, group in enumerate(GROUPS) for step in group}


class BackEnd:
    """Which steps a back-end has.

    ``mean`` subtracts the mean embedding of the training set, ``whiten`` does
    so and evens out the directions (see ``embeddings.whitening``),
    ``recording_lda`` makes crops of one recording alike (see
    ``embeddings.recording_lda``), ``coral`` makes embeddings vary as those of
    the labelled voices of another domain, the source, do (see
    ``embeddings.coral``); scores are by ``cosine`` if nothing is said,
    or by ``plda``, which after ``coral`` learns from the source; ``s_norm``
    and ``as_norm`` normalise them by a cohort; ``calibrated`` makes them
    log-likelihood ratios.

    Arguments
    ---------
    name : str
        The steps in this order, joined by ``+``.

    Raises
    ------
    ValueError
        If the name is not of this form.

    Example
    -------
    >>> back_end = BackEnd("whiten+as_norm")
    >>> "whiten" in back_end, "plda" in back_end
    (True, False)
    >>> BackEnd("as_norm+mean")
    Traceback (most recent call last):
    ...
    ValueError: There is no back-end 'as_norm+mean': ...
    """

    def __init__(self, name):
        self.name = name
        self.steps = str(name).split("+")
        places = [PLACES.get(step, -1) for step in self.steps]
        if -1 in places or places != sorted(set(places)):
            form = ", then ".join(" or ".join(group) for group in GROUPS)
            raise ValueError(
                f"There is no back-end '{name}': join steps by '+', at most "
                f"one of {form}."
            )

    def __contains__(self, step):
        return step in self.steps

    @property
    def system(self):
        """What it is called in results."""
        return "+".join(["encoder", *(s for s in self.steps if s != "cosine")])

    @property
    def has_cohort(self):
        """Whether scores are normalised."""
        return "s_norm" in self or "as_norm" in self

    @property
    def needs_source(self):
        """Whether it takes the labelled voices of another domain."""
        return "coral" in self

    @property
    def needs_clusters(self):
        """Whether it takes a training set with pseudo labels."""
        return self.has_cohort or ("plda" in self and not self.needs_source)

    @property
    def needs_embeddings(self):
        """Whether it takes the embeddings of a training set."""
        return self.needs_clusters or "whiten" in self or self.needs_source


def check_back_ends(back_ends, trials, source):
    """Raises if a back-end lacks what it learns from, beside the training set,
    or there is such a thing and no back-end for it.

    Arguments
    ---------
    back_ends : iterable of BackEnd
        The back-ends.
    trials : object
        The trials to calibrate on; None if there are none.
    source : object
        The manifest of the source; None if there is none.

    Example
    -------
    >>> check_back_ends([BackEnd("mean+calibrated")], None, None)
    Traceback (most recent call last):
    ...
    ValueError: calibrated needs calibration_trials: give it, or leave ...
    """
    calibrated = any("calibrated" in back_end for back_end in back_ends)
    if calibrated and trials is None:
        raise ValueError(
            "calibrated needs calibration_trials: give it, or leave that out."
        )
    if trials is not None and not calibrated:
        raise ValueError(
            "calibration_trials are for a back-end with calibrated, such as "
            "cosine+calibrated: add one to back_ends, or leave them out."
        )
    coral = any(back_end.needs_source for back_end in back_ends)
    if coral and source is None:
        raise ValueError(
            "coral needs source_manifest: give it, or leave that out."
        )
    if source is not None and not coral:
        raise ValueError(
            "source_manifest is for a back-end with coral: add one to "
            "back_ends, or leave it out."
        )


class Background:
    """The training set, for what learns from it after the training.

    Arguments
    ---------
    manifest : str or pathlib.Path, optional
        The training manifest; with pseudo labels for PLDA and for the cohort
        of score normalisation. None if there is none. Or that of the source.
    data_folder : str or pathlib.Path, optional
        The folder that ``$data_root`` in it stands for.
    utterances_per_cluster : int
        The number of utterances of each cluster, at most.
    seed : int
        Random seed of the choice of utterances.
    labelled : pandas.DataFrame, optional
        The manifest of what the encoder was trained on besides, with labels.
    name : str
        "train", or "source" for the labelled voices of another domain: what
        the keys of the YAML file begin with, for errors.
    """

    def __init__(
        self,
        manifest=None,
        data_folder=None,
        utterances_per_cluster=10,
        seed=0,
        labelled=None,
        name="train",
    ):
        self.name = name
        self.manifest = manifest
        self.data_folder = data_folder
        self.labelled = labelled
        self.utterances_per_cluster = utterances_per_cluster
        self.seed = seed

    def table(self, what):
        """The manifest, as something needs it.

        Arguments
        ---------
        what : str
            The name of what needs it, for the error.

        Returns
        -------
        pandas.DataFrame
            The manifest, with ``data_folder`` for its ``$data_root``.

        Raises
        ------
        ValueError
            If there is no manifest.
        """
        if self.manifest is None:
            raise ValueError(
                f"{what} needs {self.name}_manifest: give it, or leave that "
                "out."
            )
        return read_manifest(
            self.manifest, self.data_folder, f"{self.name}_data_folder"
        )

    def read(self, by_cluster, what):
        """The manifest and, where they are needed, its pseudo labels.

        Arguments
        ---------
        by_cluster : bool
            Whether pseudo labels are needed.
        what : str
            The name of what needs it, for the error.

        Returns
        -------
        table : pandas.DataFrame
            See ``table``.
        labels : pandas.Series
            The pseudo labels; None if not ``by_cluster``.

        Raises
        ------
        ValueError
            If something needed is not there.
        """
        table = self.table(what)
        labels = pseudo_labels(table, self.manifest) if by_cluster else None
        return table, labels

    def embed(self, embedder, folder, table, labels):
        """Embeds utterances that stand for all.

        Arguments
        ---------
        embedder : Embedder
            The encoder.
        folder : str or pathlib.Path
            The folder that gets the embeddings.
        table : pandas.DataFrame
            The manifest: see ``read``.
        labels : pandas.Series
            Its pseudo labels, to take some utterances of each cluster; None
            for a number of utterances, evenly spread.

        Returns
        -------
        embeddings : numpy.ndarray
            Shape (N, D), of those that can be read.
        labels : numpy.ndarray
            Shape (N,): their pseudo labels, zeros where there are none.
        """
        if labels is not None:
            rows = background_rows(
                labels, self.utterances_per_cluster, self.seed
            )
            labels = labels.to_numpy()[rows]
        else:
            rows = spread_rows(len(table), MEAN_UTTERANCES)
            labels = np.zeros(len(rows))
        # Whole utterances, whatever is compared
        whole = embedder.replace(segment_seconds=None, batch_size=16)
        _, embeddings = whole.extract(folder, table.iloc[rows])
        readable = np.isfinite(embeddings[:, 0])
        return embeddings[readable], labels[readable]


class BackEnds:
    """Scores trials with several back-ends.

    Arguments
    ---------
    names : list of str
        See ``BackEnd``: a row of the results each, called ``encoder`` for
        ``cosine`` and ``encoder+...`` for others.
    whitening : float
        The power of the step ``whiten``.
    top_cohort : int
        The number of impostors of the step ``as_norm``.
    plda_rank : int
        See ``PLDA``.
    recording_lda : RecordingLDA, optional
        The step ``recording_lda``, that learns when it is needed; one with
        the defaults of its class, if none is given.

    Example
    -------
    >>> embeddings = np.array([[2.0, 1.0], [2.0, -1.0], [4.0, -1.0]])
    >>> back_ends = BackEnds(["mean"]).learn(mean=np.array([2.0, 0.0]))
    >>> enrol, test = np.array([0, 1]), np.array([1, 2])
    >>> (mean,) = back_ends
    >>> back_ends.scores(mean, embeddings, enrol, test).round(2)
    array([-1.  ,  0.45], dtype=float32)
    """

    def __init__(
        self,
        names=("cosine",),
        whitening=0.75,
        top_cohort=300,
        plda_rank=100,
        recording_lda=None,
    ):
        self.back_ends = [BackEnd(name) for name in names]
        if not self.back_ends or top_cohort < 2:
            raise ValueError(
                f"back_ends={list(names)}, top_cohort={top_cohort}: give 1 "
                "back-end or more, and 2 or more impostors."
            )
        self.whitening = whitening
        self.top_cohort = top_cohort
        self.plda_rank = plda_rank
        self.recording_lda = recording_lda or RecordingLDA()
        self.learn()

    def __iter__(self):
        return iter(self.back_ends)

    def learn(
        self,
        mean=None,
        embeddings=None,
        labels=None,
        source=None,
        source_labels=None,
    ):
        """Takes what the back-ends have to know of the training set.

        Arguments
        ---------
        mean : numpy.ndarray, optional
            Shape (D,): its mean embedding.
        embeddings : numpy.ndarray, optional
            Shape (N, D), for the back-ends that need them.
        labels : array_like, optional
            Shape (N,): its pseudo labels, for the back-ends that need them.
        source : numpy.ndarray, optional
            Shape (M, D): the embeddings of the source, for ``coral``.
        source_labels : array_like, optional
            Shape (M,): its labels, for ``coral+plda``.

        Returns
        -------
        BackEnds
            These back-ends.
        """
        self.mean = mean
        self.embeddings = embeddings
        self.labels = labels
        self.source = source
        self.source_labels = source_labels
        self._transforms, self._scorers = {}, {}
        return self

    def prepare(self, embedder, background, folder, source=None):
        """Learns from the training set, and from the source, what its
        back-ends need, if anything.

        Arguments
        ---------
        embedder : Embedder
            The encoder.
        background : Background
            The training set.
        folder : str or pathlib.Path
            The folder that gets its embeddings; those of the source go to
            ``source_set`` beside it.
        source : Background, optional
            The source.

        Raises
        ------
        ValueError
            If there is no training set, or it is too small, and one is needed.
        """
        if any("recording_lda" in back_end for back_end in self):
            table = background.table("The step recording_lda")
            self.recording_lda.learn(embedder, table)
        mean = embedder.mean
        needy = [b for b in self if b.needs_embeddings]
        needy += [b for b in self if "mean" in b and mean is None]
        if not needy:
            self.learn(mean)
            return
        by_cluster = any(back_end.needs_clusters for back_end in self)
        read = background.read(by_cluster, f"The back-end {needy[0].name}")
        known = ()
        if of_source := [b for b in self if b.needs_source]:
            source = Background(name="source") if source is None else source
            by_cluster = any("plda" in back_end for back_end in of_source)
            known = source.embed(
                embedder,
                pathlib.Path(folder).with_name("source_set"),
                *source.read(by_cluster, "The step coral"),
            )
        embeddings, labels = background.embed(embedder, folder, *read)
        if mean is None:
            mean = embeddings.mean(0, dtype=np.float64)
        self.learn(mean, embeddings, labels, *known)
        for back_end in self:  # before the trials are embedded
            self._transform(back_end)
            self._scorer(back_end)

    def scores(self, back_end, embeddings, enrol, test):
        """Scores of trials; a step ``calibrated`` is left to ``Calibration``.

        Arguments
        ---------
        back_end : BackEnd
            The steps.
        embeddings : numpy.ndarray
            Embeddings of the files, shape (M, D).
        enrol : numpy.ndarray
            Shape (T,): the row of each trial's one side.
        test : numpy.ndarray
            Shape (T,): the row of its other side.

        Returns
        -------
        numpy.ndarray
            Scores, shape (T,), float32.
        """
        scorer, means = self._scorer(back_end)
        sides = scorer(self._transform(back_end)(embeddings))
        scores = trial_scores(sides, enrol, test)
        if means is not None:
            top = self.top_cohort if "as_norm" in back_end else None
            cohort = scorer(means)
            scores = normalise(
                scores, enrol, test, *cohort_statistics(sides, cohort, top)
            )
        return scores

    def _scorer(self, back_end):
        """What a back-end scores by, learnt once: a scorer, and a cohort or
        None."""
        if back_end.name not in self._scorers:
            scorer, means = cosine, None
            if "plda" in back_end:
                scorer = PLDA(*self._speakers(back_end), self.plda_rank)
            if back_end.has_cohort:
                means = self._cohort(back_end)
            self._scorers[back_end.name] = scorer, means
        return self._scorers[back_end.name]

    def _cohort(self, back_end):
        """The impostors: the mean of each cluster."""
        training = self._transform(back_end)(self.embeddings)
        means = cohort_means(training, self.labels)
        if "as_norm" in back_end and len(means) <= self.top_cohort:
            logger.warning(
                f"as_norm is s_norm: the cohort is of {len(means)} clusters, "
                f"and top_cohort={self.top_cohort} takes all of them. Lower "
                "top_cohort."
            )
        return means

    def _speakers(self, back_end):
        """What PLDA learns from: embeddings, and whose they are."""
        if back_end.needs_source:
            return self.source - self.source.mean(0), self.source_labels
        return self._transform(back_end)(self.embeddings), self.labels

    def _transform(self, back_end):
        """The function from embeddings to those that are scored, learnt once
        for each step."""
        step = next((step for step in GROUPS[0] if step in back_end), None)
        if step not in self._transforms:
            self._transforms[step] = self._learn_transform(step)
        return self._transforms[step]

    def _learn_transform(self, step):
        """The function of a step, which is of the first group, or None."""
        if step == "whiten":
            whitening = Whitening(self.whitening)
            whitening.warn_of_few(self.embeddings)
            return whitening.fit(self.embeddings).transform
        if step == "recording_lda":
            return self.recording_lda.transform
        if step == "coral":
            return Coral().fit(self.embeddings, self.source).transform
        if step == "mean":
            return lambda embeddings: embeddings - self.mean
        return lambda embeddings: embeddings


def background_rows(labels, most, seed=0):
    """Which utterances of a training set stand for all.

    Arguments
    ---------
    labels : pandas.Series
        The pseudo labels of a manifest.
    most : int
        Utterances of each cluster, at most, drawn at random.
    seed : int
        The random seed of the draw.

    Returns
    -------
    numpy.ndarray
        Row numbers, rising.

    Example
    -------
    >>> len(background_rows(pd.Series(["x", "y", "y", "y"]), most=2))
    3
    """
    labels = pd.Series(labels.to_numpy())
    shuffled = labels.sample(frac=1, random_state=seed)
    return shuffled.groupby(shuffled).head(most).index.sort_values().to_numpy()
