"""Pictures, written whole."""

import matplotlib.pyplot as plt

from speechbrain_cadino.process.files import atomic_path


def as_label(name):
    """A name as matplotlib shows it: no mathematics, and in the legend, which
    leaves out what begins with an underscore.

    Arguments
    ---------
    name : str
        A name of somebody's.

    Returns
    -------
    str
        The label: ``$`` escaped, a blank before an underscore at its start.

    Example
    -------
    >>> as_label("_a$b")
    ' _a\\\\$b'
    """
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save_figure(figure, path, dpi=120, **options):
    """Writes a picture, and forgets it.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The picture.
    path : str or pathlib.Path
        The file.
    dpi : int
        Dots per inch.
    **options
        Further arguments of ``savefig``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "empty.png"
    >>> save_figure(plt.figure(), path)
    >>> path.is_file(), plt.get_fignums()
    (True, [])
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, **options)
    plt.close(figure)
