"""The pictures of a run: grids of images, drawn pixel for pixel, and curves and maps of the latent space."""

import textwrap
from pathlib import Path
from statistics import NormalDist

import numpy as np
import tensorflow as tf
from matplotlib import colormaps, font_manager, get_data_path, style
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vae.pixels import SAMPLE, chosen_pixels, random_key
from vae.run_folder import replace_with

PADDING = 2  # pixels between images, before enlarging
LEAST_CELL = 56  # pixels: smaller images are enlarged by a whole factor, without interpolation
PAPER, INK = 255, 60  # grey levels of background and text
DOTS_AREA = 30_000  # square points of all dots of a map together: more would hide each other
MOST_IN_LEGEND = 75  # classes: more names would leave no room for the map
LONGEST_NAME = 40  # characters of a class in the legend
TITLE_LETTERS = 6  # that fit in an inch of a figure's title, even if all are as wide as W
FACE_ATTRIBUTES = ("Smiling", "Eyeglasses", "Male", "Blond_Hair")  # in the latent map of faces


# Grids of images ----------------------------------------------------------------------------------------------


def image_grid(images, columns, padding=PADDING):
    """Place images in reading order on a white uint8 canvas (rows * (H + p) + p, columns * (W + p) + p, C).

    images: (N, H, W, C), uint8 or float in [0, 1]. Floats are rounded; their contrast is never stretched. C is 1 or 3.
    """
    if images.dtype != np.uint8:
        images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + padding, width + padding, channels), PAPER, np.uint8)
    cells[:count, padding:, padding:] = images
    grid = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = grid.reshape(rows * (height + padding), columns * (width + padding), channels)
    return np.pad(grid, ((0, padding), (0, padding), (0, 0)), constant_values=PAPER)


def save_grid(path, images, columns, caption, row_labels=(), column_labels=()):
    """Save a page of images (N, H, W, C) as PNG; see grid_page."""
    save_pages(path, [grid_page(images, columns, caption, row_labels, column_labels)])


def save_pages(path, pages):
    """Save pages below each other as one PNG."""
    sheet = Image.new("RGB", (max(page.width for page in pages), sum(page.height for page in pages)), (PAPER,) * 3)
    top = 0
    for page in pages:
        sheet.paste(page, (0, top))
        top += page.height
    replace_with(path, sheet.save)


def grid_page(images, columns, caption, row_labels=(), column_labels=()):
    """Draw a grid of images with a caption, labels left of its rows and labels above its columns; a PIL image.

    images: as image_grid takes them. row_labels repeat from the top.
    """
    scale = max(1, -(-LEAST_CELL // images.shape[1]))
    grid = Image.fromarray(image_grid(images, columns).squeeze()).convert("RGB")
    grid = grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)
    caption = legible(caption)
    row_labels, column_labels = list(map(legible, row_labels)), list(map(legible, column_labels))
    font = font_of((caption, *row_labels), 15)
    top, left = 48 if column_labels else 30, 14 + max((int(font.getlength(label)) for label in row_labels), default=-10)
    width = max(left + grid.width, left + int(font.getlength(caption)) + 16)
    page = Image.new("RGB", (width, top + grid.height + 4), (PAPER,) * 3)
    page.paste(grid, (left, top))
    draw = ImageDraw.Draw(page)
    draw.text((left + PADDING * scale, 7), caption, (INK,) * 3, font)
    down, across = ((side + PADDING) * scale for side in images.shape[1:3])
    for row in range(-(-len(images) // columns) if row_labels else 0):
        label = row_labels[row % len(row_labels)]
        draw.text((left - 6, top + row * down + down // 2), label, (INK,) * 3, font, anchor="rm")
    for size in (12, 11, 10, 9):  # the largest with which all fit above their columns, else the smallest
        small = font_of(column_labels, size)
        if all(small.getlength(label) <= across - 4 for label in column_labels):
            break
    for column, label in enumerate(column_labels):
        draw.text((left + column * across + across // 2, top - 5), label, (INK,) * 3, small, anchor="ms")
    return page


def font_of(texts, size):
    """Pillow's own font, or Matplotlib's where texts have letters that Pillow's lacks."""
    if all(text.isascii() for text in texts):
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


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


def principal_axes(means):
    """Project posterior means (N, z) on their first two principal axes: (N, 2). With one axis, the second is 0."""
    centred = means - means.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


# Curves and maps ----------------------------------------------------------------------------------------------


@style.context("default")  # whatever the user's matplotlibrc says: LaTeX would stumble over names
def save_losses(path, rows, title):
    """Plot training and test curves of the loss, its reconstruction and its KL term.  rows: dicts of metrics.csv.

    The axes fit what follows the first tenth of the epochs. Their fall would flatten everything else.
    """
    weights = {"train": "train, weights as they move", "test": "test, averaged weights"}
    figure = Figure((12, 3.9), layout="constrained")
    axes = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    marker = "." if len(rows) < 40 else None
    for ax, term, name in zip(axes, ("loss", "recon", "kl"), ("loss", "reconstruction", "KL"), strict=True):
        for split, line in (("train", "--"), ("test", "-")):
            ax.plot(epochs, [row[f"{split}_{term}"] for row in rows], line, label=weights[split], marker=marker)
        late = [row[f"{split}_{term}"] for row in rows[-(-len(rows) // 10) :] or rows for split in weights]
        margin = 0.1 * (max(late) - min(late)) or 1
        ax.set_ylim(min(late) - margin, max(late) + margin)
        ax.set(title=name, xlabel="epoch (the first tenth may lie outside)", ylabel="nats per image")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.ticklabel_format(useOffset=False)
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)  # off the curves
    save_figure(figure, path, title)


@style.context("default")
def save_latent(path, means, labels, label_names, title):
    """Map the test set's posterior means (N, z) by class or attribute, in the plane or on two principal axes."""
    plane, names = means, ("z1", "z2")
    if means.shape[1] != 2:
        plane, names = principal_axes(means), ("first principal axis of E[z|x]", "second principal axis")
    size = float(np.clip(DOTS_AREA / len(plane), 4, 24))
    if labels.ndim == 1:
        figure = Figure((7.5, 6.5), layout="constrained")
        axes = [figure.subplots()]
        scatter_classes(axes[0], plane, labels, label_names, size)
    else:
        shown = [name for name in FACE_ATTRIBUTES if name in label_names] or label_names[:4]
        figure = Figure((4.4 * len(shown), 4.4), layout="constrained")
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for ax, name in zip(axes, shown, strict=True):
            scatter_attribute(ax, plane, labels[:, label_names.index(name)], name, size)
    for ax in axes:
        ax.set(xlabel=names[0], ylabel=names[1])
        ax.set_aspect("equal", adjustable="datalim")
    save_figure(figure, path, title)


def scatter_classes(ax, plane, labels, label_names, size):
    """Draw the dots (N, 2) of each class in its own colour, with a legend unless there are too many classes."""
    colours = colormaps["tab10" if len(label_names) <= 10 else "turbo"](np.linspace(0, 1, max(2, len(label_names))))
    dots = {"s": size, "linewidths": 0, "alpha": 0.7}
    order = np.random.default_rng(0).permutation(len(plane))  # in order, the last class would cover the others
    ax.scatter(*plane[order].T, color=colours[labels[order]], **dots)
    if len(label_names) > MOST_IN_LEGEND:
        return
    for colour, name in zip(colours, label_names, strict=False):  # of a single class there are two colours
        label = legible(f" {name}" if name.startswith("_") else name)  # Matplotlib skips labels that begin with _
        if len(label) > LONGEST_NAME:
            label = label[: LONGEST_NAME - 1] + "…"
        ax.scatter([], [], color=colour, label=label, **dots)
    columns = -(-len(label_names) // 25)
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = ax.legend(markerscale=3, frameon=False, ncols=columns, **place)
    figure = ax.figure  # wider by what the legend needs more than one of digits
    width = legend.get_window_extent().width / figure.dpi
    figure.set_figwidth(figure.get_figwidth() + max(0, width - 1))


def scatter_attribute(ax, plane, present, name, size):
    """Draw the dots (N, 2) of images with an attribute over those of images without it.  present: 0 or 1, (N,)."""
    for value, colour, word in ((0, "#b9c4d0", "without"), (1, "#d1495b", "with")):
        ax.scatter(*plane[present == value].T, s=size, color=colour, label=word, linewidths=0, alpha=0.8)
    ax.set_title(legible(name.replace("_", " ")), parse_math=False)
    ax.legend(markerscale=2, loc="upper right")


def legible(text):
    """Escape the characters that Matplotlib's own font lacks."""
    if text.isascii():
        return text
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in text)


def save_figure(figure, path, title):
    """Save a figure with a title as PNG."""
    title = textwrap.fill(legible(title), int(TITLE_LETTERS * figure.get_figwidth()))
    figure.suptitle(title, parse_math=False)  # a name with two dollar signs is not a formula
    replace_with(path, lambda partial: figure.savefig(partial, dpi=110))


# The pictures of a training run ---------------------------------------------------------------------------------

RUN_PICTURES = {
    "reconstructions.png": "test images above their reconstructions",
    "samples.png": "images decoded from N(0, I)",
    "losses.png": "training and test curves",
    "latent.png": "where the test images lie in the latent space",
    "manifold.png": "what each place of the latent plane decodes to",
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
    if data.test_labels is not None:
        save_latent(
            folder / "latent.png", means, data.test_labels, data.label_names, f"{title}: codes of the test images"
        )
    if z == 2:
        images = vae.pixel_means(manifold_codes(20), np.repeat(labels[:1], 400, axis=0)).numpy()
        of = f", label {', '.join(map(str, np.flatnonzero(labels[0])))}" if vae.takes_labels else ""
        caption = f"{title}: decoder over the plane, in steps of equal probability; z1 to the right, z2 upwards{of}"
        steps = [f"{step:+.2f}" for step in gaussian_quantiles(20)]
        save_grid(folder / "manifold.png", images, 20, caption, steps[::-1], steps)


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
