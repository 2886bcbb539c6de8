"""Held-out numbers and pictures of finished runs: what evaluate.py does."""

import argparse
import functools
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from vae import elbo, measures, pictures, pixels
from vae.classifier import load_classifier
from vae.data.dataset import Dataset
from vae.data.registry import is_own_folder, load_dataset
from vae.measures import psnr
from vae.pictures import picture_rows
from vae.ppca import fit_ppca
from vae.run_folder import load_network, write_json
from vae.steps import build_evaluate_call, evaluate_images
from vae.terminal import NonFiniteError, UserError, note, progress, progress_bar, reason

NLL_SAMPLES = {"fc": 5_000}  # importance samples an image
NLL_SAMPLES_OF_OTHERS = 500  # convolutions decode about ten times slower
NLL_IMAGES = {"bernoulli": None, "gaussian": 1_000}  # test images for nll; None: all
NLL_STEPS = 10  # samples between two moves of the progress bar
SAMPLES = 10_000  # images decoded from N(0, I), and at most as many training images, in the Frechet distances
MIXTURE = 10  # Gaussians fitted to the codes of at most SAMPLES training images; fewer where there are less than
CODES_PER_UNIT = 5  # codes for each Gaussian and latent unit
SHOWN_ATTRIBUTES = ("Smiling", "Eyeglasses")  # added and taken away in attributes.png
ATTRIBUTE_STEP = 1.5  # of the difference between the means of those with and those without
CONFIG = {  # what config.json must hold: types, or the values that are known
    "script": (str,),
    "dataset": (str,),
    "data_dir": (str,),
    "image_size": (int, type(None)),
    "limit": (int, type(None)),
    "pixels_sha256": (str,),
    "z": (int,),
    "xla": (bool,),
    "seed": (int,),
    "likelihood": ("bernoulli", "gaussian"),
    "binarize": ("none", "dynamic", "threshold"),
}


@dataclass(frozen=True)
class Trained:
    """A finished run: its settings (config.json, with the evaluation's seed), data and model."""

    folder: Path
    settings: argparse.Namespace
    epoch: int
    data: Dataset
    vae: elbo.Vae
    test_loss: float  # at the end of training


# ---------------------------------------------------------------------------------------------------------------
# Reading a run
# ---------------------------------------------------------------------------------------------------------------


def load_run(folder, options):
    """The run in `folder` with its data set and networks; UserError if one of them is missing or damaged."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the folder of a finished run, like results/fc_mnist_z2")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written to, and evaluation.json has to go there; copy the run elsewhere")
    config = read_json(folder / "config.json", CONFIG)
    metrics = read_metrics(folder)
    settings = argparse.Namespace(**config)
    settings.training_seed, settings.seed = config["seed"], options.seed
    settings.data_dir = options.data_dir or config["data_dir"]
    data = load_data(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    if data.sha256 != settings.pixels_sha256:
        own = is_own_folder(settings.dataset)
        where = settings.dataset if own else f"{settings.dataset} in {settings.data_dir}"
        way_out = "put those back" if own else "name theirs with --data-dir"
        raise UserError(f"{folder}: was trained on other images than {where} has now; {way_out}")
    if settings.binarize == "threshold":  # nothing of the run has to do with grey
        black_and_white = {part: np.uint8(255) * (getattr(data, part) > 127) for part in ("train", "test")}
        data = replace(data, **black_and_white).with_checksum()
    encoder = load_half(folder / "encoder.keras", data.image_shape, (2 * settings.z,))
    decoder = load_half(folder / "decoder.keras", (settings.z,), data.image_shape)
    if read_metrics(folder) != metrics:  # which goes before networks are replaced, and comes back last
        raise UserError(f"{folder}: was trained further meanwhile; evaluate it again")
    sigma = checked_sigma(metrics["sigma"], settings.likelihood, folder)
    log_sigma = tf.Variable(math.log(sigma), dtype=tf.float32)
    vae = elbo.Vae(encoder, decoder, log_sigma, settings.likelihood)
    return Trained(folder, settings, metrics["epoch"], data, vae, metrics["test_loss"])


def read_metrics(folder):
    """metrics.json of a finished run."""
    return read_json(folder / "metrics.json", {"epoch": (int,), "test_loss": (float,), "sigma": (float, type(None))})


@functools.lru_cache(maxsize=1)
def load_data(*request):
    """load_dataset, once for runs on the same images."""
    return load_dataset(*request)


def read_json(path, values):
    """A JSON object from a file of the run folder; UserError if it is missing, damaged or lacks one of `values`.

    values: {name: the types or values that it may have}.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        way_out = "name the folder of a finished run, or finish this one with --resume"
        raise UserError(f"{path.parent}: no {path.name} in it; {way_out}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); train the run anew") from None
    for name, accepted in values.items():
        if not isinstance(content, dict) or name not in content:
            raise UserError(f"{path}: lacks {name}; train the run anew")
        if content[name] not in accepted and type(content[name]) not in accepted:
            raise UserError(f"{path}: {name} is {content[name]!r}, which no run has; train the run anew")
    return content


def checked_sigma(sigma, likelihood, folder):
    """Sigma of Gaussian pixels, the one parameter that neither network holds, as metrics.json has it; else 1."""
    if likelihood == "bernoulli":
        return 1.0
    if not (sigma and 0 < sigma < math.inf):
        raise UserError(f"{folder / 'metrics.json'}: sigma is {sigma}, not a positive number; train the run anew")
    return sigma


def load_half(path, input_shape, output_shape):
    """The encoder or the decoder; UserError if it is of other shapes than the data and z ask for."""
    network = load_network(path, "train the run anew")
    shapes = network.input_shape[1:], network.output_shape[1:]
    if shapes != (tuple(input_shape), tuple(output_shape)):
        raise UserError(f"{path}: has shapes {shapes}, not {(tuple(input_shape), tuple(output_shape))}; train anew")
    return network


# ---------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------


def evaluate_run(run, options):
    """Write evaluation.json and the pictures of a run, in place of earlier ones; returns the content of the first.

    Raises NonFiniteError where the loss or the likelihood of a test image is not finite.
    """
    began = time.perf_counter()
    note(f"\n{run.folder}: {run.data.name}, {len(run.data.test):,} test images, z = {run.settings.z}")
    call = build_evaluate_call(run.vae, run.settings.seed, run.settings.xla)
    recon, kl, error, *codes = evaluate_images(call, run.data.test, run.data.label_matrix("test", run.vae.takes_labels), run.settings.binarize, run.settings.seed)
    finite = np.isfinite(recon + kl)
    if not np.all(finite):
        raise NonFiniteError(f"{run.folder}: the loss of test image {1 + np.argmin(finite)} is no number")
    ppca = fit_ppca(run.data.train, run.settings.z, limit=len(run.data.train), iterations=10)
    train_rows = evenly_spaced(len(run.data.train), SAMPLES)
    *_, train_means, train_log_stds = evaluate_images(call, run.data.train[train_rows], run.data.label_matrix("train", run.vae.takes_labels)[train_rows], run.settings.binarize, run.settings.seed)
    mixture_codes = draw_from_mixture(run, train_means, train_log_stds)
    numbers = elbo_numbers(recon, kl, codes) | pixel_numbers(run, error, codes[0], ppca)
    remark_on_loss(run, numbers["loss"])
    numbers |= likelihood_numbers(run, codes, recon + kl, options) | density_numbers(run, ppca)
    found, neighbours = feature_numbers(run, codes[0], mixture_codes, ppca)
    about = {name: getattr(run.settings, name) for name in ("dataset", "script", "z", "likelihood", "binarize")}
    about |= {"epoch": run.epoch, "training_seed": run.settings.training_seed, "seed": run.settings.seed}
    about |= {"pixels_sha256": run.data.sha256, "test_images": len(run.data.test)}
    about |= {"seconds": round(time.perf_counter() - began, 1)}
    for name in ("evaluation.json", *PICTURES):  # of an earlier epoch, perhaps
        (run.folder / name).unlink(missing_ok=True)
    write_json(run.folder / "evaluation.json", about | numbers | found)
    draw_pictures(run, codes, recon + kl, neighbours)
    draw_mixture(run, mixture_codes)
    draw_attributes(run, codes[0], train_means, train_rows)
    return about | numbers | found


def remark_on_loss(run, loss):
    """A line where the test loss is another than at the end of training, with the same noise: elbo.py was edited."""
    same_noise = run.settings.seed == run.settings.training_seed
    if same_noise and not math.isclose(loss, run.test_loss, rel_tol=1e-3, abs_tol=0.1):
        note(
            f"{run.folder}: the test loss is {loss:.2f} here and was {run.test_loss:.2f} at the end of training; "
            "was the program edited since?"
        )


def mean_of(values):
    """Mean in float64, as a float."""
    return float(np.mean(values, dtype=np.float64))


def evenly_spaced(count, most):
    """Rows of at most `most` of `count` images."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def unit_kl(codes):
    """KL of each latent unit, nats, averaged over the test set: (z,)."""
    return np.mean(elbo.kl_to_standard_normal(*codes).numpy(), axis=0, dtype=np.float64)


def elbo_numbers(recon, kl, codes):
    """The test loss and its parts; recon, kl (N,), codes: mean and log-std of q(z|x), each (N, z)."""
    return {
        "loss": mean_of(recon) + mean_of(kl),
        "recon": mean_of(recon),
        "kl": mean_of(kl),
        "kl_per_unit": sorted(unit_kl(codes).tolist(), reverse=True),
        "active_units": measures.active_units(codes[0]),
    }


def likelihood_numbers(run, codes, loss, options):
    """The importance-weighted bound on -log p(x), nats per image, and the loss of the same images.

    codes: mean and log-std of q(z|x), each (N, z); loss (N,). Of evenly spaced test images where it is not of all: the
    first ones of a folder may all be of one class.
    """
    samples = options.nll_samples or NLL_SAMPLES.get(run.settings.script, NLL_SAMPLES_OF_OTHERS)
    count = min(options.nll_images or NLL_IMAGES[run.settings.likelihood] or math.inf, len(run.data.test))
    call = measures.build_importance_call(run.vae, run.settings)
    chosen, batches = evenly_spaced(len(run.data.test), count), pixels.rows_of(count)
    label = f"likelihood of {count:,} images, {samples:,} importance samples each"
    parts = []
    with progress_bar(len(batches) * -(-samples // NLL_STEPS), label) as tick:
        for batch, rows in enumerate(batches):
            x = tf.constant(pixels.chosen_pixels(run.data.test, run.settings.binarize, run.settings.seed, chosen[rows]))
            near = [tf.constant(part[chosen[rows]]) for part in codes]
            parts.append(measures.importance_weighted_nll(call, x, near, samples, batch * samples, NLL_STEPS, tick))
    nll = np.concatenate(parts)
    if not np.all(np.isfinite(nll)):
        image = 1 + chosen[np.argmin(np.isfinite(nll))]
        raise NonFiniteError(f"{run.folder}: the likelihood of test image {image} is no number")
    error = float(nll.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    about = {"nll_samples": samples, "nll_images": count, "nll_standard_error": error}
    return {"nll": mean_of(nll), "loss_of_nll_images": mean_of(loss[chosen])} | about


def density_numbers(run, ppca):
    """Bits per dimension of dequantised images, the VAE's by its ELBO, pPCA's exactly; None for Bernoulli pixels."""
    if run.settings.likelihood != "gaussian":
        return {"bits_per_dim": None, "ppca_bits_per_dim": None}
    images, call = run.data.test, measures.build_dequantised_call(run.vae, run.settings)
    vae, linear = [], []
    batches = pixels.rows_of(len(images))
    for batch, rows in enumerate(progress(batches, len(batches))):
        noisy = measures.dequantise(images[rows], run.settings.seed, tf.constant(batch, tf.int64))
        vae.append(call(tf.constant(images[rows]), noisy, tf.constant(batch, tf.int64)).numpy())
        linear.append(measures.ppca_nll(ppca, noisy.numpy().reshape(len(noisy), -1)))
    nats, size = (mean_of(np.concatenate(part)) for part in (vae, linear)), math.prod(run.data.image_shape)
    return dict(zip(("bits_per_dim", "ppca_bits_per_dim"), (measures.bits_per_dim(n, size) for n in nats), strict=True))


def pixel_numbers(run, error, means, ppca):
    """How near reconstructions come to the test images: PSNR, SSIM, and PCA's PSNR.

    error: mean squared errors (N,), means: of q(z|x) (N, z), of all test images.
    """
    similarity, linear, window = [], [], min(11, *run.data.image_shape[:2])  # pixels; 11 is tf.image.ssim's own
    batches = pixels.rows_of(len(means))
    for rows in progress(batches, len(batches)):
        x = pixels.chosen_pixels(run.data.test, run.settings.binarize, run.settings.seed, range(len(means))[rows])
        similarity.append(tf.image.ssim(x, run.vae.pixel_means(means[rows]), 1.0, filter_size=window).numpy())
        flat = x.reshape(len(x), -1)
        linear.append(np.square(measures.pca_reconstruction(ppca, flat) - flat).mean(axis=1))
    return {
        "psnr": mean_of(psnr(error)),
        "psnr_of_mean_mse": float(psnr(mean_of(error))),
        "ssim": mean_of(np.concatenate(similarity)),
        "pca_psnr_of_mean_mse": float(psnr(mean_of(np.concatenate(linear)))),
    }


def feature_numbers(run, means, mixture_codes, ppca):
    """What a classifier of the set's own labels sees: Frechet distances, novelty, attributes kept.

    Without labels, samples are compared with training images by their pPCA codes, and the rest is None. Returns the
    numbers, and the rows of the training images nearest to the samples.  means: of the test images' codes (N, z);
    mixture_codes: (SAMPLES, z).
    """
    data = run.data
    if data.train_labels is None:
        note(f"{data.name} has no labels: novelty by principal components, no Frechet distance, no attributes")
        views = describe_views(run, functools.partial(linear_features, ppca), means, mixture_codes, ppca)
        nearness, neighbours = novelty(views)
        return {"frechet": None, "novelty": nearness | {"features": "pca"}, "attributes": None}, neighbours
    views = describe_views(run, load_classifier(data, run.settings.data_dir), means, mixture_codes, ppca)
    nearness, neighbours = novelty(views)
    found = {"frechet": frechet(run, views), "novelty": nearness | {"features": "classifier"}}
    return found | {"attributes": attributes(data, views)}, neighbours


def linear_features(ppca, images):
    """pPCA codes (B, z) as features of images in [0, 1] (B, H, W, C), and no logits."""
    flat = np.asarray(images).reshape(len(images), -1)
    return flat @ ppca.encode + ppca.encode_bias, np.zeros((len(flat), 0))


def describe_views(run, describe, means, mixture_codes, ppca):
    """Features and logits of the test images, of what becomes of them, of training images and of samples.

    describe: images (B, H, W, C) in [0, 1] -> features (B, F), logits (B, L). Returns {view: [features, logits]}.
    """
    data = run.data

    def linear(x):
        return measures.pca_reconstruction(ppca, x.reshape(len(x), -1) / 255).reshape(x.shape)

    views = {  # name: (its source, how a batch of the source becomes images in [0, 1])
        "originals": (data.test, lambda x: x / 255),
        "reconstructions": (means, run.vae.pixel_means),
        "pca": (data.test, linear),
        "mean_image": (ppca.decode_bias[None], lambda x: x.reshape(1, *data.image_shape)),
        "samples": (sample_codes(run), run.vae.pixel_means),
        "mixture_samples": (mixture_codes, run.vae.pixel_means),
        "training": (data.train, lambda x: x / 255),
    }
    batches = [(name, rows) for name, (source, _) in views.items() for rows in pixels.rows_of(len(source))]
    found = {name: [] for name in views}
    for name, rows in progress(batches, len(batches), "features of test, training, reconstructed and sampled images"):
        source, images = views[name]
        found[name].append([np.asarray(part) for part in describe(images(source[rows]))])
    return {name: [np.concatenate(part) for part in zip(*parts, strict=True)] for name, parts in found.items()}


def sample_codes(run):
    """Codes (SAMPLES, z) drawn from N(0, I), the same ones for every run of the same z and seed."""
    return tf.random.stateless_normal((SAMPLES, run.settings.z), pixels.random_key(run.settings.seed, pixels.SAMPLE, 1))


def draw_from_mixture(run, means, log_stds):
    """Codes (SAMPLES, z) from a mixture of Gaussians that lies where the training images' codes do.

    means, log_stds: of q(z|x) of training images, each (N, z); the mixture is fitted to one draw from each.
    """
    key = pixels.random_key(run.settings.seed, pixels.SAMPLE, 2)
    codes = elbo.draw(means, log_stds, tf.random.stateless_normal(means.shape, key)).numpy()
    count = int(np.clip(len(codes) // (CODES_PER_UNIT * run.settings.z), 1, MIXTURE))
    mixture = measures.fit_mixture(codes, count, run.settings.seed)
    return mixture.draw(SAMPLES, run.settings.seed).astype(np.float32)


def frechet(run, views):
    """Squared Frechet distances to the test images; None where there are too few images to have a covariance."""
    features = {name: view[0] for name, view in views.items()}
    spread = evenly_spaced(len(run.data.train), SAMPLES)
    features["training"] = features["training"][spread]
    test, others = features["originals"], ("samples", "mixture_samples", "reconstructions", "training")
    if len(test) < 2 or len(spread) < 2:
        return None
    distances = {name: measures.frechet_distance(features[name], test) for name in others}
    counts = {f"{name}_images": len(features[name]) for name in others}
    accuracy = measures.accuracy(views["originals"][1], run.data.test_labels)
    return distances | counts | {"features": test.shape[1], "classifier_accuracy": accuracy}


def novelty(views):
    """Are samples nearer to the training images than held-out images are?  And the training images they are next to.

    Reconstructions of held-out images are the control: they are no copies, but as blurred as samples are.
    """
    views = {name: views[name][0] for name in ("samples", "reconstructions", "originals", "training")}
    samples, neighbours = measures.nearest(views["samples"], views["training"])
    blurred, _ = measures.nearest(views["reconstructions"], views["training"])
    held_out, _ = measures.nearest(views["originals"], views["training"])
    statistic, share = measures.copying_statistic(samples, held_out)
    return {
        "c_t": statistic,
        "c_t_of_reconstructions": measures.copying_statistic(blurred, held_out)[0],
        "share_nearer_than_held_out": share,
        "median_distance_of_samples": float(np.median(samples)),
        "median_distance_of_reconstructions": float(np.median(blurred)),
        "median_distance_of_held_out": float(np.median(held_out)),
    }, neighbours


def attributes(data, views):
    """For each attribute, recall of those who have it and of those who lack it, and what reconstruction leaves."""
    labels = data.test_labels
    if labels.ndim == 1:
        return None
    names = ("originals", "reconstructions", "pca", "mean_image")
    found = {name: measures.recalls(np.broadcast_to(views[name][1] > 0, labels.shape), labels) for name in names}
    numbers = {}
    for column, attribute in enumerate(data.label_names):
        numbers[attribute] = {}
        for side, answer in enumerate(("presence", "absence")):
            recall = {name: number(found[name][side][column]) for name in names}
            retention = recall["reconstructions"] / recall["originals"] if recall["originals"] else None
            numbers[attribute][answer] = recall | {"retention": retention}
    return numbers


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
    "mixture.png": "images decoded from where the codes of training images lie",
}


def draw_pictures(run, codes, loss, neighbours):
    """Write the pictures of a run; codes: mean and log-std of q(z|x), each (N, z); loss of each test image (N,)."""
    means = codes[0]
    draw_traversals(run, means, unit_kl(codes))
    draw_interpolation(run, means)
    draw_pairs(run, means, loss)
    draw_neighbours(run, neighbours)


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
    chosen = picture_rows(run.data, 2 * pairs)
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
    samples = decode(run, sample_codes(run)[:count])
    nearest = run.data.train[neighbours[:count]].astype(np.float32) / 255
    columns = min(columns, len(samples))
    caption = f"{run.folder.name}: samples above their nearest training images"
    labels = ("sample", "nearest")
    grid = pictures.interleave(samples, nearest, columns)
    pictures.save_grid(run.folder / "neighbours.png", grid, columns, caption, labels)


def draw_mixture(run, codes, count=100, columns=10):
    """Samples as in samples.png, but of the mixture."""
    caption = f"{run.folder.name}: decoded from Gaussians fitted to the codes of training images"
    pictures.save_grid(run.folder / "mixture.png", decode(run, codes[:count]), columns, caption)


def draw_attributes(run, means, train_means, train_rows, count=10):
    """Faces with an attribute added and taken away, along the difference of the mean codes with it and without it.

    means: of the test images' codes (N, z); train_means: of those of the training images train_rows, (M, z).
    """
    names = [name for name in SHOWN_ATTRIBUTES if name in run.data.attributes]
    if not names:
        return
    labels = run.data.train_labels[train_rows]
    chosen = picture_rows(run.data, count)
    columns, heads = [originals(run, chosen), decode(run, means[chosen])], ["original", "decoded"]
    for name in names:
        present = labels[:, run.data.attributes.index(name)].astype(bool)
        if present.all() or not present.any():
            continue
        direction = ATTRIBUTE_STEP * (train_means[present].mean(axis=0) - train_means[~present].mean(axis=0))
        columns += [decode(run, means[chosen] - direction), decode(run, means[chosen] + direction)]
        heads += [f"- {name.lower()}", f"+ {name.lower()}"]
    caption = f"{run.folder.name}: attributes taken away and added, by {ATTRIBUTE_STEP} differences of mean codes"
    grid = np.stack(columns, axis=1).reshape(-1, *run.data.image_shape)
    pictures.save_grid(run.folder / "attributes.png", grid, len(columns), caption, (), heads)


def draw_summary(path, runs, names, count=10):
    """The same test images as each run reconstructs them, and samples of each, side by side, a block a data set."""
    pages = []
    for sha256 in dict.fromkeys(run.data.sha256 for run in runs):
        peers = {name: run for name, run in zip(names, runs, strict=True) if run.data.sha256 == sha256}
        first = next(iter(peers.values()))
        data = first.data
        chosen = picture_rows(data, count)
        rows = [np.concatenate([originals(first, chosen), np.ones((len(chosen) + 1, *data.image_shape))])]
        for run in peers.values():
            x = pixels.chosen_pixels(run.data.test, run.settings.binarize, run.settings.seed, chosen)
            below = run.vae.pixel_means(run.vae.posterior(x)[0])
            samples = decode(run, sample_codes(run)[: len(chosen)])
            rows.append(np.concatenate([below, np.ones((1, *data.image_shape)), samples]))
        caption = f"{data.name}: left, test images and what each run makes of them; right, samples of each"
        labels = ["test images", *peers]
        pages.append(pictures.grid_page(np.concatenate(rows), 2 * len(chosen) + 1, caption, labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_pages(path, pages)


# ---------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------

COLUMNS = {  # heading: (where the number lies in evaluation.json, its format)
    "loss": ("loss", ",.2f"),
    "recon": ("recon", ",.2f"),
    "KL": ("kl", ".2f"),
    "active": ("active_units", "d"),
    "NLL": ("nll", ",.2f"),
    "bits/dim": ("bits_per_dim", ".3f"),
    "(pPCA)": ("ppca_bits_per_dim", ".3f"),
    "PSNR": ("psnr_of_mean_mse", ".2f"),
    "(PCA)": ("pca_psnr_of_mean_mse", ".2f"),
    "SSIM": ("ssim", ".3f"),
    "Frechet": ("frechet.samples", ".2f"),
    "(mixture)": ("frechet.mixture_samples", ".2f"),
    "(recon.)": ("frechet.reconstructions", ".2f"),
    "(train)": ("frechet.training", ".2f"),
    "C_T": ("novelty.c_t", "+.1f"),
    "(blurred)": ("novelty.c_t_of_reconstructions", "+.1f"),
}


def cell(numbers, place, form):
    """A number as text; nothing where the run has none."""
    for key in place.split("."):
        numbers = numbers and numbers[key]
    return "" if numbers is None else format(numbers, form)


def table(rows):
    """Lines of a table, headings first; rows: a list of cells each, the first one a name."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])]
    return ["  ".join(map(str.format, formats, row)) for row in rows]


def print_tables(names, results):
    """A row a run, without columns that none of them fills; below, the attributes of faces."""
    columns = [[heading, *(cell(numbers, *what) for numbers in results)] for heading, what in COLUMNS.items()]
    rows = zip(["run", *names], *(column for column in columns if any(column[1:])), strict=True)
    note("\n" + "\n".join(table([list(row) for row in rows])))
    note(
        "loss, recon, KL and NLL (a tighter bound) in nats per image; bits/dim of dequantised pixels, a true bound;\n"
        "PSNR in dB, of the mean squared error; C_T below -3 and that of (blurred) test images: look for copies;\n"
        "(in brackets: to compare with)"
    )
    if len({numbers["pixels_sha256"] for numbers in results}) > 1:
        note("these runs are of different images: compare Frechet distances and C_T only between runs on the same ones")
    for name, numbers in zip(names, results, strict=True):
        if numbers["nll_images"] < numbers["test_images"]:
            own = f"{numbers['nll_images']:,} test images, whose loss is {numbers['loss_of_nll_images']:,.2f}"
            note(f"{name}: NLL is of {own}, from {numbers['nll_samples']:,} samples each")
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


def short_names(folders):
    """What to call runs: by their folders' names, or where those repeat, by their paths."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else list(map(str, folders))


def evaluate(paths, options):
    """Evaluate each run; returns the contents of their evaluation.json."""
    folders = list(dict.fromkeys(Path(os.path.realpath(path)) for path in paths))  # each once, "." by its name
    runs = [load_run(folder, options) for folder in folders]
    names, results = short_names(folders), []
    try:
        for run in runs:
            results.append(evaluate_run(run, options))
    finally:
        if results:  # some minutes each: not lost where a later one fails
            print_tables(names[: len(results)], results)
    for run in runs:
        note(f"\n{run.folder / 'evaluation.json'}")
        for name, content in PICTURES.items():
            if (run.folder / name).exists():
                note(f"  {run.folder / name}  {content}")
    if len(runs) > 1:
        draw_summary(Path(options.out) / "summary.png", runs, names)
        note(f"\n{Path(options.out) / 'summary.png'}  the same test images and samples of each run")
    return results
