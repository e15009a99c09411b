import forked
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


@pytest.mark.skipif(
    not hasattr(MATMUL, "fp32_precision"), reason="PyTorch before 2.9"
)
def test_the_newer_switch_is_known_too():
    """In a process of its own: the two cannot be mixed."""
    lines = [
        "import torch, warnings",
        "warnings.simplefilter('ignore')",
        "from speechbrain_cadino.process.precision import full_precision",
        "matmul = torch.backends.cuda.matmul",
        "for given in ('ieee', 'tf32'):",
        "    matmul.allow_tf32 = given == 'ieee'",
        "    matmul.fp32_precision = given",
        "    with full_precision('cuda'): within = matmul.fp32_precision",
        "    print(given, within, matmul.fp32_precision)",
    ]
    code, output = forked.run("-c", "\n".join(lines))
    assert (code, output) == (0, "ieee ieee ieee\ntf32 ieee tf32\n")


def test_tf32_is_off_within_a_block_and_as_before_after_it(allowed):
    """Also after one that fails; no GPU is needed to set it."""
    with full_precision("cuda"):
        within = MATMUL.allow_tf32
    assert not within
    assert MATMUL.allow_tf32 == allowed
    with pytest.raises(KeyError), full_precision("cuda"):
        raise KeyError
    assert MATMUL.allow_tf32 == allowed
