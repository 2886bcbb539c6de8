"""The likelihood of held-out images: bounds for a VAE, exact values for probabilistic PCA.

Losses are nats per image, images float32 in [0, 1], (B, H, W, C), unless they are called uint8. Sources: Burda et al.
2016 (importance-weighted bound, arXiv:1509.00519), Theis et al. 2016 (dequantisation, arXiv:1511.01844), Tipping &
Bishop 1999 (probabilistic PCA).
"""

import math

import numpy as np
import tensorflow as tf

from vae import elbo, pixels
from vae.xla import xla_works

STEPS = 10  # importance samples in one compiled call
GREY_LEVELS = 255  # steps between black and white of an 8-bit pixel


def build_importance_call(vae, seed, xla):
    """The compiled importance-weighted bound: adds `steps` samples per image to a running sum of weights.

    importance_call(x, labels, mean, log_std, largest, scaled_sum, first, steps) -> (largest, scaled_sum), each (B,):
    the sum of the weights w = p(x, z) / q(z|x) so far is scaled_sum * exp(largest). One number would not do: float32
    rounds most of 5,000 weights away when they are added to the logarithm of their sum. Memory does not grow with the
    number of samples.
    """

    @tf.function(jit_compile=xla and xla_works())  # with AutoGraph, for a loop over any number of samples
    def add_samples(x, labels, mean, log_std, largest, scaled_sum, noise):
        for one in noise:
            z = elbo.reparameterize(mean, log_std, one)
            log_ratio = 0.5 * (tf.square(one) - tf.square(z)) + log_std  # log p(z) - log q(z|x) per unit
            log_weight = vae.log_prob(x, z, labels) + tf.reduce_sum(log_ratio, axis=-1)
            highest = tf.maximum(largest, log_weight)
            scaled_sum = scaled_sum * tf.exp(largest - highest) + tf.exp(log_weight - highest)
            largest = highest
        return largest, scaled_sum

    @tf.function(autograph=False)
    def importance_call(x, labels, mean, log_std, largest, scaled_sum, first, steps):
        noise = pixels.draw_noise(seed, pixels.IMPORTANCE, first, steps, tf.shape(mean))
        return add_samples(x, labels, mean, log_std, largest, scaled_sum, noise)

    return importance_call


def importance_weighted_nll(importance_call, x, labels, codes, samples, first, steps, advance=lambda: None):
    """-log of the mean of `samples` importance weights per image, nats, (B,).

    Its expectation is an upper bound of -log p(x), tighter with more samples (Burda et al. 2016, equation 8). With one
    sample, it is minus the ELBO with a sampled KL.

    x: (B, H, W, C); labels: (B, L); codes: mean and log-std of q(z|x), each (B, z). first: number of the first noise.
    advance(): called after every `steps` samples.
    """
    largest, scaled_sum = tf.fill([len(x)], tf.float32.min), tf.zeros(len(x))
    for done in range(0, samples, steps):
        count, begin = tf.constant(min(steps, samples - done)), tf.constant(first + done, tf.int64)
        largest, scaled_sum = importance_call(x, labels, *codes, largest, scaled_sum, begin, count)
        advance()
    return math.log(samples) - np.log(scaled_sum.numpy().astype(np.float64)) - largest.numpy()


def dequantise(images, seed, batch):
    """uint8 images as real numbers, each uniform over the values that round to its grey level.  (B, H, W, C).

    The density of such numbers bounds the probability of the 8-bit image from below (Theis et al. 2016, section 3.1).
    """
    noise = tf.random.stateless_uniform(tf.shape(images), pixels.random_key(seed, pixels.DEQUANTISE, batch), -0.5, 0.5)
    return (tf.cast(images, tf.float32) + noise) / GREY_LEVELS


def build_dequantised_call(vae, seed, xla):
    """The compiled bound for bits per dimension: minus the ELBO of dequantised images, nats, (B,).

    dequantised_call(images, labels, noisy, batch): noisy are the dequantised uint8 images. The encoder sees the images
    without that noise, as in training: the bound holds for any q.
    """

    @tf.function(autograph=False, jit_compile=xla and xla_works())
    def dequantised_call(images, labels, noisy, batch):
        mean, log_std = vae.posterior(pixels.to_pixels(images), labels)
        noise = tf.random.stateless_normal(tf.shape(mean), pixels.random_key(seed, pixels.EVALUATE, batch))
        recon = -vae.log_prob(noisy, elbo.reparameterize(mean, log_std, noise), labels)
        return recon + tf.reduce_sum(elbo.kl_to_standard_normal(mean, log_std), axis=-1)

    return dequantised_call


def ppca_nll(ppca, x):
    """-log N(x; mu, W W^T + sigma^2 I), nats, (B,): Tipping & Bishop 1999, equation 4, by Woodbury's identity.

    x: (B, D); ppca: a Ppca, whose `decode` (z, D) is the transpose of W.
    """
    variance, (rank, size) = ppca.sigma**2, ppca.decode.shape
    centred = x - ppca.decode_bias
    inner = ppca.decode @ ppca.decode.T + variance * np.eye(rank)  # (z, z)
    projected = centred @ ppca.decode.T  # (B, z)
    explained = np.sum(projected * np.linalg.solve(inner, projected.T).T, axis=-1)
    distance = (np.sum(np.square(centred), axis=-1) - explained) / variance
    log_determinant = (size - rank) * math.log(variance) + np.linalg.slogdet(inner)[1]
    return 0.5 * (size * math.log(2 * math.pi) + log_determinant + distance)


def bits_per_dim(nats, dimensions):
    """Bits per dimension of an 8-bit image whose dequantised version in [0, 1] has a density of -`nats`."""
    return (nats / dimensions + math.log(GREY_LEVELS)) / math.log(2)
