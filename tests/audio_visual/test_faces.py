import functools
import os
import sys

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from speechbrain_cadino.audio_visual.dataset import AudioVisualDataset
from speechbrain_cadino.audio_visual.faces import (
    FaceAugmenter,
    FaceError,
    FaceReader,
)
from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.crops import MultiCropDataset

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def save(path, colour, size=(32, 32), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


def save_track(folder, colours):
    """A frame of each colour, with a white corner: of one colour is no face."""
    folder.mkdir()
    for number, colour in enumerate(colours):
        image = Image.new("RGB", (16, 16), colour)
        image.paste((255, 255, 255), (0, 0, 2, 2))
        image.save(folder / f"{number}.png")


def assert_colours(images, colours):
    expected = torch.tensor(colours)[:, :, None, None].expand(images.shape)
    torch.testing.assert_close(
        images.float(), expected.float(), atol=12, rtol=0
    )


@pytest.fixture
def faces():
    """Portraits of a kind: smooth, each of its own colours."""
    coarse = torch.rand(6, 3, 4, 4, generator=torch.manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, 64, mode="bicubic")
    return (images.clamp(0, 1) * 255).byte().unflatten(0, (3, 2))


def test_frames_of_a_folder_come_sorted_by_name(tmp_path):
    save(tmp_path / "b.png", GREEN)
    save(tmp_path / "c.JPEG", BLUE)
    save(tmp_path / "a.jpg", RED)
    save(tmp_path / "d.webp", RED)
    save(tmp_path / ".hidden.jpg", BLUE)
    (tmp_path / "notes.txt").write_text("no image")
    with FaceReader(tmp_path, size=16) as face:
        assert len(face) == 4
        images = face.read()
        piece = face.read(1, 3)
    assert images.dtype == torch.uint8
    assert images.shape == (4, 3, 16, 16)
    assert_colours(images, [RED, GREEN, BLUE, RED])
    assert torch.equal(piece, images[1:3])


def test_frames_of_the_flat_layout_are_those_of_the_track_alone(tmp_path):
    save(tmp_path / "0007_02.jpg", GREEN)
    save(tmp_path / "0007_01.jpg", RED)
    for other in ["0007.jpg", "00070_01.jpg", "0007_1_01.jpg", "0008_01.jpg"]:
        save(tmp_path / other, BLUE)
    with FaceReader(tmp_path / "0007") as face:
        assert_colours(face.read(), [RED, GREEN])


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "0007_01.jpg", RED)
    save(tmp_path / "track" / "01.jpg", RED)
    assert len(FaceReader("0007")) == len(FaceReader("track")) == 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_shorter_side_is_scaled_and_the_centre_kept(tmp_path, suffix, size):
    image = np.zeros((size[1], size[0], 3), np.uint8) + np.uint8(RED)
    middle = slice(100, 200) if max(image.shape) == 300 else slice(None)
    if size[0] > size[1]:
        image[:, middle] = GREEN
    else:
        image[middle] = GREEN
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    inside = FaceReader(tmp_path, size=20).read()[..., 1:-1, 1:-1]
    assert_colours(inside, [GREEN])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_small_images_are_not_aliased(tmp_path, suffix):
    rows, columns = np.indices((512, 512))
    board = np.uint8(255 * ((rows + columns) % 2))
    Image.fromarray(board).convert("RGB").save(tmp_path / f"a.{suffix}")
    image = FaceReader(tmp_path, size=16).read().float()
    assert (image - 127.5).abs().max() < 12


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    save(tmp_path / f"a.{suffix}", (102, 102, 102), mode=mode)
    images = FaceReader(tmp_path).read()
    assert images.shape == (1, 3, 64, 64)
    assert_colours(images, [(102, 102, 102)])


def test_images_are_turned_as_their_camera_says(tmp_path):
    """Red above blue, on its side in the file."""
    image = Image.new("RGB", (32, 32), BLUE)
    image.paste(RED, (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upper, lower = FaceReader(tmp_path, size=32).read()[0].chunk(2, 1)
    assert_colours(upper[None, :, 2:-2], [RED])
    assert_colours(lower[None, :, 2:-2], [BLUE])


def test_sixteen_bits_are_shades_of_grey(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (64, 1))).save(tmp_path / "a.png")
    row = FaceReader(tmp_path, size=64).read()[0, 0, 32].float()
    expected = torch.linspace(0, 255, 64)
    torch.testing.assert_close(row, expected, atol=2, rtol=0)


@pytest.mark.parametrize("seconds", [1, 2, 3])
def test_a_track_that_is_shorter_than_a_crop_is_repeated(tmp_path, seconds):
    """Two frames, of one a second."""
    save_track(tmp_path / "track", [RED, GREEN])
    (tmp_path / "faces.csv").write_text(
        "ID,duration,wav,start,stop\na,2,$data_root/track,0,2\n"
    )
    data = MultiCropDataset(
        tmp_path / "faces.csv",
        tmp_path,
        global_seconds=seconds,
        local_seconds=1,
        sample_rate=1,
        reader=functools.partial(FaceReader, size=16),
    )
    item = data[0]
    assert item["problem"] == ""
    assert item["globals"].shape == (2, seconds, 3, 16, 16)
    if seconds == 3:
        colours = item["globals"][0, :, :, 8, 8]
        assert colours.tolist() == [list(RED), list(GREEN), list(RED)]


@pytest.mark.parametrize("colour", [(0, 0, 255), (255, 255, 255), (9, 9, 9)])
def test_a_frame_of_one_colour_is_no_face(heard_and_seen, tmp_path, colour):
    for path in (tmp_path / "track").glob("*.png"):
        Image.new("RGB", (16, 16), colour).save(path)
    assert not heard_and_seen()[0]["has_face"]
    table = tmp_path / "faces.csv"
    data = MultiCropDataset(
        table,
        tmp_path,
        global_seconds=1,
        local_seconds=1,
        sample_rate=1,
        reader=functools.partial(FaceReader, size=16),
    )
    with pytest.raises(MediaError, match="blank"):
        data[0]


def test_errors_name_the_file_and_the_reason(tmp_path):
    assert issubclass(FaceError, MediaError)
    with pytest.raises(FaceError, match=r"gone: no such face track.*moved"):
        FaceReader(tmp_path / "gone")
    with pytest.raises(FaceError, match="nowhere/gone: no such face track"):
        FaceReader(tmp_path / "nowhere" / "gone")
    with pytest.raises(FaceError, match="no such face track"):
        FaceReader(tmp_path)
    save(tmp_path / "a.jpg", RED, (400, 400))
    whole = (tmp_path / "a.jpg").read_bytes()
    for name, content in {
        "b.jpg": b"I am no image.",
        "c.jpg": whole[: len(whole) // 2],
        "d.png": b"\x89PNG\r\n\x1a\n" + b"x" * 100,
        "e.webp": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "g.jpg")
    exif = b"Exif\0\0II*\0"
    Image.new("RGB", (9, 9)).save(tmp_path / "h.webp", exif=exif)
    names = "b.jpg c.jpg d.png e.webp f.jpg g.jpg h.webp".split()
    with FaceReader(tmp_path) as face:
        assert_colours(face.read(0, 1), [RED])
        for frame, name in enumerate(names):
            with pytest.raises(FaceError, match=f"{name}: not readable as an"):
                face.read(frame + 1, frame + 2)
        with pytest.raises(FaceError, match="ends after 8 frames, 9 were"):
            face.read(7, 9)


def test_augmenter_gives_pixels_of_the_size(faces):
    for size in [16, 64, 96]:
        for images in [faces, faces.float()]:
            crops = FaceAugmenter(size=size)(images)
            assert crops.dtype == torch.float32
            assert crops.shape == (3, 2, 3, size, size)
            assert 0 <= crops.min()
            assert 100 < crops.max() <= 255


def test_augmenter_draws_for_each_image_from_torch_alone(faces):
    same = faces[:1, :1].expand(3, 2, -1, -1, -1)
    augment = FaceAugmenter()
    torch.manual_seed(1)
    first, second = augment(same), augment(same)
    np.random.seed(5)  # of no effect
    torch.manual_seed(1)
    assert torch.equal(augment(same), first)
    crops = torch.cat([first, second]).flatten(0, 1)
    for i in range(len(crops)):
        for j in range(i):
            assert (crops[i] - crops[j]).abs().mean() > 1


def test_augmenter_has_no_gradient_and_leaves_its_input_alone(faces):
    images = faces.float().requires_grad_()
    before = images.detach().clone()
    assert not FaceAugmenter()(images).requires_grad
    assert torch.equal(images, before)


def test_each_distortion_does_what_its_name_says(faces):
    def augment(**odds):
        none = {"flip": 0.0, "colour": 0.0, "grey": 0.0, "blur": 0.0}
        # All of the image, but for its shape.
        return FaceAugmenter(scale=[1.0, 1.0], **{**none, **odds})(faces)

    def mean(images, *dims):
        return images.mean(dims)

    torch.manual_seed(0)
    plain = augment()
    assert (plain - faces.float()).abs().mean() < 12
    flipped = augment(flip=1.0)
    assert (flipped.flip(-1) - faces.float()).abs().mean() < 12
    assert (flipped - faces.float()).abs().mean() > 20
    grey = augment(grey=1.0)
    torch.testing.assert_close(grey[:, :, 0], grey[:, :, 2])
    tints = mean(augment(colour=1.0), 3, 4) - mean(plain, 3, 4)
    assert tints.abs().mean() > 5
    noise = torch.randint(256, faces.shape, dtype=torch.uint8)
    sharp, blurred = (
        FaceAugmenter(160, [0.2, 0.2], 0.0, 0.0, 0.0, blur)(noise)
        for blur in (0.0, 1.0)
    )
    assert blurred.std() < 0.97 * sharp.std()


def test_small_crops_show_less(faces):
    ramp = torch.linspace(0, 255, 64).expand(64, 1, 3, 64, 64)
    off = {"flip": 0.0, "colour": 0.0, "grey": 0.0, "blur": 0.0}
    for low, high in [(0.4, 1.0), (0.1, 0.4)]:
        crops = FaceAugmenter(scale=[low, high], **off)(ramp)
        width = (crops.amax((1, 2, 3, 4)) - crops.amin((1, 2, 3, 4))) / 255
        # Sides are up to 4:3, and the edges are smooth.
        assert (low * 3 / 4) ** 0.5 - 0.05 < width.min()
        assert width.max() < (high * 4 / 3) ** 0.5 + 0.05
        assert width.max() - width.min() > 0.1


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r'"speechbrain_cadino\[faces\]"'):
        FaceAugmenter()


@pytest.fixture
def heard_and_seen(tmp_path):
    """Two utterances on one manifest, and the face of the first: RED, GREEN
    and BLUE."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    (tmp_path / "labels.csv").write_text(
        "ID,duration,wav,start,stop,spk_id\n"
        "a,0.5,$data_root/a.wav,0,8000,x\n"
        "b,0.5,$data_root/a.wav,0,8000,y\n"
    )
    save_track(tmp_path / "track", [RED, GREEN, BLUE])
    (tmp_path / "faces.csv").write_text(
        "ID,duration,wav,start,stop\na,3,$data_root/track,0,3\n"
    )

    def make(**options):
        return AudioVisualDataset(
            tmp_path / "labels.csv",
            tmp_path / "faces.csv",
            face_size=16,
            data_root=tmp_path,
            crop_seconds=0.3,
            **{"face_root": tmp_path, **options},
        )

    return make


def test_any_frame_of_the_track_is_drawn(heard_and_seen):
    data = heard_and_seen()
    drawn = set()
    for epoch in range(1, 30):
        data.set_epoch(epoch)
        drawn.add(tuple(data[0]["face"][0, :, 8, 8].tolist()))
    assert drawn == {RED, GREEN, BLUE}


def test_a_voice_at_another_speed_has_the_same_face(heard_and_seen):
    data = heard_and_seen(speeds=[0.9, 1.0])
    items = [data[index] for index in range(len(data))]
    assert [item["label"] for item in items] == [0, 1, 2, 3]
    assert [item["has_face"] for item in items] == [True, False, True, False]
    for item in items:
        assert item["face"].shape == (1, 3, 16, 16)
        assert item["face"].any() == item["has_face"]


def test_each_voice_has_its_own_face(tmp_path):
    """Where samples come in an order of their own, and another utterance takes
    the place of a broken one."""
    colours = {"a": RED, "b": GREEN, "c": BLUE, "d": (250, 250, 10)}
    labels, faces = ["ID,duration,wav,start,stop"] * 2
    labels += ",spk_id"
    for number, (name, colour) in enumerate(colours.items()):
        wave = 0.1 * np.random.default_rng(number).standard_normal(8000)
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000)
        save_track(tmp_path / name, [colour])
        labels += f"\n{name},0.5,$data_root/{name}.wav,0,8000,{name}"
        # The other way round
        row = f"\n{name},1,$data_root/{name},0,1"
        faces = faces[:26] + row + faces[26:]
    (tmp_path / "b.wav").write_bytes(b"no audio")
    (tmp_path / "labels.csv").write_text(labels)
    (tmp_path / "faces.csv").write_text(faces)
    data = AudioVisualDataset(
        tmp_path / "labels.csv",
        tmp_path / "faces.csv",
        face_size=16,
        face_root=tmp_path,
        data_root=tmp_path,
        crop_seconds=0.3,
        samples_per_epoch=3,
    )
    seen = set()
    for epoch in range(1, 9):
        data.set_epoch(epoch)
        for item in data:
            colour = item["face"][0, :, 8, 8].tolist()
            assert tuple(colour) == colours[item["id"]]
            seen.add(item["id"])
    assert seen == {"a", "c", "d"}


def test_faces_that_are_not_there_are_no_faces_of_black(
    heard_and_seen, tmp_path
):
    with pytest.raises(ValueError, match=r"none of 1 face tracks is there"):
        heard_and_seen(face_root=tmp_path / "another")


def test_other_faces_are_other_data(heard_and_seen, tmp_path):
    before = heard_and_seen().fingerprint()
    assert heard_and_seen().fingerprint() == before
    text = (tmp_path / "faces.csv").read_text()
    (tmp_path / "faces.csv").write_text(text.replace(",3\n", ",2\n"))
    assert heard_and_seen().fingerprint() != before
