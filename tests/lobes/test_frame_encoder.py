import pytest
import torch

from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain_cadino.lobes.frame_encoder import (
    ContextNetwork,
    ContextTeacher,
    FrameStudent,
    SpanMask,
)
from speechbrain_cadino.losses.frame_targets import TeacherTargets
from speechbrain_cadino.losses.online_codebook import OnlineCodebook

KINDS = {
    "transformer": {"attention_type": "RoPEMHA", "normalize_before": False},
    "conformer": {"attention_type": "RelPosMHAXL", "normalize_before": True},
}


def make_context(kind="conformer", **options):
    torch.manual_seed(0)
    return ContextNetwork(
        TransformerASR(
            tgt_vocab=1,
            input_size=6,
            d_model=8,
            nhead=2,
            d_ffn=16,
            num_encoder_layers=3,
            num_decoder_layers=0,
            dropout=0.3,
            encoder_module=kind,
            causal=False,
            **{"output_hidden_states": True, **KINDS[kind], **options},
        )
    )


def make_student(context, **options):
    front_end = torch.nn.Unflatten(1, (-1, 6))
    sizes = {"size": 6, "d_model": 8, "heads": 2, "codes": 5}
    mask = SpanMask(share=0.6, length=3)
    return FrameStudent(front_end, context, **sizes, mask=mask, **options)


def by_loops(frames, length, starts):
    """What spans hide."""
    hidden = set()
    for start in starts:
        hidden |= {*range(start, start + length)}
    return [place in hidden for place in range(frames)]


def test_masks_are_spans_of_as_many_frames_in_each_row():
    draw = SpanMask(share=0.8, length=10)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        mask = draw(8, 200, generator)
        assert len(set(mask.sum(1).tolist())) == 1
        assert 0.35 < mask.float().mean() < 0.65
    # 16 of 191 places: a frame is seen if none before it begins a span
    expected = []
    for frame in range(200):
        seen = 1.0
        for number in range(min(frame + 1, 10, 200 - frame)):
            seen *= (191 - 16 - number) / (191 - number)
        expected.append(1 - seen)
    # Of a row alone nothing is shown again
    found = torch.cat([draw(1, 200, generator) for _ in range(400)])
    found = found.float().mean(0)
    assert found.mean() == pytest.approx(sum(expected) / 200, abs=0.01)
    assert found[0] == pytest.approx(expected[0], abs=0.05)
    one, same = (draw(8, 200, generator.manual_seed(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, draw(8, 200, generator))
    torch.manual_seed(1)
    of_torch = draw(4, 50)
    torch.manual_seed(1)
    assert torch.equal(draw(4, 50), of_torch)


def test_a_mask_of_one_row_is_that_of_a_loop():
    """Of one row nothing is shown again: it is whole spans."""
    draw = SpanMask(share=0.5, length=4)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        mask = draw(1, 30, generator)[0].tolist()
        generator.manual_seed(seed)
        spans = int(0.5 * 30 / 4 + torch.rand((), generator=generator).item())
        lots = torch.rand(1, 27, generator=generator)[0].tolist()
        order = sorted(range(27), key=lots.__getitem__)
        assert mask == by_loops(30, 4, order[: max(spans, 1)])


def test_a_crop_too_short_for_a_span_is_named():
    with pytest.raises(ValueError, match=r"10 frames.*crops of 10.*mask_len"):
        SpanMask()(2, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_what_their_feed_forward_networks_add(kind):
    context = make_context(kind).eval()
    latents = torch.randn(2, 9, 6)
    layers, added = context(latents), context(latents, feed_forward=True)
    transformer = context.transformer
    inner = transformer.custom_src_module(latents)
    positions = None
    if kind == "conformer":
        positions = transformer.positional_encoding(inner)
    for number, layer in enumerate(transformer.encoder.layers):
        if kind == "conformer":
            inner = inner + 0.5 * layer.ffn_module1(inner)
            skip = inner
            inner, _ = layer.mha_layer(
                *[layer.norm1(inner)] * 3, pos_embs=positions
            )
            inner = inner + skip
            inner = inner + layer.convolution_module(inner)
            expected = layer.ffn_module2(inner)
            inner = layer.norm2(inner + 0.5 * expected)
        else:
            heard, _ = layer.self_att(*[inner] * 3)
            inner = layer.norm1(inner + heard)
            expected = layer.pos_ffn(inner)
            inner = layer.norm2(inner + expected)
        torch.testing.assert_close(added[number], expected)
        said = inner if number < 2 else transformer.encoder.norm(inner)
        torch.testing.assert_close(layers[number], said)


def test_layers_that_are_dropped_or_unheard_are_refused():
    for options in ({"layerdrop_prob": 0.1}, {"output_hidden_states": False}):
        with pytest.raises(ValueError, match="output_hidden_states=True and"):
            make_context(**options)


def test_heads_read_the_last_layer_or_their_own():
    context = make_context().eval()
    wavs = torch.randn(2, 120)
    layers = context(wavs.unflatten(1, (-1, 6)))
    for heads_at, read in (("last", [2, 2]), ("each", [1, 2])):
        student = make_student(context, heads_at=heads_at).eval()
        _, codes = student.describe(wavs)
        for head, said, layer in zip(student.heads, codes, read):
            torch.testing.assert_close(said, head(layers[layer]).softmax(-1))


@pytest.mark.parametrize("targets", ["ffn", "layer"])
def test_the_teacher_never_sees_the_mask(targets):
    context = make_context()
    student = make_student(context)
    target = TeacherTargets(
        ContextTeacher(context),
        OnlineCodebook(2, 5, 8),
        lambda position: 0.9,
        targets,
    ).train()
    wavs = torch.randn(3, 120)
    everywhere = torch.ones(3, 20, dtype=torch.bool)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # another mask, another dropout
        outputs = student(wavs)
        found.append((outputs, target.said(outputs.latents)))
    (one, said), (other, said_again) = found
    assert not torch.equal(one.mask, other.mask)
    assert not torch.equal(one.logits[0], other.logits[0])
    assert torch.equal(said, said_again)
    # And the student sees nothing of what is hidden
    student.eval()
    changed = wavs.clone().unflatten(1, (20, 6))
    changed[one.mask] += 5
    changed = changed.flatten(1)
    assert torch.equal(
        *(student(w, one.mask).logits[0] for w in (wavs, changed))
    )
    codes = target.codes(wavs, outputs.latents, everywhere)
    hidden = target.codes(wavs, outputs.latents, one.mask)
    assert torch.equal(codes[:, one.mask.flatten()], hidden)


@pytest.mark.parametrize("targets", ["ffn", "layer"])
def test_codes_are_of_the_last_layers_over_time(targets):
    context = make_context().eval()
    target = TeacherTargets(
        ContextTeacher(context),
        OnlineCodebook(2, 5, 8),
        lambda position: 0.9,
        targets,
    ).eval()
    assert target.layers == [2, 3]
    latents = torch.randn(3, 20, 6)
    said = target.said(latents)
    layers = context(latents, feed_forward=targets == "ffn")[1:]
    for number, layer in enumerate(layers):
        for row in range(3):
            frames = layer[row].double()
            spread = frames.var(0, correction=0).add(1e-5).sqrt()
            torch.testing.assert_close(
                said[number, row].double(),
                (frames - frames.mean(0)) / spread,
                rtol=1e-4,
                atol=1e-4,
            )


def test_a_teacher_that_is_frozen_stays():
    context = make_context()
    target = TeacherTargets(
        ContextTeacher(context),
        OnlineCodebook(2, 5, 8),
        lambda position: 0.5,
        "ffn",
        freeze_epochs=2,
    )
    with torch.no_grad():
        context.transformer.encoder.norm.norm.bias += 1
    bias = target.teacher.network.transformer.encoder.norm.norm.bias
    for position, expected, momentum in ((1.9, 0.5, 0.5), (2.0, 0.5, 1.0)):
        target.after_step(position, context)
        torch.testing.assert_close(bias, torch.full((8,), expected))
        assert target.end_epoch(position)["momentum"] == momentum


@pytest.mark.parametrize("momentum", [99.99, float("nan")])
def test_a_momentum_that_is_none_freezes_nobody(momentum):
    context = make_context()
    teacher, codebook = ContextTeacher(context), OnlineCodebook(2, 5, 8)
    target = TeacherTargets(teacher, codebook, lambda position: momentum)
    with pytest.raises(
        ValueError, match=r"teacher_momentum is .* in this step"
    ):
        target.after_step(0.0, context)
