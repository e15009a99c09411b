import pytest
import torch

from speechbrain_cadino.process.precision import full_precision


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_off_within_a_block_and_as_before_after_it(
    allowed, monkeypatch
):
    """Also after one that fails; no GPU is needed to set it."""
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(matmul, "allow_tf32", allowed)
    with full_precision("cuda"):
        within = matmul.allow_tf32
    assert not within
    assert matmul.allow_tf32 == allowed
    with pytest.raises(KeyError), full_precision("cuda"):
        raise KeyError
    assert matmul.allow_tf32 == allowed
