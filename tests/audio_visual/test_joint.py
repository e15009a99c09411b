import numpy as np
import pytest

from speechbrain_cadino.audio_visual.joint import Faces, join
from speechbrain_cadino.clustering.kmeans import SphericalKMeans
from speechbrain_cadino.clustering.quality import quality
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.store import save_embeddings

PEOPLE, EACH = 12, 20


@pytest.fixture
def senses():
    """Voices and faces of twelve people: pairs share a voice, other pairs a
    face. Every fifth utterance has no face."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), EACH)
    voices = rng.standard_normal((PEOPLE // 2, 16))[people // 2]
    faces = rng.standard_normal((PEOPLE // 2, 8))[(people + 1) % PEOPLE // 2]
    voices = voices + 0.1 * rng.standard_normal(voices.shape)
    faces = 7 * (faces + 0.1 * rng.standard_normal(faces.shape))
    faces[::5] = np.nan
    return voices, faces, people


def test_together_they_tell_apart_what_neither_can_alone(senses):
    voices, faces, people = senses
    joined = join(voices, faces)
    clusters, within = joined.cluster(SphericalKMeans(PEOPLE))
    assert within.all()
    together = quality(clusters, speakers=people)
    alone = joined.report(SphericalKMeans(PEOPLE), people, clusters, within)
    alone = alone["alone"]
    seen = joined.seen
    # Two people of one voice stay mixed where there is no face
    of_seen = clusters._replace(labels=clusters.labels[seen])
    expected = quality(of_seen, speakers=people[seen])["nmi"]
    assert alone["both"]["nmi"] == pytest.approx(expected)
    assert expected > 0.95
    assert max(alone["audio"]["nmi"], alone["face"]["nmi"]) < 0.9
    assert together["nmi"] > max(alone["audio"]["nmi"], alone["face"]["nmi"])


def test_without_a_face_the_nearest_voice_decides(senses):
    voices, faces, people = senses
    joined = join(voices, faces)
    clusters, _ = joined.cluster(SphericalKMeans(PEOPLE))
    labels, seen = clusters.labels, joined.seen
    for row in np.flatnonzero(~seen):
        # The cluster of someone with the same voice
        others = people[seen & (labels == labels[row])]
        assert (others // 2 == people[row] // 2).all()


def test_the_weight_is_the_length_of_the_face(senses):
    voices, faces, _ = senses
    points, seen, _ = join(voices, faces, weight=0.3)
    assert np.linalg.norm(points[:, :16], axis=1) == pytest.approx(1)
    assert np.linalg.norm(points[seen, 16:], axis=1) == pytest.approx(0.3)
    assert not points[~seen, 16:].any()


def test_what_makes_no_sense_is_refused(senses):
    voices, faces, _ = senses
    with pytest.raises(ValueError, match="face_weight=0"):
        join(voices, faces, weight=0)
    with pytest.raises(ValueError, match="face_weight=0"):
        Faces(None, "faces.csv", weight=0).check(None)  # before the work
    with pytest.raises(ValueError, match="None of the utterances has a face"):
        join(voices, np.full_like(faces, np.nan))


def test_a_face_is_put_beside_its_voice(tmp_path):
    """Under IDs in another order; one has no face."""
    names = ["d", "b", "a"]
    save_embeddings(tmp_path / "face_embeddings", names, np.eye(3))
    joined = Faces(None, "faces.csv").join(
        tmp_path, list("abcd"), np.eye(4), None
    )
    assert joined.seen.tolist() == [True, True, False, True]
    faces = joined.points[:, joined.width :]
    assert faces.argmax(1)[joined.seen].tolist() == [2, 1, 0]


def test_a_map_of_voices_is_not_one_of_faces():
    with pytest.raises(ValueError, match="RecordingLDA learns from recordings"):
        Faces(None, "faces.csv").check(RecordingLDA())


def test_the_nearest_voice_is_by_its_angle():
    """Where faces of a cluster differ, its mean has more of the voice."""

    class Pairs:
        fit_predict = staticmethod(lambda points: np.array([0, 0, 1, 1]))

    voices = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0.9]])
    faces = np.array([[1, 0], [1, 0], [1, 0], [-1, 0], [np.nan, np.nan]])
    clusters, _ = join(voices, faces).cluster(Pairs())
    assert clusters.labels.tolist() == [0, 0, 1, 1, 0]
