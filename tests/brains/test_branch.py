import pathlib
import runpy

import pytest
import torch

poisoned = runpy.run_path(str(pathlib.Path(__file__).with_name("poisoned.py")))


@pytest.fixture
def branch():
    """In training; its augmentation is silence."""
    torch.manual_seed(0)
    _, modules, _ = poisoned["label_parts"]()
    branch = modules["audio"].train()
    branch.__dict__["augment"] = torch.zeros_like
    return branch


def test_the_clean_answer_is_clean_and_teaches_nothing(branch):
    """What corrects labels: no gradient, no running statistics, no crop that
    is augmented."""
    crops = torch.randn(4, 8000)
    before = {k: v.clone() for k, v in branch.state_dict().items()}
    answers = branch.clean(crops)
    assert not answers.requires_grad
    assert branch.embedding_model.training
    for name, value in branch.state_dict().items():
        assert torch.equal(value, before[name]), name
    # In eval mode it does not depend on what else is in the batch
    torch.testing.assert_close(branch.clean(crops[:1]), answers[:1])
    branch.eval()
    assert not torch.allclose(branch(crops), answers, atol=1e-3)
    branch.__dict__["augment"] = None
    torch.testing.assert_close(branch(crops), answers)


def test_a_class_starts_from_clean_crops(branch):
    crops = torch.randn(4, 8000)
    branch.eval()
    points = branch.embed(crops)
    branch.__dict__["augment"] = None
    torch.testing.assert_close(branch.embed(crops), points)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(4))
    assert points.std(0).max() > 1e-3
