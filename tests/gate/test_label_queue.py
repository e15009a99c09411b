"""Queues of answers against Python's own counting."""

import collections

import numpy as np
import pytest
import torch

from speechbrain_cadino.gate.label_queue import LabelQueue
from speechbrain_cadino.gate.mixture import TwoGaussians, losses_of
from speechbrain_cadino.gate.soft_gate import SoftLossGate
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer

S, C = 40, 6


def mode(history):
    """The most frequent one, the oldest of equals."""
    return collections.Counter(history).most_common(1)[0][0]


def rounds(count, seed=0):
    """Batches of samples and answers to them."""
    torch.manual_seed(seed)
    for _ in range(count):
        yield torch.randperm(S)[:10], torch.randint(C - 1, (10,))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_labels_are_the_modes_of_the_last_answers(length):
    labels = torch.arange(S) % C
    queue = LabelQueue(labels, C, length)
    histories = [[label] for label in labels.tolist()]
    for samples, answers in rounds(60):
        for sample, answer in zip(samples.tolist(), answers.tolist()):
            histories[sample] = [*histories[sample], answer][-length:]
        found = queue.push(samples, answers)
        expected = [mode(histories[sample]) for sample in samples]
        assert found.tolist() == expected
    expected = [mode(history) for history in histories]
    assert queue.labels().tolist() == expected
    queue.end_epoch()
    # The last class is no answer, and dies
    assert queue.alive.tolist() == [c in expected for c in range(C)]
    assert not queue.alive[C - 1]


def test_a_sample_twice_in_a_batch_has_its_last_answer():
    queue = LabelQueue(torch.zeros(3, dtype=torch.int32), 5, 3)
    samples, answers = torch.tensor([2, 0, 2, 2]), torch.tensor([1, 2, 3, 4])
    queue.push(samples, answers)
    assert queue.answers.tolist() == [[-1, 0, 2], [-1, -1, 0], [-1, 0, 4]]


def test_what_has_died_gets_no_votes():
    queue = LabelQueue(torch.tensor([0]), 3, 5)
    sample = torch.tensor([0])
    for answer in (1, 2, 2):
        label = queue.push(sample, torch.tensor([answer]))
    assert label.item() == 2
    queue.end_epoch()
    assert queue.alive.tolist() == [False, False, True]
    for answer in (2, 2, 2):
        assert queue.push(sample, torch.tensor([answer])).item() == 2


def test_a_step_that_is_undone_leaves_nothing(tmp_path):
    queue = LabelQueue(torch.arange(S) % C, C, 3)
    for samples, answers in rounds(5):
        queue.push(samples, answers)
    before = queue.answers.clone()
    queue.mark()
    # Two micro-batches with samples in common
    for samples, answers in rounds(8, seed=1):
        queue.push(samples, answers)
    assert not torch.equal(queue.answers, before)
    queue.rewind()
    assert torch.equal(queue.answers, before)


def test_a_queue_goes_on_from_a_checkpoint(tmp_path):
    queue = LabelQueue(torch.arange(S) % C, C, 3)
    for samples, answers in rounds(30):
        queue.push(samples, answers)
    queue.end_epoch()
    AtomicCheckpointer(
        tmp_path, recoverables={"queue": queue}
    ).save_checkpoint()
    again = LabelQueue(torch.arange(S) % C, C, 3)
    AtomicCheckpointer(
        tmp_path, recoverables={"queue": again}
    ).recover_if_possible()
    for samples, answers in rounds(5, seed=2):
        answers = answers.clamp(max=1)
        assert torch.equal(
            queue.push(samples, answers), again.push(samples, answers)
        )
    other = LabelQueue(torch.arange(S - 1) % C, C, 3)
    with pytest.raises(ValueError, match="is of 40 samples, the manifest make"):
        AtomicCheckpointer(
            tmp_path, recoverables={"queue": other}
        ).recover_if_possible()


def test_a_mixture_without_two_gaussians_is_a_sentence():
    class Median:
        columns = ["middle"]

        def fit(self, losses):
            return float(np.nanmedian(losses)), {"middle": 0.0}

    with pytest.raises(ValueError, match="not among the columns of Median"):
        SoftLossGate(mixture=Median())
    # A constant gate has no mixture
    SoftLossGate(gate=3.0, mixture=Median())


@pytest.mark.parametrize("rule", ["checked", "papers"])
def test_weights_are_the_posteriors_of_scikit_learn(rule):
    torch.manual_seed(0)
    right, wrong = torch.randn(3000) - 1, 0.7 * torch.randn(1000) + 5
    losses = torch.from_numpy(losses_of(torch.cat([right, wrong]).numpy()))
    mixture = TwoGaussians(rule=rule)
    gate = SoftLossGate(first_epoch=2, mixture=mixture)
    assert gate.weigh(losses).tolist() == [1.0] * 4000
    gate.update(losses.numpy())
    gate.start_epoch(2)
    fitted = mixture.mixture(losses.numpy())
    grid = torch.linspace(*fitted.means, 50, dtype=torch.float64)
    densities = [
        weight * torch.distributions.Normal(mean, var**0.5).log_prob(grid).exp()
        for mean, var, weight in zip(*fitted[:3])
    ]
    expected = densities[0] / sum(densities)
    back = losses_of if rule == "checked" else torch.exp
    weights = gate.weigh(torch.as_tensor(back(grid)))
    torch.testing.assert_close(weights.double(), expected, atol=1e-4, rtol=0)
    # Beyond the means it does not turn around
    ends = gate.weigh(torch.tensor([1e-9, 300.0]))
    assert ends.tolist() == pytest.approx(weights[[0, -1]].tolist(), abs=1e-6)
    again = SoftLossGate(first_epoch=2, mixture=mixture)
    again.load_state_dict(gate.state_dict())
    again.start_epoch(2)
    assert torch.equal(again.weigh(losses), gate.weigh(losses))
