"""Measures of codes, pixels and features: plain mathematics of arrays.

Distances and statistics are float64. Sources: Burda et al. 2016 (active units, arXiv:1509.00519), Dowson & Landau 1982
and Heusel et al. 2017 (Frechet distance of Gaussians, arXiv:1706.08500), Meehan et al. 2020 (test of data copying,
arXiv:2004.05675), Ghosh et al. 2020 (mixture fitted to codes, arXiv:1903.12436), Fisher 1936 (discriminants, Annals of
Eugenics 7).
"""

import math
from dataclasses import dataclass

import numpy as np

from vae.terminal import progress

ACTIVE_VARIANCE = 0.01  # a unit is active if Var over x of E[z|x] is above this (Burda et al. 2016, section 5.2)
DISTANCES = 4_000_000  # of a distance matrix held at once


def mean_of(values):
    """The mean, computed in float64, as a float."""
    return float(np.mean(values, dtype=np.float64))


def evenly_spaced(count, most):
    """Evenly spaced row numbers of `count` rows: all of them, or `most`."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def active_units(means):
    """Count the active latent units. means: posterior means (N, z)."""
    return int(np.sum(means.var(axis=0) > ACTIVE_VARIANCE))


def psnr(squared_error):
    """Peak signal-to-noise ratio, dB, of mean squared errors of pixels in [0, 1]; an exact copy has 100 dB."""
    return -10 * np.log10(np.maximum(squared_error, 1e-10))


def pca_reconstruction(ppca, x):
    """Project x (B, D) onto the principal components and clip it to [0, 1]. pPCA's posterior mean would shrink it."""
    lengths = np.linalg.norm(ppca.decode, axis=1, keepdims=True)
    components = (ppca.decode / np.where(lengths > 0, lengths, 1)).astype(x.dtype)  # (z, D), orthonormal rows
    mean = ppca.decode_bias.astype(x.dtype)
    centred = x - mean
    return np.clip(mean + centred @ components.T @ components, 0, 1)


def discriminant_axes(means, labels=None):
    """Orthonormal axes (z, 2) of the plane in which classes lie furthest apart; posterior means (N, z), labels (N,).

    The first axes are Fisher's discriminants, along which the variance between classes is largest for that within them
    (Bishop 2006, section 4.1.6); two classes have one. Principal axes of what remains of the codes follow. Without
    labels, both are principal axes. With z = 1, the second axis is 0. The last class lies on the positive side of the
    first one.

    Each unit counts one more code, spread in its class as all codes are. Otherwise units that hardly vary, or as many
    units as codes, would seem to separate anything.
    """
    centred = np.asarray(means, np.float64) - np.mean(means, axis=0, dtype=np.float64)
    labels = np.zeros(len(means)) if labels is None else labels
    _, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    class_means = np.stack([centred[own == number].mean(axis=0) for number in range(len(counts))])
    within = centred - class_means[own]
    spread = np.square(centred).sum() / len(centred) or 1
    factor = np.linalg.cholesky(within.T @ within + spread * np.eye(centred.shape[1]))
    whitened = np.linalg.solve(factor, class_means.T * np.sqrt(counts))  # (z, classes); the spread within is 1
    directions, _, _ = np.linalg.svd(whitened, full_matrices=False)
    axes, _ = np.linalg.qr(np.linalg.solve(factor.T, directions[:, : min(2, len(counts) - 1)]))
    rest = centred - centred @ axes @ axes.T
    _, principal = np.linalg.eigh(rest.T @ rest)  # by ascending variance
    both, _ = np.linalg.qr(np.hstack([axes, principal[:, ::-1]])[:, :2])
    signs = both[np.abs(both).argmax(axis=0), np.arange(both.shape[1])]  # an axis itself has none
    signs[: axes.shape[1]] = (class_means[-1] - class_means[0]) @ both[:, : axes.shape[1]]
    return np.pad(both * np.where(signs < 0, -1, 1), ((0, 0), (0, 2 - both.shape[1])))


@dataclass(frozen=True)
class Mixture:
    """K Gaussians with full covariances, in float64."""

    shares: np.ndarray  # (K,), which add up to 1
    means: np.ndarray  # (K, z)
    factors: np.ndarray  # (K, z, z), lower Cholesky factors of the covariances

    def log_densities(self, codes):
        """Log of what each Gaussian adds to the density, nats.  Codes (N, z) -> (N, K)."""
        columns = []
        for share, mean, factor in zip(self.shares, self.means, self.factors, strict=True):
            scaled = (codes - mean) @ np.linalg.inv(factor).T
            constant = math.log(share) - np.log(np.diag(factor)).sum() - 0.5 * len(mean) * math.log(2 * math.pi)
            columns.append(constant - 0.5 * np.square(scaled).sum(axis=1))
        return np.stack(columns, axis=1)

    def draw(self, count, seed):
        """Draw codes (count, z)."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(self.shares), count, p=self.shares)
        codes = random.standard_normal((count, self.means.shape[1]))
        for number, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            codes[chosen == number] = mean + codes[chosen == number] @ factor.T
        return codes


def fit_mixture(codes, count, seed, steps=40):
    """Fit a mixture of `count` Gaussians to codes (N, z) by expectation-maximisation, which starts at `count` codes.

    Sampling from it, not from N(0, I), is ex-post density estimation (Ghosh et al. 2020, section 4). Few codes would
    make a Gaussian degenerate. So each mean counts its start as one more code, and each covariance one more code that
    is spread as N(0, I) is; where codes lie so far out that rounding would lose this spread, it is wider.
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
            spread = max(1, 1e-10 * np.trace(scatter))
            factors.append(np.linalg.cholesky((scatter + spread * np.eye(size)) / weight))
        mixture = Mixture(weights / weights.sum(), means, np.stack(factors))
        scores = mixture.log_densities(codes)
        belongs = np.exp(scores - scores.max(axis=1, keepdims=True))
        belongs /= belongs.sum(axis=1, keepdims=True)
    return mixture


def frechet_distance(one, other):
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features (N, F), (M, F).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson & Landau 1982). The trace of the root comes from the
    eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric and has the same ones as C1 C2.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    covariance1, covariance2 = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (one, other))
    values, vectors = np.linalg.eigh(covariance1)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance2 @ root), 0)).sum()
    shift = np.square(one.mean(axis=0) - other.mean(axis=0)).sum()
    return float(shift + np.trace(covariance1) + np.trace(covariance2) - 2 * cross)


def nearest(features, reference):
    """The row of `reference` (M, F) nearest to each row of `features` (N, F): distances and row numbers, each (N,).

    One product of (f, 1) and (-2 r, |r|^2) is |f - r|^2 without |f|^2, which is the same for all r. It is in float32,
    about the mean, where rounding can at most take one of two rows that are as near; the distances are float64.
    """
    features, reference = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    centred = reference - reference.mean(axis=0)
    squares = np.square(centred).sum(axis=1, keepdims=True)
    both = np.concatenate([-2 * centred, squares], axis=1).astype(np.float32).T
    centred = np.pad(features - reference.mean(axis=0), ((0, 0), (0, 1)), constant_values=1).astype(np.float32)
    size = max(1, DISTANCES // len(reference))
    starts = range(0, len(features), size)
    rows = [np.argmin(centred[start : start + size] @ both, axis=1) for start in progress(starts, len(starts))]
    rows = np.concatenate(rows)
    return np.linalg.norm(features - reference[rows], axis=1), rows


def copying_statistic(samples, held_out):
    """Test whether samples lie nearer to the training set than held-out images do.

    samples, held_out: distances to the training set, (N,) and (M,). Returns (C_T, share).

    C_T of Meehan et al. 2020, section 3, over one cell: the Mann-Whitney U of the two sets of distances as a z-score.
    Near 0, samples are as new as held-out images. Below -3, they are nearer to training images, which is true of
    copies, and perhaps of blurred images, whose features lie in the middle of all. Above 3, they are farther away.
    share: probability that a sample is nearer to the training set than a held-out image is (0.5: as new).
    """
    held_out = np.sort(held_out)
    below = np.searchsorted(held_out, samples, "left").sum(dtype=np.float64)
    equal = np.searchsorted(held_out, samples, "right").sum(dtype=np.float64) - below
    farther = below + equal / 2  # Mann-Whitney's U: pairs in which the sample is farther away
    n, m = len(samples), len(held_out)
    spread = math.sqrt(n * m * (n + m + 1) / 12)
    return float((farther - n * m / 2) / spread), float(1 - farther / (n * m))


def recalls(predicted, labels):
    """Share of the images with an attribute, and of those without, that are recognised as such: (presence, absence).

    predicted, labels: truth values (N, A). Returns two arrays (A,), NaN where no image has (or lacks) the attribute.
    """
    predicted, labels = np.asarray(predicted, bool), np.asarray(labels, bool)
    with np.errstate(invalid="ignore"):  # 0 / 0
        presence = (predicted & labels).sum(axis=0) / labels.sum(axis=0)
        absence = (~predicted & ~labels).sum(axis=0) / (~labels).sum(axis=0)
    return presence, absence


def accuracy(logits, labels):
    """Share of right answers for classes, labels (N,); mean of the recalls for attributes, labels (N, A)."""
    if labels.ndim == 1:
        return float(np.mean(np.argmax(logits, axis=1) == labels))
    return float(np.nanmean(recalls(logits > 0, labels)))
