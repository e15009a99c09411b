"""The command line: ``speechbrain-cadino COMMAND ...``."""

import argparse
import contextlib
import inspect
import logging
import os
import re
import sys

from speechbrain_cadino import __version__

# What goes on where it was killed
GO_ON = {"prepare", "embed", "filter_files"}

ENCODER = (
    "encoder folder of SpeechBrain or of this package, or a hub id such as "
    "speechbrain/spkrec-ecapa-voxceleb"
)

# A home behind the = of a flag
HOME = re.compile("(?<==)~[^/=]*(?=/|$)")

# A command is a function that adds its arguments to a parser; its docstring is
# the help. The function of the same name in actions.py does the work: it is
# imported after parsing, as what it needs takes seconds to import.


def prepare(parser):
    """Lists the audio of a folder in a manifest, which trainings read.

    The manifest is train.csv; skipped.csv lists the files that are left out,
    with the reason. Only the headers of files are read; with --convert_folder,
    files that need it, such as m4a, are copied to flac. Each job of a scheduler
    can take one part (--part), and the job that finishes last writes the
    manifest. A training reads this manifest if it has
    --manifest_folder=OUTPUT, and the same values in its YAML file: the recipes
    have --min_duration 2, and dino.yaml has --id_parts 3.

    Examples:
      speechbrain-cadino prepare calls/ --output manifest --min_duration 2
      speechbrain-cadino prepare /path/to/VoxCeleb2 --output manifest \\
          --id_parts 3 --min_duration 2 --convert_folder /path/for/flac \\
          --part 3/8
    """
    _add_corpus(parser, "training")
    parser.add_argument(
        "--part",
        metavar="I/N",
        help="read, and convert, only this part of the files, such as 3/8",
    )
    parser.add_argument(
        "--convert_folder",
        metavar="FOLDER",
        help="make 16-bit mono flac copies there of files that need it",
    )
    parser.add_argument(
        "--min_duration",
        type=float,
        metavar="SECONDS",
        default=1.0,
        help="shorter files are left out; 1 by default",
    )
    parser.add_argument(
        "--max_duration",
        type=float,
        metavar="SECONDS",
        help="longer files are left out",
    )
    parser.add_argument(
        "--cut_seconds",
        type=float,
        metavar="SECONDS",
        help="cut files into pieces of about this length, a row for each",
    )
    parser.add_argument(
        "--exclude",
        metavar="LIST",
        action="append",
        help="a trial list whose speakers are left out; may be given again",
    )
    parser.add_argument(
        "--id_parts",
        type=int,
        metavar="N",
        help="how many last parts of a path make the ID, 3 for VoxCeleb; "
        "the first of them is the speaker, listed in speakers.csv",
    )


def split(parser):
    """Writes each channel of recordings, such as a side of a call, into a file.

    The files are 16-bit mono flac, in a folder for each channel, channel_1 and
    so on, below which their paths are those of the recordings. Files of one
    channel are in channel_1 alone. skipped.csv lists those that cannot be
    split, with the reason. A command that was killed goes on where it was.

    Example:
      speechbrain-cadino split calls/ --output sides
    """
    _add_corpus(parser, "files")


def embed(parser):
    """Embeds audio files: embeddings.npy and ids.txt in a folder.

    Each row of the array belongs to the line of the same number in ids.txt,
    which is the path of the file; skipped.csv lists the files that cannot be
    used, and why. A command that was killed goes on where it was if it is
    started again with the same files. Once it has ended, another start embeds
    the files that are new or were replaced since. Embeddings are never lost
    silently: the command refuses to go on if files that it has embedded are no
    longer given or cannot be read, or if the encoder is another one.

    Example:
      speechbrain-cadino embed results/encoder speech/ \\
          --output embeddings
    """
    _add_encoder(parser)
    _add_inputs(parser)
    _add_output(parser)
    parser.add_argument(
        "--drop_missing",
        action="store_true",
        help="drop the embeddings of files that no longer exist",
    )


def verify(parser):
    """Tells whether audio files are of the same speaker as others.

    Prints a table with a row for each file: its score, the cosine of the
    embeddings, from -1 to 1; and, if the encoder folder has a calibration, the
    log-likelihood ratio and "same", "different" or "unsure". The answer is
    "unsure" if the probability of "same" is from 10% to 90%, with a prior of
    50%, and for files shorter than a second. Only the first five minutes of a
    long file are heard. Files that cannot be used come last, with a note that
    says why. A calibration should be made on audio like your own: see
    calibrate. With several files in ENROL, the score is the mean of the scores
    with each of them. A test file that is also in ENROL is compared only with
    the other files of ENROL.

    Examples:
      speechbrain-cadino verify results/encoder anne.wav calls/
      speechbrain-cadino verify results/encoder anne/ call.flac \\
          --threshold 0.4
    """
    _add_encoder(parser)
    _add_embeddings(parser)
    parser.add_argument(
        "enrol",
        metavar="ENROL",
        help="audio file of the speaker, or a folder or CSV list of such "
        "files; with --embeddings, an ID or a CSV list of IDs",
    )
    parser.add_argument(
        "tests",
        metavar="TEST",
        nargs="*" if parser.get_default("stored") else "+",
        help="audio files, folders and CSV lists; with --embeddings, IDs and "
        "CSV lists of IDs, by default all others",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="the lowest score that counts as the same speaker, in place of "
        "the encoder's calibration",
    )
    parser.add_argument("--csv", metavar="FILE", help="write the table there")


def calibrate(parser):
    """Finds the score from which on two files have the same voice.

    Writes calibration.json into the encoder folder, for verify and cluster,
    and the threshold into its hyperparams.yaml and README.md. Without a trial
    list, no labels are needed: a pair of one voice is the two halves of a
    recording (crops), or two recordings that the encoder finds alike
    (clusters); any two other recordings are taken for two voices. Give 20
    recordings or more, of many voices; or a list with ten or more trials of
    one voice and ten or more of two voices.

    Examples:
      speechbrain-cadino calibrate results/encoder calls/
      speechbrain-cadino calibrate results/encoder --trials trials.txt \\
          --data_folder calls/
    """
    _add_encoder(parser, "encoder folder, which is written into")
    _add_embeddings(parser)
    _add_inputs(parser, nargs="*")
    parser.add_argument(
        "--trials",
        metavar="LIST",
        help="a trial list, with lines of '1 enrol test' or '0 enrol test', in "
        "the place of the inputs",
    )
    parser.add_argument(
        "--data_folder",
        metavar="FOLDER",
        action="append",
        help="folder of the files of the trial list, by default the folder of "
        "the list; it may be given several times. With --embeddings the list "
        "has IDs, and no files are needed",
    )
    parser.add_argument(
        "--method",
        choices=["crops", "clusters"],
        help="which pairs are taken for one voice; crops by default",
    )


def adapt(parser):
    """Makes an encoder for your recordings, in minutes and without labels.

    Linear maps of the embeddings are learnt from two thirds of the recordings:
    none, mean subtraction, whitening, LDA with each recording as a class
    (recording_lda), LDA on clusters of 2, 4 and 8 recordings. Each map is tried
    on the other third, for each third in turn, by two criteria, which the table
    shows: the error rate at telling augmented crops of a recording from crops
    of others, and the agreement of the clusters of the recordings' first halves
    with those of their last halves. A map is refused if it does not surely
    lower the error rate, or if its clusters agree less than without a map in
    all three thirds. Writes an encoder folder with the best of the other maps
    in the encoder's last layer, a threshold and a model card; if all maps are
    refused, nothing is written. Adaptation helps where the encoder is weak or
    was trained on another kind of audio: give 30 recordings or more, of many
    voices.

    Example:
      speechbrain-cadino adapt results/encoder calls/ \\
          --output results/encoder_calls
    """
    _add_encoder(parser)
    _add_inputs(parser)
    _add_output(parser)
    parser.add_argument(
        "--map",
        metavar="NAME",
        help="the map to take whatever the criteria say: mean, whitening, "
        "recording_lda or cluster_lda_2, _4, _8",
    )


def cluster(parser):
    """Tells which audio files share a speaker, and how many speakers there are.

    Writes a table with each file, its cluster and its stability, and prints how
    many files each cluster has. Cluster 0 is the largest. Clusters are numbered
    anew each time; to keep track of a person, see verify. The number of
    clusters, which may be one, is the most likely one by the encoder's
    calibration, or by a calibration on these files; without a calibration, it
    is the number, of two or more, whose clusters are separated best. The
    stability of a file is 1 if it stays with the same files when a fifth of all
    files is left out. Files with several speakers have to be cut first. More
    than 5000 files are first put into 5000 small clusters, which are then
    merged: no more speakers than that are found, unless --num_clusters asks for
    more. If embedding takes hours, run embed first, which goes on where it was
    killed, and then cluster with --embeddings.

    Examples:
      speechbrain-cadino cluster results/encoder calls/ \\
          --csv clusters.csv
      speechbrain-cadino cluster --embeddings wespeaker/ --csv clusters.csv
    """
    _add_encoder(parser)
    _add_embeddings(parser)
    _add_inputs(parser, "*" if parser.get_default("stored") else "+")
    parser.add_argument(
        "--num_clusters",
        type=int,
        metavar="N",
        help="how many speakers there are; found by default",
    )
    parser.add_argument(
        "--shortest",
        type=float,
        metavar="SECONDS",
        default=1.0,
        help="shorter files are in no cluster, but marked; 1 by default",
    )
    parser.add_argument(
        "--recording_lda",
        action="store_true",
        help="first learn from these files, thirty or more, which differences "
        "to ignore: see the map of this name in the command adapt",
    )
    parser.add_argument(
        "--csv", metavar="FILE", required=True, help="write the table there"
    )


def filter_files(parser):
    """Tells which audio files are one voice that speaks.

    The others are noise, music, dead air or several voices. Writes into a
    folder: confidence.csv, each file with its scores and whether it is kept;
    filtered.csv, the manifest of the files that are kept, for a training;
    filter.json, figures and examples to listen to; filter_skipped.csv, the
    files that cannot be used; and a plot. The scores are the share of speech in
    a file, the consistency of its segments for the encoder, and the density of
    other files around it. Prints what each rule has dropped.

    A rule is "mixture", which keeps the higher of two hills of the scores, if
    there are two; the share of the files to keep, such as 80%; the least score
    to keep; or null for no rule.

    Example:
      speechbrain-cadino filter results/encoder archive/ \\
          --output filtered
    """
    _add_encoder(parser)
    _add_inputs(parser)
    _add_output(parser)
    for name, default, words in [
        ("speech", "auto", "share of speech (auto: to suit the detector)"),
        ("consistency", "mixture", "consistency of segments"),
        ("density", "null", "density of files"),
    ]:
        parser.add_argument(
            f"--{name}",
            metavar="RULE",
            default=default,
            help=f"rule for the {words}; {default} by default",
        )
    parser.add_argument(
        "--detector",
        choices=["auto", "silero", "modulation"],
        default="auto",
        help="what detects speech; auto, the default, is Silero VAD if it is "
        "installed, and otherwise the modulation",
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
        help="a name for a system, and its score file or a folder with "
        "embeddings of the list's files, whose cosines are then the scores",
    )
    parser.add_argument(
        "--speakers",
        metavar="CSV",
        help="file with the columns ID and spk_id, the speaker of each file of "
        "the list; by default the file's first folder, as in VoxCeleb; if "
        "trials contradict that, files linked by target trials share one",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write comparison.json and det.png there",
    )


COMMANDS = {
    "prepare": prepare,
    "split": split,
    "embed": embed,
    "verify": verify,
    "calibrate": calibrate,
    "adapt": adapt,
    "cluster": cluster,
    "filter": filter_files,
    "map": draw_map,
    "compare": compare,
}


def _named_file(text):
    """A name and a file."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FILE")
    return name, path


def _add_output(parser):
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="where to write"
    )


def _add_corpus(parser, what):
    """The folders of recordings, and how to write what is made of them."""
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", help="where the audio is"
    )
    _add_output(parser)
    parser.add_argument(
        "--sample_rate",
        type=int,
        metavar="HZ",
        default=16000,
        help=f"sample rate of the {what}; 16000 by default",
    )
    parser.add_argument(
        "--glob",
        metavar="PATTERN",
        default="**/*",
        help="the files to take, as paths below the folder; all by default",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        metavar="N",
        help="processes; as many as there are CPUs by default",
    )


def _add_encoder(parser, text=ENCODER):
    if not parser.get_default("stored"):
        parser.add_argument("encoder", metavar="ENCODER", help=text)
    parser.add_argument(
        "--device",
        help="device, such as cpu or cuda:0; SpeechBrain's by default",
    )
    parser.add_argument(
        "--untrusted",
        dest="trusted",
        action="store_false",
        help="for an encoder from somebody you do not know: its YAML file must "
        "not run code, so it is loaded only if it is made of well-known parts",
    )


def _add_embeddings(parser):
    parser.add_argument(
        "--embeddings",
        metavar="FOLDER",
        help="embeddings of any encoder in place of ENCODER: a folder with "
        "embeddings.npy, (N, D), and ids.txt; the inputs are then IDs",
    )


def _add_inputs(parser, nargs="+"):
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs=nargs,
        help="audio files of any format, sample rate and number of channels, "
        "folders to search for them, and CSV files that list them, such as the "
        "filtered.csv of filter",
    )


class Parser(argparse.ArgumentParser):
    """As argparse's; of a misspelt flag it says what was meant, and a flag has
    its whole name: what the inputs are depends on one."""

    def __init__(self, *args, **options):
        super().__init__(*args, allow_abbrev=False, **options)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but a command refuses what it does not know itself,
        as it knows its flags."""
        self.given = [word.partition("=")[0] for word in args or []]
        namespace, rest = super().parse_known_args(args, namespace)
        flags = [word for word in rest if word.startswith("-")]
        for name in ("inputs", "tests"):
            if rest and not flags and getattr(namespace, name, None) == []:
                # Inputs that may be none are none to argparse before a flag
                setattr(namespace, name, rest)
                rest = []
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return namespace, rest

    def error(self, message):
        """Ends the process with a message."""
        from speechbrain_cadino.config.flags import did_you_mean

        known = self._option_string_actions
        unknown = [
            word
            for word in self.given
            if word.startswith("--") and word not in known
        ]
        hints = [did_you_mean(word, known) for word in unknown]
        super().error(f"{message}.{''.join(hints)}" if any(hints) else message)


def make_parser(stored=False):
    """The parser of the command line.

    Arguments
    ---------
    stored : bool
        Whether there are embeddings in the place of an encoder.

    Returns
    -------
    argparse.ArgumentParser
        The parser, which sets ``action``, the name of a function in
        ``actions``.
    """
    parser = Parser(
        prog="speechbrain-cadino",
        description="What a speaker encoder says about your audio. Results go "
        "to stdout, all else to stderr.",
        epilog="COMMAND --help tells more about a command.",
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
        subparser.set_defaults(stored=stored)
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
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = [argument.partition("=")[0] for argument in arguments]
    # In --csv=~/a.csv no shell expands it
    words = [
        HOME.sub(lambda home: os.path.expanduser(home[0]), word)
        for word in arguments
    ]
    parsed = make_parser("--embeddings" in flags).parse_args(words)
    # An encoder may be made of classes in files here, as in the scripts
    if getattr(parsed, "trusted", False) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    os.environ["MPLBACKEND"] = "Agg"  # not that of a notebook, not of a window
    from speechbrain_cadino.commands import actions
    from speechbrain_cadino.commands.arguments import check_named
    from speechbrain_cadino.config.device import check_device
    from speechbrain_cadino.config.usage import show
    from speechbrain_cadino.encoders.load import check_source
    from speechbrain_cadino.process.errors import user_errors

    logging.basicConfig(format="%(message)s")
    logging.getLogger("speechbrain_cadino").setLevel(logging.INFO)
    with user_errors(parsed.action in GO_ON):
        # SpeechBrain and the models of others may print.
        with contextlib.redirect_stdout(sys.stderr):
            check_named(vars(parsed).values())
            check_device(getattr(parsed, "device", None))
            encoder = getattr(parsed, "encoder", None)
            # A stranger's with more care, and to calibrate takes a folder
            if encoder and parsed.trusted and parsed.action != "calibrate":
                check_source(encoder)
            output = getattr(actions, parsed.action)(parsed)
        if output is not None:
            show(output)
