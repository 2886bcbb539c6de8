"""A training run from start to end, in the order in which it happens: data, model, loss, epochs, run folder.

Both scripts share this file. It decides what happens when; each part that it calls has a file of its own in vae/.
vae/README.md follows a batch through them in six steps.

Losses are nats per image: summed over pixels and latent units, averaged over images. Reported losses are always
reconstruction + KL, which is -ELBO, whatever --beta trains with. Images of a data set are uint8 (N, H, W, C); the
networks and the loss see them as x, float32 in [0, 1]. Sources: Kingma & Welling 2014 (VAE, arXiv:1312.6114), Rybkin
et al. 2021 (calibrated decoder, arXiv:2006.13202), Burda et al. 2016 (active units, arXiv:1509.00519).
"""

import math
import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from vae import checkpoints, distributed, keras, np, pictures, pixels, ppca, precision, resuming, run_folder, steps, tf
from vae.board import Board
from vae.data.dataset import Dataset
from vae.data.registry import load_dataset
from vae.distributed import on_devices
from vae.elbo import Vae
from vae.explorer.page import write_explorer
from vae.film import Film
from vae.measures import active_units, psnr
from vae.settings import Settings, parse_settings
from vae.terminal import is_interrupt, launch, note, progress, shown

__all__ = ["launch", "load_data", "load_dataset", "on_devices", "parse_settings", "train"]  # what scripts need

PICTURE_SECONDS = 10  # least time between two updates of the pictures while training


@dataclass
class Run:
    """What a run carries from epoch to epoch."""

    settings: Settings
    data: Dataset
    folder: Path | None  # None if another worker keeps the run folder
    vae: Vae | None = None  # the model being trained
    averaged: Vae | None = None  # the same with averaged weights: evaluated, drawn and saved
    optimizer: keras.Optimizer | None = None
    checkpoints: tf.train.CheckpointManager | None = None
    rows: list = field(default_factory=list)  # one per epoch, for metrics.csv
    resumed_after: int = 0  # epochs that earlier commands trained
    board: Board | None = None  # with --tensorboard
    film: Film | None = None  # where the run folder is kept


def train(encoder, decoder, data, settings):
    """Train a VAE from its start, or from where a resumed run stopped.

    encoder: (B, H, W, C) -> (B, 2z), decoder: (B, z) -> (B, H, W, C), both as just built. A network with a second
    input gets the labels there, (B, L). data: a Dataset. settings: from parse_settings.

    Returns the content of metrics.json (on a worker without the run folder, the last row of metrics.csv). Raises
    UserError, NonFiniteError, or KeyboardInterrupt with a message that says which epoch is kept.
    """
    settings = fit_to_data(settings, data)
    with run_folder.sole_writer(resuming.open_run(settings, data) if distributed.is_chief() else None) as folder:
        run = Run(settings, data, folder)
        build_model(run, encoder, decoder)
        restore_or_start(run)
        announce(run)
        means, mse = train_epochs(run)
        return finish(run, means, mse) if folder else run.rows[-1]


# Data and settings --------------------------------------------------------------------------------------------


def load_data(settings):
    """The Dataset that a run is trained and tested on. Of several workers, all must have the same."""
    data = load_dataset(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    if distributed.is_one_of_several():
        distributed.agree(run_folder.run_config(settings, data))
    return data


def fit_to_data(settings, data):
    """Return the settings with a batch size that the images can fill; warn about others that cannot work as asked."""
    if settings.batch_size > len(data.train):
        note(f"--batch-size {settings.batch_size}: lowered to {len(data.train)}, the number of training images")
        settings = replace(settings, batch_size=len(data.train))
    if settings.kl_warmup_epochs > settings.epochs:
        note(f"--kl-warmup-epochs {settings.kl_warmup_epochs:g}: the KL's weight reaches --beta after this run's end")
    if settings.precision == "bf16" and not steps.GPUS and precision.lacks_instructions():
        note("--precision bf16: slow here, as this processor has no instructions for it; --precision fp32 is faster")
    return settings


# The model ----------------------------------------------------------------------------------------------------


def build_model(run, encoder, decoder):
    """Give the run its VAE, the VAE of its averaged weights, and its optimiser.

    With Gaussian pixels the VAE starts at probabilistic PCA, the best linear one.
    """
    settings, sigma = run.settings, 1.0
    if settings.likelihood == "gaussian":
        note("starting the linear path at probabilistic PCA")
        linear = ppca.fit_ppca(run.data.train, settings.z, settings.seed, settings.mirror)
        if linear.sigma <= ppca.SIGMA_FLOOR:
            note(f"--z {settings.z}: holds all that is in the training images; use a smaller one, or more images")
        elif 2 * settings.z >= len(run.data.train):  # measured on toy faces: from there on, test losses explode
            few = f"too many for {len(run.data.train)} training images, so test losses will be far off"
            note(f"--z {settings.z}: {few}; use a smaller one, or more images")
        ppca.start_at_ppca(encoder, decoder, linear, settings.log_std_bound)
        sigma = linear.sigma
    log_sigma = tf.Variable(math.log(sigma), dtype=tf.float32, name="log_sigma")
    run.vae = Vae(encoder, decoder, log_sigma, settings.likelihood)
    run.averaged = run.vae.copy()
    if settings.precision == "bf16":  # the averaged model stays float32
        twins = precision.in_bfloat16(encoder), precision.in_bfloat16(decoder)
        run.vae = replace(run.vae, encoder=twins[0], decoder=twins[1])
    rates = settings.learning_rate, settings.warmup_steps, settings.decay_per_epoch, settings.rate_falls_after
    run.optimizer = steps.build_optimizer(run.vae.variables, steps_per_epoch(run), *rates)


def steps_per_epoch(run):
    """Training steps in an epoch: whole batches only."""
    return len(run.data.train) // run.settings.batch_size


def restore_or_start(run):
    """Load the last checkpoint of a resumed run, or save the first one of a new run; write config.json."""
    config, folder = run_folder.run_config(run.settings, run.data), run.folder
    state = tf.train.Checkpoint(vae=run.vae.state, average=run.averaged.state, optimizer=run.optimizer.variables)
    _ = state.save_counter  # created by all workers, or the one that saves would wait for the others to do so
    if folder:
        if not (folder / "config.json").exists():
            run_folder.write_json(folder / "config.json", config)
        run.checkpoints, run.rows = checkpoints.restore(state, folder)
        config = resuming.with_origins(config, folder, len(run.rows))
        run_folder.write_json(folder / "config.json", config)  # only now: the resume might have been refused
    run.rows = distributed.start_together(run.rows, [*run.vae.state, *run.averaged.state, *run.optimizer.variables])
    run.resumed_after = len(run.rows)
    run.board = Board(folder) if run.settings.tensorboard and folder else None
    run.film = Film(folder, run.averaged, run.data, run.settings.binarize, run.settings.seed) if folder else None


def announce(run):
    """Say what will be trained, and where it is kept."""
    data, settings = run.data, run.settings
    note(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, "
        f"{'x'.join(map(str, data.image_shape))}; z = {settings.z}, {settings.likelihood} pixels, "
        f"{run.vae.num_parameters:,} parameters, on the {'GPU' if steps.GPUS else 'CPU'}\n"
        f"loss = reconstruction + KL in nats per image; run folder {run.folder or 'of the first worker'}"
        + (f", resumed after epoch {run.resumed_after}" if run.resumed_after else "")
    )
    config = settings.to_config()
    changes = [f"{name} = {shown(config[name])} ({shown(default)})" for name, default in settings.defaults.items()]
    if changes:
        note(f"changed: {', '.join(changes)}")


# The loss -----------------------------------------------------------------------------------------------------


def batch_loss(vae, x, labels, noise, beta, image_weights=None):
    """The loss of a batch, and its reconstruction and KL terms (2,), nats per image.

    x: (B, H, W, C), labels: (B, L), noise: (B, z). beta: weight of the KL in the loss; the terms are without it.
    image_weights: with several devices, the weight of each image (B,) in the mean of the whole batch; None: a plain
    mean.
    """
    recon, kl = vae.elbo_terms(x, noise, labels)  # (B,) each
    recon, kl = batch_mean(recon, image_weights), batch_mean(kl, image_weights)
    return recon + beta * kl, tf.stack([recon, kl])


def batch_mean(terms, image_weights):
    """Mean of terms (B,) over the batch."""
    tf.debugging.assert_rank(terms, 1, "one number per image")
    return tf.reduce_mean(terms) if image_weights is None else tf.reduce_sum(image_weights * terms)


# Epochs -------------------------------------------------------------------------------------------------------


def train_epochs(run):
    """Train and evaluate until the last epoch, and draw the pictures now and then.

    Returns, for the test images, posterior means (N, z) and mean squared errors of their reconstructions (N,).
    """
    # Every call is filled up to `steps_per_call` batches: no more than an epoch has
    run.settings = replace(run.settings, steps_per_call=min(run.settings.steps_per_call, steps_per_epoch(run)))
    train_call = steps.build_train_call(run.vae, run.averaged, run.optimizer, batch_loss, run.settings)
    evaluate_call = steps.build_evaluate_call(run.averaged, run.settings.seed, run.settings.xla)
    drawn, means, mse = time.perf_counter(), None, None
    if run.film and not run.rows:
        run.film.keep(0, run.settings.epochs)
    try:
        for epoch in range(len(run.rows) + 1, run.settings.epochs + 1):
            means, mse = run_epoch(run, train_call, evaluate_call, epoch)
            if time.perf_counter() - drawn > PICTURE_SECONDS and epoch < run.settings.epochs and run.folder:
                draw_pictures(run, means)
                drawn = time.perf_counter()
        if means is None:  # resumed after its last epoch
            _, _, mse, means = evaluate(run, evaluate_call)
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
        epoch = len(run.rows)
        if run.folder:
            epoch = min(epoch, checkpoints.epoch_of(run.checkpoints.latest_checkpoint))
        place = checkpoints.describe_checkpoint(run.folder)
        raise KeyboardInterrupt(f"interrupted: epoch {epoch} is kept in {place}; --resume continues from it") from None
    return means, mse


def run_epoch(run, train_call, evaluate_call, epoch):
    """Train and evaluate once, then write a row of metrics.csv, then a checkpoint.

    Returns the posterior means (N, z) and mean squared errors (N,) of the test images.
    """
    began = time.perf_counter()
    train_terms = train_epoch(run, train_call, epoch)
    training_seconds = time.perf_counter() - began
    recon, kl, mse, means = evaluate(run, evaluate_call)
    checkpoints.check_finite(np.stack([recon, kl], axis=-1), f"epoch {epoch}, test image", 0, epoch - 1, run.folder)
    sigma = float(run.averaged.sigma)  # becomes infinite long before its logarithm, and so the loss, does
    if not math.isfinite(sigma):
        raise checkpoints.non_finite_error("sigma", sigma, f"epoch {epoch}", epoch - 1, run.folder)
    test_terms = np.array([recon.mean(dtype=np.float64), kl.mean(dtype=np.float64)])
    seconds = time.perf_counter() - began
    run.rows.append(epoch_row(run, epoch, (seconds, training_seconds), train_terms, test_terms, active_units(means)))
    if run.folder:
        # Table and film before the checkpoint: resuming can drop what is too much, but cannot make up what is missing
        run_folder.write_rows(run.folder / "metrics.csv", run.rows)
        run.film.keep(epoch, run.settings.epochs)
        checkpoints.save_checkpoint(run.checkpoints, epoch)
    if run.board:
        run.board.numbers(run.rows[-1])
    print_row(run.rows[-1], run.settings)
    return means, mse


def train_epoch(run, train_call, epoch):
    """Train for one epoch; returns the mean of its reconstruction and KL terms (2,), nats per image."""
    settings, images, labels = run.settings, run.data.train, label_matrix(run, "train")
    seed, per_epoch, per_call = settings.seed, steps_per_epoch(run), settings.steps_per_call
    step, total = (epoch - 1) * per_epoch, np.zeros(2)
    calls = epoch_calls(len(images), settings.batch_size, per_call, seed, epoch)
    for indices, num_steps in progress(calls, -(-per_epoch // per_call)):
        batches = pixels.binarized(images[indices], settings.binarize, pixels.random_key(seed, pixels.BINARIZE, step))
        epochs_done = [(step + k) / per_epoch for k in range(per_call)]
        betas = [steps.kl_weight(settings.beta, settings.kl_warmup_epochs, done) for done in epochs_done]
        averaging_weight = steps.averaging_weight(settings.average_power, step + num_steps, num_steps)
        terms = train_call(
            tf.constant(batches),
            tf.constant(labels[indices]),
            tf.constant(num_steps),
            tf.constant(step, tf.int64),
            tf.constant(betas, tf.float32),
            tf.constant(averaging_weight, tf.float32),
        )
        terms = terms.numpy()[:num_steps]
        checkpoints.check_finite(terms, f"epoch {epoch}, step", step, epoch - 1, run.folder)
        total += terms.sum(axis=0, dtype=np.float64)
        step += num_steps
    return total / per_epoch


def epoch_calls(num_images, batch_size, steps_per_call, seed, epoch):
    """Yield, for each call of an epoch, the indices of its images (steps_per_call, B) and its number of steps.

    The order is shuffled anew in each epoch and depends on (seed, epoch) only. The last, partial batch is left out;
    it holds other images in each epoch. The last call is filled up, so that all have one shape and compile once.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_images)[: num_images // batch_size * batch_size]
    for start in range(0, len(order), steps_per_call * batch_size):
        indices = order[start : start + steps_per_call * batch_size]
        yield np.resize(indices, (steps_per_call, batch_size)), len(indices) // batch_size


def evaluate(run, evaluate_call):
    """Evaluate the averaged model on the test images: recon, kl and mse, (N,) each, and posterior means (N, z)."""
    images, labels, settings = run.data.test, label_matrix(run, "test"), run.settings
    recon, kl, mse, means, _ = steps.evaluate_images(evaluate_call, images, labels, settings.binarize, settings.seed)
    return recon, kl, mse, means


def label_matrix(run, split):
    """The labels that the networks take, (N, L): L is 0 unless one of them has a second input."""
    return run.data.label_matrix(split, run.vae.takes_labels)


# What a run leaves --------------------------------------------------------------------------------------------


def epoch_row(run, epoch, seconds, train_terms, test_terms, active):
    """A row of metrics.csv: Python's numbers or None, which JSON can hold.

    seconds: of the whole epoch and of its training. The terms are reconstruction and KL (2,), of training with the
    weights as they move and of the averaged model.
    """
    gaussian = run.settings.likelihood == "gaussian"
    return {
        "epoch": epoch,
        "seconds": round(seconds[0], 3),
        "images_per_second": round(steps_per_epoch(run) * run.settings.batch_size / seconds[1], 1),
        "learning_rate": float(f"{float(run.optimizer.learning_rate):.6g}"),  # at the end of the epoch; a float32
        "train_loss": float(train_terms.sum()),
        "train_recon": float(train_terms[0]),
        "train_kl": float(train_terms[1]),
        "test_loss": float(test_terms.sum()),
        "test_recon": float(test_terms[0]),
        "test_kl": float(test_terms[1]),
        "active_units": active,
        "sigma": float(run.averaged.sigma) if gaussian else None,
        "cost": float(train_terms.sum() * len(run.data.train)),  # as the article of 2017 counts it
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
    settings = run.settings
    pictures.draw_run(run.folder, run.averaged, run.data, means, run.rows, settings.binarize, settings.seed)
    if run.board:
        names = [name for name in pictures.RUN_PICTURES if name.endswith(".png")]
        run.board.pictures([run.folder / name for name in names], run.rows[-1]["epoch"])


def finish(run, means, mse):
    """Save pictures, networks and metrics.json, and say where they are; returns the content of metrics.json.

    means: posterior means (N, z), mse: mean squared errors (N,), of the test images.
    """
    draw_pictures(run, means)
    folder, last = run.folder, run.rows[-1]
    run.film.save(last["epoch"])
    write_explorer(folder, run.averaged, run.data, means, run.rows, run.settings.binarize, run.settings.seed)
    if run_folder.read_key(folder / "metrics.json", "epoch") != last["epoch"]:
        (folder / "metrics.json").unlink(missing_ok=True)  # else a run stopped half-way below would look finished
    for name, network in (("encoder.keras", run.averaged.encoder), ("decoder.keras", run.averaged.decoder)):
        run_folder.replace_with(folder / name, network.save)
    metrics = last | {
        "test_psnr": float(psnr(mse).mean(dtype=np.float64)),
        "test_psnr_of_mean_mse": float(psnr(mse.mean(dtype=np.float64))),
        "likelihood": run.settings.likelihood,
        "binarize": run.settings.binarize,
        "parameters": run.vae.num_parameters,
        "total_seconds": round(sum(row["seconds"] for row in run.rows), 3),
    }
    run_folder.write_json(folder / "metrics.json", metrics)
    if last["active_units"] == 0:
        why = "no unit became active, so the codes say nothing about the images (posterior collapse)"
        note(f"--z {run.settings.z}: {why}; try --kl-warmup-epochs, a smaller --beta or another --learning-rate")
    epoch, how = last["epoch"], f"trained in {metrics['total_seconds']:.0f} s"
    if run.resumed_after == epoch:
        how = f"all {epoch} epochs were trained already (--epochs {2 * epoch} makes the run longer)"
    note(
        f"{how}: test loss {metrics['test_loss']:.2f} nats per image, "
        f"PSNR {metrics['test_psnr']:.2f} dB. Look at the pictures:"
    )
    for name, content in pictures.RUN_PICTURES.items():
        if (folder / name).exists():
            note(f"  {folder / name}  {content}")
    suggest_next(run)
    return metrics


def suggest_next(run):
    """Print the commands that a user may want next: sharper images than two numbers can hold, and the evaluation."""
    script, dataset = f"vae_{run.settings.script}.py", shlex.quote(run.settings.dataset)
    evaluation = f"python evaluate.py {shlex.quote(str(run.folder))}"
    if run_folder.read_key(run.folder / "evaluation.json", "epoch") not in (None, run.rows[-1]["epoch"]):
        note(f"evaluation.json and its pictures there are of an earlier epoch: {evaluation}")
    elif run.settings.z == 2:
        note(f"Next: python {script} --dataset {dataset} --z 10  (sharper images)")
    else:
        note(f"Next: {evaluation}  (likelihood, comparisons, more pictures)")
