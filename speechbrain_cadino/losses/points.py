"""Points: what a network says of the crops of a batch, for terms to compare.

Shapes here: V views, N utterances on all ranks, D dimensions.
"""

import torch

from speechbrain_cadino.process.ranks import ddp_gather


def points(views, of):
    """What a term compares of each crop.

    Arguments
    ---------
    views : Views
        The views of a network.
    of : str
        "embeddings", or the name of an output of the head.

    Returns
    -------
    torch.Tensor
        Points, (V, batch, D), in fp32 or more.

    Raises
    ------
    ValueError
        If the head has no such output.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> points(Views(torch.ones(2, 3, 4), {}, 2), "expanded")
    Traceback (most recent call last):
    ...
    ValueError: The head has no output expanded: give an expander_size, or ...
    """
    found = {"embeddings": views.embeddings, **views.outputs}
    if of not in found:
        hint = "give an expander_size, or " if of == "expanded" else ""
        raise ValueError(
            f"The head has no output {of}: {hint}set 'of' of the term to one "
            f"of {', '.join(found)}."
        )
    return found[of].to(torch.promote_types(found[of].dtype, torch.float32))


def all_points(views, of):
    """``points`` of the batch of all ranks, (V, N, D)."""
    return ddp_gather(points(views, of), dim=1)


def mean_points(student, teacher, of):
    """The means of ``points`` over the global views, on all ranks.

    Arguments
    ---------
    student : Views
        The student's views, all of which count if it saw no global crop.
    teacher : Views
        The teacher's views, all of them global.
    of : str
        See ``points``.

    Returns
    -------
    list of torch.Tensor
        The student's means and the teacher's, (N, D).

    Raises
    ------
    ValueError
        If there is one utterance, which has no variance.
    """
    globals_ = points(student, of)[: student.globals or None]
    found = [
        ddp_gather(x.mean(0), dim=0) for x in (globals_, points(teacher, of))
    ]
    if len(found[0]) == 1:
        raise ValueError(
            "A batch of one utterance has no variance: raise batch_size."
        )
    return found
