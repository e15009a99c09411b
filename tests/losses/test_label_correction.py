"""The loss of DLG-LC against the formula, sample by sample."""

import math

import pytest
import torch

from speechbrain_cadino.audio_visual.label_correction import (
    AudioVisualCorrectionLoss,
)
from speechbrain_cadino.dataio.augment import set_position
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
    LabelCorrectionLoss,
)
from speechbrain_cadino.training.schedules import LinearSchedule

B, C = 12, 7


def loop(cosines, labels, clean, gate, margin, scale, temperature, confidence):
    """Value, losses, decisions and corrected classes, with Python's floats."""
    total, losses, decisions, corrected = 0.0, [], [], []
    for i, label in enumerate(labels.tolist()):
        row = [float(c) for c in cosines[i]]
        logits = [scale * c for c in row]
        logits[label] = scale * math.cos(math.acos(row[label]) + margin)
        loss = log_sum(logits) - logits[label]
        losses.append(loss)
        decisions.append(DROPPED)
        corrected.append(-1)
        if loss < gate:
            total += loss
            decisions[i] = RELIABLE
            continue
        answer = [scale * float(c) for c in clean[i]]
        p = [math.exp(z - log_sum(answer)) for z in answer]
        best = p.index(max(p))
        if p[best] > confidence:
            if temperature:
                powers = [x ** (1 / temperature) for x in p]
                target = [x / sum(powers) for x in powers]
            else:
                target = [float(k == best) for k in range(C)]
            q = [scale * c - log_sum([scale * c for c in row]) for c in row]
            total -= sum(t * log_q for t, log_q in zip(target, q))
            decisions[i] = CORRECTED
            corrected[i] = best
    return total / len(labels), losses, decisions, corrected


def log_sum(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def batch(seed):
    torch.manual_seed(seed)
    cosines = torch.empty(B, C).uniform_(-0.8, 0.8)
    clean = torch.empty(B, C).uniform_(-0.8, 0.8)
    clean[::3] = 0.1 * clean[::3]  # no confident answer there
    return cosines, torch.randint(C, (B,)), clean


@pytest.mark.parametrize("temperature", [0, 0.1, 1.0])
@pytest.mark.parametrize("gate", [0.0, 5.0, float("inf")])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_decisions_equal_the_loop(temperature, gate, seed):
    cosines, labels, clean = batch(seed)
    loss = LabelCorrectionLoss(0.2, 10.0, temperature, 0.5)
    value, results = loss(cosines, labels, gate, lambda rows: clean[rows])
    expected, losses, decisions, corrected = loop(
        cosines, labels, clean, gate, 0.2, 10.0, temperature, 0.5
    )
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert results["losses"].tolist() == pytest.approx(losses, rel=1e-4)
    assert results["decisions"].tolist() == decisions
    assert results["corrected"].tolist() == corrected
    if gate == 5.0:
        assert set(decisions) == {DROPPED, RELIABLE, CORRECTED}


def test_given_labels_are_reliable_whatever_their_losses():
    cosines, labels, clean = batch(0)
    loss = LabelCorrectionLoss(0.2, 10.0, 0.1, 0.5)
    trusted = torch.arange(B) % 2 == 0
    asked = []

    def answer(rows):
        asked.extend(rows.tolist())
        return clean[rows]

    value, results = loss(cosines, labels, 0.0, answer, trusted)
    assert asked == list(range(1, B, 2))
    given, others = (
        loop(cosines, labels, clean, gate, 0.2, 10.0, 0.1, 0.5)
        for gate in (float("inf"), 0.0)
    )
    assert results["decisions"].tolist() == [
        (others, given)[kept][2][i] for i, kept in enumerate(trusted.tolist())
    ]
    total = 0
    for i, gate in enumerate([float("inf"), 0.0] * (B // 2)):
        one = (x[i : i + 1] for x in (cosines, labels, clean))
        total += loop(*one, gate, 0.2, 10.0, 0.1, 0.5)[0]
    assert value.item() == pytest.approx(total / B, rel=1e-5)


def test_gradient_comes_from_trusted_and_corrected_samples_alone():
    cosines, labels, clean = batch(0)
    cosines.requires_grad_()
    clean.requires_grad_()
    loss = LabelCorrectionLoss(0.2, 10.0)
    value, results = loss(
        cosines, labels, 5.0, lambda rows: clean.detach()[rows]
    )
    value.backward()
    moved = cosines.grad.abs().sum(1) > 0
    assert moved.tolist() == [d != DROPPED for d in results["decisions"]]
    # A small step against the gradient lowers the loop's value
    step = cosines.detach() - 1e-3 * cosines.grad
    args = (labels, clean.detach(), 5.0, 0.2, 10.0, 0.1, 0.5)
    assert loop(step, *args)[0] < loop(cosines.detach(), *args)[0]


def test_without_correction_the_model_is_not_asked():
    cosines, labels, _ = batch(1)

    def never(rows):
        raise AssertionError("asked")

    drop = LabelCorrectionLoss(0.2, 10.0, confidence=1)
    _, results = drop(cosines, labels, 5.0, never)
    assert set(results["decisions"].tolist()) == {DROPPED, RELIABLE}
    trust = LabelCorrectionLoss(0.2, 10.0)
    _, results = trust(cosines, labels, float("inf"), never)
    assert set(results["decisions"].tolist()) == {RELIABLE}


def test_a_margin_may_grow():
    cosines, labels, clean = batch(0)
    loss = LabelCorrectionLoss(LinearSchedule(0, 0.3, epochs=2, begin=1), 10.0)
    for position, margin in [(0.0, 0), (1, 0), (2, 0.15), (9, 0.3)]:
        set_position(loss, position)
        _, expected, _, _ = loop(
            cosines, labels, clean, math.inf, margin, 10.0, 0.1, 0.5
        )
        losses = loss.aam_losses(cosines, labels)
        assert losses.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("margin", [-0.2, 11.5, float("nan")])
def test_a_margin_that_is_no_angle_is_refused(margin):
    for given in (margin, lambda position: margin):
        with pytest.raises(ValueError, match=f"margin={margin}: give an angle"):
            LabelCorrectionLoss(given)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_over_the_selected_equals_the_loop(seed):
    cosines, labels, clean = batch(seed)
    loss = LabelCorrectionLoss(0.2, 10.0, mean_over="selected")
    value, _ = loss(cosines, labels, 5.0, lambda rows: clean[rows])
    expected, _, decisions, _ = loop(
        cosines, labels, clean, 5.0, 0.2, 10.0, 0.1, 0.5
    )
    selected = sum(decision != DROPPED for decision in decisions)
    assert 0 < selected < B
    assert value.item() == pytest.approx(expected * B / selected, rel=1e-5)


@pytest.mark.parametrize("mean_over", ["batch", "selected"])
def test_all_dropped_is_a_zero_with_a_gradient(mean_over):
    cosines, labels, clean = batch(2)
    cosines.requires_grad_()
    loss = LabelCorrectionLoss(confidence=0.999999, mean_over=mean_over)
    value, _ = loss(cosines, labels, 0.0, lambda rows: 0 * clean[rows])
    value.backward()
    assert value.item() == 0
    assert (cosines.grad == 0).all()


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"confidence": 1.5}])
def test_values_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="the temperature is 0 or more"):
        LabelCorrectionLoss(**bad)


def fused_loop(cosines, labels, clean, gates, present, rule, temperature):
    """The audio-visual loss with Python's floats: value, decisions, classes."""
    margin, scale, confidence = 0.2, 10.0, 0.5
    total, decisions, corrected = 0.0, [], []
    for i, label in enumerate(labels.tolist()):
        here = [m for m in range(2) if present[m][i]]
        losses = {}
        for m in here:
            logits = (scale * cosines[m][i]).tolist()
            angle = math.acos(float(cosines[m][i][label]))
            logits[label] = scale * math.cos(angle + margin)
            losses[m] = log_sum(logits) - logits[label]
        below = {m: losses[m] < gates[m] for m in here}
        gated = [m for m in here if gates[m] < math.inf]
        if rule == "both" or not gated:
            reliable = all(below.values())
        elif rule == "either":
            reliable = any(below[m] for m in gated)
        else:
            mean = sum(losses[m] for m in gated) / len(gated)
            reliable = mean < sum(gates[m] for m in gated) / len(gated)
        decisions.append(RELIABLE if reliable else DROPPED)
        corrected.append(-1)
        if reliable:
            total += sum(losses.values())
            continue
        answers = []
        for m in here:
            logits = [scale * float(c) for c in clean[m][i]]
            answers.append([math.exp(z - log_sum(logits)) for z in logits])
        p = [sum(column) / len(here) for column in zip(*answers)]
        best = p.index(max(p))
        if p[best] <= confidence:
            continue
        powers = [x ** (1 / temperature) for x in p]
        target = [x / sum(powers) for x in powers]
        for m in here:
            logits = (scale * cosines[m][i]).tolist()
            total -= sum(
                t * (z - log_sum(logits)) for t, z in zip(target, logits)
            )
        decisions[-1], corrected[-1] = CORRECTED, best
    return total / len(labels), decisions, corrected


@pytest.mark.parametrize("rule", ["both", "either", "mean"])
@pytest.mark.parametrize(
    "gates", [(5.0, 3.0), (2.0, 8.0), (math.inf, 4.0), (math.inf, math.inf)]
)
@pytest.mark.parametrize("seed", range(3))
def test_voice_and_face_equal_the_loop(rule, gates, seed):
    heard, labels, clean = batch(seed)
    seen, _, clean_seen = batch(seed + 100)
    clean_seen[4:] = clean[4:] * 0.9  # mostly of one mind
    present = [torch.ones(B, dtype=torch.bool), torch.arange(B) % 4 != 1]
    for cosines in (heard, seen):
        cosines.requires_grad_()
    loss = AudioVisualCorrectionLoss(
        rule, margin=0.2, scale=10.0, temperature=0.2, confidence=0.5
    )
    value, results = loss(
        [heard, seen],
        labels,
        list(gates),
        present,
        lambda rows: [clean[rows], clean_seen[rows]],
    )
    expected, decisions, corrected = fused_loop(
        [heard, seen], labels, [clean, clean_seen], gates, present, rule, 0.2
    )
    assert value.item() == pytest.approx(expected, rel=1e-4)
    for result in results:
        assert result["decisions"].tolist() == decisions
        assert result["corrected"].tolist() == corrected
    assert len(set(decisions)) > 1 or min(gates) == math.inf
    value.backward()
    # An utterance without a face teaches the faces nothing
    assert (seen.grad[1::4] == 0).all()
    assert seen.grad.abs().sum() > 0


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="reliable_rule=all: give one of both"):
        AudioVisualCorrectionLoss("all")
