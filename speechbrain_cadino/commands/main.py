"""The command line: ``speechbrain-cadino COMMAND ...``."""

import argparse
import contextlib
import inspect
import logging
import sys

from speechbrain_cadino import __version__

# A command is a function that adds its arguments to a parser; its docstring is
# the help. The function of the same name in actions.py does the work: it is
# imported after parsing, as what it needs takes seconds to import.


def embed(parser):
    """Embeds audio files: embeddings.npy and ids.txt in a folder.

    A row of the array belongs to the line of the same number in ids.txt, the
    path of the file.

    Example:
      speechbrain-cadino embed results/encoder speech/ \\
          --output embeddings
    """
    _add_encoder(parser)
    _add_inputs(parser)
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="where to write"
    )


def verify(parser):
    """Tells whether audio files are of the same speaker as others.

    Prints a table: the file and its score, the cosine of the embeddings from
    -1 to 1. From which score on it is the same speaker depends on encoder and
    audio: verify.py finds a threshold on trials of your own.

    Examples:
      speechbrain-cadino verify results/encoder anne.wav calls/
      speechbrain-cadino verify results/encoder anne/ call.flac \\
          --threshold 0.4
    """
    _add_encoder(parser)
    parser.add_argument(
        "enrol",
        metavar="ENROL",
        help="audio file of the speaker, or a folder of such files",
    )
    parser.add_argument(
        "tests", metavar="TEST", nargs="+", help="audio files and folders"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="the lowest score of the same speaker",
    )
    parser.add_argument("--csv", metavar="FILE", help="write the table there")


def cluster(parser):
    """Tells which audio files are of one speaker: clusters them.

    Writes a table, the file and its cluster, and prints how many files each
    cluster has. Cluster 0 is the largest. Files of several speakers at once
    have to be cut before. Of more than 5000 files, only a few numbers of
    clusters are compared; clusters_sweep/ beside clusters.csv shows them.

    Example:
      speechbrain-cadino cluster results/encoder calls/ \\
          --csv clusters.csv
    """
    _add_encoder(parser)
    _add_inputs(parser)
    parser.add_argument(
        "--num_clusters",
        type=int,
        metavar="N",
        help="how many speakers there are; by default the number, 2 or more, "
        "whose clusters lie apart the best",
    )
    parser.add_argument(
        "--csv", metavar="FILE", required=True, help="write the table there"
    )


def draw_map(parser):
    """Draws embeddings in two dimensions, coloured by speaker or cluster.

    Takes what embed, extract.py or pseudo_label.py have written.

    Example:
      speechbrain-cadino map embeddings map.pdf \\
          --labels clusters.csv
    """
    parser.add_argument(
        "embeddings",
        metavar="EMBEDDINGS_FOLDER",
        help="folder with embeddings.npy and ids.txt",
    )
    parser.add_argument(
        "plot", metavar="PLOT", help="the picture: .png, .pdf or .svg"
    )
    parser.add_argument(
        "--labels",
        metavar="CSV",
        help="file with the columns ID or file, and spk_id or cluster",
    )


def compare(parser):
    """Tells which of several systems is better on a list of trials.

    Prints the figures of each with 95% intervals over speakers, and how far
    the EER of each is from that of the first. The score files are those of
    verify.py, or any with lines of "enrol test score".

    Example:
      speechbrain-cadino compare trials.txt \\
          before=results/1/scores_encoder.txt \\
          after=results/2/scores_encoder.txt --output comparison
    """
    parser.add_argument(
        "trials",
        metavar="TRIALS",
        help="the trial list, with lines of '1 enrol test' or "
        "'enrol test target'",
    )
    parser.add_argument(
        "scores",
        metavar="NAME=FILE",
        nargs="+",
        type=_named_file,
        help="a name for a system, and its score file",
    )
    parser.add_argument(
        "--speakers",
        metavar="CSV",
        help="file with the columns ID and spk_id: who speaks in each file of "
        "the list; by default their first folder, as in VoxCeleb, or whatever "
        "target trials link",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write comparison.json and det.png there",
    )


COMMANDS = {
    "embed": embed,
    "verify": verify,
    "cluster": cluster,
    "map": draw_map,
    "compare": compare,
}


def _named_file(text):
    """A name and a file."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FILE")
    return name, path


def _add_encoder(parser):
    parser.add_argument(
        "encoder",
        metavar="ENCODER",
        help="encoder folder of SpeechBrain or of this package, or a hub id "
        "such as speechbrain/spkrec-ecapa-voxceleb",
    )
    parser.add_argument(
        "--device",
        help="such as cpu or cuda:0; SpeechBrain's by default",
    )
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="the encoder is a stranger's, whose YAML file must not run code: "
        "load it only if it is made of well-known parts",
    )


def _add_inputs(parser):
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="audio files, and folders to search for such, of any format, "
        "rate and number of channels",
    )


def make_parser():
    """The parser of the command line.

    Returns
    -------
    argparse.ArgumentParser
        It sets ``action``, the name of a function in ``actions``.
    """
    parser = argparse.ArgumentParser(
        prog="speechbrain-cadino",
        description="What a speaker encoder says about your audio. Results go "
        "to stdout, all else to stderr.",
        epilog="COMMAND --help tells more of a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for name, command in COMMANDS.items():
        text = inspect.getdoc(command)
        subparser = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command(subparser)
        subparser.set_defaults(action=command.__name__)
    return parser


def main(arguments=None):
    """Runs a command.

    Arguments
    ---------
    arguments : list of str, optional
        The command line without the program; by default that of the process.
    """
    parsed = make_parser().parse_args(arguments)
    from speechbrain_cadino.commands import actions
    from speechbrain_cadino.process.errors import user_errors

    logging.basicConfig(format="%(message)s")
    logging.getLogger("speechbrain_cadino").setLevel(logging.INFO)
    with user_errors():
        # SpeechBrain and the models of others may print.
        with contextlib.redirect_stdout(sys.stderr):
            output = getattr(actions, parsed.action)(parsed)
        if output is not None:
            sys.stdout.write(output)
