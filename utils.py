"""A training run from start to end, in the order in which it happens: data, model, loss, epochs, run folder.

Both scripts share this file. It decides what happens when; the parts that it calls are in vae/, a file each.

Losses are nats per image: summed over pixels and latent units, averaged over images. Pixels are float32 in [0, 1],
images (B, H, W, C). Sources: Kingma & Welling 2014 (VAE, arXiv:1312.6114), Rybkin et al. 2021 (calibrated decoder,
arXiv:2006.13202), Burda et al. 2016 (active units, arXiv:1509.00519).
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from vae import keras, np, pixels, tf
from vae.board import Board
from vae.checkpoints import describe_checkpoint, epoch_of, open_checkpoints, restore, save_checkpoint
from vae.data.dataset import Dataset
from vae.data.registry import load_dataset
from vae.distributed import agree, is_chief, is_one_of_several, on_devices, start_together
from vae.elbo import Vae
from vae.measures import active_units, psnr
from vae.pictures import RUN_PICTURES, draw_run
from vae.pixels import BINARIZE, random_key
from vae.ppca import SIGMA_FLOOR, fit_ppca, start_at_ppca
from vae.precision import in_bfloat16, lacks_instructions
from vae.run_folder import (
    open_run,
    read_key,
    replace_with,
    run_config,
    sole_writer,
    with_origins,
    write_json,
    write_rows,
)
from vae.settings import Settings, parse_settings
from vae.steps import (
    GPUS,
    average_rate,
    build_evaluate_call,
    build_optimizer,
    build_train_call,
    evaluate_images,
    kl_weight,
)
from vae.terminal import NonFiniteError, is_interrupt, launch, note, progress

__all__ = ["launch", "load_data", "load_dataset", "on_devices", "parse_settings", "train"]  # what scripts need

PICTURE_SECONDS = 10  # between two drawings of the pictures while training


@dataclass(frozen=True)
class Run:
    """What a run carries from epoch to epoch."""

    settings: Settings
    data: Dataset
    folder: Path | None  # None: another worker keeps it
    vae: Vae  # being trained
    average: Vae  # its averaged weights: tested, drawn and saved
    optimizer: keras.Optimizer
    checkpoints: tf.train.CheckpointManager | None
    rows: list  # of metrics.csv, one an epoch
    board: Board | None  # of --tensorboard


def train(encoder, decoder, data, settings):
    """Train a VAE from its start, or from where a resumed run stopped; returns the content of metrics.json.

    encoder: (B, H, W, C) -> (B, 2z), decoder: (B, z) -> (B, H, W, C), both as just built. A network with a second
    input gets the labels there, (B, L). data: a Dataset. settings: from parse_settings.

    Raises UserError, NonFiniteError, or KeyboardInterrupt with a message about what was kept.
    """
    settings = fit_to_data(settings, data)
    folder = open_run(settings, data) if is_chief() else None
    with sole_writer(folder):
        run = start_run(encoder, decoder, data, settings, folder)
        means, errors = train_epochs(run)
        return finish(run, means, errors) if run.folder else run.rows[-1]


# Data and settings --------------------------------------------------------------------------------------------


def load_data(settings):
    """The Dataset that a run is trained and tested on. Of several workers, all have to have the same."""
    data = load_dataset(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    if is_one_of_several():
        agree(run_config(settings, data))
    return data


def fit_to_data(settings, data):
    """The settings with a batch that the training images can fill; says what else will not go as asked."""
    if settings.batch_size > len(data.train):
        note(f"--batch-size {settings.batch_size}: lowered to {len(data.train)}, the number of training images")
        settings = replace(settings, batch_size=len(data.train))
    if settings.kl_warmup_epochs > settings.epochs:
        note(f"--kl-warmup-epochs {settings.kl_warmup_epochs:g}: the KL's weight reaches --beta after this run's end")
    if settings.precision == "bf16" and not GPUS and lacks_instructions():
        note("--precision bf16: slow here, as this processor has no instructions for it; --precision fp32 is faster")
    return settings


# The model ----------------------------------------------------------------------------------------------------


def start_run(encoder, decoder, data, settings, folder):
    """Build the Run, new or as its last checkpoint has it; writes config.json and says what will be trained."""
    config = run_config(settings, data)
    if folder and not (folder / "config.json").exists():
        write_json(folder / "config.json", config)
    vae, average = build_vae(encoder, decoder, data, settings)
    steps = len(data.train) // settings.batch_size
    optimizer = build_optimizer(
        vae.variables, steps, settings.learning_rate, settings.warmup_steps, settings.decay_per_epoch
    )
    checkpoint = tf.train.Checkpoint(vae=vae.state, average=average.state, optimizer=optimizer.variables)
    _ = checkpoint.save_counter  # created by all workers, or the one that saves would wait for the others to do so
    checkpoints = open_checkpoints(checkpoint, folder) if folder else None
    rows = restore(checkpoints, folder) if folder else []
    if folder:  # not before: the resume might have been refused
        write_json(folder / "config.json", with_origins(config, folder, len(rows)))
    rows = start_together(rows, [*vae.state, *average.state, *optimizer.variables])
    board = Board(folder) if settings.tensorboard and folder else None
    # Every call holds so many batches, whether it trains on them or not; config.json has what was asked for
    settings = replace(settings, steps_per_call=min(settings.steps_per_call, steps))
    note(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, "
        f"{'x'.join(map(str, data.image_shape))}; z = {settings.z}, {settings.likelihood} pixels, "
        f"{count_parameters(vae):,} parameters, on the {'GPU' if GPUS else 'CPU'}\n"
        f"loss = reconstruction + KL in nats per image; run folder {folder or 'of the first worker'}"
        + (f", resumed after epoch {len(rows)}" if rows else "")
    )
    return Run(settings, data, folder, vae, average, optimizer, checkpoints, rows, board)


def build_vae(encoder, decoder, data, settings):
    """The VAE to train and the VAE of its averaged weights. With Gaussian pixels, both start at probabilistic PCA."""
    sigma = 1.0
    if settings.likelihood == "gaussian":
        note("starting the linear path at probabilistic PCA")
        ppca = fit_ppca(data.train, settings.z, settings.seed, settings.mirror)
        if ppca.sigma <= SIGMA_FLOOR:
            note(f"--z {settings.z}: holds all that is in the training images; use a smaller one, or more images")
        start_at_ppca(encoder, decoder, ppca, settings.log_std_bound)
        sigma = ppca.sigma
    vae = Vae(encoder, decoder, tf.Variable(math.log(sigma), dtype=tf.float32, name="log_sigma"), settings.likelihood)
    average = vae.copy()
    if settings.precision == "bf16":  # the averaged weights stay float32
        vae = replace(vae, encoder=in_bfloat16(encoder), decoder=in_bfloat16(decoder))
    return vae, average


def count_parameters(vae):
    """How many numbers training adjusts."""
    return sum(math.prod(variable.shape) for variable in vae.variables)


# The loss -----------------------------------------------------------------------------------------------------


def batch_loss(vae, x, labels, noise, beta, weights=None):
    """The loss of a batch, and its reconstruction and KL terms (2,), nats per image.

    x: (B, H, W, C), labels: (B, L), noise: (B, z), beta: weight of the KL. weights: (B,), the share of each image in
    the mean over the batch, where this device has only a part of it; None: a plain mean.
    """
    recon, kl = vae.elbo_terms(x, noise, labels)  # (B,) each
    recon, kl = batch_mean(recon, weights), batch_mean(kl, weights)
    return recon + beta * kl, tf.stack([recon, kl])


def batch_mean(terms, weights):
    """Mean of terms (B,) over the batch."""
    tf.debugging.assert_rank(terms, 1, "a number for each image")
    return tf.reduce_mean(terms) if weights is None else tf.reduce_sum(weights * terms)


# Epochs -------------------------------------------------------------------------------------------------------


def train_epochs(run):
    """Train and test until the last epoch, and draw the pictures now and then.

    Returns the test images' posterior means (N, z) and squared errors (N,).
    """
    settings = run.settings
    train_call = build_train_call(run.vae, run.average, run.optimizer, batch_loss, settings)
    evaluate_call = build_evaluate_call(run.average, settings.seed, settings.xla)
    drawn, means, errors = time.perf_counter(), None, None
    try:
        for epoch in range(len(run.rows) + 1, settings.epochs + 1):
            means, errors = run_epoch(run, train_call, evaluate_call, epoch)
            if time.perf_counter() - drawn > PICTURE_SECONDS and epoch < settings.epochs and run.folder:
                draw_pictures(run, means)
                drawn = time.perf_counter()
        if means is None:  # resumed after its last epoch
            _, _, errors, means = test(run, evaluate_call)
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
        epoch = len(run.rows)
        if run.folder:
            epoch = min(epoch, epoch_of(run.checkpoints.latest_checkpoint))
        message = f"interrupted: epoch {epoch} is kept in {describe_checkpoint(run.folder)}; --resume continues there"
        raise KeyboardInterrupt(message) from None
    return means, errors


def run_epoch(run, train_call, evaluate_call, epoch):
    """Train and test once, then write a row of metrics.csv, then a checkpoint.

    Returns the test images' posterior means (N, z) and squared errors (N,).
    """
    began = time.perf_counter()
    train_terms = train_epoch(run, train_call, epoch)
    training_seconds = time.perf_counter() - began
    recon, kl, errors, means = test(run, evaluate_call)
    check_finite(np.stack([recon, kl], axis=-1), f"epoch {epoch}, test image", 0, epoch - 1, run.folder)
    sigma = float(run.average.sigma)  # becomes infinite long before its logarithm, and so the loss, does
    if not math.isfinite(sigma):
        raise non_finite_error("sigma", sigma, f"epoch {epoch}", epoch - 1, run.folder)
    test_terms = np.array([recon.mean(dtype=np.float64), kl.mean(dtype=np.float64)])
    seconds = time.perf_counter() - began
    run.rows.append(epoch_row(run, epoch, (seconds, training_seconds), train_terms, test_terms, active_units(means)))
    if run.folder:
        write_rows(run.folder / "metrics.csv", run.rows)  # before the checkpoint: resuming drops rows, but adds none
        save_checkpoint(run.checkpoints, epoch)
    if run.board:
        run.board.numbers(run.rows[-1])
    print_row(run.rows[-1], run.settings)
    return means, errors


def train_epoch(run, train_call, epoch):
    """Train for one epoch; returns the mean of its reconstruction and KL terms (2,), nats per image."""
    images, settings = run.data.train, run.settings
    labels = label_matrix(run, "train")
    steps = len(images) // settings.batch_size
    calls = epoch_calls(len(images), settings.batch_size, settings.steps_per_call, settings.seed, epoch)
    step, total = (epoch - 1) * steps, np.zeros(2)
    for rows, count in progress(calls, -(-steps // settings.steps_per_call)):
        batches = pixels.binarized(images[rows], settings.binarize, random_key(settings.seed, BINARIZE, step))
        batches = tf.reshape(batches, (settings.steps_per_call, settings.batch_size, *images.shape[1:]))
        batch_labels = tf.reshape(labels[rows], (settings.steps_per_call, settings.batch_size, labels.shape[1]))
        done = [(step + k) / steps for k in range(settings.steps_per_call)]  # epochs, before each step
        betas = tf.constant([kl_weight(settings.beta, settings.kl_warmup_epochs, e) for e in done], tf.float32)
        rate = tf.constant(average_rate(settings.average_power, step + count, count), tf.float32)
        counts = tf.constant(count), tf.constant(step, tf.int64)
        terms = train_call(batches, batch_labels, *counts, betas, rate).numpy()[:count]
        check_finite(terms, f"epoch {epoch}, step", step, epoch - 1, run.folder)
        total += terms.sum(axis=0, dtype=np.float64)
        step += count
    return total / steps


def epoch_calls(count, batch_size, steps_per_call, seed, epoch):
    """The rows of `count` images that each call of an epoch trains on, (steps_per_call * batch_size,), and its steps.

    The order is shuffled anew in each epoch and depends on (seed, epoch) only. The last, partial batch is left out;
    it holds other images in each epoch. The last call is filled up, so that all have one shape and compile once.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)[: count // batch_size * batch_size]
    size = steps_per_call * batch_size
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield np.resize(rows, size), len(rows) // batch_size


def test(run, evaluate_call):
    """Test the averaged weights; returns recon, kl and squared error, (N,) each, and the posterior means (N, z)."""
    settings, labels = run.settings, label_matrix(run, "test")
    recon, kl, errors, means, _ = evaluate_images(
        evaluate_call, run.data.test, labels, settings.binarize, settings.seed
    )
    return recon, kl, errors, means


def label_matrix(run, split):
    """The labels that the networks take, (N, L): L is 0 unless one of them has a second input."""
    return run.data.label_matrix(split, run.vae.takes_labels)


def check_finite(terms, place, before, kept_epoch, folder):
    """Stop at the first row of terms (N, 2), reconstruction and KL, that is not finite: number before + 1 or later.

    place: what the rows are, such as "epoch 3, step". kept_epoch: that of the last checkpoint.
    """
    bad = np.argwhere(~np.isfinite(terms))
    if len(bad):
        row, term = bad[0]
        name = ("the reconstruction term", "the KL term")[term]
        raise non_finite_error(name, terms[row, term], f"{place} {before + row + 1}", kept_epoch, folder)


def non_finite_error(name, value, place, kept_epoch, folder):
    """The NonFiniteError that says which value became what, where, and what is kept."""
    kept = f"{describe_checkpoint(folder)} holds epoch {kept_epoch}"
    return NonFiniteError(f"{name} became {value} in {place}; {kept}. Try a smaller --learning-rate")


# What a run leaves --------------------------------------------------------------------------------------------


def epoch_row(run, epoch, seconds, train_terms, test_terms, active):
    """A row of metrics.csv: Python's numbers or None, which JSON can hold.

    seconds: of the whole epoch and of its training. The terms are (2,): reconstruction and KL.
    """
    images, batch_size = len(run.data.train), run.settings.batch_size
    gaussian = run.settings.likelihood == "gaussian"
    return {
        "epoch": epoch,
        "seconds": round(seconds[0], 3),
        "images_per_second": round(images // batch_size * batch_size / seconds[1], 1),
        "learning_rate": float(f"{float(run.optimizer.learning_rate):.6g}"),  # a float32, as warm-up has it by now
        "train_loss": float(train_terms.sum()),
        "train_recon": float(train_terms[0]),
        "train_kl": float(train_terms[1]),
        "test_loss": float(test_terms.sum()),
        "test_recon": float(test_terms[0]),
        "test_kl": float(test_terms[1]),
        "active_units": active,
        "sigma": float(run.average.sigma) if gaussian else None,
        "cost": float(train_terms.sum() * images),
    }


def print_row(row, settings):
    """Print the line of an epoch."""
    note(
        f"epoch {row['epoch']:>{len(str(settings.epochs))}}/{settings.epochs}"
        f"  train {row['train_loss']:.2f} = {row['train_recon']:.2f} + {row['train_kl']:.2f}"
        f"  test {row['test_loss']:.2f} = {row['test_recon']:.2f} + {row['test_kl']:.2f}"
        f"  active units {row['active_units']}/{settings.z}  {row['images_per_second']:,.0f} images/s"
    )


def draw_pictures(run, means):
    """Draw the pictures of the run folder. means: (N, z), the test images' posterior means."""
    epoch, settings = run.rows[-1]["epoch"], run.settings
    draw_run(run.folder, run.average, run.data, means, run.rows, settings.binarize, settings.seed)
    if run.board:
        run.board.pictures([run.folder / name for name in RUN_PICTURES], epoch)


def finish(run, means, errors):
    """Save pictures, networks and metrics.json, and say where they are; returns the content of metrics.json.

    means: (N, z), errors: (N,), the test images' posterior means and squared errors.
    """
    draw_pictures(run, means)
    folder, last = run.folder, run.rows[-1]
    if read_key(folder / "metrics.json", "epoch") != last["epoch"]:  # else halves of two runs would look finished
        (folder / "metrics.json").unlink(missing_ok=True)
    for name, network in (("encoder.keras", run.average.encoder), ("decoder.keras", run.average.decoder)):
        replace_with(folder / name, network.save)
    metrics = last | {
        "test_psnr": float(psnr(errors).mean(dtype=np.float64)),
        "test_psnr_of_mean_mse": float(psnr(errors.mean(dtype=np.float64))),
        "likelihood": run.settings.likelihood,
        "binarize": run.settings.binarize,
        "parameters": count_parameters(run.vae),
        "total_seconds": round(sum(row["seconds"] for row in run.rows), 3),
    }
    write_json(folder / "metrics.json", metrics)
    note(
        f"done in {metrics['total_seconds']:.0f} s: test loss {metrics['test_loss']:.2f} nats per image, "
        f"PSNR {metrics['test_psnr']:.2f} dB. Look at the pictures:"
    )
    for name, content in RUN_PICTURES.items():
        if (folder / name).exists():
            note(f"  {folder / name}  {content}")
    if read_key(folder / "evaluation.json", "epoch") not in (None, last["epoch"]):
        note(f"evaluation.json and its pictures there are of an earlier epoch: python evaluate.py {folder}")
    return metrics
