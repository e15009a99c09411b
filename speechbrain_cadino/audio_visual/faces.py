"""Reading and augmenting faces: a track is a signal, its samples are frames.

A manifest of faces has the columns of one of audio. ``wav`` is the path of a
track, ``start`` and ``stop`` count frames.
"""

import importlib.util
import os
import re
import struct

import numpy as np
import torch
from PIL import Image, ImageOps

from speechbrain_cadino.dataio.audio import MediaError

IMAGES = {".jpg", ".jpeg", ".png", ".webp"}

# What Pillow raises for a file that is no image, is cut off or is broken.
IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,  # of what a camera has written about itself
)

# DINO (Caron et al., 2021) jitters brightness, contrast, saturation and hue by
# this much, and blurs images of 224 pixels by up to 2 pixels.
COLOUR = (0.4, 0.4, 0.2, 0.1)
BLUR = 2.0 / 224


class FaceError(MediaError):
    """A face track that cannot be used, with the reason."""


def in_order(names):
    """Names of frames in the order in which they were taken.

    Arguments
    ---------
    names : iterable of str
        The names, with a number.

    Returns
    -------
    list of str
        The names, sorted with numbers as numbers: 2 is before 10.

    Example
    -------
    >>> in_order(["10.jpg", "2.jpg", "1.jpg"])
    ['1.jpg', '2.jpg', '10.jpg']
    """
    return sorted(
        names,
        key=lambda name: (
            [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)],
            name,
        ),
    )


def is_image(name):
    """Whether a file's name is that of an image that is not hidden.

    Arguments
    ---------
    name : str
        The name of the file, without folders.

    Returns
    -------
    bool
        Whether it has the suffix of an image, and starts with no dot.

    Example
    -------
    >>> [is_image(name) for name in ["01.JPG", ".01.jpg", "01.txt"]]
    [True, False, False]
    """
    return name[0] != "." and os.path.splitext(name)[1].lower() in IMAGES


def flat_track(name):
    """The track of an image in the flat layout, ``<track>_<frame>.jpg``.

    Arguments
    ---------
    name : str
        The image, with folders or without.

    Returns
    -------
    str
        The name before the last ``_``; an empty text if there is none.

    Example
    -------
    >>> flat_track("n000001/0007_01.jpg"), flat_track("a_b/1.jpg")
    ('n000001/0007', '')
    """
    track, _, frame = name.rpartition("_")
    return "" if "/" in frame else track


class FaceReader:
    """An open face track that gives square RGB images of one size.

    The shorter side of a frame is scaled to that size, and what is left over
    of the longer one is cut off at both ends.

    Arguments
    ---------
    path : str or pathlib.Path
        A folder, whose images sorted by name are the frames. Or what the
        images ``<path>_<frame>.jpg`` have in common, as in VGGFace2.
    sample_rate : float
        Frames per second. Nothing is resampled: it is there because readers
        are called with it.
    size : int
        Height and width of what ``read`` returns.

    Raises
    ------
    FaceError
        If there is no such track.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "id1" / "video" / "00001"
    >>> folder.mkdir(parents=True)
    >>> for frame in range(5):
    ...     Image.new("RGB", (120, 90)).save(folder / f"{frame}.jpg")
    >>> with FaceReader(folder, size=64) as face:
    ...     len(face), face.read(1, 3).shape
    (5, torch.Size([2, 3, 64, 64]))
    """

    def __init__(self, path, sample_rate=1, size=64):
        self.path = str(path)
        self.sample_rate = sample_rate
        self.size = size
        self._frames = _find_frames(self.path)
        if not self._frames:
            raise FaceError(
                f"{path}: no such face track, neither a folder of images nor "
                f"images {os.path.basename(self.path)}_*. Was it moved after "
                "the prepare step? Then prepare again."
            )

    def __len__(self):
        return len(self._frames)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def read(self, start=0, stop=None):
        """Reads the frames from start (included) to stop (excluded).

        Arguments
        ---------
        start : int
            The first frame.
        stop : int, optional
            One past the last frame; the end of the track by default.

        Returns
        -------
        torch.Tensor
            Frames, shape (stop - start, 3, size, size), uint8.

        Raises
        ------
        FaceError
            If the track ends before ``stop``, or an image cannot be decoded.
        """
        stop = len(self) if stop is None else stop
        if stop > len(self):
            raise FaceError(
                f"{self.path}: ends after {len(self)} frames, {stop} were "
                "expected. The track changed: prepare again."
            )
        images = np.empty((stop - start, self.size, self.size, 3), np.uint8)
        for image, path in zip(images, self._frames[start:stop]):
            image[:] = self._decode(path)
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(images)

    def _decode(self, path):
        """The image in a file, of the right mode and size."""
        square = (self.size, self.size)
        # To open a FIFO waits for its writer, for ever
        if os.path.exists(path) and not os.path.isfile(path):
            raise FaceError(f"{path}: not readable as an image (no plain file)")
        try:
            with Image.open(path) as image:
                # A JPEG is decoded at the smallest size that is not too small.
                image.draft("RGB", square)
                return ImageOps.fit(
                    upright_rgb(image), square, Image.Resampling.BILINEAR
                )
        except IMAGE_ERRORS as error:
            raise FaceError(
                f"{path}: not readable as an image ({error})."
            ) from error


def upright_rgb(image):
    """An image as it is to be seen: turned as its camera says, in three colours
    of 8 bits.

    Arguments
    ---------
    image : PIL.Image.Image
        The image. Pillow would cut 16 bits at 255.

    Returns
    -------
    PIL.Image.Image
        The image, upright, in mode RGB.

    Example
    -------
    >>> deep = Image.fromarray(np.full((2, 3), 2**15, np.uint16))
    >>> deep.mode, upright_rgb(deep).getpixel((0, 0))
    ('I;16', (128, 128, 128))
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        deep = pixels.max(initial=0) > 255
        pixels = (pixels // 256 if deep else pixels).clip(0, 255)
        image = Image.fromarray(pixels.astype(np.uint8))
    return image.convert("RGB")


def check_kornia():
    """Raises if faces cannot be augmented.

    Raises
    ------
    ImportError
        If kornia is not installed.

    Example
    -------
    >>> check_kornia()
    """
    if importlib.util.find_spec("kornia") is None:
        raise ImportError(
            "Faces are augmented by kornia, which is not installed: "
            'pip install "speechbrain_cadino[faces]"'
        )


class FaceAugmenter(torch.nn.Module):
    """Random crops and distortions of faces, each image on its own.

    What DINO (Caron et al., 2021) does to its local crops, with its values; it
    blurs global ones more or less often, and inverts bright pixels. All
    randomness comes from torch's global generator.

    Arguments
    ---------
    size : int
        Height and width of the crops.
    scale : list of float
        The least and the largest share of an image's area that its crop has,
        0.4 to 1 for DINO's large crops and 0.05 to 0.4 for its small ones.
    flip : float
        The probability that a crop is mirrored.
    colour : float
        The probability that its brightness, contrast, saturation and hue
        change.
    grey : float
        The probability that it loses its colours.
    blur : float
        The probability that it is blurred.

    Raises
    ------
    ImportError
        If kornia is not installed.

    Example
    -------
    >>> augment = FaceAugmenter(size=32, scale=[0.1, 0.4])
    >>> faces = torch.randint(256, (4, 2, 3, 64, 64), dtype=torch.uint8)
    >>> augment(faces).shape
    torch.Size([4, 2, 3, 32, 32])
    """

    def __init__(
        self,
        size=64,
        scale=(0.4, 1.0),
        flip=0.5,
        colour=0.8,
        grey=0.2,
        blur=0.5,
    ):
        super().__init__()
        check_kornia()
        from kornia import augmentation

        strongest = max(0.2, BLUR * size)
        width = 2 * int(np.ceil(2 * strongest)) + 1
        self.augmentations = torch.nn.Sequential(
            augmentation.RandomResizedCrop(
                (size, size), tuple(scale), cropping_mode="resample"
            ),
            augmentation.RandomHorizontalFlip(p=flip),
            augmentation.ColorJitter(*COLOUR, p=colour),
            augmentation.RandomGrayscale(p=grey),
            augmentation.RandomGaussianBlur(
                (width, width), (0.1, strongest), p=blur
            ),
        )

    @torch.no_grad()
    def forward(self, faces):
        """Augments each frame on its own.

        Arguments
        ---------
        faces : torch.Tensor
            Frames, (batch, frames, 3, height, width), pixels from 0 to 255.

        Returns
        -------
        torch.Tensor
            Frames, (batch, frames, 3, size, size), float, pixels from 0 to
            255.
        """
        images = faces.flatten(0, 1).float() / 255
        images = self.augmentations(images).clamp(0, 1) * 255
        return images.unflatten(0, faces.shape[:2])


def _find_frames(path):
    """The images of a track, in the order of the numbers in their names; none
    if there is no track."""
    folder, track = path, None
    if not os.path.isdir(path):
        folder, track = os.path.split(path)
    try:
        names = in_order(filter(is_image, os.listdir(folder or ".")))
    except OSError:
        return []
    return [
        os.path.join(folder, name)
        for name in names
        if track is None or flat_track(name) == track
    ]
