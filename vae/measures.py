"""Held-out measures: likelihood bounds | probabilistic PCA, exactly | distances between sets of features | recall.

Functions of arrays and models, without files or pictures. Losses are nats per image, images float32 in [0, 1],
(B, H, W, C); distances and statistics are float64. Sources: Burda et al. 2016 (importance-weighted bound,
arXiv:1509.00519), Theis et al. 2016 (dequantisation, arXiv:1511.01844), Tipping & Bishop 1999 (probabilistic PCA),
Dowson & Landau 1982 and Heusel et al. 2017 (Frechet distance of Gaussians, arXiv:1706.08500), Meehan et al. 2020
(test of data copying, arXiv:2004.05675), Ghosh et al. 2020 (mixture fitted to codes, arXiv:1903.12436).
"""

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from vae import elbo, pixels
from vae.terminal import progress

ACTIVE_VARIANCE = 0.01  # a unit is active if Var over x of E[z|x] is above this (Burda et al. 2016, section 5.2)
GREY_LEVELS = 255  # steps between black and white of an 8-bit pixel
DISTANCES = 4_000_000  # of a distance matrix held at once

# ---------------------------------------------------------------------------------------------------------------
# Codes and pixels
# ---------------------------------------------------------------------------------------------------------------


def active_units(means):
    """How many latent units are active. means: posterior means (N, z)."""
    return int(np.sum(means.var(axis=0) > ACTIVE_VARIANCE))


def psnr(squared_error):
    """Peak signal-to-noise ratio, dB, of mean squared errors of pixels in [0, 1]; at most 100 dB, an exact copy."""
    return -10 * np.log10(np.maximum(squared_error, 1e-10))


# ---------------------------------------------------------------------------------------------------------------
# Likelihood bounds
# ---------------------------------------------------------------------------------------------------------------


def build_importance_call(vae, settings):
    """The compiled importance-weighted bound: adds `steps` samples per image to a running sum of weights.

    importance_call(x, mean, log_std, largest, scaled_sum, first, steps) -> (largest, scaled_sum), each (B,): the sum
    of the weights w = p(x, z) / q(z|x) so far is scaled_sum * exp(largest). Kept as two numbers, because adding
    5,000 weights to the logarithm of their sum would lose most of them to float32's rounding. Memory does not grow
    with the number of samples.
    """

    @tf.function(jit_compile=settings.xla)  # with AutoGraph: a loop over as many samples as come
    def add_samples(x, mean, log_std, largest, scaled_sum, noise):
        for one in noise:
            z = elbo.draw(mean, log_std, one)
            log_ratio = 0.5 * (tf.square(one) - tf.square(z)) + log_std  # log p(z) - log q(z|x) per unit
            log_weight = vae.log_prob(x, z) + tf.reduce_sum(log_ratio, axis=-1)
            highest = tf.maximum(largest, log_weight)
            scaled_sum = scaled_sum * tf.exp(largest - highest) + tf.exp(log_weight - highest)
            largest = highest
        return largest, scaled_sum

    @tf.function(autograph=False)
    def importance_call(x, mean, log_std, largest, scaled_sum, first, steps):
        noise = pixels.draw_noise(settings.seed, pixels.IMPORTANCE, first, steps, tf.shape(mean))
        return add_samples(x, mean, log_std, largest, scaled_sum, noise)

    return importance_call


def importance_weighted_nll(importance_call, x, codes, samples, first, steps, tick=lambda: None):
    """-log of the mean of `samples` importance weights per image, nats, (B,).

    In expectation an upper bound of -log p(x), the tighter, the more samples (Burda et al. 2016, equation 8); with one,
    minus the ELBO with the KL as sampled.  x: (B, H, W, C); codes: mean and log-std of q(z|x), each (B, z); `first`:
    number of the first noise; tick(): called after every `steps` samples.
    """
    largest, scaled_sum = tf.fill([len(x)], tf.float32.min), tf.zeros(len(x))
    for done in range(0, samples, steps):
        count, begin = tf.constant(min(steps, samples - done)), tf.constant(first + done, tf.int64)
        largest, scaled_sum = importance_call(x, *codes, largest, scaled_sum, begin, count)
        tick()
    return math.log(samples) - np.log(scaled_sum.numpy().astype(np.float64)) - largest.numpy()


def dequantise(images, seed, batch):
    """uint8 images as real numbers, each uniform over the values that round to its grey level.  (B, H, W, C).

    A density of such numbers bounds the probability of the 8-bit image from below (Theis et al. 2016, section 3.1).
    """
    noise = tf.random.stateless_uniform(tf.shape(images), pixels.random_key(seed, pixels.DEQUANTISE, batch), -0.5, 0.5)
    return (tf.cast(images, tf.float32) + noise) / GREY_LEVELS


def build_dequantised_call(vae, settings):
    """The compiled bound for bits per dimension: minus the ELBO of dequantised images, nats, (B,).

    dequantised_call(images, noisy, batch): the encoder sees the uint8 images without the noise of `noisy`, as in
    training: any q gives a bound.
    """

    @tf.function(autograph=False, jit_compile=settings.xla)
    def dequantised_call(images, noisy, batch):
        mean, log_std = vae.posterior(pixels.to_pixels(images))
        noise = tf.random.stateless_normal(tf.shape(mean), pixels.random_key(settings.seed, pixels.EVALUATE, batch))
        recon = -vae.log_prob(noisy, elbo.draw(mean, log_std, noise))
        return recon + tf.reduce_sum(elbo.kl_to_standard_normal(mean, log_std), axis=-1)

    return dequantised_call


def bits_per_dim(nats, dimensions):
    """Bits per dimension of an 8-bit image whose dequantised version in [0, 1] has a density of -`nats`."""
    return (nats / dimensions + math.log(GREY_LEVELS)) / math.log(2)


# ---------------------------------------------------------------------------------------------------------------
# Probabilistic PCA, exactly
# ---------------------------------------------------------------------------------------------------------------


def ppca_nll(ppca, x):
    """-log N(x; mu, W W^T + sigma^2 I), nats, (B,): Tipping & Bishop 1999, equation 4, by Woodbury's identity.

    x: (B, D), ppca: linear_start.Ppca with W (D, z) as its decode (z, D).
    """
    variance, (rank, size) = ppca.sigma**2, ppca.decode.shape
    centred = x - ppca.decode_bias
    inner = ppca.decode @ ppca.decode.T + variance * np.eye(rank)  # (z, z)
    projected = centred @ ppca.decode.T  # (B, z)
    explained = np.sum(projected * np.linalg.solve(inner, projected.T).T, axis=-1)
    distance = (np.sum(np.square(centred), axis=-1) - explained) / variance
    log_determinant = (size - rank) * math.log(variance) + np.linalg.slogdet(inner)[1]
    return 0.5 * (size * math.log(2 * math.pi) + log_determinant + distance)


def pca_reconstruction(ppca, x):
    """x (B, D) projected onto the principal components (not shrunk, as pPCA's posterior mean is), clipped to [0, 1]."""
    lengths = np.linalg.norm(ppca.decode, axis=1, keepdims=True)
    components = ppca.decode / np.where(lengths > 0, lengths, 1)  # (z, D), orthonormal rows
    centred = x - ppca.decode_bias
    return np.clip(ppca.decode_bias + centred @ components.T @ components, 0, 1)


# ---------------------------------------------------------------------------------------------------------------
# Where codes lie: a Gaussian mixture instead of N(0, I)
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """Gaussians with full covariances, in float64."""

    shares: np.ndarray  # (K,), together 1
    means: np.ndarray  # (K, z)
    factors: np.ndarray  # (K, z, z), lower Cholesky factors of the covariances

    def log_densities(self, codes):
        """log of each Gaussian's share of the density, nats.  Codes (N, z) -> (N, K)."""
        columns = []
        for share, mean, factor in zip(self.shares, self.means, self.factors, strict=True):
            scaled = (codes - mean) @ np.linalg.inv(factor).T
            constant = math.log(share) - np.log(np.diag(factor)).sum() - 0.5 * len(mean) * math.log(2 * math.pi)
            columns.append(constant - 0.5 * np.square(scaled).sum(axis=1))
        return np.stack(columns, axis=1)

    def draw(self, count, seed):
        """Codes (count, z)."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(self.shares), count, p=self.shares)
        codes = random.standard_normal((count, self.means.shape[1]))
        for number, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            codes[chosen == number] = mean + codes[chosen == number] @ factor.T
        return codes


def fit_mixture(codes, count, seed, steps=40):
    """A mixture of `count` Gaussians fitted to codes (N, z) by expectation-maximisation, from `count` codes as means.

    Sampling from it, not from N(0, I), is ex-post density estimation (Ghosh et al. 2020, section 4). Each Gaussian's
    mean counts one more code, where it started, and its covariance one that is spread around the mean as N(0, I) is, or
    for codes far out as wide as rounding asks for, so that none degenerates however few codes there are.
    """
    codes = np.asarray(codes, np.float64)
    count, size = min(count, len(codes)), codes.shape[1]
    starts = codes[np.random.default_rng(seed).choice(len(codes), count, replace=False)]
    belongs = np.eye(count)[nearest(codes, starts)[1]]  # (N, K)
    for _ in progress(range(steps), steps):
        weights = belongs.sum(axis=0) + 1
        means = (belongs.T @ codes + starts) / weights[:, None]
        factors = []
        for share, mean, weight in zip(belongs.T, means, weights, strict=True):
            centred = codes - mean
            scatter = centred.T @ (centred * share[:, None])
            spread = max(1, 1e-10 * np.trace(scatter))  # more than N(0, I) where rounding would lose that
            factors.append(np.linalg.cholesky((scatter + spread * np.eye(size)) / weight))
        mixture = Mixture(weights / weights.sum(), means, np.stack(factors))
        scores = mixture.log_densities(codes)
        belongs = np.exp(scores - scores.max(axis=1, keepdims=True))
        belongs /= belongs.sum(axis=1, keepdims=True)
    return mixture


# ---------------------------------------------------------------------------------------------------------------
# Distances between sets of features
# ---------------------------------------------------------------------------------------------------------------


def frechet_distance(one, other):
    """Frechet (2-Wasserstein) distance, squared, between Gaussians fitted to two sets of features (N, F), (M, F).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson & Landau 1982), the root from eigenvalues of the symmetric
    C1^(1/2) C2 C1^(1/2), which has the same ones.
    """
    mean1, covariance1 = feature_moments(one)
    mean2, covariance2 = feature_moments(other)
    values, vectors = np.linalg.eigh(covariance1)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance2 @ root), 0)).sum()
    return float(np.sum(np.square(mean1 - mean2)) + np.trace(covariance1) + np.trace(covariance2) - 2 * cross)


def feature_moments(features):
    """Mean (F,) and covariance (F, F) in float64."""
    features = np.asarray(features, np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def nearest(features, reference):
    """For each row of `features` (N, F), the distance to the nearest row of `reference` (M, F), and its number."""
    reference = np.asarray(reference, np.float64)
    squares = np.square(reference).sum(axis=1)
    size = max(1, DISTANCES // len(reference))
    starts = range(0, len(features), size)
    rows = []
    for start in progress(starts, len(starts)):
        distances = np.asarray(features[start : start + size], np.float64) @ reference.T
        distances *= -2
        distances += squares  # up to the square of the block's own features, which changes no order
        rows.append(np.argmin(distances, axis=1))
    rows = np.concatenate(rows)
    return np.linalg.norm(features - reference[rows], axis=1), rows


def copying_statistic(samples, held_out):
    """Are samples nearer to the training set than held-out images are?  Distances (N,), (M,) -> (C_T, share).

    C_T of Meehan et al. 2020, section 3, over one cell: the Mann-Whitney U of the two sets of distances as a z-score;
    near 0, samples are as new as held-out images; below -3, they are nearer to training images, as copies are, and as
    blurred images may be, whose features lie in the middle of all; above 3, farther off. `share`: the probability
    that a sample is nearer to the training set than a held-out image is (0.5: as new).
    """
    held_out = np.sort(held_out)
    below = np.searchsorted(held_out, samples, "left").sum(dtype=np.float64)
    equal = np.searchsorted(held_out, samples, "right").sum(dtype=np.float64) - below
    farther = below + equal / 2  # pairs in which the sample is the farther one: Mann-Whitney's U
    n, m = len(samples), len(held_out)
    spread = math.sqrt(n * m * (n + m + 1) / 12)
    return float((farther - n * m / 2) / spread), float(1 - farther / (n * m))


# ---------------------------------------------------------------------------------------------------------------
# Attributes
# ---------------------------------------------------------------------------------------------------------------


def recalls(predicted, labels):
    """Shares of the images with an attribute, and of those without, that are recognised as such: (presence, absence).

    predicted, labels: (N, A) of truth values. Not a number where no image has (or lacks) the attribute.
    """
    predicted, labels = np.asarray(predicted, bool), np.asarray(labels, bool)
    with np.errstate(invalid="ignore"):  # 0 / 0
        presence = (predicted & labels).sum(axis=0) / labels.sum(axis=0)
        absence = (~predicted & ~labels).sum(axis=0) / (~labels).sum(axis=0)
    return presence, absence


def accuracy(logits, labels):
    """Share of right answers: of classes, labels (N,); of attributes, labels (N, A), the mean of their recalls."""
    if labels.ndim == 1:
        return float(np.mean(np.argmax(logits, axis=1) == labels))
    return float(np.nanmean(recalls(logits > 0, labels)))
