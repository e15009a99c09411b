"""Weights that a training starts from: the keys start_*."""

# As start_classifier: the classes start as the means of their members
CENTROIDS = "centroids"


def check_starts(settings):
    """Raises if what a training is to start from does not go together.

    Arguments
    ---------
    settings : dict
        The settings, as ``config.settings.resolve`` gives them.

    Raises
    ------
    ValueError
        If the classes are to start as means of an encoder that has learnt
        nothing, or of two encoders; or another key says so.

    Example
    -------
    >>> check_starts({"start_encoder": None, "start_classifier": "centroids"})
    Traceback (most recent call last):
    ...
    ValueError: start_classifier=centroids: the means of an encoder that has ...
    """
    for key in settings:
        if not key.startswith("start_") or settings[key] != CENTROIDS:
            continue
        if key != "start_classifier":
            raise ValueError(
                f"{key}={CENTROIDS}: only start_classifier can be that. Give "
                "the path of what to start from, or null for from scratch."
            )
        if len(settings.get("branches") or []) > 1:
            raise ValueError(
                f"{key}={CENTROIDS} is for one signal, and here are more: give "
                f"--{key}=null."
            )
        if settings.get("start_encoder") is None:
            raise ValueError(
                f"{key}={CENTROIDS}: the means of an encoder that has learnt "
                "nothing say nothing. Give start_encoder, an encoder folder or "
                f"a hub id; or --{key}=null, to train from scratch."
            )
