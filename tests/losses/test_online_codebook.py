import pytest
import torch

from speechbrain_cadino.losses import online_codebook
from speechbrain_cadino.losses.online_codebook import (
    OnlineCodebook,
    code_loss,
    over_time,
)
from speechbrain_cadino.training.guard import Buffers, StepGuard


def by_loops(state, batches, decay):
    """Counts, sums and codes after some updates, frame by frame."""
    counts, sums = state["counts"].clone(), state["sums"].clone()
    all_codes = []
    for frames in batches:
        codes = torch.zeros(frames.shape[:2], dtype=torch.long)
        for k in range(len(frames)):
            centers = [s / n for s, n in zip(sums[k], counts[k])]
            for place, frame in enumerate(frames[k]):
                nearest, best = None, float("inf")
                for code, center in enumerate(centers):
                    far = sum((a - b) ** 2 for a, b in zip(frame, center))
                    if far < best:
                        nearest, best = code, far
                codes[k, place] = nearest
            for code in range(len(centers)):
                mine = frames[k][codes[k] == code]
                if len(mine):
                    counts[k, code] *= decay
                    counts[k, code] += (1 - decay) * len(mine)
                    sums[k, code] *= decay
                    sums[k, code] += (1 - decay) * mine.sum(0)
        all_codes.append(codes)
    return counts, sums, all_codes


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    return OnlineCodebook(2, 5, 3, decay=0.8).double()


def test_three_updates_are_those_of_a_loop(codebook):
    batches = torch.randn(3, 2, 8, 3, dtype=torch.float64)
    state = {name: v.clone() for name, v in codebook.state_dict().items()}
    counts, sums, expected = by_loops(state, batches, 0.8)
    for frames, codes in zip(batches, expected):
        assert torch.equal(codebook(frames), codes)
        codebook.after_step()
    torch.testing.assert_close(codebook.counts, counts)
    torch.testing.assert_close(codebook.sums, sums)


def test_codes_that_got_nothing_stay_to_the_bit(codebook):
    before = codebook.sums.clone(), codebook.counts.clone()
    frames = codebook.centers[:, 2:3].repeat(1, 4, 1)
    assert (codebook(frames) == 2).all()
    codebook.after_step()
    others = [0, 1, 3, 4]
    assert torch.equal(codebook.sums[:, others], before[0][:, others])
    assert torch.equal(codebook.counts[:, others], before[1][:, others])
    assert not torch.equal(codebook.counts[:, 2], before[1][:, 2])


def test_of_equally_near_codes_the_first_is_given(codebook):
    codebook.sums[:, 3] = codebook.sums[:, 1]
    assert (codebook(codebook.centers[:, [3, 1]]) == 1).all()


def test_codes_begin_with_mean_0_and_variance_1_in_each_dimension():
    codes = OnlineCodebook(2, 50, 3).centers
    torch.testing.assert_close(codes.mean(1), torch.zeros(2, 3))
    torch.testing.assert_close(codes.square().mean(1), torch.ones(2, 3))


def test_micro_batches_are_one_update_and_undone_steps_none(codebook):
    other = OnlineCodebook(2, 5, 3, decay=0.8).double()
    other.load_state_dict(codebook.state_dict())
    frames = torch.randn(2, 8, 3, dtype=torch.float64)
    codebook(frames)
    codebook.after_step()
    for part in frames.chunk(2, 1):
        other(part)
    other.after_step()
    torch.testing.assert_close(other.state_dict(), codebook.state_dict())
    state = {name: v.clone() for name, v in codebook.state_dict().items()}
    codebook(frames)
    codebook.forget()
    codebook.after_step()
    codebook.eval()(frames)
    codebook.after_step()
    for name, value in codebook.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_first_step_that_is_undone_begins_anew():
    codebook = OnlineCodebook(1, 4, 3, start="frames")
    guard = StepGuard([Buffers(codebook)])
    guard.begin(["u0"])
    noise = codebook.sums.clone()
    codebook(torch.full((1, 20, 3), torch.nan))
    guard.note(torch.tensor(torch.nan))
    guard.keep_or_undo("step 1", patience=3)
    codebook.forget()
    assert torch.equal(codebook.sums, noise)
    frames = 100 + torch.randn(1, 20, 3)
    codebook(frames)
    assert (codebook.sums[0][:, None] == frames[0]).all(-1).any(1).all()


def test_the_epoch_is_counted_also_across_a_checkpoint(codebook):
    frames = codebook.centers[:, [0, 0, 1, 1]].clone()
    codebook(frames)
    codebook.after_step()
    resumed = OnlineCodebook(2, 5, 3).double()
    resumed.load_state_dict(codebook.state_dict())
    figures = resumed.end_epoch()
    assert figures["used"].tolist() == pytest.approx([0.4, 0.4])
    assert figures["perplexity"].tolist() == pytest.approx([2.0, 2.0])
    assert resumed.end_epoch()["used"].tolist() == [0.0, 0.0]


def test_normalisation_over_time_is_that_of_a_loop():
    frames = torch.randn(2, 7, 3) * 4 + 1
    found = over_time(frames)
    for row in range(2):
        for column in range(3):
            values = frames[row, :, column].tolist()
            mean = sum(values) / 7
            variance = sum((v - mean) ** 2 for v in values) / 7
            for place, value in enumerate(values):
                expected = (value - mean) / (variance + 1e-5) ** 0.5
                assert found[row, place, column].item() == pytest.approx(
                    expected, abs=1e-5
                )


def test_the_loss_is_that_of_a_loop():
    torch.manual_seed(0)
    logits = [torch.randn(6, 4) for _ in range(3)]
    codes = torch.randint(4, (3, 6))
    loss, accuracy = code_loss(logits, codes)
    total = hits = 0.0
    for head, right in zip(logits, codes):
        for said, code in zip(head.tolist(), right.tolist()):
            denominator = sum(torch.tensor(s).exp() for s in said)
            total -= (torch.tensor(said[code]).exp() / denominator).log()
            hits += said.index(max(said)) == code
    assert loss.item() == pytest.approx(float(total) / 18, rel=1e-5)
    assert accuracy.item() == pytest.approx(hits / 18)


def test_codes_begin_at_frames_of_the_first_batch_of_training(monkeypatch):
    book = OnlineCodebook(2, 5, 3, start="frames")
    noise = book.sums.clone()
    frames = torch.randn(2, 40, 3)
    book.eval()(frames)
    assert torch.equal(book.sums, noise)
    # What other ranks would add to what the first one draws
    monkeypatch.setattr(online_codebook, "if_main_process", lambda: False)
    other = OnlineCodebook(2, 5, 3, start="frames")
    other(frames)
    assert not other.sums.any()
    monkeypatch.undo()

    book.train()(frames)
    same = (book.sums.unsqueeze(2) == frames.unsqueeze(1)).all(-1)
    assert (same.sum(-1) == 1).all()
    places = same.int().argmax(-1)
    assert torch.equal(places[0], places[1])
    assert len(set(places[0].tolist())) == 5
    after = book.sums.clone()
    again = OnlineCodebook(2, 5, 3, start="frames")
    again.load_state_dict(book.state_dict())
    for each in (book, again):
        each(torch.randn(2, 40, 3))
        assert torch.equal(each.sums, after)


def test_of_fewer_frames_than_codes_the_other_codes_are_noise():
    book = OnlineCodebook(1, 5, 3, start="frames")
    noise, frames = book.sums.clone(), torch.randn(1, 2, 3)
    book(frames)
    assert sorted(book.sums[0, :2].tolist()) == sorted(frames[0].tolist())
    assert torch.equal(book.sums[:, 2:], noise[:, 2:])


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="give noise or frames"):
        OnlineCodebook(1, 5, 3, start="kmeans")
