"""What happens to one batch, compiled: a training step with its gradients and updates, and its evaluation."""

import math

import keras
import numpy as np
import tensorflow as tf

from vae import pixels
from vae.distributed import share_of_batch
from vae.pixels import EVALUATE, MIRROR, NOISE, SHIFT, random_key
from vae.terminal import progress
from vae.xla import xla_works

GPUS = tf.config.list_physical_devices("GPU")


# Training -----------------------------------------------------------------------------------------------------


def build_optimizer(variables, steps_per_epoch, learning_rate, warmup_steps, decay_per_epoch, falls_after=None):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with a learning rate that rises, stays and may fall.

    The rate rises linearly over `warmup_steps`. After step `falls_after`, it falls as 1 / sqrt(step) (as in Karras et
    al. 2024, arXiv:2312.02696). Unlike a rate that ends at 0, this needs no known end of the run, which can
    therefore be made longer.

    Weight decay applies to matrices and filters; biases keep what probabilistic PCA has set. It is given per epoch at
    the full rate, because the same memory in epochs suits small and large data sets (Wang & Aitchison 2024,
    arXiv:2405.13698).
    """
    rate = learning_rate
    if warmup_steps:  # Keras' "decay" from 0 up to the rate
        rate = keras.optimizers.schedules.PolynomialDecay(0.0, warmup_steps, learning_rate)
    if falls_after:
        rate = FallingRate(rate, falls_after)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay_per_epoch / (steps_per_epoch * learning_rate))
    no_decay = [variable for variable in variables if len(variable.shape) < 2 or "log_sigma" in variable.name]
    optimizer.exclude_from_weight_decay(no_decay)
    optimizer.build(variables)
    return optimizer


class FallingRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate, a number or a schedule, that falls as 1 / sqrt(step) after some steps."""

    def __init__(self, rate, after):
        self.rate, self.after = rate, after

    def __call__(self, step):
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * tf.minimum(1.0, tf.sqrt(self.after / tf.maximum(tf.cast(step, tf.float32), 1.0)))


def clip_gradients(gradients, limit):
    """Scale gradients down together to a global norm of at most `limit`; NaN where the norm is not finite.

    The same as tf.clip_by_global_norm, whose sum of squares takes a tenth of a dense network's step, because XLA on a
    CPU adds the squares one by one. A product with a vector of ones uses all lanes of the processor.
    """
    squares = [tf.reshape(tf.square(g), (-1, g.shape[-1] if len(g.shape) > 1 else 1)) for g in gradients]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.linalg.matvec(s, tf.ones(s.shape[-1]))) for s in squares]))
    scale = tf.where(tf.math.is_finite(norm), limit / tf.maximum(norm, limit), math.nan)
    return [gradient * scale for gradient in gradients]


def averaging_weight(power, steps_done, steps_since_update):
    """Weight of the newest weights when the average is updated.

    A power-law moving average: step t has weight t^power (Karras et al. 2024, arXiv:2312.02696, section 3.1), to first
    order in steps_since_update / steps_done. So it always covers the same share of the run so far, about the last
    1 / (power + 1).
    """
    return min(1.0, (power + 1) * steps_since_update / steps_done)


def kl_weight(beta, warmup_epochs, epochs_done):
    """Weight of the KL term, which rises linearly from 0 to `beta` over the first epochs.

    While the decoder knows nothing, units cannot pay for their KL; with a small weight they stay until they can
    (Sønderby et al. 2016, arXiv:1602.02282). Counted in epochs, not in shares of the run, so that a run can be
    continued.
    """
    return beta * min(1.0, epochs_done / warmup_epochs) if warmup_epochs else beta


def networks_under_xla(settings):
    """Whether XLA compiles the networks' training. In bfloat16 on a CPU it would compute in float32."""
    return settings.xla and xla_works() and (settings.precision == "fp32" or bool(GPUS))


def build_gradient_call(vae, batch_loss, settings):
    """The compiled gradients of a batch: gradient_call(images, labels, noise, step, beta, share) -> terms, gradients.

    images: uint8 (B, H, W, C); labels: (B, L); noise: (B, z). share: for one of several devices, the indices of its
    images in the batch and their weights in the mean; None: the whole batch. The random numbers are always those of
    the whole batch.
    """

    @tf.function(autograph=False, jit_compile=networks_under_xla(settings))
    def gradient_call(images, labels, noise, step, beta, share=None):
        if settings.shift:
            images = pixels.shifted(images, settings.shift, random_key(settings.seed, SHIFT, step))
        x = pixels.to_pixels(images)
        if settings.mirror:
            x = pixels.mirrored(x, random_key(settings.seed, MIRROR, step))
        image_weights = None
        if share:
            indices, image_weights = share
            x, labels, noise = (tf.gather(whole, indices) for whole in (x, labels, noise))
        with tf.GradientTape() as tape:
            loss, terms = batch_loss(vae, x, labels, noise, beta, image_weights)
        return terms, tape.gradient(loss, vae.variables)

    return gradient_call


def build_updates(vae, averaged, optimizer, gradient_clip):
    """The compiled updates of the weights, update(gradients), and of their average, update_average(weight).

    Always under XLA on one device: it makes one pass over the weights of all the operations of an update.
    """
    compiled = not tf.distribute.has_strategy() and xla_works()

    @tf.function(autograph=False, jit_compile=compiled)
    def update(gradients):
        optimizer.apply(clip_gradients(gradients, gradient_clip), vae.variables)

    @tf.function(autograph=False, jit_compile=compiled)
    def update_average(weight):
        for mean, variable in zip(averaged.variables, vae.variables, strict=True):
            mean.assign_add(weight * (variable - mean))

    return update, update_average


def build_train_step(vae, optimizer, update, batch_loss, settings):
    """A step on one device, or on all of them: train_step(images, labels, noise, step, beta) -> terms (2,)."""
    strategy, gradient_call = tf.distribute.get_strategy(), build_gradient_call(vae, batch_loss, settings)

    def one_device_step(*arguments):
        terms, gradients = gradient_call(*arguments)
        update(gradients)
        return terms

    def replica_step(*arguments):
        context = tf.distribute.get_replica_context()
        terms, gradients = gradient_call(*arguments, share_of_batch(settings.batch_size, context))
        terms, *gradients = context.all_reduce("sum", [terms, *gradients])
        gradients = clip_gradients(gradients, settings.gradient_clip)
        # Keras sums gradients over the replicas once more, so all replicas but one pass zeros
        first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        optimizer.apply([first * gradient for gradient in gradients], vae.variables)
        return terms

    def all_devices_step(*arguments):
        return strategy.experimental_local_results(strategy.run(replica_step, arguments))[0]

    return all_devices_step if tf.distribute.has_strategy() else one_device_step


def build_train_call(vae, averaged, optimizer, batch_loss, settings):
    """The compiled training function: several steps a call, then one update of the averaged weights.

    train_call(batches, labels, num_steps, first_step, betas, averaging_weight) -> terms (steps_per_call, 2):
    reconstruction and KL, nats per image. batches: uint8 (steps_per_call, B, H, W, C), labels: (steps_per_call, B, L),
    betas: (steps_per_call,), the weight of the KL in each step. Only the first `num_steps` batches are trained on; the
    terms of the others are 0.
    """
    update, update_average = build_updates(vae, averaged, optimizer, settings.gradient_clip)
    train_step = build_train_step(vae, optimizer, update, batch_loss, settings)

    @tf.function(autograph=False, jit_compile=networks_under_xla(settings) and not tf.distribute.has_strategy())
    def train_steps(batches, labels, noise, num_steps, first_step, betas, averaging_weight):
        numbers = tf.range(settings.steps_per_call)[:, None]

        def body(k, terms):
            step_terms = train_step(batches[k], labels[k], noise[k], first_step + tf.cast(k, tf.int64), betas[k])
            return k + 1, tf.where(numbers == k, step_terms, terms)

        # Not a loop over tf.range(num_steps), which XLA compiles again for every number of steps
        _, terms = tf.while_loop(lambda k, _: k < num_steps, body, (0, tf.zeros((settings.steps_per_call, 2))))
        update_average(averaging_weight)
        return terms

    @tf.function(autograph=False)
    def train_call(batches, labels, num_steps, first_step, betas, averaging_weight):
        shape = settings.batch_size, settings.z
        noise = pixels.draw_noise(settings.seed, NOISE, first_step, settings.steps_per_call, shape)
        return train_steps(batches, labels, noise, num_steps, first_step, betas, averaging_weight)

    return train_call


# Evaluation ------------------------------------------------------------------------------------------------------


def build_evaluate_call(vae, seed, xla):
    """The compiled evaluation of a batch: evaluate_call(x, labels, batch) -> recon, kl, mse, mean, log-std.

    The first three are (B,); mean and log-std of q(z|x) are (B, z). The noise is the same in every epoch. mse is the
    mean squared error of the reconstruction from the posterior mean.
    """

    @tf.function(autograph=False, jit_compile=xla and xla_works())
    def evaluate_call(x, labels, batch):
        mean, log_std = vae.posterior(x, labels)
        noise = tf.random.stateless_normal(tf.shape(mean), random_key(seed, EVALUATE, batch))
        recon, kl = vae.elbo_terms(x, noise, labels)
        mse = tf.reduce_mean(tf.square(vae.pixel_means(mean, labels) - x), axis=[1, 2, 3])
        return recon, kl, mse, mean, log_std

    return evaluate_call


def evaluate_images(evaluate_call, images, labels, binarize, seed):
    """`evaluate_call` over uint8 images (N, H, W, C) and labels (N, L): its five results, each of N rows."""
    batches = range(len(pixels.rows_of(len(images))))
    parts = []
    for batch in progress(batches, len(batches)):
        x = pixels.evaluation_pixels(images, binarize, seed, batch)
        batch_labels = tf.constant(labels[pixels.evaluation_rows(len(images), batch)])
        parts.append([part.numpy() for part in evaluate_call(x, batch_labels, tf.constant(batch, tf.int64))])
    return [np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True)]
