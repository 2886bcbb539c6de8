"""The variational autoencoder itself: densities, KL and ELBO, with the model that they are of.

Losses are nats per image: summed over pixels and latent units. Pixels are float32 in [0, 1], images (B, H, W, C).
Sources: Kingma & Welling 2014 (VAE, arXiv:1312.6114), Rybkin et al. 2021 (calibrated decoder, arXiv:2006.13202).
"""

import math
from dataclasses import dataclass, replace

import keras
import tensorflow as tf

SIGMA_FLOOR = 1 / 510  # half a grey level: below it a density of 8-bit pixels means nothing and grows without bound


def image_sums(pixels):
    """Sums over each image, (B, H, W, C) -> (B,): products with ones, which use all lanes of the processor.

    XLA on a CPU forms other sums one number after the other.
    """
    size = math.prod(pixels.shape[1:])
    return tf.linalg.matvec(tf.reshape(pixels, (-1, size)), tf.ones(size))


@tf.function(autograph=False, jit_compile=True)  # one pass over memory, also between layers that are not compiled
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
    """A variational autoencoder: encoder, decoder and the standard deviation of Gaussian pixels.

    The encoder maps images (B, H, W, C) to (B, 2z), the decoder codes (B, z) to pixel parameters (B, H, W, C). A
    network with a second input gets the labels there, (B, L): then this is a conditional VAE.

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
        pixels = apply(self.decoder, z, labels)
        if self.likelihood == "bernoulli":
            return bernoulli_log_prob(x, pixels)
        return gaussian_log_prob(x, pixels, bounded_log_sigma(self.log_sigma))

    def pixel_means(self, z, labels=None):
        """Decoded images (B, H, W, C): E[x|z], clipped to [0, 1].  z: (B, z), labels: (B, L)."""
        pixels = apply(self.decoder, z, labels)
        return tf.sigmoid(pixels) if self.likelihood == "bernoulli" else tf.clip_by_value(pixels, 0, 1)

    def elbo_terms(self, x, noise, labels=None):
        """Reconstruction and KL terms, each (B,), nats: -ELBO = recon + kl, from one sample of z.  noise: (B, z).

        Kingma & Welling 2014, equation 10.
        """
        mean, log_std = self.posterior(x, labels)
        recon = -self.log_prob(x, draw(mean, log_std, noise), labels)
        return recon, tf.reduce_sum(kl_to_standard_normal(mean, log_std), axis=-1)


def apply(network, inputs, labels):
    """The output of a network, which gets the labels as its second input if it has one."""
    if len(network.inputs) == 1:
        return network(inputs)
    return network([tf.convert_to_tensor(inputs), tf.convert_to_tensor(labels)])  # Keras takes no mix with arrays
