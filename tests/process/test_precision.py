import pytest
import torch

from speechbrain_cadino.process.precision import full_precision

MATMUL = torch.backends.cuda.matmul


@pytest.fixture(params=[True, False])
def allowed(request):
    before = MATMUL.allow_tf32
    MATMUL.allow_tf32 = request.param
    yield request.param
    MATMUL.allow_tf32 = before


def test_tf32_is_off_within_a_block_and_as_before_after_it(allowed):
    """Also after one that fails; no GPU is needed to set it."""
    with full_precision("cuda"):
        within = MATMUL.allow_tf32
    assert not within
    assert MATMUL.allow_tf32 == allowed
    with pytest.raises(KeyError), full_precision("cuda"):
        raise KeyError
    assert MATMUL.allow_tf32 == allowed
