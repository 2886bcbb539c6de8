"""Toy digits and toy faces: drawn sets that stand in for MNIST and CelebA without a network.

Picture `i` depends only on (seed, i), so that fewer pictures are the first of more. Pillow draws them several times too
large and reduces them, with fonts that every version of Matplotlib contains.
"""

import functools
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from vae.data.cache import open_cache, save_array
from vae.data.dataset import Dataset
from vae.terminal import UserError, progress

LABELS, GLYPHS, ATTRIBUTES, LOOKS = range(4)  # independent random streams for a seed and a picture


def load_toy(name, data_dir):
    """Draw a toy set, or read it from the cache if the same program has drawn it before; returns a Dataset."""
    draw, train, test, label_names = TOY_SETS[name]

    def build(folder):
        images, labels = draw(train + test, seed=0)
        save_array(folder / "images.npy", images)
        save_array(folder / "labels.npy", labels)

    signature = {"program": Path(__file__).read_text(encoding="utf-8"), "images": train + test}
    folder = open_cache(data_dir, name, signature, build)
    images, labels = (np.load(folder / f"{part}.npy") for part in ("images", "labels"))
    return Dataset(name, images[:train], images[train:], labels[:train], labels[train:], tuple(label_names))


def _stream(seed, kind, index):
    return np.random.default_rng([seed, kind, index])


# Digits ---------------------------------------------------------------------------------------------------------------

CANVAS, GLYPH_HEIGHT = 112, 60  # three times as large as in the finished 28 x 28 picture, and with a wider margin
STROKES = {  # thinnest and thickest extra outline, in canvas pixels: bold fonts need none, hairlines need some
    (0, 0): ["DejaVuSans-Bold"],
    (0, 1): ["STIXGeneralBol", "STIXGeneralBolIta", "DejaVuSerif-BoldItalic"],
    (0, 2): ["DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic"],
    (0, 3): ["cmss10", "cmtt10"],
    (1, 3): ["STIXGeneral", "STIXGeneralItalic", "cmr10"],
}
FONTS = [(font, *limits) for limits, fonts in STROKES.items() for font in fonts]
STICKS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "cmss10")  # most people write a 1 without a foot
CELLS = 5  # the warp is exact at the corners of so many cells a side and bilinear in between
CORNERS = np.linspace(-1, 1, CELLS + 1)
TARGETS = [
    tuple(round((CORNERS[k] + 1) * CANVAS / 2) for k in (column, row, column + 1, row + 1))
    for row in range(CELLS)
    for column in range(CELLS)
]


def draw_digits(count, seed):
    """Draw digits that resemble handwriting: white on black, centred by their centre of mass as in MNIST.

    Returns images, uint8 (count, 28, 28, 1), and labels, uint8 (count,). Each ten in a row are 0 to 9 in random order.
    """
    images = np.empty((count, 28, 28, 1), np.uint8)
    labels = np.empty(count, np.uint8)
    for i in progress(range(count), count, f"drawing {count:,} toy digits (once; kept in the data folder)"):
        if i % 10 == 0:
            ten = _stream(seed, LABELS, i // 10).permutation(10)
        labels[i] = ten[i % 10]
        images[i, :, :, 0] = _draw_digit(labels[i], _stream(seed, GLYPHS, i))
    return images, labels


def _draw_digit(digit, rng):
    font, thin, thick = FONTS[rng.integers(len(FONTS))]
    glyph = _glyph("l" if digit == 1 and font in STICKS else str(digit), font, int(rng.integers(thin, thick + 1)))
    corners = (_warp(rng) + 1) * CANVAS / 2
    quads = np.concatenate([corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]], axis=-1)
    mesh = list(zip(TARGETS, quads.reshape(-1, 8).tolist(), strict=True))
    warped = glyph.transform(glyph.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return _fit(warped, longer_side=rng.uniform(18, 20.5))


@functools.cache
def _glyph(text, font, stroke):
    """Draw a digit on the canvas with its centre of mass in the middle, the fixed point of every warp."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", font + ".ttf")
    if not path.exists():
        raise UserError(f"{path}: is missing in Matplotlib; pip install --force-reinstall matplotlib")
    top, bottom = ImageFont.truetype(path, 100).getbbox("0")[1::2]
    font = ImageFont.truetype(path, 100 * GLYPH_HEIGHT / (bottom - top))
    canvas = Image.new("L", (CANVAS, CANVAS))
    place = ImageDraw.Draw(canvas)
    place.text((CANVAS / 2, CANVAS / 2), text, 255, font, anchor="mm", stroke_width=stroke)
    x, y = _centre_of_mass(np.asarray(canvas))
    shift = (1, 0, x - CANVAS / 2, 0, 1, y - CANVAS / 2)
    return canvas.transform(canvas.size, Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR)


def _warp(rng):
    """Return where the corners of the cells come from, in [-1, 1]: (CELLS + 1, CELLS + 1, 2), varied as by a hand."""
    angle, slant, width = np.array([0.10, 0.18, 0.12]) * rng.normal(size=3).clip(-2, 2)
    linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = linear @ np.array([[np.exp(width), slant + 0.1], [0, 1]])
    x, y = np.meshgrid(CORNERS, CORNERS)
    bends = np.stack([x * x, x * y, y * y, x**3, x * y * y, y * x * x, y**3, np.sin(5 * y), np.sin(5 * x)])
    sizes = np.array([0.10, 0.14, 0.14, 0.05, 0.10, 0.10, 0.05, 0.03, 0.03])
    bent = np.tensordot(sizes * rng.normal(size=(2, len(sizes))).clip(-1.5, 1.5), bends, axes=1)  # without folds
    return np.stack([x, y], axis=-1) @ linear.T + np.moveaxis(bent, 0, -1)


def _fit(canvas, longer_side):
    """Reduce the canvas to 28 x 28 pixels of full contrast: centred by mass, its longer side `longer_side` pixels."""
    left, top, right, bottom = canvas.getbbox()
    x, y = _centre_of_mass(np.asarray(canvas))
    reach = max(x - left, right - x, y - top, bottom - y)
    half = 14 * max(max(right - left, bottom - top) / longer_side, reach / 11.5)  # at least two black pixels around
    around = x - half, y - half, x + half, y + half
    window = canvas.transform((84, 84), Image.Transform.EXTENT, around, Image.Resampling.BILINEAR)
    pixels = np.asarray(window.reduce(3), np.float32)
    return np.round(pixels * (255 / pixels.max()))


def _centre_of_mass(pixels):
    """Return the (x, y) of a picture's centre of mass, in pixels from the outer corner."""
    columns, rows = pixels.sum(axis=0, dtype=np.float64), pixels.sum(axis=1, dtype=np.float64)
    places = np.arange(len(rows)) + 0.5
    return columns @ places / columns.sum(), rows @ places / rows.sum()


# Faces ----------------------------------------------------------------------------------------------------------------

# fmt: off
RATES = {  # under CelebA's names; only men are bald or have mustaches
    "Bald": 0.1, "Bangs": 0.35, "Black_Hair": 0.3, "Blond_Hair": 0.22, "Brown_Hair": 0.28, "Eyeglasses": 1 / 15,
    "Gray_Hair": 0.08, "Male": 0.5, "Mouth_Slightly_Open": 0.45, "Mustache": 0.2, "Smiling": 0.5, "Wearing_Hat": 0.08,
}
RANGES = {  # in pixels of the finished picture, or relative to half a head's width or height
    "width": (13.2, 15.6), "height": (16.6, 18.4), "jaw": (0.02, 0.14), "nose": (1.2, 2.2), "mouth": (4.4, 6.0),
    "curve": (0, 1), "eye": (2.7, 3.5), "lid": (0.75, 1.05), "spacing": (0.40, 0.46), "gaze": (-0.8, 0.8),
    "brow": (0.29, 0.36), "frown": (-0.9, 0.9), "part": (-0.6, 0.6), "volume": (1.12, 1.24), "length": (0.7, 1.75),
    "x": (29.5, 34.5), "y": (32.0, 34.5), "tilt": (-0.12, 0.12), "scale": (1.0, 1.15),
}
# fmt: on
FACE_ATTRIBUTES = tuple(RATES)
HAIR = {  # at most one colour; the rest is red, for which CelebA has no attribute
    "Black_Hair": ["#1c1a20", "#2e262b"],
    "Blond_Hair": ["#e3bd5e", "#f2da8c"],
    "Brown_Hair": ["#57351f", "#7c5030"],
    "Gray_Hair": ["#9a9ba3", "#c6c7cd"],
}
RED_HAIR = ["#b4512a", "#c8693a"]
SKINS = ["#ffe0cc", "#f8d0b0", "#eebd94", "#d9a071", "#b67a4d", "#8c5836"]
EYES = ["#4a2f1b", "#7a5230", "#3f7d4e", "#3a78b8", "#7fa3b5"]
SOFT = ["#cfe3f2", "#d8ecd3", "#f6e3c5", "#ecd4e4", "#d9d6f0", "#f3d2cb", "#d3e9e7", "#e6e6e3"]
STRONG = ["#3b6ea5", "#b5433c", "#3f8a5f", "#7b4f9d", "#d98e32", "#33384a", "#cf6f8d", "#4aa0a8"]
WHITE, INK, INNER_MOUTH = (255, 255, 255), (30, 24, 28), (112, 24, 32)
CIRCLE = np.linspace(0, 2 * np.pi, 33)
CIRCLE = np.stack([np.cos(CIRCLE), np.sin(CIRCLE)], axis=1)  # clockwise from the right end: the last half is the upper
ACROSS = np.linspace(-1, 1, 15)


def draw_faces(count, seed):
    """Draw cartoon faces whose attributes can all be seen.

    Returns images, uint8 (count, 64, 64, 3), and attributes, uint8 (count, len(FACE_ATTRIBUTES)), 0 or 1.
    """
    images = np.empty((count, 64, 64, 3), np.uint8)
    attributes = np.empty((count, len(FACE_ATTRIBUTES)), np.uint8)
    for i in progress(range(count), count, f"drawing {count:,} toy faces (once; kept in the data folder)"):
        has = _attributes(_stream(seed, ATTRIBUTES, i))
        attributes[i] = [has[name] for name in FACE_ATTRIBUTES]
        images[i] = _draw_face(has, _looks(has, _stream(seed, LOOKS, i)))
    return images, attributes


def _attributes(rng):
    has = {name: bool(rng.random() < rate) for name, rate in RATES.items()}
    has["Bald"] &= has["Male"]
    has["Mustache"] &= has["Male"]
    has["Wearing_Hat"] &= not has["Bald"]  # a hat would hide it, as it would bangs
    has["Bangs"] &= not (has["Bald"] or has["Wearing_Hat"])
    rank = rng.random()
    for name in HAIR:
        has[name] = 0 <= rank < RATES[name] and not has["Bald"]
        rank -= RATES[name]
    return has


def _looks(has, rng):
    """Draw what the attributes leave open: sizes and places as in RANGES, colours as arrays (3,)."""
    looks = {name: rng.uniform(*limits) for name, limits in RANGES.items()}
    unnamed = HAIR["Brown_Hair"] if has["Bald"] else RED_HAIR
    hair = next((colours for name, colours in HAIR.items() if has[name]), unnamed)
    palettes = {"skin": SKINS, "hair": hair, "iris": EYES, "background": SOFT, "clothes": STRONG, "hat": STRONG}
    for name, palette in palettes.items():
        one, other = (np.array(ImageColor.getrgb(palette[k])) for k in rng.integers(len(palette), size=2))
        looks[name] = one + rng.uniform(0, 0.5 if name in ("skin", "hair") else 0.2) * (other - one)
    looks["curls"] = int(rng.integers(5, 8)) * (rng.random() < 0.3)
    looks["style"] = int(rng.integers(3))  # of bun or none, hat, glasses
    return looks


def _draw_face(has, looks):
    """Draw one face, uint8 (64, 64, 3), from the back to the front."""
    pen = _Pen(looks)
    _draw_body(pen, has, looks)
    _draw_head(pen, has, looks)
    _draw_mouth(pen, has, looks)
    if not has["Bald"]:
        _draw_hair(pen, has, looks)
    _draw_eyes(pen, has, looks)
    if has["Wearing_Hat"]:
        _draw_hat(pen, looks)
    if has["Eyeglasses"]:
        _draw_glasses(pen, looks)
    return np.asarray(pen.picture.reduce(4))


class _Pen:
    """Draws, four times too large, in the head's own coordinates: origin between the eyes, x right, y down."""

    def __init__(self, looks):
        shades = np.linspace(1.04, 0.94, 256)[:, None, None] * looks["background"]
        self.picture = Image.fromarray(shades.clip(0, 255).astype(np.uint8).repeat(256, axis=1))
        self.canvas = ImageDraw.Draw(self.picture)
        cos, sin = np.cos(looks["tilt"]), np.sin(looks["tilt"])
        self.turn = 4 * looks["scale"] * np.array([[cos, sin], [-sin, cos]])
        self.origin = 4 * np.array([looks["x"], looks["y"]])

    def fill(self, points, colour):
        self.canvas.polygon((points @ self.turn + self.origin).ravel().tolist(), _shade(colour))

    def line(self, points, colour, width):
        self.canvas.line((points @ self.turn + self.origin).ravel().tolist(), _shade(colour), round(4 * width))

    def oval(self, x, y, rx, ry, colour):
        self.fill(CIRCLE * (rx, ry) + (x, y), colour)


def _shade(colour, factor=1.0):
    return tuple(int(min(255, part * factor)) for part in colour)


def _lens(line, thickness):
    """Return the outline (30, 2) of a shape that hangs from a line (15, 2), thickest in the middle."""
    low = line.copy()
    low[:, 1] += thickness * (1 - ACROSS**2)
    return np.concatenate([line, low[::-1]])


def _draw_body(pen, has, looks):
    """Draw shoulders, long hair behind the neck, and the neck."""
    w, h = looks["width"], looks["height"]
    pen.oval(0, 2.05 * h, 1.75 * w, 0.95 * h, looks["clothes"])
    if not has["Male"]:
        turns = np.linspace(0, 2 * np.pi, 73)
        lower = turns < np.pi  # nearly a rectangle, and longer
        x = np.sign(np.cos(turns)) * abs(np.cos(turns)) ** np.where(lower, 0.5, 1)
        y = np.sin(turns) * np.where(lower, looks["length"], looks["volume"])
        waves = 1 + 0.04 * np.sin(2 * looks["curls"] * turns)[:, None]
        pen.fill(np.stack([x * looks["volume"] * 1.04 * w, y * h], axis=1) * waves, _shade(looks["hair"], 0.82))
    neck = 0.5 * w if has["Male"] else 0.38 * w
    pen.fill(np.concatenate([CIRCLE[:17] * (neck, 4) + (0, 1.25 * h), [[-neck, 0], [neck, 0]]]), looks["skin"] * 0.86)


def _draw_head(pen, has, looks):
    """Draw ears, unless long hair hides them, the face itself, cheeks and nose."""
    w, h, skin = looks["width"], looks["height"], looks["skin"]
    outline = CIRCLE * (w, h)
    outline[:, 0] *= 1 - (looks["jaw"] - 0.1 * has["Male"]) * np.sin(np.pi * CIRCLE[:, 1].clip(0, 1))
    if has["Male"]:
        pen.oval(-w, 0.08 * h, 2.3, 3.2, skin * 0.93)
        pen.oval(w, 0.08 * h, 2.3, 3.2, skin * 0.93)
    pen.fill(outline, skin)
    for side in (-1, 1):
        pen.oval(side * 0.58 * w, 0.38 * h, 2.6, 1.9, skin * 0.8 + (47, 16, 16))
    nose = looks["nose"]
    pen.line(np.array([[0, 0.08 * h], [nose, 0.30 * h], [-0.3 * nose, 0.33 * h]]), skin * 0.72, 1.1)


def _draw_mouth(pen, has, looks):
    """Draw the mouth, its corners up for a smile and level or down otherwise, and a mustache above."""
    half, y = looks["mouth"], 0.59 * looks["height"] + 0.8 * has["Mustache"]
    lips = looks["skin"] * 0.35 + (35, 0, 5) if has["Male"] else (190, 50, 65)
    bend = 2.6 + 1.2 * looks["curve"] if has["Smiling"] else -1.8 * looks["curve"] ** 2
    line = np.stack([half * ACROSS, y + bend * (0.6 - ACROSS**2)], axis=1)
    if has["Mouth_Slightly_Open"] and has["Smiling"]:
        line[:, 1] = 0.3 * line[:, 1] + 0.7 * line[0, 1]
        pen.fill(_lens(line, 0.7 * bend + 2.4), INNER_MOUTH)
        pen.fill(_lens(line, 1.9), WHITE)
        pen.line(line, lips, 0.9)
    elif has["Mouth_Slightly_Open"]:
        pen.oval(0, y, 0.55 * half + 0.7, 2.6, lips)
        pen.oval(0, y, 0.55 * half - 0.2, 1.7, INNER_MOUTH)
    else:
        pen.line(line, lips, 1.5 if has["Male"] else 1.9)
    if has["Mustache"]:
        humps = 1.4 * ACROSS**2 - 0.9 * np.sin(np.pi * abs(ACROSS))
        colour = max((looks["hair"] * 0.6, looks["hair"]), key=lambda colour: abs(colour - looks["skin"]).sum())
        pen.fill(_lens(np.stack([1.25 * half * ACROSS, y - 4 + humps], axis=1), 2.4), colour)


def _draw_hair(pen, has, looks):
    """Draw the hair between an outer dome and the hairline."""
    w, h, hair, part = (looks[name] for name in ("width", "height", "hair", "part"))
    if looks["style"] == 0 and not (has["Male"] or has["Wearing_Hat"]):
        pen.oval(0, -1.24 * h, 5.5, 4.5, hair * 0.9)  # a bun
    turns = np.linspace(np.pi, 2 * np.pi, 49)
    swell = looks["volume"] + 0.07 * abs(np.sin(looks["curls"] * turns))
    dome = np.stack([np.cos(turns) * (swell - 0.04) * w, np.sin(turns) * swell * h], axis=1)
    x = np.linspace(0.86, -0.86, 33)
    if has["Bangs"]:
        y = -0.42 - 0.06 * abs(np.sin(7 * (x - part))) + 0.10 * x**2
    else:  # highest at the parting
        y = 0.38 * ((x - part) / (0.86 - np.sign(x - part) * part)) ** 2 - 0.72
    drop = 0.02 * h if has["Male"] else min(looks["length"], 1) * 0.5 * h
    ends = np.array([[1.06 * w, drop], [0.93 * w, drop]])
    hairline = np.stack([x * w, y * h], axis=1)
    pen.fill(np.concatenate([dome, ends, hairline, ends[::-1] * (-1, 1)]), hair)
    pen.line(hairline, hair * 0.75, 0.8)  # separates it from skin of nearly its colour
    pen.line(CIRCLE[19:24] * (0.86 * w, 0.98 * h), hair * 1.08 + 22, 1.3)  # a gleam


def _draw_eyes(pen, has, looks):
    """Draw eyes and brows; women's with lashes."""
    h, size, tall = looks["height"], looks["eye"], looks["lid"] * looks["eye"]
    iris = min(0.62 * size, tall)
    for side in (-1, 1):
        x, y = side * looks["spacing"] * looks["width"], -0.02 * h
        pen.oval(x, y, size, tall, WHITE)
        pen.oval(x + looks["gaze"], y, iris, iris, looks["iris"])
        pen.oval(x + looks["gaze"], y, 0.53 * iris, 0.53 * iris, INK)
        pen.oval(x + looks["gaze"] + 0.7, y - 0.8, 0.6, 0.6, WHITE)
        pen.line(CIRCLE[16:] * (size, tall) + (x, y), INK, 0.8 if has["Male"] else 1.3)
        if not has["Male"]:
            pen.line(np.array([[x + side * size, y - 0.2 * tall], [x + side * (size + 1.4), y - 2]]), INK, 1.0)
        brow = np.array([[-1.1, 0.3], [-0.4, -0.5], [0.4, -0.5], [1.1, 0.3]])
        brow[:, 1] -= looks["frown"] * brow[:, 0]
        brow = brow * (side * size, 1) + (x, -looks["brow"] * h)
        pen.line(brow, looks["hair"] * 0.75, 1.9 if has["Male"] else 1.2)


def _draw_hat(pen, looks):
    """Draw a woollen hat with a bobble, a round hat or one with a brim."""
    w, h, hat = 1.05 * looks["volume"] * looks["width"], looks["height"], looks["hat"]
    if looks["style"] == 0:
        pen.oval(0, -1.34 * h, 2.6, 2.6, hat + 60)
    pen.fill(CIRCLE[16:] * (w, 0.82 * h) + (0, -0.5 * h), hat)
    pen.oval(0, -0.5 * h, 1.35 * w if looks["style"] == 2 else 1.06 * w, 3, hat * 0.8)


def _draw_glasses(pen, looks):
    """Draw dark frames, round or nearly rectangular."""
    x, y = looks["spacing"] * looks["width"], -0.02 * looks["height"]
    rx, roundness = min(x - 0.6, 5.4), 0.5 if looks["style"] == 1 else 1
    frame = np.sign(CIRCLE) * abs(CIRCLE) ** roundness * (rx, 4 + 0.6 * roundness)
    for side in (-1, 1):
        pen.line(np.array([side * x, y]) + frame, INK, 1.6)
        pen.line(np.array([[side * (x + rx), y - 1], [side * looks["width"], y - 1.5]]), INK, 1.4)
    pen.line(np.array([[rx - x, y - 0.5], [x - rx, y - 0.5]]), INK, 1.6)


TOY_SETS = {  # name: (how to draw, training images, test images, names of the labels)
    "toy-digits": (draw_digits, 10_000, 2_000, tuple("0123456789")),
    "toy-faces": (draw_faces, 5_000, 1_000, FACE_ATTRIBUTES),
}
