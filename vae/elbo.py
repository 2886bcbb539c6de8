"""The variational autoencoder: its densities, its KL divergence and its ELBO.

Losses are nats per image: summed over pixels and latent units. Pixels are float32 in [0, 1], images (B, H, W, C).
Sources: Kingma & Welling 2014 (VAE, arXiv:1312.6114), Rybkin et al. 2021 (calibrated decoder, arXiv:2006.13202).
"""

import math
from dataclasses import dataclass, replace

import keras
import tensorflow as tf

from vae.xla import fused

SIGMA_FLOOR = 1 / 510  # half a grey level: below it, the density of 8-bit pixels is meaningless and unbounded


def image_sums(pixels):
    """Sum over each image, (B, H, W, C) -> (B,), as a product with ones.

    A product uses all lanes of the processor; XLA on a CPU would add the numbers of a sum one by one.
    """
    num_pixels = math.prod(pixels.shape[1:])
    return tf.linalg.matvec(tf.reshape(pixels, (-1, num_pixels)), tf.ones(num_pixels))


@fused
def bernoulli_log_prob(x, logits):
    """log p(x) of Bernoulli pixels, nats, summed over each image, (B,).  x in [0, 1], logits: both (B, H, W, C).

    A grey level g stands for a pixel that is white with probability g: its term is the expected log-probability.

    Logits, because a probability clipped to 1 - 1e-8 is 1 in float32. The value is that of
    tf.nn.sigmoid_cross_entropy_with_logits with a plain logarithm, which is several times faster: what log1p adds, less
    than 1e-7 a pixel, is lost in the sum. The gradient is given: x - sigmoid(logits).
    """

    @tf.custom_gradient
    def log_prob(logits):
        magnitude = tf.abs(logits)
        # max(l, 0) - x l + log(1 + exp(-|l|)), where max(l, 0) = (l + |l|) / 2
        value = -image_sums(tf.math.log(1 + tf.exp(-magnitude)) + 0.5 * magnitude + (0.5 - x) * logits)
        return value, lambda upstream: tf.reshape(upstream, (-1, 1, 1, 1)) * (x - tf.sigmoid(logits))

    return log_prob(logits)


def gaussian_log_prob(x, mean, log_sigma):
    """log N(x; mean, sigma^2 I), nats, summed over each image, (B,); one sigma for all.  x, mean: (B, H, W, C)."""
    num_pixels = math.prod(x.shape[1:])
    squared_error = image_sums(tf.square(x - mean))
    return -0.5 * squared_error * tf.exp(-2 * log_sigma) - num_pixels * (log_sigma + 0.5 * math.log(2 * math.pi))


def reparameterize(mean, log_std, noise):
    """Sample z from q(z|x) with standard normal noise.  All (B, z)."""
    return mean + tf.exp(log_std) * noise


def kl_to_standard_normal(mean, log_std):
    """KL(N(mean, diag exp(2 log_std)) || N(0, I)) per unit, nats (Kingma & Welling 2014, appendix B).  (B, z)."""
    log_variance = 2 * log_std  # one use of log_std, so one gradient: TensorFlow sums three in a random order
    return 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1 - log_variance)


def bounded_log_sigma(log_sigma):
    """The log-sigma that the density uses: never below log(SIGMA_FLOOR).

    Below the floor, only gradients that increase sigma pass through. With none, as in tf.maximum, it would be stuck.
    """
    floor = math.log(SIGMA_FLOOR)

    @tf.custom_gradient
    def bounded(value):
        return tf.maximum(value, floor), lambda upstream: tf.where((value > floor) | (upstream < 0), upstream, 0.0)

    return bounded(tf.convert_to_tensor(log_sigma))


@dataclass(frozen=True)
class Vae:
    """A variational autoencoder: encoder, decoder and the standard deviation of Gaussian pixels.

    The encoder maps images (B, H, W, C) to (B, 2z), the decoder codes (B, z) to pixel parameters (B, H, W, C). A
    network with a second input gets the labels there, (B, L): then this is a conditional VAE. Networks run as they do
    at test time, so Dropout has no effect.

    Add new variables to `variables` so that they are trained, and to `state` so that --resume restores them.
    """

    encoder: keras.Model
    decoder: keras.Model
    log_sigma: tf.Variable  # scalar; Gaussian likelihood only
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
        """All variables of the model, those of the frozen linear path included."""
        return [*self.encoder.variables, *self.decoder.variables, self.log_sigma]

    @property
    def num_parameters(self):
        """How many numbers training adjusts."""
        return sum(math.prod(variable.shape) for variable in self.variables)

    @property
    def takes_labels(self):
        """Whether a network has a second input."""
        return any(len(network.inputs) > 1 for network in (self.encoder, self.decoder))

    def copy(self):
        """The same networks with variables of their own."""
        encoder, decoder = map(keras.models.clone_model, (self.encoder, self.decoder))
        encoder.set_weights(self.encoder.get_weights())
        decoder.set_weights(self.decoder.get_weights())
        log_sigma = tf.Variable(self.log_sigma, name="average_log_sigma")
        return replace(self, encoder=encoder, decoder=decoder, log_sigma=log_sigma)

    def posterior(self, x, labels=None):
        """Mean and log-std of q(z|x), each (B, z).  x: (B, H, W, C), labels: (B, L)."""
        return tf.split(apply(self.encoder, x, labels), 2, axis=-1)

    def log_prob(self, x, z, labels=None):
        """log p(x|z) per image, nats, (B,).  x: (B, H, W, C), z: (B, z), labels: (B, L)."""
        parameters = apply(self.decoder, z, labels)
        if self.likelihood == "bernoulli":
            return bernoulli_log_prob(x, parameters)
        return gaussian_log_prob(x, parameters, bounded_log_sigma(self.log_sigma))

    def pixel_means(self, z, labels=None):
        """Decoded images (B, H, W, C): E[x|z], clipped to [0, 1].  z: (B, z), labels: (B, L)."""
        parameters = apply(self.decoder, z, labels)
        return tf.sigmoid(parameters) if self.likelihood == "bernoulli" else tf.clip_by_value(parameters, 0, 1)

    def elbo_terms(self, x, noise, labels=None):
        """Reconstruction and KL terms, each (B,), nats: -ELBO = recon + kl, from one sample of z.  noise: (B, z).

        Kingma & Welling 2014, equation 10.
        """
        mean, log_std = self.posterior(x, labels)
        recon = -self.log_prob(x, reparameterize(mean, log_std, noise), labels)
        return recon, tf.reduce_sum(kl_to_standard_normal(mean, log_std), axis=-1)


def apply(network, inputs, labels):
    """The output of a network, which gets the labels as its second input if it has one."""
    if len(network.inputs) == 1:
        return network(inputs)
    return network([tf.convert_to_tensor(inputs), tf.convert_to_tensor(labels)])
