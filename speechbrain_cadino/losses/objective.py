"""Objectives: terms, and their weighted sum, which a training minimises."""

from itertools import chain
from typing import NamedTuple

import torch

from speechbrain_cadino.losses.meters import METERS

# Other columns of training.csv
TAKEN = {
    "epoch",
    "loss",
    "lr",
    "momentum",
    "seconds",
    "data_seconds",
    "EER",
    "device_seconds",
    "utts_per_second",
    "replaced",
    "skipped_steps",
    "clusters",
    "singletons",
    "silhouette",
    "agreement",
    "ami",
    "outliers",
    "partners",
    "partner_precision",
}


class Views(NamedTuple):
    """What a network says of the crops of a batch, by view.

    Arguments
    ---------
    embeddings : torch.Tensor
        Embeddings, (views, batch, D).
    outputs : dict of str:torch.Tensor
        The outputs of the head by name, such as ``bottleneck``, (views,
        batch, B), and ``prototypes``, (K, B): see the head.
    globals : int
        The number of the first views that are the teacher's crops too; 0 if
        the student saw none of them.
    samples : torch.Tensor, optional
        Which samples of the training set they are of, (batch,): see
        MultiCropDataset. None where no term asks.
    """

    embeddings: torch.Tensor
    outputs: dict
    globals: int
    samples: torch.Tensor | None = None


class Panel(NamedTuple):
    """A picture of some columns of ``training.csv``.

    Arguments
    ---------
    title : str
        The title.
    columns : list of str
        The columns, a line each.
    unit : str
        The label of the y axis.
    limit : float, optional
        The highest possible value, drawn as a line.
    limit_name : str
        The text beside that line.
    """

    title: str
    columns: list
    unit: str = ""
    limit: float | None = None
    limit_name: str = ""


class Term(torch.nn.Module):
    """One summand of an objective: the base of ours.

    Its ``forward(student, teacher, position)`` takes two Views and the
    position in epochs, and returns its value, a scalar, and figures, a dict of
    detached scalars, for the log. Its parameters are trained, its buffers are
    in the checkpoints. Any ``torch.nn.Module`` with such a ``forward`` is a
    term: what follows is optional. So is ``set_clusters(labels, centroids)``,
    for a term that makes something of the clusters of ``reclustering``: see
    ContrastiveCenter.

    Attributes
    ----------
    figures : tuple of str
        The names of its figures.
    whole_batch : bool
        Whether its value is one of the batch as a whole, such as a variance,
        which the values of its parts do not add up to.

    Example
    -------
    >>> class Length(Term):
    ...     def forward(self, student, teacher, position):
    ...         return student.embeddings.norm(dim=-1).mean(), {}
    >>> Length()(Views(torch.ones(2, 3, 4), {}, 2), None, position=0.0)
    (tensor(2.), {})
    """

    figures = ()
    whole_batch = False

    def after_step(self):
        """Called once per optimiser step, on all ranks."""

    def forget(self):
        """Called at a step that is undone, and when an epoch begins."""

    def warnings(self, means):
        """Sentences for the log after an epoch.

        Arguments
        ---------
        means : dict of str:float
            The means over the steps of the epoch.

        Returns
        -------
        list of str
            The sentences; none by default.
        """
        return []

    def panels(self):
        """Pictures of its figures.

        Returns
        -------
        list of Panel
            The pictures; none by default.
        """
        return []


class Objective(Term):
    """A weighted sum of terms, which is a term itself.

    Arguments
    ---------
    terms : dict of str:torch.nn.Module
        The terms by name: see Term. None takes a term out, and its weight
        with it.
    weights : dict of str:(float or callable)
        The weight of each term: a number, or a function of the position in
        epochs, such as LinearSchedule.

    Raises
    ------
    ValueError
        If a term has no weight, a weight no term, or two of them give one name
        to a figure.

    Example
    -------
    >>> class One(torch.nn.Module):
    ...     def forward(self, student, teacher, position):
    ...         return torch.tensor(1.0), {}
    >>> objective = Objective({"a": One(), "b": One()}, {"a": 1, "b": 0.5})
    >>> objective(None, None, position=0.0)
    (tensor(1.5000), {'a': tensor(1.), 'b': tensor(1.)})
    >>> Objective({"a": One()}, {"b": 1})
    Traceback (most recent call last):
    ...
    ValueError: The term a of the objective has no weight.
    """

    def __init__(self, terms, weights):
        super().__init__()
        taken_out = {name for name, term in terms.items() if term is None}
        terms = {name: terms[name] for name in terms if name not in taken_out}
        weights = {
            name: weights[name] for name in weights if name not in taken_out
        }
        for name in terms:
            if name not in weights:
                raise ValueError(
                    f"The term {name} of the objective has no weight."
                )
        for name in weights:
            if name not in terms:
                raise ValueError(
                    f"The objective has a weight of {name}, and no such term."
                )
        if not terms:
            raise ValueError("The objective has no term.")
        try:
            self.terms = torch.nn.ModuleDict(terms)
        except KeyError as error:
            raise ValueError(
                f"PyTorch does not take the name of a term: {error.args[0]}. "
                "Rename it."
            ) from error
        self.weights = weights
        self.figures = tuple(self._names())
        self._found = None  # the terms' own figures, in each step

    @property
    def over_batch(self):
        """The names of the terms in force whose value is of the whole batch."""
        return [
            name
            for name, term in self.terms.items()
            if getattr(term, "whole_batch", False) and self.weights[name] != 0
        ]

    @property
    def whole_batch(self):
        """Whether there is such a term: see Term."""
        return bool(self.over_batch)

    def _names(self):
        """The names of all figures; raises if two are the same."""
        names = list(self.terms)
        for term in self.terms.values():
            names += getattr(term, "figures", ())
        _check_names(names)
        return names

    def forward(self, student, teacher, position):
        """The weighted sum of the terms.

        Arguments
        ---------
        student : Views
            The student's views.
        teacher : Views
            The teacher's views, without gradient.
        position : float
            The position in training, in epochs.

        Returns
        -------
        value : torch.Tensor
            The weighted sum, a scalar.
        figures : dict of str:torch.Tensor
            The value of each term by its name, then the terms' own figures.
        """
        total, values, figures = None, {}, {}
        for name, term in self.terms.items():
            value, found = term(student, teacher, position)
            _check_tensors(name, {name: value, **found})
            _check_names([*self.terms, *figures, *found])
            part = value_at(self.weights[name], position) * value
            total = part if total is None else total + part
            values[name] = value.detach()
            figures.update(found)
        if self._found is None:
            self._found = set(figures)
        if set(figures) != self._found:
            some = sorted(self._found ^ set(figures))
            raise ValueError(
                f"The objective gives the figure {some[0]} in some steps only: "
                "give the same ones in each, such as 0."
            )
        return total, {**values, **figures}

    def after_step(self):
        """Tells the terms of an optimiser step."""
        self._call("after_step")

    def forget(self):
        """Tells the terms of an undone step, and of an epoch's start."""
        self._call("forget")

    @property
    def of_clusters(self):
        """The names of the terms that want to know of clusters."""
        return [
            name
            for name, term in self.terms.items()
            if hasattr(term, "set_clusters")
            and getattr(term, "of_clusters", True)  # of an objective, its own
        ]

    def set_clusters(self, labels, centroids):
        """Tells the terms of clusters: see ContrastiveCenter."""
        self._call("set_clusters", labels, centroids)

    def warnings(self, means):
        """The warnings of all terms."""
        return [
            text for found in self._call("warnings", means) for text in found
        ]

    def panels(self):
        """The pictures of all terms."""
        return list(chain.from_iterable(self._call("panels")))

    def _call(self, name, *arguments):
        """What the terms answer that have such a method."""
        return [
            getattr(term, name)(*arguments)
            for term in self.terms.values()
            if hasattr(term, name)
        ]


def value_at(value, position):
    """A number, or what a schedule says.

    Arguments
    ---------
    value : float or callable
        The number, or the function from the position to it.
    position : float
        The position in training, in epochs.

    Returns
    -------
    float
        The number.

    Example
    -------
    >>> value_at(0.5, position=3.0), value_at(lambda epoch: epoch / 2, 3.0)
    (0.5, 1.5)
    """
    return value(position) if callable(value) else value


def check_columns(objective, columns):
    """Raises if a figure of an objective has the name of one of a Brain's own.

    Arguments
    ---------
    objective : Objective
        The objective, or another module, whose figures nobody knows.
    columns : iterable of str
        The names that the Brain gives to its figures.

    Example
    -------
    >>> class Accuracy(Term):
    ...     figures = ("accuracy",)
    >>> check_columns(Accuracy(), ["loss", "accuracy"])
    Traceback (most recent call last):
    ...
    ValueError: accuracy is a figure of this training: give the term or ...
    """
    for name in columns:
        if name in getattr(objective, "figures", ()):
            raise ValueError(
                f"{name} is a figure of this training: give the term or "
                "figure of the objective another name."
            )


def accumulation_warnings(objective, factor):
    """Sentences for the log when a training begins.

    Arguments
    ---------
    objective : torch.nn.Module
        Objective, or another Term.
    factor : int
        The number of micro-batches whose gradients are added up in a step.

    Returns
    -------
    list of str
        One sentence if the objective is of the whole batch, and sees parts of
        it.
    """
    if factor == 1 or not getattr(objective, "whole_batch", False):
        return []
    names = getattr(objective, "over_batch", [type(objective).__name__])
    return [
        f"grad_accumulation_factor={factor}: terms that compare the utterances "
        f"of a batch ({', '.join(names)}) see 1/{factor} of them, which is "
        "another objective. Set it to 1, with more processes or a larger "
        "batch_size."
    ]


def _check_tensors(term, found):
    """Raises if a value or figure is no tensor of one number."""
    for name, value in found.items():
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ValueError(
                f"The term {term} of the objective gives {name} as a "
                f"{type(value).__name__}: give a tensor of one number."
            )


def _check_names(names):
    """Raises if a name is there twice, or is one of every training."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two terms of the objective give the name {name} to a "
                "figure: rename one of them."
            )
        if name in TAKEN or name in METERS:
            raise ValueError(
                f"{name} is a figure of every training: give the term or "
                "figure of the objective another name."
            )
