"""The variational autoencoder itself: densities, KL and ELBO, with the model that they are of.

Losses are nats per image: summed over pixels and latent units. Pixels are float32 in [0, 1], images (B, H, W, C).
Sources: Kingma & Welling 2014 (VAE, arXiv:1312.6114), Rybkin et al. 2021 (calibrated decoder, arXiv:2006.13202).
"""

import functools
import math
from dataclasses import dataclass

from linear_start import SIGMA_FLOOR

# isort: split
import keras
import tensorflow as tf


def compiled(xla=False):
    """tf.function without AutoGraph, which takes half a second of every start and is for loops over tensors only."""
    return functools.partial(tf.function, autograph=False, jit_compile=xla)


def image_sums(pixels):
    """Sums over each image, (B, H, W, C) -> (B,): products with ones, which use all lanes of the processor.

    XLA on a CPU forms other sums one number after the other.
    """
    size = math.prod(pixels.shape[1:])
    return tf.linalg.matvec(tf.reshape(pixels, (-1, size)), tf.ones(size))


@compiled(xla=True)  # one pass over memory, also between layers that are not compiled
def bernoulli_log_prob(x, logits):
    """log p(x) of Bernoulli pixels, nats, summed over each image; x in [0, 1].

    A grey level g counts as white with probability g: its term is the expected log-probability of such a pixel.

    From logits, because clipping a probability to 1 - 1e-8 is no clipping in float32.  x, logits: (B, H, W, C).
    As tf.nn.sigmoid_cross_entropy_with_logits, but the logarithm is a plain one, which is several times faster: of what
    log1p adds, below 1e-7 a pixel, nothing remains in the sum. The gradient is the known one, a single term.
    """

    @tf.custom_gradient
    def log_prob(logits):
        size = tf.abs(logits)
        # max(l, 0) - x l + log(1 + exp(-|l|)), where max(l, 0) = (l + |l|) / 2
        value = -image_sums(tf.math.log(1 + tf.exp(-size)) + 0.5 * size + (0.5 - x) * logits)
        return value, lambda upstream: tf.reshape(upstream, (-1, 1, 1, 1)) * (x - tf.sigmoid(logits))

    return log_prob(logits)


def gaussian_log_prob(x, mean, log_sigma):
    """log N(x; mean, sigma^2 I), nats, summed over each image; one sigma for all pixels.  x, mean: (B, H, W, C)."""
    size = math.prod(x.shape[1:])
    squared_error = image_sums(tf.square(x - mean))
    return -0.5 * squared_error * tf.exp(-2 * log_sigma) - size * (log_sigma + 0.5 * math.log(2 * math.pi))


def draw(mean, log_std, noise):
    """z of q(z|x) from standard normal noise: the reparametrised sample.  All (B, z)."""
    return mean + tf.exp(log_std) * noise


def kl_to_standard_normal(mean, log_std):
    """KL(N(mean, diag exp(2 log_std)) || N(0, I)) per unit, nats (Kingma & Welling 2014, appendix B).  (B, z)."""
    log_variance = 2 * log_std  # no tensor gets three gradients: TensorFlow adds three in an order left to chance
    return 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1 - log_variance)


def bounded_log_sigma(log_sigma):
    """The log-sigma as used: never below log(SIGMA_FLOOR).

    Below it, only gradients that lead up count: with none, as tf.maximum has it, sigma could never leave its floor.
    """
    floor = math.log(SIGMA_FLOOR)

    @tf.custom_gradient
    def bounded(value):
        return tf.maximum(value, floor), lambda upstream: tf.where((value > floor) | (upstream < 0), upstream, 0.0)

    return bounded(tf.convert_to_tensor(log_sigma))


@dataclass(frozen=True)
class Vae:
    """Encoder (B, H, W, C) -> (B, 2z), decoder (B, z) -> (B, H, W, C) pixel parameters, scalar log sigma.

    A further variable belongs into `variables`, or it is not trained; into `state`, or --resume forgets it; and into
    utils.copy_vae and evaluate.load_run.
    """

    encoder: keras.Model
    decoder: keras.Model
    log_sigma: tf.Variable  # Gaussian likelihood only
    likelihood: str  # "bernoulli" or "gaussian"

    @property
    def sigma(self):
        """Standard deviation of Gaussian pixels."""
        return tf.exp(bounded_log_sigma(self.log_sigma))

    @property
    def variables(self):
        """What training adjusts."""
        sigma = [self.log_sigma] if self.likelihood == "gaussian" else []
        return [*self.encoder.trainable_variables, *self.decoder.trainable_variables, *sigma]

    @property
    def state(self):
        """All that the model is made of, the frozen linear path too."""
        return [*self.encoder.variables, *self.decoder.variables, self.log_sigma]

    def posterior(self, x):
        """Mean and log-std of q(z|x), each (B, z)."""
        return tf.split(self.encoder(x), 2, axis=-1)

    def log_prob(self, x, z):
        """log p(x|z) per image, nats.  x: (B, H, W, C), z: (B, z)."""
        pixels = self.decoder(z)
        if self.likelihood == "bernoulli":
            return bernoulli_log_prob(x, pixels)
        return gaussian_log_prob(x, pixels, bounded_log_sigma(self.log_sigma))

    def pixel_means(self, z):
        """Decoded images (B, H, W, C), E[x|z] clipped to [0, 1].  z: (B, z)."""
        pixels = self.decoder(z)
        return tf.sigmoid(pixels) if self.likelihood == "bernoulli" else tf.clip_by_value(pixels, 0, 1)

    def elbo_terms(self, x, noise):
        """Reconstruction and KL terms, each (B,), nats: -ELBO = recon + kl, one sample of z.  noise: (B, z)."""
        mean, log_std = self.posterior(x)
        recon = -self.log_prob(x, draw(mean, log_std, noise))
        return recon, tf.reduce_sum(kl_to_standard_normal(mean, log_std), axis=-1)
