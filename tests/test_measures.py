"""Measures against exact cases: closed forms, float64 references, planted answers."""

import itertools
import math

import numpy as np
import pytest
from test_ppca import linear_images

from vae import measures
from vae.ppca import fit_ppca


def two_clouds(count):
    """Codes (count, 2): three in four around (3, 0), stretched and turned; the rest around (-2, 1), narrow."""
    random = np.random.default_rng(0)
    turned, narrow = np.array([[1.0, 0.0], [0.8, 0.3]]), 0.1 * np.eye(2)
    first = random.random(count) < 0.75
    noise = random.standard_normal((count, 2))
    codes = np.where(first[:, None], [3.0, 0.0] + noise @ turned.T, [-2.0, 1.0] + noise @ narrow.T)
    return codes, [(0.75, [3, 0], turned @ turned.T), (0.25, [-2, 1], narrow @ narrow.T)]


def planted_classes(means_of_classes, scales, count=3000):
    """Codes (count, z) and classes (count,): a mean for each class, and the same spread (z,) within all."""
    random, classes = np.random.default_rng(0), np.arange(count) % len(means_of_classes)
    return np.asarray(means_of_classes)[classes] + random.standard_normal((count, len(scales))) * scales, classes


def test_discriminant_axes_find_planted_classes():
    """Not the principal axis: the classes differ by little along narrow units, while the first one is wide."""
    codes, classes = planted_classes([[0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 2, 0, 0]], [9, 0.3, 0.3, 1, 0])
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))
    axes = measures.discriminant_axes(codes @ turn.T, classes)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert np.linalg.norm((turn.T @ axes)[1:3]) == pytest.approx(np.sqrt(2), abs=0.01), "the plane of units 1 and 2"
    np.testing.assert_array_equal(measures.discriminant_axes(codes @ turn.T, classes), axes)


def test_two_classes_have_one_discriminant_and_a_principal_axis_of_the_rest():
    codes, classes = planted_classes([[0, 0, 0, 0], [0, 2, 0, 0]], [1, 0.3, 4, 0])
    axes = measures.discriminant_axes(codes, classes)
    np.testing.assert_allclose(np.abs(axes[[1, 2], [0, 1]]), 1, atol=0.01)
    assert axes[1, 0] > 0 and measures.discriminant_axes(codes, 1 - classes)[1, 0] < 0, "the last class is right"
    by_hand = np.linalg.solve(np.cov(codes[classes == 0, :3].T), [0, 2, 0])  # Bishop's (4.30)
    np.testing.assert_allclose(axes[:3, 0], by_hand / np.linalg.norm(by_hand), atol=0.01)


def test_axes_without_labels_are_the_widest():
    codes, _ = planted_classes([[1, 2, 3, 4]], [1, 5, 0.1, 2])
    np.testing.assert_allclose(np.abs(measures.discriminant_axes(codes)[[1, 3], [0, 1]]), 1, atol=0.01)


def test_a_collapsed_unit_does_not_count():
    codes, classes = planted_classes([[0, 0, 0], [1, 0, 0]], [1, 1, 1e-6])
    codes[:, 2] += 1e-5 * classes
    assert np.abs(measures.discriminant_axes(codes, classes)[2]).max() < 0.05


@pytest.mark.parametrize("shape", [(1, 5), (9, 1), (1, 1), (2, 600), (3, 2)])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_axes_of_too_little(shape, classes):
    codes = np.random.default_rng(0).standard_normal(shape)
    for part in (codes, np.ones(shape)):
        axes = measures.discriminant_axes(part, np.arange(shape[0]) % classes)
        expected = np.eye(2) if shape[1] > 1 else [[1, 0], [0, 0]]
        np.testing.assert_allclose(axes.T @ axes, expected, atol=1e-9)


def test_mixture_finds_planted_gaussians_and_draws_from_them():
    codes, planted = two_clouds(20_000)
    mixture = measures.fit_mixture(codes, 2, seed=1)
    drawn = mixture.draw(20_000, seed=1)
    for share, mean, covariance in planted:
        found = int(np.argmin(np.linalg.norm(mixture.means - mean, axis=1)))
        assert mixture.shares[found] == pytest.approx(share, abs=0.01)
        np.testing.assert_allclose(mixture.means[found], mean, atol=0.03)
        np.testing.assert_allclose(mixture.factors[found] @ mixture.factors[found].T, covariance, atol=0.03)
    np.testing.assert_allclose(drawn.mean(axis=0), codes.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.15)
    assert np.mean(drawn[:, 0] < -1.5) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("scale", [1e3, 1e7, 1e15])
def test_mixture_of_codes_on_a_line_far_out(scale):
    """As a learning rate too large leaves them: rounding must not make a covariance of theirs indefinite."""
    codes = scale * np.outer(np.random.default_rng(0).standard_normal(500), np.arange(1, 9))
    assert np.all(np.isfinite(measures.fit_mixture(codes, 4, seed=0).draw(50, seed=0)))


def test_mixture_density_is_that_of_its_gaussians():
    codes, _ = two_clouds(200)
    mixture = measures.fit_mixture(codes, 3, seed=0)
    for column, (share, mean, factor) in enumerate(zip(mixture.shares, mixture.means, mixture.factors, strict=True)):
        covariance, centred = factor @ factor.T, codes - mean
        distance = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
        expected = np.log(share / (2 * math.pi * np.sqrt(np.linalg.det(covariance)))) - 0.5 * distance
        np.testing.assert_allclose(mixture.log_densities(codes)[:, column], expected, atol=1e-8)


def test_longer_fitting_is_never_less_likely():
    codes, _ = two_clouds(5000)

    def likelihood(steps):
        return np.logaddexp.reduce(measures.fit_mixture(codes, 4, 0, steps).log_densities(codes), axis=1).mean()

    found = [likelihood(steps) for steps in (1, 2, 5, 20, 60)]
    assert all(later > earlier - 1e-3 for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("codes", [np.zeros((1, 3)), np.ones((40, 3)), np.arange(6.0).reshape(2, 3)])
def test_mixture_of_hardly_any_codes_is_finite(codes):
    assert np.all(np.isfinite(measures.fit_mixture(codes, 5, seed=0).draw(50, seed=0)))


def test_pca_reconstruction_is_the_projection():
    images = linear_images(300)
    ppca, x = fit_ppca(images, 4), images.reshape(300, -1) / 255
    _, _, components = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    expected = x.mean(axis=0) + (x - x.mean(axis=0)) @ components[:4].T @ components[:4]
    np.testing.assert_allclose(measures.pca_reconstruction(ppca, x), np.clip(expected, 0, 1), atol=1e-3)


def test_frechet_distance_in_closed_form():
    """Features with exact moments: for diagonal covariances it is |m1 - m2|^2 + sum (s1 - s2)^2."""
    random = np.random.default_rng(0)
    white = random.standard_normal((500, 3))
    white = (white - white.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T)).T)
    one, other = white * [1, 2, 3] + [0, 0, 1], white * [2, 2, 0.5] + [1, 0, 0]
    assert measures.frechet_distance(one, other) == pytest.approx(2 + 1 + 0 + 6.25)
    assert measures.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
    assert measures.frechet_distance(one @ turn, other @ turn) == pytest.approx(9.25)
    assert measures.frechet_distance(other, one) == pytest.approx(9.25)


def test_frechet_distance_of_features_without_variance():
    assert measures.frechet_distance(np.zeros((10, 2)), np.ones((10, 2))) == pytest.approx(2)


def test_nearest_finds_planted_neighbours():
    random = np.random.default_rng(0)
    reference = random.standard_normal((1000, 5))
    rows = random.permutation(1000)[:450]
    distances, found = measures.nearest(reference[rows] + 1e-6, reference)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_allclose(distances, 1e-6 * math.sqrt(5), rtol=1e-3)


def test_copying_statistic_equals_counting_pairs():
    random = np.random.default_rng(0)
    samples, held_out = random.integers(0, 20, 80), random.integers(5, 25, 60)
    pairs = (samples[:, None] > held_out) + 0.5 * (samples[:, None] == held_out)
    statistic, share = measures.copying_statistic(samples, held_out)
    assert share == pytest.approx(1 - pairs.mean())
    assert statistic == pytest.approx((pairs.sum() - 80 * 60 / 2) / math.sqrt(80 * 60 * 141 / 12))


def test_copying_statistic_tells_copies_from_new_images():
    random = np.random.default_rng(0)
    train, held_out, new = (random.standard_normal((2000, 4)) for _ in range(3))
    copies = train[:1000] + 0.01 * random.standard_normal((1000, 4))
    reference, _ = measures.nearest(held_out, train)
    assert abs(measures.copying_statistic(measures.nearest(new, train)[0], reference)[0]) < 3
    statistic, share = measures.copying_statistic(measures.nearest(copies, train)[0], reference)
    assert statistic < -30 and share > 0.99


def test_recalls_of_planted_answers():
    labels = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1]])
    predicted = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    presence, absence = measures.recalls(predicted, labels)
    np.testing.assert_array_equal(presence, [0.5, np.nan, 0.75])
    np.testing.assert_array_equal(absence, [1, 0.75, np.nan])


def test_accuracy():
    assert measures.accuracy(np.array([[1, 2], [3, 0], [0, 1]]), np.array([1, 0, 0])) == pytest.approx(2 / 3)
    labels = np.array([[1, 1], [0, 1], [0, 1], [0, 1]])  # the second is never absent
    logits = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    assert measures.accuracy(logits, labels) == pytest.approx(np.mean([1, 2 / 3, 1 / 2]))
