"""Held-out numbers and pictures of finished runs.

    python evaluate.py results/fc_mnist_z2
    python evaluate.py results/fc_cifar10_z128 results/conv_cifar10_z128

Reads a run folder and the data set it was trained on, writes evaluation.json and pictures into that folder, prints a
table with a row for each run; of several runs, results/summary.png shows the same test images and samples of each. The
README says what each number means. A few minutes a run on two cores, most of them for nll.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils  # before TensorFlow: it keeps TensorFlow's start-up log off the terminal

# isort: split
import keras
import tensorflow as tf

import measures
import pictures
from classifier import load_classifier
from console import UserError, note, parse_evaluation, progress, reason
from data.datasets import Dataset
from run_folder import write_json

NLL_SAMPLES = {"fc": 5_000, "conv": 500}  # importance samples an image: convolutions decode about ten times slower
NLL_IMAGES = {"bernoulli": None, "gaussian": 1_000}  # test images for nll; None: all
NLL_STEPS = 50  # samples between two moves of the progress bar
FEATURE_IMAGES = 10_000  # samples, and at most as many training images, for Frechet distances
SHOWN_ATTRIBUTES = ("Smiling", "Eyeglasses")  # added and taken away in attributes.png
NEEDED = ("script", "dataset", "image_size", "limit", "pixels_sha256", "z", "likelihood", "binarize", "mirror", "xla")
ATTRIBUTE_STEP = 1.5  # of the difference between the means of those with and those without
BATCH = utils.EVALUATION_BATCH


@dataclass(frozen=True)
class Trained:
    """A finished run: its settings (config.json), data and model."""

    folder: Path
    settings: argparse.Namespace
    data: Dataset
    vae: utils.Vae


# ---------------------------------------------------------------------------------------------------------------
# Reading a run
# ---------------------------------------------------------------------------------------------------------------


def load_run(folder, options):
    """The run in `folder` with its data set and networks; UserError if one of them is missing or damaged."""
    folder = Path(folder)
    config = read_json(folder / "config.json", (*NEEDED, "data_dir"))
    sigma = read_json(folder / "metrics.json", ("sigma",))["sigma"] or 1.0
    settings = argparse.Namespace(**config | {"seed": options.seed, "data_dir": options.data_dir or config["data_dir"]})
    data = utils.load_dataset(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    if data.sha256 != settings.pixels_sha256:
        raise UserError(f"{folder}: was trained on other images than {settings.dataset} has now in {settings.data_dir}")
    encoder = load_network(folder / "encoder.keras", data.image_shape, (2 * settings.z,))
    decoder = load_network(folder / "decoder.keras", (settings.z,), data.image_shape)
    vae = utils.Vae(encoder, decoder, tf.Variable(math.log(sigma), dtype=tf.float32), settings.likelihood)
    return Trained(folder, settings, data, vae)


def read_json(path, keys):
    """A JSON object from a file of the run folder; UserError if it is missing, damaged or lacks one of `keys`."""
    try:
        content = json.loads(path.read_text())
        missing = [key for key in keys if key not in content]
    except FileNotFoundError:
        why = "no such folder" if not path.parent.is_dir() else f"no {path.name} in it"
        raise UserError(f"{path.parent}: {why}; name the folder of a finished run, like results/fc_mnist_z2") from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); train the run anew") from None
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; train the run anew")
    return content


def load_network(path, input_shape, output_shape):
    """A network of the run folder, in Keras' safe mode; UserError if it is missing, damaged or of other shapes."""
    try:
        network = keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a damaged archive makes zipfile, json, h5py or Keras raise
        raise UserError(f"{path}: cannot be read ({reason(error)}); train the run anew") from None
    if network.input_shape[1:] != tuple(input_shape) or network.output_shape[1:] != tuple(output_shape):
        raise UserError(f"{path}: is of other shapes than {tuple(input_shape)} -> {tuple(output_shape)}; train anew")
    return network


# ---------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------


def evaluate_run(run, options):
    """Write evaluation.json and the pictures of a run; returns the content of evaluation.json."""
    began = time.perf_counter()
    note(f"{run.folder}: {run.data.name}, {len(run.data.test):,} test images, z = {run.settings.z}")
    recon, kl, error, means, log_stds = utils.evaluate_images(
        utils.build_evaluate_call(run.vae, run.settings), run.data.test
    )
    ppca = utils.fit_ppca(run.data.train, run.settings.z, limit=len(run.data.train))
    units = np.mean(utils.kl_to_standard_normal(means, log_stds).numpy(), axis=0, dtype=np.float64)  # (z,)
    numbers = {
        "loss": mean_of(recon) + mean_of(kl),
        "recon": mean_of(recon),
        "kl": mean_of(kl),
        "kl_per_unit": sorted(units.tolist(), reverse=True),
        "active_units": int(np.sum(means.var(axis=0) > utils.ACTIVE_VARIANCE)),
    }
    numbers |= pixel_numbers(run, error, means, ppca) | likelihood_numbers(run, means, log_stds, options)
    numbers |= density_numbers(run, ppca)
    numbers |= feature_numbers(run, means, ppca)
    draw_pictures(run, means, units, recon + kl)
    about = {name: getattr(run.settings, name) for name in ("dataset", "z", "likelihood", "binarize", "seed")}
    about |= {"test_images": len(run.data.test), "seconds": round(time.perf_counter() - began, 1)}
    write_json(run.folder / "evaluation.json", about | numbers)
    return numbers


def mean_of(values):
    """Mean in float64, as a float."""
    return float(np.mean(values, dtype=np.float64))


def rows_of(count):
    """Slices of at most BATCH that cover `count` rows."""
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def test_pixels(run, batch, rows):
    """Test images as the loss saw them: binarised, where the run's are, with the same random numbers.  (B, H, W, C)."""
    size = min(BATCH, len(run.data.test))
    padded = np.minimum(np.arange(rows.start, rows.start + size), len(run.data.test) - 1)
    key = utils.random_key(run.settings.seed, utils.BINARIZE, -1 - batch)
    return utils.to_pixels(run.data.test[padded], run.settings.binarize, key)[: rows.stop - rows.start]


def likelihood_numbers(run, means, log_stds, options):
    """The importance-weighted bound on -log p(x), nats per image."""
    samples = options.nll_samples or NLL_SAMPLES[run.settings.script]
    count = min(options.nll_images or NLL_IMAGES[run.settings.likelihood] or math.inf, len(run.data.test))
    call = measures.build_importance_call(run.vae, run.settings)
    parts = []

    def bounds():
        for batch, rows in enumerate(rows_of(count)):
            x, codes = test_pixels(run, batch, rows), (tf.constant(means[rows]), tf.constant(log_stds[rows]))
            yield from measures.importance_weighted_nll(call, x, *codes, samples, batch * samples, NLL_STEPS)

    label = f"likelihood of {count:,} images, {samples:,} importance samples each"
    total = len(rows_of(count)) * (-(-samples // NLL_STEPS) + 1)
    for part in progress(bounds(), total, label):
        if part is not None:
            parts.append(part)
    nll = np.concatenate(parts)
    error = float(nll.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return {"nll": mean_of(nll), "nll_samples": samples, "nll_images": count, "nll_standard_error": error}


def density_numbers(run, ppca):
    """Bits per dimension of dequantised images, the VAE's by its ELBO, pPCA's exactly; None for Bernoulli pixels."""
    if run.settings.likelihood != "gaussian":
        return {"bits_per_dim": None, "ppca_bits_per_dim": None}
    images, call = run.data.test, measures.build_dequantised_call(run.vae, run.settings)
    vae, linear = [], []
    for batch, rows in enumerate(rows_of(len(images))):
        number = tf.constant(batch, tf.int64)
        vae.append(call(tf.constant(images[rows]), number).numpy())
        noisy = measures.dequantise(images[rows], run.settings.seed, number).numpy()
        linear.append(measures.ppca_nll(ppca, noisy.reshape(len(noisy), -1)))
    nats, size = (mean_of(np.concatenate(part)) for part in (vae, linear)), math.prod(run.data.image_shape)
    return dict(zip(("bits_per_dim", "ppca_bits_per_dim"), (measures.bits_per_dim(n, size) for n in nats), strict=True))


def pixel_numbers(run, error, means, ppca):
    """How near reconstructions come to the test images: PSNR, SSIM, and PCA's PSNR."""
    similarity, linear = [], []
    for batch, rows in enumerate(rows_of(len(means))):
        x = test_pixels(run, batch, rows)
        similarity.append(tf.image.ssim(x, run.vae.pixel_means(means[rows]), max_val=1.0).numpy())
        flat = x.numpy().reshape(len(x), -1)
        linear.append(np.square(measures.pca_reconstruction(ppca, flat) - flat).mean(axis=1))
    return {
        "psnr": mean_of(measures.psnr(error)),
        "psnr_of_mean_mse": float(measures.psnr(mean_of(error))),
        "ssim": mean_of(np.concatenate(similarity)),
        "pca_psnr_of_mean_mse": float(measures.psnr(mean_of(np.concatenate(linear)))),
    }


def feature_numbers(run, means, ppca):
    """What a classifier of the set's own labels sees: Frechet distances, novelty, attributes kept."""
    if run.data.train_labels is None:
        note(f"{run.data.name} has no labels, so there are no features: no Frechet distance, no novelty, no attributes")
        return {"frechet": None, "novelty": None, "attributes": None}
    classifier = load_classifier(run.data, run.settings.data_dir, run.settings.mirror)
    views = describe_views(run, classifier, means, ppca)
    features = {name: view[0] for name, view in views.items()}
    spread = np.linspace(0, len(run.data.train) - 1, sample_count(run)).astype(int)
    frechet = {
        name: measures.frechet_distance(found, features["originals"])
        for name, found in {**features, "training": features["training"][spread]}.items()
        if name in ("samples", "reconstructions", "training")
    }
    return {
        "frechet": frechet | {"images": sample_count(run), "features": features["originals"].shape[1]},
        "novelty": novelty(run, features),
        "attributes": attributes(run, {name: view[1] for name, view in views.items()}),
    }


def sample_count(run):
    """Samples, and training images beside them, in the Frechet distances."""
    return min(FEATURE_IMAGES, len(run.data.train))


def sample_codes(run, count):
    """Codes (count, z) drawn from N(0, I), the same ones for every run of the same z and seed."""
    key = utils.random_key(run.settings.seed, utils.SAMPLE, 1)
    return tf.random.stateless_normal((count, run.settings.z), key)


def describe_views(run, classifier, means, ppca):
    """Features and logits of the test images, of what becomes of them, of training images and of samples."""
    data, codes = run.data, sample_codes(run, sample_count(run))

    def linear(x):
        return measures.pca_reconstruction(ppca, x.reshape(len(x), -1) / 255).reshape(x.shape)

    views = {  # name: (its source, how a batch of the source becomes images in [0, 1])
        "originals": (data.test, lambda x: x / 255),
        "reconstructions": (means, run.vae.pixel_means),
        "pca": (data.test, linear),
        "mean_image": (ppca.decode_bias[None], lambda x: x.reshape(1, *data.image_shape)),
        "samples": (codes, run.vae.pixel_means),
        "training": (data.train, lambda x: x / 255),
    }
    batches = [(name, rows) for name, (source, _) in views.items() for rows in rows_of(len(source))]
    found = {name: [] for name in views}
    for name, rows in progress(batches, len(batches), "features of test, training, reconstructed and sampled images"):
        source, images = views[name]
        found[name].append([part.numpy() for part in classifier(images(source[rows]))])
    return {name: [np.concatenate(part) for part in zip(*parts, strict=True)] for name, parts in found.items()}


def novelty(run, features):
    """Are samples nearer to the training images than held-out images are?  Draws neighbours.png besides."""
    samples, neighbours = measures.nearest(features["samples"], features["training"])
    held_out, _ = measures.nearest(features["originals"], features["training"])
    statistic, share = measures.copying_statistic(samples, held_out)
    draw_neighbours(run, neighbours)
    return {
        "c_t": statistic,
        "share_nearer_than_held_out": share,
        "median_distance_of_samples": float(np.median(samples)),
        "median_distance_of_held_out": float(np.median(held_out)),
    }


def attributes(run, logits):
    """For each attribute, recall of those who have it and of those who lack it, and what reconstruction leaves."""
    labels = run.data.test_labels
    if labels.ndim == 1:
        return None
    views = ("originals", "reconstructions", "pca", "mean_image")
    found = {view: measures.recalls(np.broadcast_to(logits[view] > 0, labels.shape), labels) for view in views}
    table = {}
    for column, name in enumerate(run.data.label_names):
        table[name] = {}
        for side, answer in enumerate(("presence", "absence")):
            recall = {view: number(found[view][side][column]) for view in views}
            kept = recall["reconstructions"] / recall["originals"] if recall["originals"] else None
            table[name][answer] = recall | {"retention": kept}
    return table


def number(value):
    """A float for JSON; None where it is not a number."""
    return float(value) if np.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------

PICTURES = {
    "traversals.png": "one latent unit at a time",
    "interpolation.png": "from one test image to another",
    "attributes.png": "smiles and glasses added and taken away",
    "pairs.png": "test images of the smallest and the largest loss",
    "neighbours.png": "samples above their nearest training images",
}


def draw_pictures(run, means, units, loss):
    """Write the pictures of a run but neighbours.png; means (N, z), KL of each unit (z,), loss of each image (N,)."""
    draw_traversals(run, means, units)
    draw_interpolation(run, means)
    draw_pairs(run, means, loss)
    names = [name for name in SHOWN_ATTRIBUTES if name in run.data.label_names]
    if names and run.data.train_labels is not None:
        draw_attributes(run, means, names)


def originals(run, rows):
    """Test images as the data set has them, in [0, 1]."""
    return run.data.test[rows].astype(np.float32) / 255


def decode(run, codes):
    """Codes (..., z) -> images (..., H, W, C)."""
    codes = np.asarray(codes, np.float32)
    images = run.vae.pixel_means(codes.reshape(-1, codes.shape[-1])).numpy()
    return images.reshape(*codes.shape[:-1], *run.data.image_shape)


def draw_traversals(run, means, units, rows=10, steps=11):
    """Around one test image's code, the units of the largest KL, one at a time from -3 to 3."""
    shown = np.argsort(units)[::-1][:rows]
    values = np.linspace(-3, 3, steps)
    codes = np.tile(means[0], (len(shown), steps, 1))
    for row, unit in enumerate(shown):
        codes[row, :, unit] = values
    labels = [f"unit {unit}, KL {units[unit]:.2f}" for unit in shown]
    caption = f"{run.folder.name}: one test image's code, one unit at a time from -3 to 3; largest KL first"
    grid = decode(run, codes).reshape(-1, *run.data.image_shape)
    pictures.save_grid(run.folder / "traversals.png", grid, steps, caption, labels, [f"{v:+.1f}" for v in values])


def draw_interpolation(run, means, pairs=8, steps=9):
    """Straight lines between the codes of two test images, with the two originals at the ends."""
    chosen = utils.picture_rows(run.data, 2 * pairs)
    chosen = chosen[: len(chosen) // 2 * 2] if len(chosen) > 1 else np.repeat(chosen, 2)
    left, right = chosen[::2], chosen[1::2]
    share = np.linspace(0, 1, steps)[:, None]
    between = decode(run, means[left][:, None] * (1 - share) + means[right][:, None] * share)
    grid = np.concatenate([originals(run, left)[:, None], between, originals(run, right)[:, None]], axis=1)
    caption = f"{run.folder.name}: straight lines between the codes of two test images"
    labels = ["original", *[f"{100 * s:.0f} %" for s in share[:, 0]], "original"]
    grid = grid.reshape(-1, *run.data.image_shape)
    pictures.save_grid(run.folder / "interpolation.png", grid, steps + 2, caption, (), labels)


def draw_pairs(run, means, loss, count=10):
    """The test images with the smallest and with the largest loss, above their reconstructions."""
    order = np.argsort(loss, kind="stable")
    count = min(count, len(order))
    grid = []
    for chosen in (order[:count], order[::-1][:count]):
        grid += [originals(run, chosen), decode(run, means[chosen])]
    labels = ("smallest loss", "reconstruction", "largest loss", "reconstruction")
    caption = f"{run.folder.name}: loss of {loss[order[0]]:,.0f} to {loss[order[-1]]:,.0f} nats an image, test set"
    pictures.save_grid(run.folder / "pairs.png", np.concatenate(grid), count, caption, labels)


def draw_neighbours(run, neighbours, count=20, columns=10):
    """Samples above their nearest training images, in the features; neighbours: their rows in the training set."""
    samples = decode(run, sample_codes(run, sample_count(run))[:count])
    nearest = run.data.train[neighbours[:count]].astype(np.float32) / 255
    columns = min(columns, len(samples))
    caption = f"{run.folder.name}: samples above their nearest training images"
    labels = ("sample", "nearest")
    grid = pictures.interleave(samples, nearest, columns)
    pictures.save_grid(run.folder / "neighbours.png", grid, columns, caption, labels)


def draw_attributes(run, means, names, count=10):
    """Faces with an attribute added and taken away, along the difference of the mean codes with it and without it."""
    step = max(1, len(run.data.train) // FEATURE_IMAGES)
    images, labels = run.data.train[::step], run.data.train_labels[::step]
    rows = [run.vae.posterior(utils.to_pixels(images[rows], "none", None))[0] for rows in rows_of(len(images))]
    codes = np.concatenate(rows)
    chosen = utils.picture_rows(run.data, count)
    columns, heads = [originals(run, chosen), decode(run, means[chosen])], ["original", "reconstruction"]
    for name in names:
        present = labels[:, run.data.label_names.index(name)].astype(bool)
        if present.all() or not present.any():
            continue
        direction = ATTRIBUTE_STEP * (codes[present].mean(axis=0) - codes[~present].mean(axis=0))
        columns += [decode(run, means[chosen] - direction), decode(run, means[chosen] + direction)]
        heads += [f"- {name.lower()}", f"+ {name.lower()}"]
    caption = f"{run.folder.name}: attributes taken away and added, by {ATTRIBUTE_STEP} differences of mean codes"
    grid = np.stack(columns, axis=1).reshape(-1, *run.data.image_shape)
    pictures.save_grid(run.folder / "attributes.png", grid, len(columns), caption, (), heads)


def draw_summary(path, runs, count=10):
    """The same test images as each run reconstructs them, and samples of each, side by side, a block a data set."""
    pages = []
    for sha256 in dict.fromkeys(run.data.sha256 for run in runs):
        peers = [run for run in runs if run.data.sha256 == sha256]
        data = peers[0].data
        chosen = utils.picture_rows(data, count)
        rows = [np.concatenate([originals(peers[0], chosen), np.ones((len(chosen) + 1, *data.image_shape))])]
        for run in peers:
            key = utils.random_key(run.settings.seed, utils.BINARIZE, -1)
            x = utils.to_pixels(data.test[chosen], run.settings.binarize, key)
            below = run.vae.pixel_means(run.vae.posterior(x)[0])
            samples = decode(run, sample_codes(run, len(chosen)))
            rows.append(np.concatenate([below, np.ones((1, *data.image_shape)), samples]))
        caption = f"{data.name}: left, test images and what each run makes of them; right, samples of each"
        labels = ["test images", *[run.folder.name for run in peers]]
        pages.append(pictures.grid_page(np.concatenate(rows), 2 * len(chosen) + 1, caption, labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_pages(path, pages)


# ---------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------

COLUMNS = {  # heading: how to write it; "-" where a run has no such number
    "loss": lambda n: f"{n['loss']:,.2f}",
    "recon": lambda n: f"{n['recon']:,.2f}",
    "KL": lambda n: f"{n['kl']:.2f}",
    "active": lambda n: f"{n['active_units']}/{len(n['kl_per_unit'])}",
    "NLL": lambda n: f"{n['nll']:,.2f}",
    "bits/dim": lambda n: f"{n['bits_per_dim']:.3f}",
    "(pPCA)": lambda n: f"{n['ppca_bits_per_dim']:.3f}",
    "PSNR": lambda n: f"{n['psnr_of_mean_mse']:.2f}",
    "(PCA)": lambda n: f"{n['pca_psnr_of_mean_mse']:.2f}",
    "SSIM": lambda n: f"{n['ssim']:.3f}",
    "Frechet": lambda n: f"{n['frechet']['samples']:.2f}",
    "(recon.)": lambda n: f"{n['frechet']['reconstructions']:.2f}",
    "(train)": lambda n: f"{n['frechet']['training']:.2f}",
    "C_T": lambda n: f"{n['novelty']['c_t']:+.1f}",
}


def table(rows):
    """Lines of a table, headings first; rows: a list of cells each, the first one a name."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])]
    return ["  ".join(map(str.format, formats, row)) for row in rows]


def print_tables(names, results):
    """A row a run; below, the attributes of faces."""
    rows = [["run", *COLUMNS]]
    for name, numbers in zip(names, results, strict=True):
        cells = []
        for write in COLUMNS.values():
            try:
                cells.append(write(numbers))
            except TypeError:  # None
                cells.append("-")
        rows.append([name, *cells])
    note("\n" + "\n".join(table(rows)))
    note("losses and NLL in nats per image; PSNR in dB, of the mean squared error; (in brackets: what to compare with)")
    for name, numbers in zip(names, results, strict=True):
        if numbers["attributes"]:
            print_attributes(name, numbers["attributes"])


def print_attributes(name, found):
    """Recall of attributes: those shown in attributes.png first, then the rest as they come."""
    order = sorted(found, key=lambda attribute: attribute not in SHOWN_ATTRIBUTES)[:10]
    views = ("originals", "reconstructions", "pca", "mean_image", "retention")
    rows = [["recognised", "", *(view.replace("_", " ") for view in views)]]
    for attribute in order:
        for answer in ("presence", "absence"):
            cells = [found[attribute][answer][view] for view in views]
            rows.append([attribute, answer, *("-" if cell is None else f"{cell:.2f}" for cell in cells)])
    note(f"\n{name}: share of the faces with an attribute, and of those without, that a classifier recognises\n")
    note("\n".join(table(rows)))


def main(argv=None):
    """Evaluate each run; returns the contents of their evaluation.json."""
    options = parse_evaluation(__doc__, argv)
    runs = [load_run(folder, options) for folder in options.runs]
    results = [evaluate_run(run, options) for run in runs]
    print_tables([run.folder.name for run in runs], results)
    for run in runs:
        note(f"\n{run.folder / 'evaluation.json'}")
        for name, content in PICTURES.items():
            if (run.folder / name).exists():
                note(f"  {run.folder / name}  {content}")
    if len(runs) > 1:
        draw_summary(Path(options.out) / "summary.png", runs)
        note(f"  {Path(options.out) / 'summary.png'}  the same test images and samples of each run")
    return results


if __name__ == "__main__":
    utils.launch(main)
