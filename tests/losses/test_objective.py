"""Terms, their weighted sum, and what follows them through a training."""

import pytest
import torch

from speechbrain_cadino.losses.contrastive import (
    AngularPrototypical,
    ContrastiveCenter,
)
from speechbrain_cadino.losses.dino import CosineLoss, DINOLoss
from speechbrain_cadino.losses.objective import (
    Objective,
    Panel,
    Term,
    Views,
    accumulation_warnings,
)
from speechbrain_cadino.losses.prototypes import MeanEntropyMaximum
from speechbrain_cadino.losses.regularizers import (
    Covariance,
    Frobenius,
    KoLeo,
    OffDiagonal,
    Variance,
)
from speechbrain_cadino.losses.targets import (
    Centering,
    JointSinkhorn,
    Sinkhorn,
)


class Length(torch.nn.Module):
    """A term as somebody else would write it: a module, and no more."""

    def __init__(self, size=4):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(size))

    def forward(self, student, teacher, position):
        lengths = (student.embeddings * self.scale).norm(dim=-1)
        return lengths.mean(), {}


class Talkative(Term):
    """A term with a figure, a state, a warning and a picture."""

    figures = ("half",)

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, student, teacher, position):
        return torch.tensor(4.0), {"half": torch.tensor(2.0)}

    def after_step(self):
        self.calls.append("step")

    def forget(self):
        self.calls.append("forget")

    def warnings(self, means):
        return [f"half is {means['half']}"]

    def panels(self):
        return [Panel("halves", ["half"])]


def views(count=3):
    torch.manual_seed(0)
    return Views(torch.randn(count, 2, 4), {}, 2)


def test_the_value_is_the_weighted_sum_and_each_term_is_a_figure():
    student, teacher = views(), views(2)
    terms = {"length": Length(), "cosine": CosineLoss(), "talk": Talkative([])}
    weights = {"length": 0.5, "cosine": lambda position: position, "talk": 0}
    objective = Objective(terms, weights)
    value, figures = objective(student, teacher, position=3.0)
    length = student.embeddings.norm(dim=-1).mean()
    cosine, _ = CosineLoss()(student, teacher, 3.0)
    torch.testing.assert_close(value, 0.5 * length + 3 * cosine)
    assert list(figures) == ["length", "cosine", "talk", "half"]
    assert not any(figure.requires_grad for figure in figures.values())
    value.backward()
    assert terms["length"].scale.grad.norm() > 0
    assert "terms.length.scale" in objective.state_dict()


def test_terms_hear_of_steps_if_they_want_to():
    calls = []
    terms = {"talk": Talkative(calls), "length": Length()}
    objective = Objective(terms, {"talk": 1, "length": 1})
    objective.after_step()
    objective.forget()
    assert calls == ["step", "forget"]
    assert objective.warnings({"half": 2.0}) == ["half is 2.0"]
    assert [panel.title for panel in objective.panels()] == ["halves"]


def test_an_objective_is_a_term():
    inner = Objective({"length": Length()}, {"length": 2})
    outer = Objective({"inner": inner}, {"inner": 0.5})
    value, figures = outer(views(), views(2), 0.0)
    torch.testing.assert_close(value, inner(views(), views(2), 0.0)[0] / 2)
    assert list(figures) == ["inner", "length"]
    assert outer.of_clusters == []
    center = Objective({"center": ContrastiveCenter()}, {"center": 1})
    assert Objective({"a": center}, {"a": 1}).of_clusters == ["a"]


def with_clusters(term):
    """A term that knows of two clusters of eight samples."""
    term.set_clusters(torch.arange(8) % 2, torch.eye(4)[:2])
    return term


def part(views, where):
    """Some utterances of a batch."""
    outputs = {
        name: value if name == "prototypes" else value[:, where]
        for name, value in views.outputs.items()
    }
    return views._replace(
        embeddings=views.embeddings[:, where],
        outputs=outputs,
        samples=views.samples[where],
    )


@pytest.mark.parametrize(
    "term",
    [
        CosineLoss(),
        DINOLoss(6, Centering(6), 0.04),
        DINOLoss(6, Sinkhorn(), 0.04),
        DINOLoss(6, JointSinkhorn(), 0.04),
        AngularPrototypical(),
        with_clusters(ContrastiveCenter()),
        MeanEntropyMaximum(6),
        Variance("embeddings", deviation=2.0),
        Covariance("embeddings"),
        KoLeo(),
        OffDiagonal(),
        Frobenius(),
    ],
    ids=lambda term: type(getattr(term, "target", term)).__name__,
)
def test_a_term_says_whether_it_is_the_mean_of_its_parts(term):
    torch.manual_seed(0)
    prototypes = torch.nn.functional.normalize(torch.randn(6, 4))
    student, teacher = (
        Views(
            torch.randn(count, 8, 4),
            {"bottleneck": torch.randn(count, 8, 4), "prototypes": prototypes},
            2,
            torch.arange(8),
        )
        for count in (3, 2)
    )
    whole, *parts = (
        term(part(student, where), part(teacher, where), 0.0)[0]
        for where in (slice(None), slice(0, 4), slice(4, None))
    )
    equal = torch.allclose(whole, sum(parts) / 2, rtol=1e-4)
    assert term.whole_batch != equal
    inner = Objective(
        {"term": term, "length": Length()}, {"term": 1, "length": 1}
    )
    objective = Objective({"inner": inner}, {"inner": 1})
    assert inner.whole_batch == objective.whole_batch == term.whole_batch
    for each in (term, objective):
        assert accumulation_warnings(each, 1) == []
        assert len(accumulation_warnings(each, 2)) == (not equal)
    without = Objective({"term": term}, {"term": 0})
    assert accumulation_warnings(without, 2) == []


def test_null_takes_out_a_term_and_its_weight():
    objective = Objective(
        {"length": Length(), "cosine": None}, {"length": 1, "cosine": 1.0}
    )
    assert list(objective.terms) == ["length"]
    assert list(objective.weights) == ["length"]


@pytest.mark.parametrize(
    ("terms", "weights", "sentence"),
    [
        (["a"], {}, "term a of the objective has no weight"),
        (["a"], {"a": 1, "b": 2}, "a weight of b, and no such term"),
        ([], {}, "has no term"),
        (["talk", "talk2"], {"talk": 1, "talk2": 1}, "the name half to a"),
        (["float"], {"float": 1}, "PyTorch does not take the name"),
        (["loss"], {"loss": 1}, "loss is a figure of every"),
    ],
)
def test_what_makes_no_sense_is_refused_when_built(terms, weights, sentence):
    made = {
        name: Talkative([]) if "talk" in name else Length() for name in terms
    }
    with pytest.raises(ValueError, match=sentence):
        Objective(made, weights)


def test_a_figure_that_was_not_announced_may_not_be_anothers():
    class Sly(Length):
        def forward(self, student, teacher, position):
            return torch.tensor(1.0), {"length": torch.tensor(1.0)}

    terms = {"length": Length(), "sly": Sly()}
    objective = Objective(terms, {"length": 1, "sly": 1})
    with pytest.raises(ValueError, match="the name length to a figure"):
        objective(views(), views(2), 0.0)


@pytest.mark.parametrize("name", ["loss", "spread", "lr", "EER"])
def test_a_figure_of_every_training_is_no_terms_own(name):
    """Said or not: that of the term would have stood in its place."""

    class Silent(torch.nn.Module):
        def forward(self, student, teacher, position):
            return torch.tensor(1.0), {name: torch.tensor(0.5)}

    class Said(Silent):
        figures = (name,)

    with pytest.raises(ValueError, match=f"{name} is a figure of every"):
        Objective({"mine": Said()}, {"mine": 1})
    objective = Objective({"mine": Silent()}, {"mine": 1})
    with pytest.raises(ValueError, match=f"{name} is a figure of every"):
        objective(views(), views(2), 0.0)


@pytest.mark.parametrize(
    ("value", "figures", "kind"),
    [
        (0.0, {}, "mine as a float"),
        (torch.ones(()), {"half": 0.5}, "half as a float"),
        (torch.ones(3), {}, "mine as a Tensor"),
    ],
)
def test_values_and_figures_are_tensors_of_one_number(value, figures, kind):
    class Plain(torch.nn.Module):
        def forward(self, student, teacher, position):
            return value, figures

    with pytest.raises(ValueError, match=kind):
        Objective({"mine": Plain()}, {"mine": 1})(views(), views(2), 0.0)


def test_a_figure_is_there_in_each_step():
    """Its mean would be of fewer; processes would add others together."""

    class Moody(torch.nn.Module):
        def forward(self, student, teacher, position):
            found = {"rare": torch.ones(())} if position > 1 else {}
            return torch.ones(()), found

    objective = Objective({"mine": Moody()}, {"mine": 1})
    for position in (0.0, 1.0):
        objective(views(), views(2), position)
    with pytest.raises(ValueError, match="the figure rare in some steps only"):
        objective(views(), views(2), 2.0)


def test_a_target_that_collects_forgets():
    """Or what a step that is undone has left stays in it for good."""

    class Hoarder(torch.nn.Module):
        def collect(self, mean_output):
            pass

    class Plain:
        def collect(self, mean_output):
            pass

        def forget(self):
            pass

    with pytest.raises(ValueError, match="Plain has a state and is no torch"):
        DINOLoss(6, Plain(), 0.04)
    with pytest.raises(ValueError, match="Hoarder has collect and no forget"):
        DINOLoss(4, Hoarder(), 0.04)
