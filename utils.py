"""What vae_fc.py and vae_conv.py share: training | which pictures to draw.

Losses are nats per image: summed over pixels and latent units, averaged over images. Pixels are float32 in
[0, 1], images (B, H, W, C). Sources: Kingma & Welling 2014 (VAE, arXiv:1312.6114), Rybkin et al. 2021 (calibrated
decoder, arXiv:2006.13202), Burda et al. 2016 (active units, arXiv:1509.00519).
"""

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from console import (
    NonFiniteError,
    UserError,
    importing,
    is_interrupt,
    launch,
    loading,
    note,
    parse_settings,
    plain,
    progress,
)

with importing():
    import numpy as np

    from data.datasets import Dataset, load_dataset
    from linear_start import SIGMA_FLOOR, fit_ppca, start_at_ppca
    from run_folder import (
        has_trained_checkpoint,
        kept,
        open_run,
        read_rows,
        replace_with,
        run_config,
        sole_writer,
        with_origins,
        write_json,
        write_rows,
    )

with loading():
    import keras
    import tensorflow as tf

    import pictures
    import pixels
    from board import Board
    from distributed import agree, are_several, is_chief, on_devices, share_of_batch, start_together
    from elbo import Vae, compiled
    from pixels import BINARIZE, EVALUATE, MIRROR, NOISE, SAMPLE, SHIFT, random_key
    from precision import in_bfloat16, lacks_instructions

    keras.config.set_image_data_format("channels_last")  # whatever ~/.keras/keras.json says
    keras.config.set_floatx("float32")
    tf.get_logger().setLevel("ERROR")  # its advice on retracing means nothing to a user
    GPUS = tf.config.list_physical_devices("GPU")

__all__ = ["launch", "load_data", "load_dataset", "on_devices", "parse_settings", "train"]  # what scripts need

PICTURE_SECONDS = 10  # between two drawings of the pictures while training
ACTIVE_VARIANCE = 0.01  # a unit is active if Var over x of E[z|x] is above this (Burda et al. 2016, section 5.2)

# ---------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------


def load_data(settings):
    """The Dataset that a run is trained and tested on; of several workers, each has to have the same."""
    data = load_dataset(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    if are_several():
        agree(run_config(settings, data))
    return data


def build_optimizer(settings, variables, steps):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with linear warm-up; for gradients clipped by clip_gradients.

    The rate does not decay: averaging the weights does that work better, and needs no end of the run to be known.
    Weight decay is for matrices and filters; biases hold what pPCA has set. It is asked for per epoch of `steps` steps,
    because as many epochs of memory suit small sets and large ones (Wang & Aitchison 2024, arXiv:2405.13698).
    """
    rate = settings.learning_rate
    if settings.warmup_steps:
        # A "decay" from 0 up to the rate
        rate = keras.optimizers.schedules.PolynomialDecay(0.0, settings.warmup_steps, settings.learning_rate)
    decay = settings.decay_per_epoch / (steps * settings.learning_rate)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
    spared = [variable for variable in variables if len(variable.shape) < 2 or "log_sigma" in variable.name]
    optimizer.exclude_from_weight_decay(spared)
    optimizer.build(variables)
    return optimizer


def clip_gradients(gradients, limit):
    """Scale gradients down together, to a global norm of at most `limit`; not a number where the norm is not finite.

    As tf.clip_by_global_norm, whose sum of squares XLA on a CPU forms one number after the other: a tenth of a dense
    net's step. A product with a vector of ones sums as many columns at once as the processor has lanes.
    """
    squares = [tf.reshape(tf.square(g), (-1, g.shape[-1] if len(g.shape) > 1 else 1)) for g in gradients]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.linalg.matvec(s, tf.ones(s.shape[-1]))) for s in squares]))
    scale = tf.where(tf.math.is_finite(norm), limit / tf.maximum(norm, limit), math.nan)
    return [gradient * scale for gradient in gradients]


def average_rate(power, step, steps):
    """Weight of the newest weights in the average after `step` steps, `steps` of them since the last update.

    The average weighs step t by t^power (Karras et al. 2024, arXiv:2312.02696, section 3.1), to first order in steps /
    step, so its horizon is always the same share of the run so far, about 1 / (power + 1).
    """
    return min(1.0, (power + 1) * steps / step)


def kl_weight(beta, warmup_epochs, epochs_done):
    """Weight of the KL term: from 0 to `beta` in a straight line over the first epochs.

    Units that cannot pay for their KL while the decoder knows nothing get time to become useful (Sønderby et al. 2016,
    arXiv:1602.02282). In epochs, not in shares of the run, so that a run can be made longer.
    """
    return beta * min(1.0, epochs_done / warmup_epochs) if warmup_epochs else beta


def training_calls(images, settings, epoch):
    """One epoch of uint8 batches (steps_per_call, B, H, W, C) with the number of steps to take in each.

    The order depends on (seed, epoch) only; the last, partial batch is left out (other images each epoch). The last
    call is filled up, so that every call has one shape and compiles once.
    """
    size, call_size = settings.batch_size, settings.steps_per_call * settings.batch_size
    whole = len(images) // size * size
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(images))[:whole]
    for start in range(0, whole, call_size):
        chosen = order[start : start + call_size]
        batches = images[np.resize(chosen, call_size)]
        yield batches.reshape(settings.steps_per_call, size, *images.shape[1:]), len(chosen) // size


def under_xla(settings):
    """Whether XLA compiles the training of the networks: not in bfloat16 on a CPU, where it computes in float32."""
    return settings.xla and (settings.precision == "fp32" or bool(GPUS))


def batch_mean(terms, weights):
    """Mean over the batch of terms (B,); with weights (B,), a replica's share of the whole batch's mean."""
    tf.debugging.assert_rank(terms, 1, "a number for each image")
    return tf.reduce_mean(terms) if weights is None else tf.reduce_sum(weights * terms)


def build_gradient_call(vae, settings):
    """The compiled gradients of the loss: gradient_call(images, noise, step, beta, share) -> terms (2,), gradients.

    noise: (B, z); share: rows of the batch and their weights, for one replica of several; None for the whole batch.
    Random numbers are the whole batch's in any case.
    """

    @compiled(under_xla(settings))
    def gradient_call(images, noise, step, beta, share=None):
        if settings.shift:
            images = pixels.shifted(images, settings.shift, random_key(settings.seed, SHIFT, step))
        x = pixels.to_pixels(images)
        if settings.mirror:
            x = pixels.mirrored(x, random_key(settings.seed, MIRROR, step))
        weights = None
        if share:
            rows, weights = share
            x, noise = tf.gather(x, rows), tf.gather(noise, rows)
        with tf.GradientTape() as tape:
            recon, kl = vae.elbo_terms(x, noise)
            recon, kl = batch_mean(recon, weights), batch_mean(kl, weights)
            loss = recon + beta * kl
        return tf.stack([recon, kl]), tape.gradient(loss, vae.variables)

    return gradient_call


def build_updates(vae, average, optimizer, settings):
    """The updates of the weights, update(gradients of vae.variables), and of their average, update_average(rate).

    Under XLA, also where the networks are not: one pass over the weights for all of an update's operations.
    """
    alone = not tf.distribute.has_strategy()

    @compiled(alone)
    def update(gradients):
        optimizer.apply(clip_gradients(gradients, settings.gradient_clip), vae.variables)

    @compiled(alone)
    def update_average(rate):
        for mean, variable in zip(average.variables, vae.variables, strict=True):
            mean.assign_add(rate * (variable - mean))

    return update, update_average


def build_train_step(vae, optimizer, update, settings):
    """A step on the one device, or on all of them: train_step(images, noise, step, beta) -> terms (2,)."""
    strategy, gradient_call = tf.distribute.get_strategy(), build_gradient_call(vae, settings)

    def own_step(*arguments):
        terms, gradients = gradient_call(*arguments)
        update(gradients)
        return terms

    def replica_step(*arguments):
        context = tf.distribute.get_replica_context()
        terms, gradients = gradient_call(*arguments, share_of_batch(settings.batch_size, context))
        terms, *gradients = context.all_reduce("sum", [terms, *gradients])
        gradients = clip_gradients(gradients, settings.gradient_clip)
        # Keras sums gradients over replicas once more: all but one bring nothing
        first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        optimizer.apply([first * gradient for gradient in gradients], vae.variables)
        return terms

    def shared_step(*arguments):
        return strategy.experimental_local_results(strategy.run(replica_step, arguments))[0]

    return shared_step if tf.distribute.has_strategy() else own_step


def build_train_call(vae, average, optimizer, settings):
    """The compiled training function: several steps a call, then one update of the averaged weights.

    train_call(batches, steps, first_step, betas, rate) -> terms (steps_per_call, 2), reconstruction and KL in nats per
    image; batches: uint8 (steps_per_call, B, H, W, C), of which `steps` are taken, the rows of the others are 0; betas:
    (steps_per_call,), each step's weight of the KL.
    """
    update, update_average = build_updates(vae, average, optimizer, settings)
    train_step = build_train_step(vae, optimizer, update, settings)

    @compiled(under_xla(settings) and not tf.distribute.has_strategy())
    def train_steps(batches, noise, steps, first_step, betas, rate):
        numbers = tf.range(settings.steps_per_call)[:, None]

        def body(k, terms):
            own = train_step(batches[k], noise[k], first_step + tf.cast(k, tf.int64), betas[k])
            return k + 1, tf.where(numbers == k, own, terms)

        # Not a loop over tf.range(steps), which XLA compiles anew for every number of steps
        _, terms = tf.while_loop(lambda k, _: k < steps, body, (0, tf.zeros((settings.steps_per_call, 2))))
        update_average(rate)
        return terms

    @compiled()
    def train_call(batches, steps, first_step, betas, rate):
        shape = settings.batch_size, settings.z
        noise = pixels.draw_noise(settings.seed, NOISE, first_step, settings.steps_per_call, shape)
        return train_steps(batches, noise, steps, first_step, betas, rate)

    return train_call


def build_evaluate_call(vae, settings):
    """The compiled evaluation: per image, recon (B,), kl (B,), squared error (B,), mean and log-std of q(z|x) (B, z).

    The noise is the same in every epoch (drawn under XLA where that compiles the networks: so few numbers take no
    time); the squared error is that of the posterior mean's reconstruction.
    """

    @compiled(settings.xla)
    def evaluate_call(x, batch):
        noise = tf.random.stateless_normal((tf.shape(x)[0], settings.z), random_key(settings.seed, EVALUATE, batch))
        recon, kl = vae.elbo_terms(x, noise)
        mean, log_std = vae.posterior(x)
        error = tf.reduce_mean(tf.square(vae.pixel_means(mean) - x), axis=[1, 2, 3])
        return recon, kl, error, mean, log_std

    return evaluate_call


def evaluate_images(evaluate_call, images, settings):
    """`evaluate_call` over uint8 images (N, H, W, C): its five results, each of N rows."""
    batches = range(len(pixels.rows_of(len(images))))
    parts = []
    for batch in progress(batches, len(batches)):
        x = pixels.evaluation_pixels(images, settings, batch)
        parts.append([part.numpy() for part in evaluate_call(x, tf.constant(batch, tf.int64))])
    return [np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True)]


def psnr(squared_error):
    """Peak signal-to-noise ratio, dB, of mean squared errors of pixels in [0, 1]; at most 100 dB, an exact copy."""
    return -10 * np.log10(np.maximum(squared_error, 1e-10))


def check_finite(terms, place, before, kept_epoch, folder):
    """Stop at the first row of reconstruction and KL, terms (N, 2), that is not finite: number before + 1 or later.

    place: what the rows are, "epoch 3, step" for one; kept_epoch: of the last checkpoint.
    """
    bad = np.argwhere(~np.isfinite(terms))
    if len(bad):
        row, term = bad[0]
        name = ("the reconstruction term", "the KL term")[term]
        raise left_the_numbers(name, terms[row, term], f"{place} {before + row + 1}", kept_epoch, folder)


def left_the_numbers(name, value, place, kept_epoch, folder):
    """The NonFiniteError that says what became of which value where, and what is kept."""
    kept_there = f"{checkpoint_of(folder)} holds epoch {kept_epoch}"
    return NonFiniteError(f"{name} became {value} in {place}; {kept_there}. Try a smaller --learning-rate")


def copy_vae(vae):
    """The same networks with variables of their own."""
    twins = [keras.models.clone_model(model) for model in (vae.encoder, vae.decoder)]
    for twin, model in zip(twins, (vae.encoder, vae.decoder), strict=True):
        twin.set_weights(model.get_weights())
    log_sigma = tf.Variable(vae.log_sigma, name="average_log_sigma")
    return replace(vae, encoder=twins[0], decoder=twins[1], log_sigma=log_sigma)


def trained_and_averaged(vae, precision):
    """The networks that training adjusts, and those of their averaged weights, which are float32 in any case."""
    average = copy_vae(vae)
    if precision == "bf16":
        vae = replace(vae, encoder=in_bfloat16(vae.encoder), decoder=in_bfloat16(vae.decoder))
    return vae, average


@dataclass(frozen=True)
class Run:
    """What training carries along: the models, where they are kept, and the rows of metrics.csv so far."""

    settings: argparse.Namespace
    data: Dataset
    folder: Path | None  # None: another worker keeps it
    vae: Vae  # being trained
    average: Vae  # its averaged weights: evaluated, pictured and saved
    optimizer: keras.Optimizer
    checkpoints: tf.train.CheckpointManager
    rows: list
    board: Board | None  # of --tensorboard


def train(encoder, decoder, data, settings):
    """Train a VAE and keep its run folder, from where a resumed run stopped; returns the content of metrics.json.

    encoder: (B, H, W, C) -> (B, 2z), decoder: (B, z) -> (B, H, W, C), both as just built; data: a Dataset;
    settings: from parse_settings. Raises UserError, NonFiniteError, or KeyboardInterrupt with what was kept.
    """
    settings = argparse.Namespace(**vars(settings))  # the caller's stay as they are
    if settings.batch_size > len(data.train):
        note(f"--batch-size {settings.batch_size}: lowered to {len(data.train)}, the number of training images")
        settings.batch_size = len(data.train)
    if settings.kl_warmup_epochs > settings.epochs:
        note(f"--kl-warmup-epochs {settings.kl_warmup_epochs:g}: the KL's weight reaches --beta after this run's end")
    if settings.precision == "bf16" and not GPUS and lacks_instructions():
        note("--precision bf16: slow here, as this processor has no instructions for it; --precision fp32 is faster")
    folder = open_run(settings, data) if is_chief() else None
    with sole_writer(folder):
        run = start_run(encoder, decoder, data, settings, folder)
        # a call holds as many batches, taken or not; after config.json, which has what was asked for
        settings.steps_per_call = min(settings.steps_per_call, len(data.train) // settings.batch_size)
        train_call = build_train_call(run.vae, run.average, run.optimizer, settings)
        evaluate_call = build_evaluate_call(run.average, settings)
        means, errors = train_epochs(run, train_call, evaluate_call)
        return finish(run, means, errors) if run.folder else run.rows[-1]


def train_epochs(run, train_call, evaluate_call):
    """Train and test until the last epoch, and draw the pictures now and then.

    Returns the test set's posterior means (N, z) and squared errors (N,).
    """
    settings, pictured = run.settings, time.perf_counter()
    means = errors = None
    try:
        for epoch in range(len(run.rows) + 1, settings.epochs + 1):
            means, errors = run_epoch(run, train_call, evaluate_call, epoch)
            if time.perf_counter() - pictured > PICTURE_SECONDS and epoch < settings.epochs and run.folder:
                draw_pictures(run, means)
                pictured = time.perf_counter()
        if means is None:  # resumed after its last epoch
            _, _, errors, means, _ = evaluate_images(evaluate_call, run.data.test, settings)
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
        epoch = len(run.rows)
        if run.folder:
            epoch = min(epoch, epoch_of(run.checkpoints.latest_checkpoint))
        message = f"interrupted: epoch {epoch} is kept in {checkpoint_of(run.folder)}; --resume goes on from there"
        raise KeyboardInterrupt(message) from None
    return means, errors


def build_vae(encoder, decoder, data, settings):
    """The VAE to train, in Gaussian runs starting at probabilistic PCA, and the VAE of its averaged weights."""
    sigma = 1.0
    if settings.likelihood == "gaussian":
        note("starting the linear path at probabilistic PCA")
        ppca = fit_ppca(data.train, settings.z, settings.seed, settings.mirror)
        if ppca.sigma <= SIGMA_FLOOR:
            note(f"--z {settings.z}: holds all that is in the training images; use a smaller one, or more images")
        start_at_ppca(encoder, decoder, ppca, settings.log_std_bound)
        sigma = ppca.sigma
    vae = Vae(encoder, decoder, tf.Variable(math.log(sigma), dtype=tf.float32, name="log_sigma"), settings.likelihood)
    return trained_and_averaged(vae, settings.precision)


def start_run(encoder, decoder, data, settings, folder):
    """The Run, new or as its checkpoint has it; writes config.json and says what is about to be trained."""
    config = run_config(settings, data)
    if folder and not (folder / "config.json").exists():
        write_json(folder / "config.json", config)
    vae, average = build_vae(encoder, decoder, data, settings)
    optimizer = build_optimizer(settings, vae.variables, len(data.train) // settings.batch_size)
    checkpoint = tf.train.Checkpoint(vae=vae.state, average=average.state, optimizer=optimizer.variables)
    _ = checkpoint.save_counter  # made by all workers, or the one that saves would wait for the others to make theirs
    checkpoints = open_checkpoints(checkpoint, folder / "checkpoint") if folder else None
    rows = restore(checkpoints, folder) if folder else []
    if folder:
        # not before a resume could be refused
        write_json(folder / "config.json", with_origins(config, folder, len(rows)))
    board = Board(folder) if settings.tensorboard and folder else None
    rows = start_together(rows, [*vae.state, *average.state, *optimizer.variables])
    run = Run(settings, data, folder, vae, average, optimizer, checkpoints, rows, board)
    note(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, "
        f"{'x'.join(map(str, data.image_shape))}; z = {settings.z}, {settings.likelihood} pixels, "
        f"{count_parameters(vae):,} parameters, on the {'GPU' if GPUS else 'CPU'}\n"
        f"loss = reconstruction + KL in nats per image; run folder {folder or 'of the first worker'}"
        + (f", resumed after epoch {len(run.rows)}" if run.rows else "")
    )
    return run


def count_parameters(vae):
    """Numbers that training adjusts."""
    return sum(math.prod(variable.shape) for variable in vae.variables)


def run_epoch(run, train_call, evaluate_call, epoch):
    """Train and test once, write the row, then the checkpoint.

    Returns the test set's posterior means (N, z) and squared errors (N,).
    """
    began = time.perf_counter()
    train_terms = train_epoch(run, train_call, epoch)
    training_seconds = time.perf_counter() - began
    recon, kl, errors, means, _ = evaluate_images(evaluate_call, run.data.test, run.settings)
    check_finite(np.stack([recon, kl], axis=-1), f"epoch {epoch}, test image", 0, epoch - 1, run.folder)
    sigma = float(run.average.sigma)  # infinite long before its logarithm, and so the loss, is
    if not math.isfinite(sigma):
        raise left_the_numbers("sigma", sigma, f"epoch {epoch}", epoch - 1, run.folder)
    test_terms = np.array([recon.mean(dtype=np.float64), kl.mean(dtype=np.float64)])
    active_units = int(np.sum(means.var(axis=0) > ACTIVE_VARIANCE))
    seconds = time.perf_counter() - began
    run.rows.append(epoch_row(run, epoch, (seconds, training_seconds), train_terms, test_terms, active_units))
    if run.folder:
        write_rows(run.folder / "metrics.csv", run.rows)  # before the checkpoint: a resumed run drops rows, adds none
        save_checkpoint(run.checkpoints, epoch)
    if run.board:
        run.board.numbers(run.rows[-1])
    print_row(run.rows[-1], run.settings)
    return means, errors


def train_epoch(run, train_call, epoch):
    """One epoch; returns its mean reconstruction and KL terms (2,), nats per image."""
    images, settings = run.data.train, run.settings
    steps = len(images) // settings.batch_size
    calls = training_calls(images, settings, epoch)
    step, total = (epoch - 1) * steps, np.zeros(2)
    for batches, count in progress(calls, -(-steps // settings.steps_per_call)):
        drawn = pixels.binarized(batches, settings.binarize, random_key(settings.seed, BINARIZE, step))
        done = [(step + k) / steps for k in range(settings.steps_per_call)]  # epochs, before each step
        betas = tf.constant([kl_weight(settings.beta, settings.kl_warmup_epochs, e) for e in done], tf.float32)
        rate = tf.constant(average_rate(settings.average_power, step + count, count), tf.float32)
        counts = tf.constant(count), tf.constant(step, tf.int64)
        terms = train_call(tf.constant(drawn), *counts, betas, rate).numpy()[:count]
        check_finite(terms, f"epoch {epoch}, step", step, epoch - 1, run.folder)
        total += terms.sum(axis=0, dtype=np.float64)
        step += count
    return total / steps


def epoch_row(run, epoch, seconds, train_terms, test_terms, active_units):
    """A row of metrics.csv; seconds: of the whole epoch and of its training; terms: (2,), as train_epoch returns.

    Python's numbers or None: JSON knows no NumPy ones, and run_folder.read_rows, which names the whole ones, no text.
    """
    images = len(run.data.train)
    seen = images // run.settings.batch_size * run.settings.batch_size
    gaussian = run.settings.likelihood == "gaussian"
    return {
        "epoch": epoch,
        "seconds": round(seconds[0], 3),
        "images_per_second": round(seen / seconds[1], 1),
        "learning_rate": float(f"{float(run.optimizer.learning_rate):.6g}"),  # as reached by now; a float32
        "train_loss": float(train_terms.sum()),
        "train_recon": float(train_terms[0]),
        "train_kl": float(train_terms[1]),
        "test_loss": float(test_terms.sum()),
        "test_recon": float(test_terms[0]),
        "test_kl": float(test_terms[1]),
        "active_units": active_units,
        "sigma": float(run.average.sigma) if gaussian else None,
        "cost": float(train_terms.sum() * images),
    }


def print_row(row, settings):
    """The epoch's line on the terminal."""
    note(
        f"epoch {row['epoch']:>{len(str(settings.epochs))}}/{settings.epochs}"
        f"  train {row['train_loss']:.2f} = {row['train_recon']:.2f} + {row['train_kl']:.2f}"
        f"  test {row['test_loss']:.2f} = {row['test_recon']:.2f} + {row['test_kl']:.2f}"
        f"  active units {row['active_units']}/{settings.z}  {row['images_per_second']:,.0f} images/s"
    )


def finish(run, means, errors):
    """Save the networks, the pictures and metrics.json, and say where they are; returns the content of metrics.json.

    means (N, z), errors (N,): the test set's posterior means and squared errors.
    """
    draw_pictures(run, means)
    if kept(run.folder / "metrics.json", "epoch") != run.rows[-1]["epoch"]:  # or half of two runs would look finished
        (run.folder / "metrics.json").unlink(missing_ok=True)
    for name, model in (("encoder.keras", run.average.encoder), ("decoder.keras", run.average.decoder)):
        replace_with(run.folder / name, model.save)
    metrics = run.rows[-1] | {
        "test_psnr": float(psnr(errors).mean(dtype=np.float64)),
        "test_psnr_of_mean_mse": float(psnr(errors.mean(dtype=np.float64))),
        "likelihood": run.settings.likelihood,
        "binarize": run.settings.binarize,
        "parameters": count_parameters(run.vae),
        "total_seconds": round(sum(row["seconds"] for row in run.rows), 3),
    }
    write_json(run.folder / "metrics.json", metrics)
    note(
        f"done in {metrics['total_seconds']:.0f} s: test loss {metrics['test_loss']:.2f} nats per image, "
        f"PSNR {metrics['test_psnr']:.2f} dB. Look at the pictures:"
    )
    for name, content in PICTURES.items():
        if (run.folder / name).exists():
            note(f"  {run.folder / name}  {content}")
    if kept(run.folder / "evaluation.json", "epoch") not in (None, metrics["epoch"]):
        note(f"evaluation.json and its pictures there are of an earlier epoch: python evaluate.py {run.folder}")
    return metrics


def save_checkpoint(checkpoints, epoch):
    """Keep the state after an epoch; the one before stays until this is written."""
    try:
        checkpoints.save(epoch)
    except tf.errors.OpError as error:
        full = isinstance(error, tf.errors.ResourceExhaustedError)
        way_out = f"{'free some disk space' if full else 'check its permissions'}, then --resume"
        raise UserError(f"{checkpoints.directory}: cannot be written ({plain(error)}); {way_out}") from None


# What TensorFlow raises at damaged checkpoints: errors of its own and of Python's.
UNRESTORABLE = (tf.errors.OpError, AssertionError, ValueError, TypeError, LookupError, RuntimeError)


def open_checkpoints(state, folder):
    """The checkpoints in a folder, of which two are kept."""
    try:
        return tf.train.CheckpointManager(state, str(folder), max_to_keep=2)
    except UNRESTORABLE as error:
        path = folder / "checkpoint"
        raise UserError(f"{path}: cannot be read ({plain(error)}); start a new run with --name") from None


def checkpoint_of(folder):
    """Where a run's checkpoint is, in words; folder: the run's, None where another worker keeps it."""
    return f"{folder}/checkpoint" if folder else "the first worker's checkpoint"


def epoch_of(checkpoint):
    """The epoch after which a checkpoint was written, of its path."""
    return int(checkpoint.rsplit("-", 1)[1])


def restore_newest(checkpoints):
    """Load the newest checkpoint that can be read; returns its path."""
    paths = checkpoints.checkpoints or [checkpoints.latest_checkpoint]  # none where the clock was set back since
    for path in reversed(paths):
        try:
            checkpoints.checkpoint.restore(path).assert_consumed()
            return path
        except UNRESTORABLE as error:
            if is_interrupt(error):
                raise
            why = f"{path}: cannot be read ({plain(error)})"
            if path != paths[0]:
                note(f"{why}; going on from the one before")
    raise UserError(f"{why}; start a new run with --name")


def restore(checkpoints, folder):
    """Load the last checkpoint, or write the first; returns the rows of metrics.csv up to it."""
    if not checkpoints.latest_checkpoint:
        if read_rows(folder / "metrics.csv") or has_trained_checkpoint(folder):
            path = f"{checkpoints.directory}/checkpoint"
            raise UserError(f"{path}: names no checkpoint, though epochs were trained; start a new run with --name")
        save_checkpoint(checkpoints, 0)
        return []
    done = epoch_of(restore_newest(checkpoints))
    rows = read_rows(folder / "metrics.csv")[:done] if done else []
    if len(rows) < done:
        path = folder / "metrics.csv"
        raise UserError(f"{path}: {len(rows)} of {done} epochs can be read; start a new run with --name")
    return rows


# ---------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------

PICTURES = {
    "reconstructions.png": "test images above their reconstructions",
    "samples.png": "images decoded from N(0, I)",
    "losses.png": "training and test curves",
    "latent.png": "where the test images lie in the latent space",
    "manifold.png": "what each place of the latent plane decodes to",
}


def draw_pictures(run, means):
    """Write the run's pictures; `means` (N, z) are the test set's posterior means."""
    folder, data, settings, epoch = run.folder, run.data, run.settings, run.rows[-1]["epoch"]
    title = f"{folder.name}, epoch {epoch}"
    draw_reconstructions(run, means, title)
    noise = tf.random.stateless_normal((100, settings.z), random_key(settings.seed, SAMPLE, 0))
    samples = run.average.pixel_means(noise).numpy()
    pictures.save_grid(folder / "samples.png", samples, 10, f"{title}: decoded from N(0, I)")
    pictures.save_losses(folder / "losses.png", run.rows, title)
    if data.test_labels is not None:
        pictures.save_latent(folder / "latent.png", means, data.test_labels, data.label_names, f"{title}: test set")
    if settings.z == 2:
        images = run.average.pixel_means(pictures.manifold_codes(20)).numpy()
        caption = f"{title}: decoder over the Gaussian quantile grid, z1 to the right, z2 upwards"
        steps = [f"{step:+.2f}" for step in pictures.gaussian_quantiles(20)]
        pictures.save_grid(folder / "manifold.png", images, 20, caption, steps[::-1], steps)
    if run.board:
        run.board.pictures([folder / name for name in PICTURES], epoch)


def draw_reconstructions(run, means, title):
    """The same test images in every epoch, above their reconstructions from the posterior mean."""
    data, settings = run.data, run.settings
    chosen = picture_rows(data, 40)
    originals = pixels.chosen_pixels(data.test, settings, chosen)
    below = run.average.pixel_means(means[chosen]).numpy()
    columns = min(10, len(chosen))
    grid = pictures.interleave(originals, below, columns)
    caption = f"{title}: test images above their reconstructions"
    pictures.save_grid(run.folder / "reconstructions.png", grid, columns, caption, ("original", "reconstruction"))


def picture_rows(data, count):
    """`count` evenly spaced test images; where the set knows who wears glasses, half of the images are such people.

    Rare attributes are what a VAE drops first, so the picture has to show them.
    """
    spread = np.linspace(0, len(data.test) - 1, min(count, len(data.test))).astype(int)
    if "Eyeglasses" not in data.attributes:
        return spread
    anyone = spread[::2]
    wearers = np.setdiff1d(np.flatnonzero(data.test_labels[:, data.attributes.index("Eyeglasses")]), anyone)
    return np.concatenate([anyone, wearers[: count - len(anyone)]])
