"""The pictures of an evaluation: what the codes of a run mean, its best and worst images, and runs side by side.

run: a FinishedRun; means: posterior means of its test images, (N, z).
"""

import numpy as np

from vae import pictures
from vae.features import sample_codes
from vae.pictures import picture_rows
from vae.pixels import chosen_pixels, to_pixels

SHOWN_ATTRIBUTES = ("Smiling", "Eyeglasses")  # added and taken away in attributes.png
ATTRIBUTE_STEP = 1.5  # times the difference between the mean codes with and without an attribute
PICTURES = {
    "traversals.png": "one latent unit at a time",
    "interpolation.png": "from one test image to another",
    "attributes.png": "smiles and glasses added and taken away",
    "pairs.png": "test images of the smallest and the largest loss",
    "neighbours.png": "samples above their nearest training images",
    "mixture.png": "images decoded from where the codes of training images lie",
}


def draw_traversals(run, means, unit_kl, rows=10, steps=11):
    """Move one unit at a time of one test image's code from -3 to 3, for the units with the largest KL.  (z,)."""
    shown = np.argsort(unit_kl)[::-1][:rows]
    values = np.linspace(-3, 3, steps)
    codes = np.tile(means[0], (len(shown), steps, 1))
    for row, unit in enumerate(shown):
        codes[row, :, unit] = values
    grid = run.decode(codes, run.labels("test")[0])
    labels = [f"unit {unit}, KL {unit_kl[unit]:.2f}" for unit in shown]
    caption = f"{run.folder.name}: one test image's code, one unit at a time from -3 to 3; largest KL first"
    save(run, "traversals.png", grid, caption, labels, [f"{v:+.1f}" for v in values])


def draw_interpolation(run, means, pairs=8, steps=9):
    """Decode straight lines between the codes, and labels, of two test images, which are shown at the ends."""
    chosen = picture_rows(run.data, 2 * pairs)
    chosen = chosen[: len(chosen) // 2 * 2] if len(chosen) > 1 else np.repeat(chosen, 2)
    left, right = chosen[::2], chosen[1::2]
    share = np.linspace(0, 1, steps)[:, None]
    lines = [part[left][:, None] * (1 - share) + part[right][:, None] * share for part in (means, run.labels("test"))]
    ends = [to_pixels(run.data.test[side])[:, None] for side in (left, right)]
    grid = np.concatenate([ends[0], run.decode(*lines), ends[1]], axis=1)
    caption = f"{run.folder.name}: straight lines between the codes of two test images"
    heads = ["original", *[f"{100 * s:.0f} %" for s in share[:, 0]], "original"]
    save(run, "interpolation.png", grid, caption, (), heads)


def draw_attributes(run, means, train_means, train_rows, count=10):
    """Add attributes to faces and take them away, along the difference of the mean codes with and without them.

    train_means: posterior means of the training images in train_rows, (M, z).
    """
    names = [name for name in SHOWN_ATTRIBUTES if name in run.data.attributes]
    if not names:
        return
    chosen = picture_rows(run.data, count)
    codes, labels = means[chosen], run.labels("test")[chosen]
    columns, heads = [to_pixels(run.data.test[chosen]), run.decode(codes, labels)], ["original", "decoded"]
    for name in names:
        present = run.data.train_labels[train_rows, run.data.attributes.index(name)].astype(bool)
        if present.all() or not present.any():
            continue
        direction = ATTRIBUTE_STEP * (train_means[present].mean(axis=0) - train_means[~present].mean(axis=0))
        columns += [run.decode(codes + sign * direction, labels) for sign in (-1, 1)]
        heads += [f"- {name.lower()}", f"+ {name.lower()}"]
    caption = f"{run.folder.name}: attributes taken away and added, by {ATTRIBUTE_STEP} differences of mean codes"
    save(run, "attributes.png", np.stack(columns, axis=1), caption, (), heads)


def draw_pairs(run, means, loss, count=10):
    """Show the test images with the smallest and the largest loss (N,) above their reconstructions."""
    order = np.argsort(loss, kind="stable")
    grid = []
    for chosen in (order[:count], order[::-1][:count]):
        grid += [to_pixels(run.data.test[chosen]), run.decode(means[chosen], run.labels("test")[chosen])]
    labels = ("smallest loss", "reconstruction", "largest loss", "reconstruction")
    caption = f"{run.folder.name}: loss of {loss[order[0]]:,.0f} to {loss[order[-1]]:,.0f} nats an image, test set"
    save(run, "pairs.png", np.stack(grid), caption, labels)


def draw_neighbours(run, samples, neighbours, count=20, columns=10):
    """Show samples, codes (M, z), above the training images in rows `neighbours` (M,)."""
    nearest = to_pixels(run.data.train[neighbours[:count]])
    grid = pictures.interleave(run.decode(samples[:count]), nearest, columns)
    caption = f"{run.folder.name}: samples above their nearest training images"
    pictures.save_grid(run.folder / "neighbours.png", grid, columns, caption, ("sample", "nearest"))


def draw_mixture(run, mixture, count=100, columns=10):
    """Show samples as samples.png does, but from the mixture.  mixture: codes (M, z)."""
    caption = f"{run.folder.name}: decoded from Gaussians fitted to the codes of training images"
    pictures.save_grid(run.folder / "mixture.png", run.decode(mixture[:count]), columns, caption)


def save(run, name, grid, caption, row_labels=(), column_labels=()):
    """Save images (rows, columns, H, W, C) as a picture of the run."""
    images = grid.reshape(-1, *run.data.image_shape)
    pictures.save_grid(run.folder / name, images, grid.shape[1], caption, row_labels, column_labels)


def draw_summary(path, runs, names, seed, count=10):
    """Show the same test images as each run reconstructs them, and samples of each run: a page for each data set."""
    pages = []
    for sha256 in dict.fromkeys(run.data.sha256 for run in runs):
        peers = {name: run for name, run in zip(names, runs, strict=True) if run.data.sha256 == sha256}
        data = next(iter(peers.values())).data
        chosen = picture_rows(data, count)
        gap, no_samples = np.ones((1, *data.image_shape)), np.ones((len(chosen), *data.image_shape))
        rows = [to_pixels(data.test[chosen]), gap, no_samples]
        for run in peers.values():
            x, labels = chosen_pixels(data.test, run.config.binarize, seed, chosen), run.labels("test")[chosen]
            means, _ = run.vae.posterior(x, labels)
            samples = sample_codes(run.config.z, seed)[: len(chosen)]
            rows += [run.vae.pixel_means(means, labels), gap, run.decode(samples)]
        caption = f"{data.name}: left, test images and what each run makes of them; right, samples of each"
        labels = ["test images", *peers]
        pages.append(pictures.grid_page(np.concatenate(rows), 2 * len(chosen) + 1, caption, labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_pages(path, pages)
