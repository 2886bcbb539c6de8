"""The evaluation of finished runs, in the order in which it happens: numbers, evaluation.json, pictures, table."""

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from vae import duration, elbo, features, likelihood, measures, pixels
from vae import evaluation_pictures as pictures
from vae.evaluation_table import names_of, print_tables
from vae.finished_run import about_missing, load_run, why_no_run
from vae.measures import evenly_spaced, mean_of, psnr
from vae.ppca import fit_ppca
from vae.run_folder import PACKAGES, ROOT, read_key, write_json
from vae.steps import build_evaluate_call, evaluate_images
from vae.terminal import NonFiniteError, UserError, note, one_line, progress, progress_bar
from vae.xla import xla_works

NLL_SAMPLES = 500  # importance samples per image
NLL_SAMPLES_OF_CONVOLUTIONS = 100  # the same for convolutional decoders, which are about ten times slower
NLL_OPERATIONS = 5e12  # the decoder's multiplications and additions for nll: where one image takes more, fewer images

# Runs ---------------------------------------------------------------------------------------------------------


def evaluate(runs, data_dir=None, out="results", seed=0, nll_samples=None, nll_images=None):
    """Evaluate runs and print a table; returns the contents of their evaluation.json.

    runs: their folders; what is no finished run is skipped. The other arguments are the flags of evaluate.py. A run
    that cannot be evaluated is left out with a line, and the others go on; in the end its error is raised, a UserError
    or the NonFiniteError of evaluate_run.
    """
    folders, evaluated, errors = finished_runs(runs), [], []
    try:
        for folder in folders:
            try:
                run = load_run(folder, data_dir)
                evaluated.append((run, evaluate_run(run, seed, nll_samples, nll_images)))
            except (UserError, NonFiniteError) as error:
                errors.append(error)
                if len(folders) > 1:
                    note(one_line(f"left out: {error}"))
        list_pictures([run.folder for run, _ in evaluated])
        if len(evaluated) > 1:
            summary, runs = Path(out) / "summary.png", [run for run, _ in evaluated]
            pictures.draw_summary(summary, runs, names_of([run.folder for run in runs]), seed)
            note(f"{summary}  the same test images and samples of each run")
    finally:
        if evaluated:  # each may have taken minutes: show them even if a later one is interrupted
            print_tables({run.folder: content for run, content in evaluated})
    if len(folders) == 1 and errors:
        raise errors[0]
    if errors:
        raise type(errors[0])(f"{len(errors)} of {len(folders)} runs were left out; the lines above say why")
    return [content for _, content in evaluated]


def finished_runs(paths):
    """The folders among the paths that hold a finished run, each once; prints a line about each other path.

    UserError if a path does not exist, or if none holds a finished run.
    """
    example = "name the folder of a finished run, like results/fc_mnist_z2"
    found, others = {}, []
    for path in map(Path, paths):
        folder = path if path.name not in ("", "..") else path.resolve()  # "." by its name
        if not os.path.lexists(folder):
            raise UserError(f"{path}: {about_missing(path)}")
        if why := why_no_run(folder):
            others.append(f"{path}: {why}")
        else:
            found.setdefault(os.path.realpath(folder), folder)
    if not found:
        raise UserError(f"{others[0]}; {example}" if len(others) == 1 else f"{len(others)} paths, no run; {example}")
    for line in others:
        note(one_line(f"skipped: {line}"))
    return list(found.values())


def list_pictures(folders):
    """Say what evaluations have left in these folders."""
    contents = {"evaluation.json": "all numbers"} | pictures.PICTURES
    if folders:
        note("\nin the folder of each run:" if len(folders) > 1 else "")
    for name, content in contents.items():
        paths = [folder / name for folder in folders if (folder / name).exists()]
        if paths:
            note(f"  {name if len(folders) > 1 else paths[0]}  {content}")


# One run ------------------------------------------------------------------------------------------------------


def evaluate_run(run, seed, nll_samples=None, nll_images=None):
    """Write evaluation.json and the pictures of a run, in place of earlier ones; returns the content of the former.

    If an earlier evaluation was of the same files with the same flags, nothing is computed again. Raises NonFiniteError
    if the loss or the likelihood of a test image is not finite.
    """
    nll_samples, nll_images = likelihood_size(run, nll_samples, nll_images)
    inputs = inputs_sha256(run, seed, nll_samples, nll_images)
    content = kept_evaluation(run.folder, inputs)
    if content:
        note(f"{run.folder}: was evaluated before; to repeat it, delete evaluation.json there")
    else:
        content = evaluate_anew(run, inputs, seed, nll_samples, nll_images)
    remark_on_loss(run, content["loss"], seed)
    return content


def inputs_sha256(run, *flags):
    """SHA-256 of all that the numbers of a run depend on: its files, images and settings, the flags, the program."""
    versions = {name: package.__version__ for name, package in PACKAGES.items()}
    settings = asdict(replace(run.config, data_dir=""))  # the images count, pixels_sha256, wherever they are
    digest = hashlib.sha256(json.dumps([settings, run.data.label_names, flags, versions]).encode())
    for labels in (run.data.train_labels, run.data.test_labels):
        digest.update(b"" if labels is None else np.ascontiguousarray(labels))
    files = [run.folder / name for name in ("encoder.keras", "decoder.keras", "metrics.json")]
    for path in [*files, *sorted(ROOT.glob("vae/**/[!.]*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kept_evaluation(folder, inputs):
    """The content of a run's evaluation.json if it is of these inputs and its pictures are there, else None."""
    path = folder / "evaluation.json"
    drawn = read_key(path, "pictures")
    if read_key(path, "inputs_sha256") != inputs or not drawn or not all((folder / name).exists() for name in drawn):
        return None
    return json.loads(path.read_text())


def evaluate_anew(run, inputs, seed, nll_samples, nll_images):
    """As evaluate_run, whatever there is of an earlier evaluation.  inputs: from inputs_sha256."""
    began = time.perf_counter()
    data, config = run.data, run.config
    importance_call = likelihood.build_importance_call(run.vae, seed, config.xla)
    seconds = duration.seconds_of(run, importance_call, nll_samples, nll_images)
    about = f"{run.folder}: {data.name}, {len(data.test):,} test images, z = {config.z}"
    note(f"\n{about}; this takes about {duration.in_words(seconds)}")
    call = build_evaluate_call(run.vae, seed, config.xla)
    recon, kl, mse, *codes = evaluate_images(call, data.test, run.labels("test"), config.binarize, seed)
    means, loss = codes[0], recon + kl
    unit_kl = np.mean(elbo.kl_to_standard_normal(*codes).numpy(), axis=0, dtype=np.float64)  # (z,)
    check_finite(run, "loss", loss, np.arange(len(loss)))
    count = features.image_count(data.image_shape)
    rows, chosen = evenly_spaced(len(data.train), count), evenly_spaced(len(data.test), count)
    train_means, train_log_stds = encode(run, data.train[rows], run.labels("train")[rows], seed)
    samples = features.sample_codes(config.z, seed)[:count]
    mixture = features.mixture_codes(train_means, train_log_stds, seed)[:count]
    ppca = fit_ppca(
        data.train, config.z, limit=features.pca_limit(data.image_shape), iterations=features.PCA_ITERATIONS
    )

    numbers = {
        "loss": mean_of(recon) + mean_of(kl),
        "recon": mean_of(recon),
        "kl": mean_of(kl),
        "kl_per_unit": sorted(unit_kl.tolist(), reverse=True),
        "active_units": measures.active_units(means),
    }
    numbers |= pixel_numbers(run, mse, means, chosen, ppca, seed)
    numbers |= likelihood_numbers(run, importance_call, codes, loss, seed, nll_samples, nll_images)
    numbers |= density_numbers(run, chosen, ppca, seed)
    found, neighbours = features.feature_numbers(run, means, chosen, samples, mixture, ppca)
    about = {name: getattr(config, name) for name in ("dataset", "script", "z", "likelihood", "binarize")} | {
        "epoch": run.metrics.epoch,
        "training_seed": config.seed,
        "seed": seed,
        "pixels_sha256": data.sha256,
        "inputs_sha256": inputs,
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
    content["pictures"] = [name for name in pictures.PICTURES if (run.folder / name).exists()]
    write_json(run.folder / "evaluation.json", content)  # with all pictures, it need not be computed again
    return content


def encode(run, images, labels, seed):
    """Mean and log-std of q(z|x), each (N, z), of images as the loss sees them."""
    xla = run.config.xla and xla_works()
    posterior = tf.function(lambda x, labels, _: run.vae.posterior(x, labels), autograph=False, jit_compile=xla)
    return evaluate_images(posterior, images, labels, run.config.binarize, seed)


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


def pixel_numbers(run, mse, means, chosen, ppca, seed):
    """How close reconstructions are to the test images: PSNR and SSIM, and the PSNR of PCA.

    mse: mean squared errors of the reconstructions, (N,); means: of q(z|x), (N, z); chosen: rows of the test images
    that SSIM looks at, (n,).
    """
    images, binarize, labels = run.data.test, run.config.binarize, run.labels("test")
    window = min(11, *run.data.image_shape[:2])  # pixels; 11 is the default of tf.image.ssim
    similarity, linear, batches = [], [], pixels.rows_of(len(chosen))
    for rows in progress(batches, len(batches)):
        x = pixels.chosen_pixels(images, binarize, seed, chosen[rows])
        decoded = run.vae.pixel_means(means[chosen[rows]], labels[chosen[rows]])
        similarity.append(tf.image.ssim(x, decoded, 1.0, filter_size=window).numpy())
    batches = pixels.rows_of(len(images))
    for rows in progress(batches, len(batches)):
        flat = pixels.chosen_pixels(images, binarize, seed, np.arange(len(images))[rows]).reshape(
            rows.stop - rows.start, -1
        )
        linear.append(np.square(measures.pca_reconstruction(ppca, flat) - flat).mean(axis=1))
    return {
        "psnr": mean_of(psnr(mse)),
        "psnr_of_mean_mse": float(psnr(mean_of(mse))),
        "ssim": mean_of(np.concatenate(similarity)),
        "pca_psnr_of_mean_mse": float(psnr(mean_of(np.concatenate(linear)))),
    }


def likelihood_size(run, samples=None, images=None):
    """Importance samples per image, and how many test images get them; None: as many as the constants above allow."""
    decoder = run.vae.decoder
    convolutional = any(len(weight.shape) == 4 for weight in decoder.weights)  # kernels of convolutions
    samples = samples or (NLL_SAMPLES_OF_CONVOLUTIONS if convolutional else NLL_SAMPLES)
    hundreds = NLL_OPERATIONS / (duration.operations(decoder) * samples) // 100
    return samples, min(images or 100 * max(1, int(hundreds)), len(run.data.test))


def likelihood_numbers(run, importance_call, codes, loss, seed, samples, count):
    """The importance-weighted bound on -log p(x), nats per image, and the loss of the same images.

    codes: mean and log-std of q(z|x), each (N, z); loss: (N,). samples: importance samples per image; count: of test
    images, which are evenly spaced: the first ones may all be of one class.
    """
    data, config = run.data, run.config
    images, labels, batches = evenly_spaced(len(data.test), count), run.labels("test"), pixels.rows_of(count)
    label = f"likelihood of {count:,} images, {samples:,} importance samples each"
    parts = []
    with progress_bar(len(batches) * -(-samples // likelihood.STEPS), label) as advance:
        for batch, rows in enumerate(batches):
            chosen = images[rows]
            x = tf.constant(pixels.chosen_pixels(data.test, config.binarize, seed, chosen))
            own = [tf.constant(part[chosen]) for part in (labels, *codes)]
            first = batch * samples  # number of its first noise
            nll = likelihood.importance_weighted_nll(
                importance_call, x, own[0], own[1:], samples, first, likelihood.STEPS, advance
            )
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


def density_numbers(run, chosen, ppca, seed):
    """Bits per dimension of dequantised test images: a bound from the VAE's ELBO, and exact ones of pPCA.

    They are None for Bernoulli pixels.  chosen: rows of the test images that are looked at, (n,).
    """
    if run.config.likelihood != "gaussian":
        return {"bits_per_dim": None, "ppca_bits_per_dim": None}
    images, labels, size = run.data.test[chosen], run.labels("test")[chosen], math.prod(run.data.image_shape)
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
