"""The speakers of trial lists, who are to be none of the training set."""

import collections

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.names import parts_of, speaker_of, spelling
from speechbrain_cadino.prepare.scan import digest
from speechbrain_cadino.verification.overlap import (
    shared_folders,
    warn_of_sessions,
)
from speechbrain_cadino.verification.trials import read_lists, trial_names

logger = get_logger(__name__)

EXCLUDED = "a speaker of the trial lists"


class Excluded:
    """Leaves the speakers of trial lists out of some recordings.

    A speaker is the first folder of a name below the data, or the next one
    where ``verification.trials.shared_folders`` says that it is of no speaker.
    To leave one out is to leave out each recording with such a folder in its
    ID. A name that does not tell, as it has no folder, stands for itself alone:
    the one recording that it may be of, be it spelled from higher up or from
    lower down than the ID.

    Arguments
    ---------
    lists : str or pathlib.Path, or a list of these, optional
        The trial lists, whose names may be spelled in any way: see
        ``dataio.names``. Errors are those of ``read_lists``.
    folders : list of str
        The folders of the data.

    Example
    -------
    >>> from speechbrain_cadino.prepare.recordings import Recording
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> lines = "1 ./anna/1 /data/wav/carl/9\\n0 3.wav dora/1.wav\\n"
    >>> _ = path.write_text(lines)
    >>> excluded = Excluded(path, ["/data"])
    >>> ids = ["anna/1", "anna/2", "bob/1", "wav/carl/1", "3"]
    >>> recordings = [Recording(name, "", "") for name in ids]
    >>> excluded.leave_out(recordings)
    >>> sorted(excluded.speakers), excluded.unknown
    (['anna', 'carl'], ['3.wav'])
    >>> [recording.id for recording in recordings if not recording.problem]
    ['bob/1']
    """

    def __init__(self, lists, folders):
        self.trials = read_lists(lists)
        self.folders = folders
        self.names = trial_names(self.trials)
        self.shared = shared_folders(self.trials, folders)
        self.speakers, self.unknown, self.missing = set(), [], 0

    @property
    def digest(self):
        """All that it depends on, in short."""
        return digest([*self.names, *sorted(self.shared)])

    def leave_out(self, recordings, id_parts=None):
        """Finds the recordings of the speakers.

        Arguments
        ---------
        recordings : list of Recording or Track
            The recordings; those found gain a problem.
        id_parts : int, optional
            See ``choose_recordings``.
        """
        if not self.names:
            return
        folders_of = [set(spelling(r.id).split("/")[:-1]) for r in recordings]
        below = set().union(*folders_of)
        first = {speaker_of(recording.id) for recording in recordings} - {""}
        alone = first - self.shared
        for name in sorted(self.names):
            speaker = speaker_of(name, self.folders, id_parts)
            inside = parts_of(name, self.folders)[:-1]
            if speaker and speaker in self.shared:
                own = (part for part in inside if part not in self.shared)
                speaker = next(own, "")
            if speaker in below:
                self.speakers.add(speaker)
                continue
            # As where a list starts higher up, or comes from another machine
            within = alone.intersection(inside)
            self.speakers |= within
            if not speaker and not within:
                self.unknown.append(name)
        for recording, inside in zip(recordings, folders_of):
            if inside & self.speakers:
                recording.problem = EXCLUDED
        if self.unknown:
            self._leave_out_named(recordings)

    def _leave_out_named(self, recordings):
        """Finds the recordings of the names that do not tell who speaks."""
        # An ID has no suffix: that of take.m4a.wav is take.m4a
        ids = [tuple(parts_of(f"{each.id}.wav")) for each in recordings]
        # What is left out anyway, such as a link to another, is no second one
        may_train = {
            own
            for own, each in zip(ids, recordings)
            if each.problem in ("", EXCLUDED)
        }
        named = self._named(may_train)
        for recording, own in zip(recordings, ids):
            if own in named:
                recording.problem = EXCLUDED

    def _named(self, ids):
        """The IDs of the names that do not tell who speaks: that which is the
        name, or else those that end as it does, or that it ends as; where
        these are several, none."""
        names = [tuple(parts_of(n, self.folders)) for n in self.unknown]
        depths, lengths = set(map(len, ids)), set(map(len, names))
        known = collections.defaultdict(set)
        for own in ids:
            for length in lengths:
                known[length, own[-length:]].add(own)
        found = []
        for name in names:
            if name in ids:
                found.append({name})
                continue
            tails = {name[-depth:] for depth in depths}
            found.append(set().union(*(known[len(name), t] for t in tails)))
        self.missing = sum(len(each) != 1 for each in found)
        return set().union(*(each for each in found if len(each) == 1))

    def report(self, manifest):
        """Says in the log whether they were left out, and what cannot be told.

        Arguments
        ---------
        manifest : pathlib.Path
            The manifest.
        """
        warn_of_sessions(self.trials, self.shared, self.folders)
        if self.unknown:
            out = "These files are left out"
            if self.missing:
                out = (
                    f"{self.missing} of these files were not found among the "
                    "recordings, or match several of them, the others are left "
                    "out"
                )
            logger.warning(
                f"{manifest}: who speaks in {len(self.unknown)} of the "
                f"{len(self.names)} files of the trial lists cannot be told; "
                f"the first: {self.unknown[0]} names no folder below the data "
                f"that is one speaker's. {out}. Other recordings of these "
                "speakers may be in the training set: name files "
                "<speaker>/..., as below data_folder."
            )
        elif self.names and not self.speakers:
            logger.info(
                f"{manifest}: none of the speakers of the trial lists was "
                f"there to be left out, such as that of {self.names[0]}."
            )
