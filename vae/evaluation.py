"""The evaluation of finished runs, in the order in which it happens: numbers, evaluation.json, pictures, table."""

import math
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from vae import elbo, features, likelihood, measures, pixels
from vae import evaluation_pictures as pictures
from vae.finished_run import load_run
from vae.measures import evenly_spaced, mean_of, psnr
from vae.ppca import fit_ppca
from vae.run_folder import write_json
from vae.steps import build_evaluate_call, evaluate_images
from vae.terminal import NonFiniteError, note, progress, progress_bar

NLL_SAMPLES = 5_000  # importance samples per image
NLL_SAMPLES_OF_CONVOLUTIONS = 500  # the same for convolutional decoders, which are about ten times slower
NLL_IMAGES = {"bernoulli": math.inf, "gaussian": 1_000}  # at most this many test images for nll
NLL_STEPS = 10  # samples between two updates of the progress bar

COLUMNS = {  # heading: (where evaluation.json has the number, its format)
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


def evaluate(runs, data_dir=None, out="results", seed=0, nll_samples=None, nll_images=None):
    """Evaluate runs and print a table; returns the contents of their evaluation.json.

    runs: their folders; the other arguments are the flags of evaluate.py. Raises UserError if a run cannot be read, and
    NonFiniteError as evaluate_run does.
    """
    folders = list(dict.fromkeys(Path(os.path.realpath(path)) for path in runs))  # each once, "." by its name
    runs = [load_run(folder, data_dir) for folder in folders]
    names, results = [folder.name for folder in folders], []
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    try:
        for run in runs:
            results.append(evaluate_run(run, seed, nll_samples, nll_images))
    finally:
        if results:  # each takes minutes, so show them even if a later one fails
            print_tables(names[: len(results)], results)
    for run in runs:
        note(f"\n{run.folder / 'evaluation.json'}")
        for name, content in pictures.PICTURES.items():
            if (run.folder / name).exists():
                note(f"  {run.folder / name}  {content}")
    if len(runs) > 1:
        summary = Path(out) / "summary.png"
        pictures.draw_summary(summary, runs, names, seed)
        note(f"\n{summary}  the same test images and samples of each run")
    return results


def evaluate_run(run, seed, nll_samples, nll_images):
    """Write evaluation.json and the pictures of a run, in place of earlier ones; returns the content of the former.

    Raises NonFiniteError if the loss or the likelihood of a test image is not finite.
    """
    began = time.perf_counter()
    data, config = run.data, run.config
    note(f"\n{run.folder}: {data.name}, {len(data.test):,} test images, z = {config.z}")
    call = build_evaluate_call(run.vae, seed, config.xla)
    recon, kl, mse, *codes = evaluate_images(call, data.test, run.labels("test"), config.binarize, seed)
    means, loss = codes[0], recon + kl
    unit_kl = np.mean(elbo.kl_to_standard_normal(*codes).numpy(), axis=0, dtype=np.float64)  # (z,)
    check_finite(run, "loss", loss, np.arange(len(loss)))
    rows = evenly_spaced(len(data.train), features.SAMPLES)
    labels = run.labels("train")[rows]
    *_, train_means, train_log_stds = evaluate_images(call, data.train[rows], labels, config.binarize, seed)
    samples = features.sample_codes(config.z, seed)
    mixture = features.mixture_codes(train_means, train_log_stds, seed)
    ppca = fit_ppca(data.train, config.z, limit=len(data.train), iterations=10)

    numbers = {
        "loss": mean_of(recon) + mean_of(kl),
        "recon": mean_of(recon),
        "kl": mean_of(kl),
        "kl_per_unit": sorted(unit_kl.tolist(), reverse=True),
        "active_units": measures.active_units(means),
    }
    numbers |= pixel_numbers(run, mse, means, ppca, seed)
    remark_on_loss(run, numbers["loss"], seed)
    numbers |= likelihood_numbers(run, codes, loss, seed, nll_samples, nll_images)
    numbers |= density_numbers(run, ppca, seed)
    found, neighbours = features.feature_numbers(run, means, samples, mixture, ppca)
    about = {name: getattr(config, name) for name in ("dataset", "script", "z", "likelihood", "binarize")} | {
        "epoch": run.metrics.epoch,
        "training_seed": config.seed,
        "seed": seed,
        "pixels_sha256": data.sha256,
        "test_images": len(data.test),
        "seconds": round(time.perf_counter() - began, 1),
    }
    content = about | numbers | found
    for name in ("evaluation.json", *pictures.PICTURES):  # those there may be of an earlier epoch
        (run.folder / name).unlink(missing_ok=True)
    write_json(run.folder / "evaluation.json", content)
    pictures.draw_traversals(run, means, unit_kl)
    pictures.draw_interpolation(run, means)
    pictures.draw_attributes(run, means, train_means, rows)
    pictures.draw_pairs(run, means, loss)
    pictures.draw_neighbours(run, samples, neighbours)
    pictures.draw_mixture(run, mixture)
    return content


def check_finite(run, name, values, images):
    """Raise NonFiniteError at the first value (N,) that is not finite.  images: numbers of the test images, (N,)."""
    bad = ~np.isfinite(values)
    if np.any(bad):
        raise NonFiniteError(f"{run.folder}: the {name} of test image {1 + images[np.argmax(bad)]} is not finite")


def remark_on_loss(run, loss, seed):
    """Warn if the test loss differs from that of the training, though the noise is the same."""
    trained = run.metrics.test_loss
    if seed == run.config.seed and not math.isclose(loss, trained, rel_tol=1e-3, abs_tol=0.1):
        note(
            f"{run.folder}: the test loss is {loss:.2f} here and was {trained:.2f} at the end of training; "
            "was the program edited since?"
        )


def pixel_numbers(run, mse, means, ppca, seed):
    """How close reconstructions are to the test images: PSNR and SSIM, and the PSNR of PCA.

    mse: mean squared errors of the reconstructions, (N,); means: of q(z|x), (N, z).
    """
    similarity, linear, labels = [], [], run.labels("test")
    window = min(11, *run.data.image_shape[:2])  # pixels; 11 is the default of tf.image.ssim
    batches = pixels.rows_of(len(means))
    for rows in progress(batches, len(batches)):
        x = pixels.chosen_pixels(run.data.test, run.config.binarize, seed, np.arange(len(means))[rows])
        decoded = run.vae.pixel_means(means[rows], labels[rows])
        similarity.append(tf.image.ssim(x, decoded, 1.0, filter_size=window).numpy())
        flat = x.reshape(len(x), -1)
        linear.append(np.square(measures.pca_reconstruction(ppca, flat) - flat).mean(axis=1))
    return {
        "psnr": mean_of(psnr(mse)),
        "psnr_of_mean_mse": float(psnr(mean_of(mse))),
        "ssim": mean_of(np.concatenate(similarity)),
        "pca_psnr_of_mean_mse": float(psnr(mean_of(np.concatenate(linear)))),
    }


def likelihood_numbers(run, codes, loss, seed, samples=None, most_images=None):
    """The importance-weighted bound on -log p(x), nats per image, and the loss of the same images.

    codes: mean and log-std of q(z|x), each (N, z); loss: (N,). samples: importance samples per image; most_images: of
    the test set; None: the constants above. The images are evenly spaced: the first ones may all be of one class.
    """
    data, config = run.data, run.config
    convolutional = any(len(weight.shape) == 4 for weight in run.vae.decoder.weights)  # kernels of convolutions
    samples = samples or (NLL_SAMPLES_OF_CONVOLUTIONS if convolutional else NLL_SAMPLES)
    count = min(most_images or NLL_IMAGES[config.likelihood], len(data.test))
    call = likelihood.build_importance_call(run.vae, seed, config.xla)
    images, labels, batches = evenly_spaced(len(data.test), count), run.labels("test"), pixels.rows_of(count)
    label = f"likelihood of {count:,} images, {samples:,} importance samples each"
    parts = []
    with progress_bar(len(batches) * -(-samples // NLL_STEPS), label) as advance:
        for batch, rows in enumerate(batches):
            chosen = images[rows]
            x = tf.constant(pixels.chosen_pixels(data.test, config.binarize, seed, chosen))
            own = [tf.constant(part[chosen]) for part in (labels, *codes)]
            first = batch * samples  # number of its first noise
            nll = likelihood.importance_weighted_nll(call, x, own[0], own[1:], samples, first, NLL_STEPS, advance)
            parts.append(nll)
    nll = np.concatenate(parts)
    check_finite(run, "likelihood", nll, images)
    return {
        "nll": mean_of(nll),
        "loss_of_nll_images": mean_of(loss[images]),
        "nll_samples": samples,
        "nll_images": count,
        "nll_standard_error": float(nll.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
    }


def density_numbers(run, ppca, seed):
    """Bits per dimension of dequantised test images: a bound from the VAE's ELBO, and exact ones of pPCA.

    They are None for Bernoulli pixels.
    """
    if run.config.likelihood != "gaussian":
        return {"bits_per_dim": None, "ppca_bits_per_dim": None}
    images, labels, size = run.data.test, run.labels("test"), math.prod(run.data.image_shape)
    call = likelihood.build_dequantised_call(run.vae, seed, run.config.xla)
    vae, linear = [], []
    batches = pixels.rows_of(len(images))
    for number, rows in enumerate(progress(batches, len(batches))):
        batch = tf.constant(number, tf.int64)
        noisy = likelihood.dequantise(images[rows], seed, batch)
        vae.append(call(tf.constant(images[rows]), tf.constant(labels[rows]), noisy, batch).numpy())
        linear.append(likelihood.ppca_nll(ppca, noisy.numpy().reshape(len(noisy), -1)))
    return {
        "bits_per_dim": likelihood.bits_per_dim(mean_of(np.concatenate(vae)), size),
        "ppca_bits_per_dim": likelihood.bits_per_dim(mean_of(np.concatenate(linear)), size),
    }


def print_tables(names, results):
    """Print a table of the contents of evaluation.json, without empty columns, and the attributes of each run."""
    columns = [[heading, *(cell(numbers, *where) for numbers in results)] for heading, where in COLUMNS.items()]
    columns = [["run", *names], *(column for column in columns if any(column[1:]))]
    note("\n" + table(list(zip(*columns, strict=True))))
    note(
        "loss, recon, KL and NLL (a tighter bound): nats per image. bits/dim: of dequantised pixels, a true bound.\n"
        "PSNR: dB, from the mean squared error. C_T: look for copies if it is below -3 and below (blurred), that of\n"
        "reconstructed test images. In brackets: for comparison."
    )
    if len({numbers["pixels_sha256"] for numbers in results}) > 1:
        note("These runs are of different images, so their Frechet distances and C_T cannot be compared.")
    for name, numbers in zip(names, results, strict=True):
        if numbers["nll_images"] < numbers["test_images"]:
            images = f"{numbers['nll_images']:,} test images, whose loss is {numbers['loss_of_nll_images']:,.2f}"
            note(f"{name}: NLL is of {images}, from {numbers['nll_samples']:,} samples each")
        if numbers["attributes"]:
            print_attributes(name, numbers["attributes"])


def print_attributes(name, found):
    """Print how well ten attributes are recognised, first those of attributes.png."""
    order = sorted(found, key=lambda attribute: attribute not in pictures.SHOWN_ATTRIBUTES)[:10]
    views = ("originals", "reconstructions", "pca", "mean_image", "retention")
    rows = [["recognised", "", *(view.replace("_", " ") for view in views)]]
    for attribute in order:
        for answer in ("presence", "absence"):
            recalls = [found[attribute][answer][view] for view in views]
            rows.append([attribute, answer, *("-" if recall is None else f"{recall:.2f}" for recall in recalls)])
    note(f"\n{name}: share of the faces with an attribute, and of those without, that a classifier recognises\n")
    note(table(rows))


def cell(numbers, place, form):
    """A number as text; empty where the run has none."""
    for key in place.split("."):
        numbers = numbers and numbers[key]
    return "" if numbers is None else format(numbers, form)


def table(rows):
    """The text of a table with aligned columns.  rows: a list of cells each, the first one a name."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])]
    return "\n".join("  ".join(map(str.format, formats, row)) for row in rows)
