import torch

from speechbrain_cadino.audio_visual.face_resnet import (
    FaceNormalization,
    FaceResNet,
)


def test_a_track_is_the_mean_of_its_frames_at_any_size():
    torch.manual_seed(0)
    model = FaceResNet([8, 16], [1, 2], lin_neurons=6).eval()
    for size in (20, 33):
        track = torch.randn(2, 4, 3, size, size)
        each = torch.cat([model(track[:, [i]]) for i in range(4)], 1)
        torch.testing.assert_close(
            model(track), each.mean(1, keepdim=True), rtol=1e-4, atol=1e-5
        )


def test_the_size_is_that_of_the_arguments():
    model = FaceResNet([8, 16, 24], [1, 2, 3], squeeze=False)
    assert len(model.layers) == 6
    convolutions = [
        module.out_channels
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    assert set(convolutions) == {8, 16, 24}


def test_brighter_or_of_more_contrast_is_the_same_face():
    torch.manual_seed(0)
    face = 40 + 100 * torch.rand(1, 1, 3, 16, 16)
    normalise = FaceNormalization()
    torch.testing.assert_close(
        normalise(face), normalise(1.5 * face + 10), rtol=1e-3, atol=1e-3
    )
    blank = torch.full((1, 1, 3, 16, 16), 7, dtype=torch.uint8)
    assert (normalise(blank) == 0).all()
