"""Rows of embeddings: all in one process, or spread over those of torchrun.

k-means asks for sums over rows, and for a few of them, whoever holds them. The
main process leads: it deals out the rows of what it clusters, a stretch to each
process, and no other one holds them all. Nothing but memory is needed, no disk
that all see.
"""

import contextlib

import numpy as np
import scipy.sparse
import torch
from torch import distributed

from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain_cadino.process.parts import stretches
from speechbrain_cadino.process.ranks import LONG_PATIENCE, patience

# Rows that are worked on at once where that saves memory.
CHUNK = 2**14

# While the main process leads: what it talks by to the others
_group = None


class Rows:
    """Embeddings of unit length, all in this process.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (n, D), float32: those of this process.

    Attributes
    ----------
    count : int
        N, the number of rows in all processes.
    """

    def __init__(self, points):
        self.points = points
        self.count = len(points)

    def pick(self, rows):
        """Some rows, for all processes.

        Arguments
        ---------
        rows : numpy.ndarray
            Shape (k,): their numbers, of 0 ... N - 1.

        Returns
        -------
        numpy.ndarray
            The rows, shape (k, D), float32.
        """
        return self.points[rows]

    def sums(self, labels, num_clusters):
        """The sum of each cluster, for all processes.

        Arguments
        ---------
        labels : numpy.ndarray
            Shape (n,), int64: the clusters of this process's rows.
        num_clusters : int
            K, the number of clusters.

        Returns
        -------
        numpy.ndarray
            Shape (K, D): the same bits whatever the number of processes.
        """
        return sums_of_members(self.points, labels, num_clusters)

    def total(self, values):
        """What the processes have, added up.

        Arguments
        ---------
        values : numpy.ndarray
            The numbers of this process.

        Returns
        -------
        numpy.ndarray
            The sum over the processes, the same for all.
        """
        return values

    def whole(self, values):
        """What the processes know of their rows, for all of them.

        Arguments
        ---------
        values : numpy.ndarray
            Shape (n,): a number for each row of this process.

        Returns
        -------
        numpy.ndarray
            The numbers of all rows, shape (N,).
        """
        return values

    def own(self, values):
        """This process's part of what ``whole`` gives.

        Arguments
        ---------
        values : numpy.ndarray
            The numbers of all rows, shape (N,).

        Returns
        -------
        numpy.ndarray
            The numbers of this process's rows, shape (n,).
        """
        return values

    def from_main(self, make):
        """What the main process makes, for all of them.

        Arguments
        ---------
        make : callable
            A function without arguments.

        Returns
        -------
        object
            The result of ``make``, the same in all processes.
        """
        return make()


class SharedRows(Rows):
    """Embeddings of unit length, a stretch of them in each process.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (n, D), float32: those of this process.
    count : int
        N, the number of rows in all processes.
    group : torch.distributed.ProcessGroup
        The group of all processes, for tensors on the CPU.
    """

    def __init__(self, points, count, group):
        super().__init__(points)
        self.count = count
        self.group = group
        self.rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)
        self.first, self.last = stretches(count, self.size)[self.rank]

    def pick(self, rows):
        """See Rows."""
        mine = (rows >= self.first) & (rows < self.last)
        picked = np.zeros((len(rows), self.points.shape[1]), np.float32)
        picked[mine] = self.points[rows[mine] - self.first]
        return self.total(picked)

    def sums(self, labels, num_clusters):
        """See Rows. Each process adds its rows to the sums of the one before
        it, in the order of one process; a part of the dimensions at a time, so
        that all are at work."""
        width = self.points.shape[1]
        sums = np.zeros((num_clusters, width), np.float32)
        members = np.concatenate([np.arange(num_clusters), labels])
        for first, last in stretches(width, self.size):
            part = np.zeros((num_clusters, last - first), np.float32)
            if not part.size:
                continue
            if self.rank > 0:
                before = torch.from_numpy(part)
                distributed.recv(before, self.rank - 1, self.group)
            rows = np.concatenate([part, self.points[:, first:last]])
            part = sums_of_members(rows, members, num_clusters)
            if self.rank < self.size - 1:
                after = torch.from_numpy(part)
                distributed.send(after, self.rank + 1, self.group)
            else:
                sums[:, first:last] = part
        distributed.broadcast(torch.from_numpy(sums), self.size - 1, self.group)
        return sums

    def total(self, values):
        """See Rows."""
        values = values.copy()
        distributed.all_reduce(torch.from_numpy(values), group=self.group)
        return values

    def whole(self, values):
        """See Rows."""
        all_values = np.zeros(self.count, values.dtype)
        all_values[self.first : self.last] = values
        return self.total(all_values)

    def own(self, values):
        """See Rows."""
        return values[self.first : self.last].copy()

    def from_main(self, make):
        """See Rows."""
        return _tell(make() if self.rank == 0 else None, self.group)


def rows_of(embeddings, task):
    """The rows that this process clusters.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D), of any length; a ``numpy.memmap`` is read in pieces.
    task : dict
        The task that the other processes are told to do with theirs, if they
        take part: see ``run_shared``.

    Returns
    -------
    Rows
        The rows, of unit length: all, or a stretch if processes share them.

    Raises
    ------
    ValueError
        If an embedding is zero or not finite.
    """
    if _group is None or len(embeddings) < distributed.get_world_size(_group):
        return Rows(unit_rows(embeddings))
    _tell((embeddings.shape, task), _group)
    return _deal(embeddings, _group)


def run_shared(lead, follow, args=(), **options):
    """As ``run_on_main``; but the other processes take part in whatever it
    clusters.

    Arguments
    ---------
    lead : callable
        The function that the main process calls.
    follow : callable
        A function that the others call each time that ``lead`` asks for
        ``rows_of`` embeddings: with their own rows and the task.
    args : list
        The arguments of ``lead``.
    **options
        Further arguments of ``run_on_main``, such as ``post_func``.

    Returns
    -------
    object
        The result of ``lead``, on all processes.

    Example
    -------
    >>> run_shared(sum, follow=None, args=[[3, 4]])
    7
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return run_on_main(lead, args, **options)
    # NCCL knows no tensors on the CPU
    group = distributed.new_group(backend="gloo", timeout=LONG_PATIENCE)

    def lead_others(*args):
        with _leading(group):
            result = lead(*args)
        # Not if it raises: the others end with the main process
        _tell(None, group)
        return result

    if not if_main_process():
        while (told := _tell(None, group)) is not None:
            shape, task = told
            follow(_receive(shape, group), **task)
    with patience(LONG_PATIENCE):
        result = run_on_main(lead_others, args, **options)
    distributed.destroy_process_group(group)
    return result


@contextlib.contextmanager
def _leading(group):
    """Others follow what this process clusters in the block."""
    global _group
    _group = group
    try:
        yield
    finally:
        _group = None


def _tell(thing, group):
    """What the main process has to say, for all."""
    things = [thing]
    distributed.broadcast_object_list(things, 0, group)
    return things[0]


def _deal(embeddings, group):
    """Sends each process its rows; returns those of the main one."""
    count, width = embeddings.shape
    parts = stretches(count, distributed.get_world_size(group))
    points = np.empty((parts[0][1], width), np.float32)
    for rank, (first, last) in enumerate(parts):
        for begin, rows in _in_pieces(embeddings, first, last):
            if rank == 0:
                points[begin : begin + len(rows)] = rows
            else:
                distributed.send(torch.from_numpy(rows), rank, group)
    return SharedRows(points, count, group)


def _receive(shape, group):
    """The rows of a process that follows."""
    count, width = shape
    parts = stretches(count, distributed.get_world_size(group))
    first, last = parts[distributed.get_rank(group)]
    points = np.empty((last - first, width), np.float32)
    for begin in range(0, len(points), CHUNK):
        rows = torch.from_numpy(points[begin : begin + CHUNK])
        distributed.recv(rows, 0, group)
    return SharedRows(points, count, group)


def unit_rows(embeddings):
    """Embeddings of unit length.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D); left as it is.

    Returns
    -------
    numpy.ndarray
        Shape (N, D), float32, a copy.

    Raises
    ------
    ValueError
        If a row is zero or not finite.

    Example
    -------
    >>> unit_rows(np.array([[3, 4], [0, 2]]))
    array([[0.6, 0.8],
           [0. , 1. ]], dtype=float32)
    """
    embeddings = np.asarray(embeddings)
    points = np.empty(embeddings.shape, np.float32)
    for first, rows in _in_pieces(embeddings, 0, len(points)):
        points[first : first + len(rows)] = rows
    return points


def _in_pieces(embeddings, first, last):
    """Pairs of where a piece of a stretch begins, and its rows of unit
    length."""
    for begin in range(first, last, CHUNK):
        # In float64, the square of no float32 overflows or vanishes.
        rows = np.asarray(embeddings[begin : min(begin + CHUNK, last)], float)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        bad = ~np.isfinite(length[:, 0]) | (length[:, 0] == 0)
        if bad.any():
            row = bad.argmax()
            kind = "zero" if length[row] == 0 else "not finite"
            raise ValueError(
                f"The embedding in row {begin + row} (of 0 to "
                f"{len(embeddings) - 1}) is {kind}: leave this utterance out, "
                "or embed it again."
            )
        yield begin, (rows / length).astype(np.float32)


def sums_of_members(points, labels, num_clusters):
    """For each cluster, the sum of its points.

    Arguments
    ---------
    points : numpy.ndarray
        Points, shape (N, D).
    labels : numpy.ndarray
        Clusters of the points, shape (N,), int64, of 0 ... K - 1.
    num_clusters : int
        K, the number of clusters.

    Returns
    -------
    numpy.ndarray
        Sums, shape (K, D), of the type of the points.

    Example
    -------
    >>> sums_of_members(np.eye(3), np.array([2, 0, 2]), num_clusters=3)
    array([[0., 1., 0.],
           [0., 0., 0.],
           [1., 0., 1.]])
    """
    members = scipy.sparse.csr_matrix(
        (np.ones(len(labels), points.dtype), (labels, np.arange(len(labels)))),
        shape=(num_clusters, len(labels)),
    )
    return members @ points
