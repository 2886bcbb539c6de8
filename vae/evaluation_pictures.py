"""The pictures of an evaluation: what the codes of a run mean, its best and worst images, and runs side by side.

run: a FinishedRun; means: posterior means of its test images, (N, z).
"""

import numpy as np

from vae import pictures
from vae.features import sample_codes
from vae.measures import evenly_spaced
from vae.pictures import picture_rows
from vae.pixels import chosen_pixels, to_pixels
from vae.terminal import one_line

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
    """Move one unit at a time of one test image's code from the 1st to the 99th percentile of all codes.

    unit_kl: (z,). Shows the units where it is largest.
    """
    shown = np.argsort(unit_kl)[::-1][:rows]
    values = np.linspace(*np.percentile(means[:, shown], (1, 99), axis=0), steps, axis=1)  # (rows, steps)
    codes = np.tile(means[0], (len(shown), steps, 1))
    codes[np.arange(len(shown)), :, shown] = values
    grid = run.decode(codes, run.labels("test")[0])
    labels = [
        f"unit {unit}, KL {unit_kl[unit]:.2f}\n{row[0]:+.1f} to {row[-1]:+.1f}"
        for unit, row in zip(shown, values, strict=True)
    ]
    caption = (
        f"{run.folder.name}: one test image's code, one unit at a time from the 1st to the 99th percentile of the test "
        "images' codes; largest KL first"
    )
    save(run, "traversals.png", grid, caption, labels)


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
    """Add attributes to faces that lack them, and take them away from others, by the difference of the mean codes.

    train_means: posterior means of the training images in train_rows, (M, z).
    """
    grid, heads = [], []
    for name in [name for name in pictures.CHANGED_ATTRIBUTES if name in run.data.attributes]:
        at = run.data.attributes.index(name)
        present = run.data.train_labels[train_rows, at].astype(bool)
        if present.all() or not present.any():
            continue
        direction = ATTRIBUTE_STEP * (train_means[present].mean(axis=0) - train_means[~present].mean(axis=0))
        for value, sign in ((0, "+"), (1, "-")):
            people = np.flatnonzero(run.data.test_labels[:, at] == value)
            people = people[evenly_spaced(len(people), count)] if len(people) else people
            codes, labels = means[people], run.labels("test")[people]
            for row in (codes, codes + direction if sign == "+" else codes - direction):
                grid += [*run.decode(row, labels), *np.ones((count - len(people), *run.data.image_shape))]
            heads += ["decoded", f"{sign} {name.lower()}"]
    if heads:
        caption = f"{run.folder.name}: attributes added and taken away, by {ATTRIBUTE_STEP} differences of mean codes"
        pictures.save_grid(run.folder / "attributes.png", np.stack(grid), count, caption, heads)


def draw_pairs(run, means, loss, count=10):
    """Show the test images with the smallest and the largest loss (N,) beside their reconstructions, by their names."""
    order, pages = np.argsort(loss, kind="stable"), []
    count = min(count, -(-len(loss) // 2))  # no image is both
    for chosen, extreme in ((order[:count], "smallest"), (order[::-1][:count], "largest")):
        pair = to_pixels(run.data.test[chosen]), run.decode(means[chosen], run.labels("test")[chosen])
        images = np.stack(pair, axis=1).reshape(-1, *run.data.image_shape)
        names = [pictures.shortened(one_line(run.data.name_of("test", row))) for row in chosen]
        labels = [f"{name}\n{loss[row]:,.1f} nats" for name, row in zip(names, chosen, strict=True)]
        caption = f"{run.folder.name}: test images of the {extreme} loss"
        pages.append(pictures.grid_page(images, 2, caption, labels, ("original", "decoded")))
    pictures.save_pages(run.folder / "pairs.png", [pages])


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
        pages.append([pictures.grid_page(np.concatenate(rows), 2 * len(chosen) + 1, caption, labels)])
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_pages(path, pages)
