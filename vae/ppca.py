"""Probabilistic PCA, the best linear VAE, in closed form: where runs with Gaussian pixels start.

Tipping & Bishop 1999 (probabilistic PCA), Lucas et al. 2019 (pPCA as a linear VAE, arXiv:1911.02469). Images are uint8
(N, H, W, C); the model's pixels are float32 in [0, 1].
"""

import math
from dataclasses import dataclass

import numpy as np

from vae.elbo import SIGMA_FLOOR
from vae.terminal import progress

NARROWEST = 0.99  # share of the bound of a posterior's log-std: at the bound itself the weights would be infinite


@dataclass(frozen=True)
class Ppca:
    """A linear VAE at its optimum: mean = x encode + encode_bias, log-std, pixels = z decode + decode_bias, sigma."""

    encode: np.ndarray  # (D, z)
    encode_bias: np.ndarray  # (z,)
    log_std: np.ndarray  # (z,)
    decode: np.ndarray  # (z, D)
    decode_bias: np.ndarray  # (D,)
    sigma: float


def principal_components(images, count, seed, mirror=False, iterations=4):
    """Mean (D,), leading eigenvectors (D, count) and eigenvalues (count,) of the covariance, and its trace.

    Randomised subspace iteration (Halko et al. 2011, algorithm 4.4). It reads the uint8 images (N, H, W, C) in blocks,
    so a memory-mapped set never has to fit in memory. With `mirror`, of the images and their mirror images together.
    """
    blocks = [slice(start, start + 1000) for start in range(0, len(images), 1000)]
    total = len(images) * (2 if mirror else 1)

    def block(rows):
        x = images[rows]
        x = np.concatenate([x, x[:, :, ::-1]]) if mirror else x
        return x.reshape(len(x), -1).astype(np.float32) / 255

    size = int(np.prod(images.shape[1:]))
    mean = sum(block(rows).sum(0, dtype=np.float64) for rows in blocks) / total
    mean32 = mean.astype(np.float32)
    trace = sum(np.square(block(rows) - mean32).sum(dtype=np.float64) for rows in blocks) / total
    product = np.random.default_rng(seed).standard_normal((size, min(count + 16, size))).astype(np.float32)
    for _ in progress(range(iterations), iterations):
        basis, _ = np.linalg.qr(product)
        centred = (block(rows) - mean32 for rows in blocks)
        product = sum(x.T @ (x @ basis) for x in centred) / total
    values, rotation = np.linalg.eigh((basis.T @ product).astype(np.float64))
    largest = np.argsort(values)[::-1][:count]
    return mean, basis @ rotation[:, largest], np.maximum(values[largest], 0), trace


def fit_ppca(images, z, seed=0, mirror=False, limit=50_000, iterations=4):
    """Fit pPCA with z units to uint8 images (N, H, W, C) by maximum likelihood; returns Ppca.

    Tipping & Bishop 1999, equations 7 and 8. The posterior is diagonal in this basis, so the VAE starts with a tight
    bound. Directions without variance get weight 0 (posterior = prior).

    Of sets at least twice as large as `limit`, every second, third ... image is used. With `mirror`, the mirror images
    count too, as in training. Shifted images do not: test images are not shifted.
    """
    images = images[:: max(1, len(images) // limit)]
    mean, vectors, values, trace = principal_components(images, z, seed, mirror, iterations)
    variance = max((trace - values.sum()) / max(1, len(mean) - len(values)), SIGMA_FLOOR**2)
    gain = np.zeros(z)
    posterior_variance = np.ones(z)
    gain[: len(values)] = np.sqrt(np.maximum(values - variance, 0))
    posterior_variance[: len(values)] = variance / np.maximum(values, variance)
    decode = np.zeros((z, len(mean)))
    decode[: len(values)] = vectors.T * gain[: len(values), None]
    encode = decode.T / variance * posterior_variance
    return Ppca(encode, -mean @ encode, np.log(posterior_variance) / 2, decode, mean, math.sqrt(variance))


def start_at_ppca(encoder, decoder, ppca, log_std_bound):
    """Set the linear path to pPCA: layers linear_mean and log_std of the encoder, linear_pixels of the decoder.

    The networks beside the path start at 0, so the VAE starts as exactly this linear VAE. The path is then frozen:
    Adam's steps are equally long for every weight, add up over thousands of pixels and would wreck it at once.

    With fewer images than z, posteriors can be narrower than the encoder's bound; they start next to it.
    """
    for layer in (encoder.get_layer("linear_mean"), decoder.get_layer("linear_pixels")):
        layer.trainable = False
    encoder.get_layer("linear_mean").set_weights([ppca.encode, ppca.encode_bias])
    inside = np.maximum(ppca.log_std / log_std_bound, -NARROWEST)
    unbounded = log_std_bound * np.arctanh(inside)
    log_std = encoder.get_layer("log_std")
    log_std.set_weights([np.zeros(log_std.kernel.shape), unbounded])
    decoder.get_layer("linear_pixels").set_weights([ppca.decode, ppca.decode_bias])
