"""The evaluation of finished runs, in the order in which it happens: numbers, evaluation.json, pictures, table."""

import math
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from vae import elbo, features, likelihood, measures, pixels
from vae import evaluation_pictures as pictures
from vae.evaluation_table import print_tables
from vae.finished_run import load_run
from vae.measures import evenly_spaced, mean_of, psnr
from vae.ppca import fit_ppca
from vae.run_folder import write_json
from vae.steps import build_evaluate_call, evaluate_images
from vae.terminal import NonFiniteError, note, progress, progress_bar

NLL_SAMPLES = 5_000  # importance samples per image
NLL_SAMPLES_OF_CONVOLUTIONS = 500  # the same for convolutional decoders, which are about ten times slower
NLL_IMAGES = {"bernoulli": math.inf, "gaussian": 1_000}  # at most so many test images for nll
NLL_STEPS = 10  # samples between two moves of the progress bar


def evaluate(runs, data_dir=None, out="results", seed=0, nll_samples=None, nll_images=None):
    """Evaluate runs and print a table; returns the contents of their evaluation.json.

    runs: their folders; the other arguments are the flags of evaluate.py. Raises UserError if a run cannot be read, and
    NonFiniteError as evaluate_run does.
    """
    folders = list(dict.fromkeys(Path(os.path.realpath(path)) for path in runs))  # each once, "." by its name
    runs = [load_run(folder, data_dir) for folder in folders]
    names, results = short_names(folders), []
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


def short_names(folders):
    """The names of the folders, or their whole paths if names repeat."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else list(map(str, folders))


def evaluate_run(run, seed, nll_samples, nll_images):
    """Write evaluation.json and the pictures of a run, in place of earlier ones; returns the content of the former.

    Raises NonFiniteError if the loss or the likelihood of a test image is not finite.
    """
    began = time.perf_counter()
    data, config = run.data, run.config
    note(f"\n{run.folder}: {data.name}, {len(data.test):,} test images, z = {config.z}")
    call = build_evaluate_call(run.vae, seed, config.xla)
    recon, kl, error, *codes = evaluate_images(call, data.test, run.labels("test"), config.binarize, seed)
    means, loss = codes[0], recon + kl
    check_finite(run, "loss", loss, np.arange(len(loss)))
    rows = evenly_spaced(len(data.train), features.SAMPLES)
    labels = run.labels("train")[rows]
    *_, train_means, train_log_stds = evaluate_images(call, data.train[rows], labels, config.binarize, seed)
    samples = features.sample_codes(config.z, seed)
    mixture = features.mixture_codes(train_means, train_log_stds, seed)
    ppca = fit_ppca(data.train, config.z, limit=len(data.train), iterations=10)

    numbers = elbo_numbers(recon, kl, codes) | pixel_numbers(run, error, means, ppca, seed)
    remark_on_loss(run, numbers["loss"], seed)
    numbers |= likelihood_numbers(run, codes, loss, seed, nll_samples, nll_images)
    numbers |= density_numbers(run, ppca, seed)
    found, neighbours = features.feature_numbers(run, means, samples, mixture, ppca)
    content = {
        **{name: getattr(config, name) for name in ("dataset", "script", "z", "likelihood", "binarize")},
        **{"epoch": run.metrics.epoch, "training_seed": config.seed, "seed": seed},
        **{"pixels_sha256": data.sha256, "test_images": len(data.test)},
        **{"seconds": round(time.perf_counter() - began, 1)},
        **numbers,
        **found,
    }
    for name in ("evaluation.json", *pictures.PICTURES):  # those there may be of an earlier epoch
        (run.folder / name).unlink(missing_ok=True)
    write_json(run.folder / "evaluation.json", content)
    pictures.draw_traversals(run, means, unit_kl(codes))
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


def unit_kl(codes):
    """The KL of each latent unit, nats, averaged over the images, (z,).  codes: mean and log-std, each (N, z)."""
    return np.mean(elbo.kl_to_standard_normal(*codes).numpy(), axis=0, dtype=np.float64)


def elbo_numbers(recon, kl, codes):
    """The test loss and its parts.  recon, kl: (N,); codes: mean and log-std of q(z|x), each (N, z)."""
    return {
        "loss": mean_of(recon) + mean_of(kl),
        "recon": mean_of(recon),
        "kl": mean_of(kl),
        "kl_per_unit": sorted(unit_kl(codes).tolist(), reverse=True),
        "active_units": measures.active_units(codes[0]),
    }


def pixel_numbers(run, error, means, ppca, seed):
    """How close reconstructions are to the test images: PSNR and SSIM, and the PSNR of PCA.

    error: mean squared errors of the reconstructions, (N,); means: of q(z|x), (N, z).
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
        "psnr": mean_of(psnr(error)),
        "psnr_of_mean_mse": float(psnr(mean_of(error))),
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
    with progress_bar(len(batches) * -(-samples // NLL_STEPS), label) as tick:
        for batch, rows in enumerate(batches):
            chosen = images[rows]
            x = tf.constant(pixels.chosen_pixels(data.test, config.binarize, seed, chosen))
            own_labels, *own_codes = (tf.constant(part[chosen]) for part in (labels, *codes))
            first = batch * samples  # number of its first noise
            parts.append(
                likelihood.importance_weighted_nll(call, x, own_labels, own_codes, samples, first, NLL_STEPS, tick)
            )
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
