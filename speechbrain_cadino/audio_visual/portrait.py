"""Drawing faces by code: people, what they wear and how they are lit.

They serve the demo corpus. A person is a set of measures, taken on a head that
turns in space; all else is drawn anew for each utterance or each frame.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# What a person keeps. The unit is half the height of a head, y points down,
# the origin is between the eyes; angles are in radians.
PERSON = {
    "width": (0.6, 0.95),
    "jaw": (0.25, 1.0),  # how wide the chin is, of the width
    "chin": (0.85, 1.2),
    "eye_x": (0.22, 0.46),
    "eye_y": (-0.2, 0.14),
    "eye_width": (0.09, 0.23),
    "eye_height": (0.3, 0.85),  # of its width
    "eye_slant": (-0.5, 0.5),
    "brow_y": (0.15, 0.36),  # above the eye
    "brow_width": (0.1, 0.3),
    "brow_height": (0.015, 0.11),
    "brow_slant": (-0.6, 0.6),
    "nose_length": (0.15, 0.58),
    "nose_width": (0.06, 0.27),
    "mouth_y": (0.08, 0.26),  # below the nose
    "mouth_width": (0.12, 0.46),
    "lip": (0.02, 0.14),
    "smile": (-0.12, 0.12),
    "ear": (0.06, 0.35),
    "hairline": (-0.85, -0.35),
    "parting": (-0.6, 0.6),
    "hair_volume": (0.02, 0.4),
    "hair_length": (-0.5, 1.5),
    "hair_tone": (0.0, 1.0),
    "hair_light": (0.1, 0.9),
    "skin_tone": (0.0, 1.0),
    "skin_red": (-0.06, 0.06),
    "iris_tone": (0.0, 1.0),
    "beard": (-1.2, 1.0),  # none below 0
}
# Tones go from the first to the second of these.
SKIN = np.array([[0.94, 0.8, 0.7], [0.42, 0.27, 0.19]])
HAIR = np.array([[0.9, 0.65, 0.3], [0.35, 0.15, 0.08]])
IRIS = np.array([[0.3, 0.55, 0.75], [0.3, 0.17, 0.06]])

# How often an utterance is with these, and a frame with the last.
HAT, GLASSES, COVERED = 0.1, 0.15, 0.08
# The head is this deep, and this much of it is drawn larger, then made small.
DEPTH, OVERSAMPLING = 0.8, 3
TURN = np.linspace(0, 2 * np.pi, 32, endpoint=False)


class Setting(NamedTuple):
    """What the frames of an utterance share: see ``draw_setting``."""

    clothes: np.ndarray
    hat: np.ndarray
    glasses: np.ndarray
    pose: np.ndarray
    centre: np.ndarray
    scale: float


def draw_person(rng):
    """Draws the measures of a person.

    Arguments
    ---------
    rng : numpy.random.Generator
        The source of all that is random.

    Returns
    -------
    dict of str to float
        The measures, one for each entry of ``PERSON``.
    """
    return {
        name: float(rng.uniform(*limits)) for name, limits in PERSON.items()
    }


def draw_setting(rng):
    """Draws what the frames of an utterance share.

    Arguments
    ---------
    rng : numpy.random.Generator
        The source of all that is random.

    Returns
    -------
    Setting
        The clothes, hat and glasses (None without), pose, centre and scale.
    """
    return Setting(
        clothes=np.full(3, rng.uniform(0.1, 0.3)),
        hat=rng.uniform(0, 1, 3) if rng.random() < HAT else None,
        glasses=rng.uniform(0, 0.4, 3) if rng.random() < GLASSES else None,
        pose=rng.normal(0, [0.08, 0.05, 0.03]),
        centre=rng.normal(0, 0.07, 2),
        scale=rng.uniform(0.8, 1.0),
    )


def draw_portrait(person, setting, rng, size=64):
    """Draws a frame.

    Arguments
    ---------
    person : dict
        The measures of the person, of ``draw_person``.
    setting : Setting
        The setting, of ``draw_setting``.
    rng : numpy.random.Generator
        The source of the frame's own pose, expression and noise.
    size : int
        Height and width.

    Returns
    -------
    PIL.Image.Image
        The frame, in mode RGB.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> draw_portrait(draw_person(rng), draw_setting(rng), rng).size
    (64, 64)
    """
    pose = setting.pose + rng.normal(0, [0.2, 0.12, 0.07])
    centre = setting.centre + rng.normal(0, 0.07, 2)
    scale = setting.scale * rng.uniform(0.94, 1.06)
    sheet = _Sheet(size, pose, centre, scale, person["width"])
    _draw_behind(sheet, person, setting, rng)
    _draw_head(sheet, person)
    _draw_eyes(sheet, person, rng)
    _draw_nose(sheet, person)
    _draw_mouth(sheet, person, rng)
    _draw_on_top(sheet, person, setting)
    if rng.random() < COVERED:
        _draw_cover(sheet, person, rng)
    return _photograph(sheet, rng)


class _Sheet:
    """Paper, and a head in space above it."""

    def __init__(self, size, pose, centre, scale, width):
        self.size = size
        self.pixels = size * OVERSAMPLING
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self.draw = ImageDraw.Draw(self.image)
        self.pose = np.clip(pose, [-0.6, -0.35, -0.3], [0.6, 0.35, 0.3])
        self.centre = centre
        self.scale = scale
        self.width = width

    def project(self, x, y, z=None):
        """Points of the head, on its surface by default, to pixels."""
        if z is None:
            z = DEPTH * np.sqrt(
                np.clip(1 - (x / self.width) ** 2 - (y / 1.15) ** 2, 0, 1)
            )
        yaw, pitch, roll = self.pose
        x, z = (
            x * np.cos(yaw) + z * np.sin(yaw),
            z * np.cos(yaw) - x * np.sin(yaw),
        )
        y = y * np.cos(pitch) - z * np.sin(pitch)
        x, y = (
            x * np.cos(roll) - y * np.sin(roll),
            x * np.sin(roll) + y * np.cos(roll),
        )
        points = np.stack([x, y], 1) * self.scale + self.centre
        return (points + 1) * self.pixels / 2

    def fill(self, colour, x, y, z=None):
        """A polygon of one colour."""
        points = self.project(x, y, z)
        self.draw.polygon(points.ravel().tolist(), fill=_rgb(colour))

    def oval(self, colour, x, y, width, height, slant=0.0, z=None):
        """An ellipse, slanted by an angle."""
        self.fill(colour, *_oval(x, y, width, height, slant), z)

    def stroke(self, colour, x, y, thickness):
        """A line through points."""
        pixels = max(1, round(thickness * self.scale * self.pixels / 2))
        points = self.project(x, y).ravel().tolist()
        self.draw.line(points, _rgb(colour), pixels, joint="curve")


def _rgb(colour):
    return tuple(np.uint8(np.clip(colour, 0, 1) * 255).tolist())


def _tone(ends, tone):
    return ends[0] + (ends[1] - ends[0]) * tone


def _skin(person):
    return np.add(_tone(SKIN, person["skin_tone"]), [person["skin_red"], 0, 0])


def _hair(person):
    return _tone(HAIR, person["hair_tone"]) * person["hair_light"]


def _oval(x, y, width, height, slant=0.0):
    """Points of an ellipse."""
    across, down = width * np.cos(TURN), height * np.sin(TURN)
    return (
        x + across * np.cos(slant) - down * np.sin(slant),
        y + across * np.sin(slant) + down * np.cos(slant),
    )


def _outline(person, larger=0.0):
    """Points of the outline of the head, from the right and downwards."""
    down = np.sin(TURN)
    narrow = 1 - (1 - person["jaw"]) * np.clip(down, 0, 1) ** 2
    height = np.where(down > 0, person["chin"], 1.0) + larger
    return (person["width"] + larger) * np.cos(TURN) * narrow, height * down


def _draw_behind(sheet, person, setting, rng):
    """All that the head covers: backdrop, clothes, neck, hair and ears."""
    # The camera moves: another backdrop in each frame
    rows = np.linspace(0, 1, sheet.pixels)[:, None, None]
    backdrop = np.broadcast_to(
        _tone(rng.uniform(0.05, 0.95, (2, 3)), rows),
        (sheet.pixels, sheet.pixels, 3),
    )
    sheet.image.paste(Image.fromarray(np.uint8(backdrop * 255)))
    for _ in range(5):
        place, radius = rng.uniform(-1.6, 1.6, 2), rng.uniform(0.1, 1)
        left, top = (place - radius + 1) * sheet.pixels / 2
        right, bottom = (place + radius + 1) * sheet.pixels / 2
        colour = rng.uniform(0, 1, 3)
        sheet.draw.ellipse([left, top, right, bottom], fill=_rgb(colour))
    flat = np.zeros_like(TURN)
    skin, hair, width = _skin(person), _hair(person), person["width"]
    volume, length = person["hair_volume"], person["hair_length"]
    x, y = _outline(person, larger=volume)
    # Long hair falls straight down from the temples.
    side = np.sign(x) * (width + volume) * np.where(y > 0, 1, abs(x) / width)
    sheet.fill(hair, np.where(y > 0, side, x), np.minimum(y, length), flat)
    sheet.oval(setting.clothes, 0, 2.05, 1.5, 0.8, z=flat)
    sheet.oval(skin * 0.8, 0, 1.0, width * 0.6, 0.55, z=flat)
    for side in (-1, 1):
        sheet.oval(
            skin * 0.85, side * width, 0.1, 0.12, person["ear"], z=flat - 0.05
        )


def _draw_head(sheet, person):
    """The head with its beard and the hair on the forehead."""
    flat = np.zeros_like(TURN)
    skin, hair = _skin(person), _hair(person)
    x, y = _outline(person)
    sheet.fill(skin, x, y, flat)
    if person["beard"] > 0:
        share = 0.25 + 0.7 * person["beard"]
        lower = np.maximum(y, 0.3 + 0.15 * (1 - (x / person["width"]) ** 2))
        sheet.fill(skin + (hair - skin) * share, x, lower, flat)
    line = (
        person["hairline"]
        + 0.35
        * ((x - person["parting"] * person["width"]) / person["width"]) ** 2
    )
    sheet.fill(hair, x * 1.02, np.minimum(y * 1.02, line), flat + 0.1)


def _draw_eyes(sheet, person, rng):
    """Eyes that look somewhere and may blink, and brows."""
    gaze = rng.normal(0, [0.25, 0.12])
    lid = 0.15 if rng.random() < 0.06 else rng.uniform(0.75, 1.1)
    skin, hair = _skin(person), _hair(person)
    iris = _tone(IRIS, person["iris_tone"])
    width = person["eye_width"]
    height = width * person["eye_height"] * lid
    for side in (-1, 1):
        x, y = side * person["eye_x"], person["eye_y"]
        slant = side * person["eye_slant"]
        sheet.oval(skin * 0.75, x, y, width * 1.3, height * 1.5, slant)
        sheet.oval([0.95, 0.95, 0.93], x, y, width, height, slant)
        radius = min(width * 0.55, height)
        across = x + gaze[0] * width
        down = y + gaze[1] * height
        sheet.oval(iris, across, down, radius, radius)
        sheet.oval([0.02] * 3, across, down, radius * 0.5, radius * 0.5)
        sheet.oval(
            hair * 0.8,
            x * 1.05,
            y - person["brow_y"],
            person["brow_width"],
            person["brow_height"],
            side * person["brow_slant"],
        )


def _draw_nose(sheet, person):
    """A ridge that stands out, and nostrils below it."""
    skin, width = _skin(person), person["nose_width"]
    top, tip = person["eye_y"], person["eye_y"] + person["nose_length"]
    sheet.fill(
        skin * 0.82,
        np.array([-0.3 * width, 0.3 * width, width, 0, -width]),
        np.array([top, top, tip, tip + 0.06, tip]),
        np.array([0.8, 0.8, 0.95, 1.0, 0.95]) * DEPTH * 1.05,
    )
    ridge = np.array([-0.15, 0.25, 0.35, -0.3]) * width
    down = np.array([top, top, tip - 0.03, tip - 0.03])
    sheet.fill(skin * 1.1, ridge, down, np.full(4, DEPTH * 1.12))
    for side in (-1, 1):
        sheet.oval(
            skin * 0.35,
            side * width * 0.5,
            tip + 0.01,
            width * 0.25,
            0.03,
            z=np.full_like(TURN, DEPTH),
        )


def _draw_mouth(sheet, person, rng):
    """Lips that smile or not, and speak."""
    opening = max(0.0, rng.normal(0.02, 0.06))
    smile = person["smile"] + rng.normal(0, 0.04)
    width = person["mouth_width"] * rng.uniform(0.92, 1.08)
    height = person["lip"] + opening
    y = person["eye_y"] + person["nose_length"] + person["mouth_y"]
    bend = smile * (1 - 2 * np.cos(TURN) ** 2)
    lips = _skin(person) * [0.85, 0.5, 0.5]
    across, down = _oval(0, y, width, height)
    sheet.fill(lips, across, down + bend)
    across, down = _oval(0, y, width * 0.9, opening + 0.012)
    sheet.fill(lips * 0.25, across, down + bend)


def _draw_on_top(sheet, person, setting):
    """Glasses and a hat."""
    if setting.glasses is not None:
        y = person["eye_y"]
        for side in (-1, 1):
            x = side * person["eye_x"]
            ring = _oval(x, y, 0.23, 0.19)
            ring = [np.append(points, points[0]) for points in ring]
            sheet.stroke(setting.glasses, *ring, thickness=0.05)
        bridge = np.array([-0.08, 0.08]), np.array([y, y])
        sheet.stroke(setting.glasses, *bridge, thickness=0.05)
    if setting.hat is not None:
        x, y = _outline(person, larger=person["hair_volume"] + 0.08)
        flat = np.zeros_like(TURN)
        sheet.fill(setting.hat, x, np.minimum(y, -0.5), flat)
        sheet.oval(setting.hat * 0.7, 0, -0.5, person["width"] * 1.3, 0.1)


def _draw_cover(sheet, person, rng):
    """A hand, or a bar of any colour, in front of a part of the face."""
    colour = _skin(person) * 0.9 if rng.random() < 0.5 else rng.uniform(0, 1, 3)
    x, y = rng.uniform(-0.9, 0.9, 2)
    near = np.full_like(TURN, DEPTH)
    slant = rng.uniform(0, np.pi)
    sheet.oval(colour, x, y, 0.75, rng.uniform(0.12, 0.25), slant, near)


def _photograph(sheet, rng):
    """Lights the drawing and takes it with a camera."""
    blur = OVERSAMPLING * rng.uniform(0.3, 1.1) * sheet.size / 64
    image = sheet.image.filter(ImageFilter.GaussianBlur(blur))
    image = image.resize((sheet.size, sheet.size), Image.Resampling.BOX)
    pixels = np.asarray(image, np.float64) / 255
    ramp = np.linspace(-1, 1, sheet.size)
    across, down = rng.normal(0, 0.4, 2)
    light = 1 + across * ramp + down * ramp[:, None]
    light = np.clip(light, 0.25, 1.75) * rng.uniform(0.75, 1.2)
    pixels = pixels * light[..., None] * rng.uniform(0.9, 1.1, 3)
    pixels += rng.normal(0, rng.uniform(0.01, 0.04), pixels.shape)
    return Image.fromarray(np.uint8(np.clip(pixels, 0, 1) * 255))
