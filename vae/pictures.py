"""The pictures of a run: grids of images, drawn pixel for pixel, and curves and maps of the latent space."""

import functools
import textwrap
from pathlib import Path
from statistics import NormalDist

import numpy as np
import tensorflow as tf
from matplotlib import colormaps, font_manager, get_data_path, style
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from vae.measures import discriminant_axes
from vae.pixels import SAMPLE, chosen_pixels, random_key
from vae.run_folder import replace_with

PADDING = 2  # pixels between images, before enlarging
LEAST_CELL = 56  # pixels: smaller images are enlarged by a whole factor, without interpolation
PAPER, INK = 255, 60  # grey levels of background and text
DOTS_AREA = 30_000  # square points of all dots of a map together: more would hide each other
MOST_IN_LEGEND = 75  # classes: more names would leave no room for the map
LONGEST_NAME = 40  # characters of a class or file; the middle of longer ones is left out
THUMBNAIL = 1 / 12  # side of an image in a map, of what the dots extend
THUMBNAIL_DISTANCE = 1.35  # sides between such images, so that dots remain in sight
ATTRIBUTE_COLOURS = ("#b9c4d0", "#d1495b")  # without, with
AXES = {  # of a map of more than two units, by the number of classes
    1: ("first principal axis of E[z|x]", "second principal axis"),
    2: ("discriminant axis of E[z|x]", "first principal axis of the rest"),
    3: ("first discriminant axis of E[z|x]", "second discriminant axis"),
}
LEAST_WIDTH = 240  # pixels of a page: room for its caption
DPI = 110  # pixels in an inch of curves and maps
CHANGED_ATTRIBUTES = ("Smiling", "Eyeglasses")  # added to faces and taken away
MAP_ATTRIBUTES = (*CHANGED_ATTRIBUTES, "Male", "Blond_Hair")  # in the latent map of faces


# Grids of images ----------------------------------------------------------------------------------------------


def image_grid(images, columns, padding=PADDING):
    """Place images in reading order on a white uint8 canvas (rows * (H + p) + p, columns * (W + p) + p, C).

    images: (N, H, W, C), uint8 or float in [0, 1]. Floats are rounded; their contrast is never stretched. C is 1 or 3.
    """
    images = as_uint8(images)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + padding, width + padding, channels), PAPER, np.uint8)
    cells[:count, padding:, padding:] = images
    grid = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + padding), columns * (width + padding), channels)
    return np.pad(grid, ((0, padding), (0, padding), (0, 0)), constant_values=PAPER)


def as_uint8(images):
    """Images as uint8: floats in [0, 1] are rounded."""
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def save_grid(path, images, columns, caption, row_labels=(), column_labels=()):
    """Save a page of images (N, H, W, C) as PNG; see grid_page."""
    save_pages(path, [[grid_page(images, columns, caption, row_labels, column_labels)]])


def save_pages(path, rows):
    """Save pages as one PNG.  rows: from the top, lists of pages that stand side by side, level at the bottom."""
    size = max(sum(page.width for page in row) for row in rows), sum(max(page.height for page in row) for row in rows)
    sheet, bottom = Image.new("RGB", size, (PAPER,) * 3), 0
    for row in rows:
        left, bottom = 0, bottom + max(page.height for page in row)
        for page in row:
            sheet.paste(page, (left, bottom - page.height))
            left += page.width
    replace_with(path, sheet.save)


def grid_page(images, columns, caption, row_labels=(), column_labels=()):
    """Draw a grid of images with a caption, labels left of its rows and labels above its columns; a PIL image.

    images: as image_grid takes them. row_labels repeat from the top; they may have several lines.
    """
    scale = max(1, -(-LEAST_CELL // images.shape[1]))
    grid = Image.fromarray(image_grid(images, columns).squeeze()).convert("RGB")
    grid = grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)
    row_labels, column_labels = list(map(legible, row_labels)), list(map(legible, column_labels))
    label_lines = [line for label in row_labels for line in label.split("\n")]
    left = 14 + max((int(font_of(12).getlength(line)) for line in label_lines), default=-10)
    width = max(left + grid.width, LEAST_WIDTH)
    caption = wrapped(caption, font_of(13), width - 16)
    top = 30 + 18 * caption.count("\n") + (18 if column_labels else 0)
    page = Image.new("RGB", (width, top + grid.height + 4), (PAPER,) * 3)
    page.paste(grid, (left, top))
    draw = ImageDraw.Draw(page)
    draw.text((8, 7), caption, (INK,) * 3, font_of(13))
    down, across = ((side + PADDING) * scale for side in images.shape[1:3])
    for row in range(-(-len(images) // columns) if row_labels else 0):
        label = row_labels[row % len(row_labels)]
        draw.text((left - 6, top + row * down + down // 2), label, (INK,) * 3, font_of(12), anchor="rm", align="right")
    for size in (11, 10, 9, 8):  # the largest with which all fit above their columns, else the smallest
        if all(font_of(size).getlength(label) <= across - 2 for label in column_labels):
            break
    for column, label in enumerate(column_labels):
        draw.text((left + column * across + across // 2, top - 5), label, (INK,) * 3, font_of(size), anchor="ms")
    return page


@functools.cache
def font_of(size):
    """The font of all pictures, Matplotlib's, in so many pixels."""
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def legible(text):
    """Escape the characters that the font lacks."""
    if text.isascii():
        return text
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = [c.isascii() or font.get_char_index(ord(c)) for c in text]
    return "".join(c if ok else c.encode("unicode_escape").decode() for c, ok in zip(text, known, strict=True))


def wrapped(text, font, width):
    """A legible text in lines of at most `width` pixels."""
    text = legible(text)
    for letters in range(len(text) + 1, 0, -1):
        lines = textwrap.wrap(text, letters)
        if all(font.getlength(line) <= width for line in lines):
            break
    return "\n".join(lines)


def shortened(text, most=LONGEST_NAME):
    """A text of at most so many characters, without the middle of a longer one."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[most // 2 + 1 - most :]}"


def interleave(above, below, columns):
    """Put rows of `columns` images above the same rows of others, both (N, H, W, C) in [0, 1]; white images fill up."""
    missing = [[0, -len(above) % columns], [0, 0], [0, 0], [0, 0]]
    full = [np.pad(part, missing, constant_values=1) for part in (above, below)]
    rows = [part[start : start + columns] for start in range(0, len(above), columns) for part in full]
    return np.concatenate(rows)


def gaussian_quantiles(count):
    """`count` ascending values that divide N(0, 1) into parts of equal probability."""
    return np.array([NormalDist().inv_cdf((index + 0.5) / count) for index in range(count)], np.float32)


def manifold_codes(side):
    """Codes (side * side, 2) on the Gaussian quantile grid; z1 grows to the right, z2 upwards."""
    steps = gaussian_quantiles(side)
    z1, z2 = np.meshgrid(steps, steps[::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=-1)


# Curves and maps ----------------------------------------------------------------------------------------------


@style.context("default")  # whatever the user's matplotlibrc says: LaTeX would stumble over names
def save_losses(path, rows, title):
    """Plot training and test curves of the loss, its reconstruction and its KL term.  rows: dicts of metrics.csv."""
    weights = {"train": "train, weights as they move", "test": "test, averaged weights"}
    figure = Figure((12, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    marker = "." if len(rows) < 40 else None
    for ax, term, name in zip(axes, ("loss", "recon", "kl"), ("loss", "reconstruction", "KL"), strict=True):
        curves = np.array([[row[f"{split}_{term}"] for split in weights] for row in rows])  # (epochs, 2)
        for curve, line, label in zip(curves.T, ("--", "-"), weights.values(), strict=True):
            ax.plot(epochs, curve, line, label=label, marker=marker)
        ax.set(title=name, xlabel="epoch", ylabel="nats per image", ylim=limits_of(curves))
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.ticklabel_format(useOffset=False)
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)  # off the curves
    save_figure(figure, path, title)


def limits_of(curves):
    """Limits of an axis for curves (epochs, curves): the first epochs may fall into it from outside.

    They lie inside as long as what follows the first eighth of the epochs fills at least a third of the axis.
    """
    room = 3 * np.ptp(curves[len(curves) // 8 :])
    shown = next(part for part in (curves[start:] for start in range(len(curves))) if np.ptp(part) <= room)
    margin = 0.05 * np.ptp(shown) or 1
    return shown.min() - margin, shown.max() + margin


@style.context("default")
def save_latent(path, means, labels, label_names, title, images):
    """Map the test images' posterior means (N, z) by class or by attribute, with some of the images at their places.

    labels: classes (N,), attributes (N, A), or None. images: (N, H, W, C), as image_grid takes them.
    """
    if labels is None or labels.ndim == 1:
        figure = Figure((7.5, 7), layout="compressed")
        ax, classes = figure.subplots(), np.zeros(len(means), int) if labels is None else labels
        colours = class_colours(1 if labels is None else len(label_names))
        draw_map(ax, means, classes, colours, images)
        if labels is not None and len(label_names) <= MOST_IN_LEGEND:
            add_legend(ax, colours, label_names)
    else:
        shown = map_attributes(label_names)
        columns, rows = min(2, len(shown)), -(-len(shown) // 2)
        figure = Figure((5.8 * columns, 6 * rows), layout="compressed")
        for number, name in enumerate(shown, 1):
            ax = figure.add_subplot(rows, columns, number)
            draw_map(ax, means, labels[:, label_names.index(name)], ATTRIBUTE_COLOURS, images)
            ax.set_title(legible(name.replace("_", " ")), parse_math=False)
        handles = [ax.scatter([], [], color=colour, s=80) for colour in ATTRIBUTE_COLOURS]
        figure.legend(handles, ("without", "with"), loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path, title)


def map_attributes(label_names):
    """The attributes in the latent map: those of MAP_ATTRIBUTES that a data set has, else its first ones."""
    return [name for name in MAP_ATTRIBUTES if name in label_names] or list(label_names[: len(MAP_ATTRIBUTES)])


def draw_map(ax, means, classes, colours, images):
    """Draw posterior means (N, z) as dots in the colours of their classes (N,), with some images (N, H, W, C)."""
    rows, plane, names = map_plane(means, classes)
    colours = to_rgba_array(colours)[classes[rows]]  # of each dot
    order = np.random.default_rng(0).permutation(len(rows))  # in order, the last class would cover the others
    area = float(np.clip(DOTS_AREA / len(rows), 4, 24))
    ax.scatter(*plane[order].T, area, colours[order], linewidths=0, alpha=0.7)
    centre, extent = (plane.min(axis=0) + plane.max(axis=0)) / 2, np.ptp(plane, axis=0).max() or 1
    side = THUMBNAIL * extent
    shown = apart(plane, classes[rows], THUMBNAIL_DISTANCE * side)
    for row, image in zip(shown, on_paper(as_uint8(images[rows[shown]])), strict=True):
        add_thumbnail(ax, image, plane[row], side, colours[row])
    limits = centre[:, None] + (extent / 2 + side) * np.array([-1, 1])  # a square
    ax.set(xlabel=names[0], ylabel=names[1], xlim=limits[0], ylim=limits[1], aspect="equal")


def map_plane(means, classes):
    """The row numbers (M,) of the posterior means (N, z) to draw, their places (M, 2), and the names of the axes.

    More than two units are seen from where the classes (N,) lie furthest apart. That plane is found with every second
    image, and only the others are drawn: among many units, any classes would seem apart where the plane was found.
    """
    count, z = means.shape
    rows = np.arange(count)
    if z == 1:
        noise = np.random.default_rng(0).standard_normal(count)
        return rows, np.column_stack([means, noise]), ("z1", "at random, so that dots do not hide each other")
    if z == 2:
        return rows, means, ("z1", "z2")
    found_with, rows = (rows[::2], rows[1::2]) if np.ptp(classes) else (rows, rows)
    axes = discriminant_axes(means[found_with], classes[found_with])
    return rows, means[rows] @ axes, AXES[min(3, len(np.unique(classes[found_with])))]


def apart(plane, classes, distance):
    """Choose points (N, 2) that are so far from each other in x or y: the middle one of each class, then others."""
    middles = []
    for number in np.unique(classes):
        own = np.flatnonzero(classes == number)
        middles.append(own[np.argmin(np.square(plane[own] - plane[own].mean(axis=0)).sum(axis=1))])
    chosen, free = [], np.ones(len(plane), bool)
    for row in (*middles, *range(len(plane))):
        if free[row]:
            chosen.append(row)
            free &= np.abs(plane - plane[row]).max(axis=1) > distance
    return chosen


def on_paper(images):
    """White drawings on black as ink on paper; other uint8 images as they are."""
    return 255 - images if images.shape[-1] == 1 and np.median(images) < 64 else images


def add_thumbnail(ax, image, place, side, colour):
    """Draw a uint8 image (H, W, C) in a frame around a place (2,) of a map; its longer side is `side`."""
    height, width = side * np.array(image.shape[:2]) / max(image.shape[:2])
    left, bottom = place[0] - width / 2, place[1] - height / 2
    ax.imshow(image, "gray", vmin=0, vmax=255, extent=(left, left + width, bottom, bottom + height), zorder=2)
    ax.add_patch(Rectangle((left, bottom), width, height, fill=False, edgecolor=colour, linewidth=1.2, zorder=3))


def class_colours(count):
    """A colour (4,) for each class."""
    return colormaps["tab10"](np.arange(count)) if count <= 10 else colormaps["turbo"](np.linspace(0, 1, count))


def add_legend(ax, colours, names):
    """Name the colours of classes right of a map, which keeps its size."""
    for colour, name in zip(colours, names, strict=True):
        label = shortened(legible(f" {name}" if name.startswith("_") else name))  # Matplotlib skips labels with _ first
        ax.scatter([], [], color=colour, label=label, s=80)
    columns = -(-len(names) // 25)
    legend = ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, ncols=columns)
    width = legend.get_window_extent().width / ax.figure.dpi
    ax.figure.set_figwidth(ax.figure.get_figwidth() + max(0, width - 1))  # more than the names of digits need


def save_figure(figure, path, title):
    """Save a figure with a title as PNG."""
    title = wrapped(title, font_of(round(12 / 72 * DPI)), 0.95 * figure.get_figwidth() * DPI)
    figure.suptitle(title, fontsize=12, parse_math=False)  # a name with two dollar signs is not a formula
    replace_with(path, lambda partial: figure.savefig(partial, dpi=DPI))


# The pictures of a training run ---------------------------------------------------------------------------------

RUN_PICTURES = {
    "reconstructions.png": "test images above their reconstructions",
    "samples.png": "images decoded from N(0, I)",
    "losses.png": "training and test curves",
    "latent.png": "where the test images lie in the latent space",
    "manifold.png": "what each place of the latent plane decodes to",
    "training.gif": "a film of the training",
    "explorer.html": "a page to play with the networks in; open it in a browser",
}


def draw_run(folder, vae, data, means, rows, binarize, seed):
    """Draw the pictures of a run folder.

    vae: a Vae, data: a Dataset, means: the test images' posterior means (N, z), rows: those of metrics.csv.
    binarize, seed: the run's settings, for test images as the loss sees them and for its samples.
    """
    title = f"{folder.name}, epoch {rows[-1]['epoch']}"
    z = means.shape[1]
    labels = data.label_matrix("test", vae.takes_labels)
    shown = picture_rows(data, 40)
    originals = chosen_pixels(data.test, binarize, seed, shown)
    below = vae.pixel_means(means[shown], labels[shown]).numpy()
    columns = min(10, len(shown))
    grid, caption = interleave(originals, below, columns), f"{title}: test images above their reconstructions"
    save_grid(folder / "reconstructions.png", grid, columns, caption, ("original", "reconstruction"))
    noise = tf.random.stateless_normal((100, z), random_key(seed, SAMPLE, 0))
    samples = vae.pixel_means(noise, sample_labels(labels, 100)).numpy()
    save_grid(folder / "samples.png", samples, 10, f"{title}: decoded from N(0, I)")
    save_losses(folder / "losses.png", rows, title)
    heading = f"{title}: codes of the test images"
    save_latent(folder / "latent.png", means, data.test_labels, data.label_names, heading, data.test)
    if z == 2:
        images = decoded_plane(vae, labels, 20)
        of = f", label {', '.join(map(str, np.flatnonzero(labels[0])))}" if vae.takes_labels else ""
        caption = f"{title}: decoder over the plane, in steps of equal probability; z1 to the right, z2 upwards{of}"
        steps = [f"{step:+.2f}" for step in gaussian_quantiles(20)]
        save_grid(folder / "manifold.png", images, 20, caption, steps[::-1], steps)


def decoded_plane(vae, labels, side):
    """The decoder over the plane of codes, (side * side, H, W, C); a conditional one draws the first label (N, L)."""
    return vae.pixel_means(manifold_codes(side), np.repeat(labels[:1], side**2, axis=0)).numpy()


def sample_labels(labels, count):
    """Labels (count, L) for samples of a conditional VAE: one class after the other, or those of some test images."""
    classes = np.eye(labels.shape[1], dtype=np.float32) if np.all(labels.sum(axis=1) == 1) else labels
    return np.resize(classes, (count, labels.shape[1]))


def picture_rows(data, count):
    """Choose `count` evenly spaced test images. If labels say who wears glasses, half of them show people who do.

    A rare attribute is easily lost, so the picture has to show it.
    """
    evenly = np.linspace(0, len(data.test) - 1, min(count, len(data.test))).astype(int)
    if "Eyeglasses" not in data.attributes:
        return evenly
    anyone = evenly[::2]
    wearers = np.setdiff1d(np.flatnonzero(data.test_labels[:, data.attributes.index("Eyeglasses")]), anyone)
    return np.concatenate([anyone, wearers[: count - len(anyone)]])
