"""Held-out measures against exact cases: a linear-Gaussian model, closed forms, float64 references, planted answers."""

import argparse
import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from test_ppca import linear_images

import vae_fc
from vae import elbo, measures, pixels
from vae.ppca import Ppca, fit_ppca, start_at_ppca

SETTINGS = argparse.Namespace(seed=0, xla=False, binarize="none")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """All that these networks compute is 0, beside their linear path."""
    monkeypatch.setattr(vae_fc, "HIDDEN", (8,))


def linear_vae(images, z, log_std_shift=0.0):
    """A VAE that is exactly pPCA; with a shift of its log-std, one whose posterior is not the true one."""
    ppca = fit_ppca(images, z)
    shape = images.shape[1:]
    encoder, decoder = vae_fc.build_encoder(shape, z, True), vae_fc.build_decoder(shape, z, True)
    shifted = Ppca(**vars(ppca) | {"log_std": ppca.log_std + log_std_shift})
    start_at_ppca(encoder, decoder, shifted, vae_fc.LOG_STD_BOUND)
    log_sigma = tf.Variable(math.log(ppca.sigma), dtype=tf.float32)
    return elbo.Vae(encoder, decoder, log_sigma, "gaussian"), ppca


def exact_nll(ppca, x):
    """-log N(x; mu, C) with the covariance written out, float64."""
    covariance = ppca.decode.T @ ppca.decode + ppca.sigma**2 * np.eye(x.shape[1])
    centred = x - ppca.decode_bias
    distance = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
    return 0.5 * (x.shape[1] * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + distance)


def bound(vae, x, samples, first=0, steps=50, call=None):
    call, ticks = call or measures.build_importance_call(vae, SETTINGS), []
    tick = functools.partial(ticks.append, None)
    found = measures.importance_weighted_nll(call, x, vae.posterior(x), samples, first, steps, tick)
    assert len(ticks) == -(-samples // steps)
    return found


def test_ppca_likelihood_is_that_of_the_full_covariance():
    images = linear_images(200)
    ppca, x = fit_ppca(images, 4), images.reshape(200, -1) / 255
    np.testing.assert_allclose(measures.ppca_nll(ppca, x), exact_nll(ppca, x), rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_importance_weighted_bound_reaches_the_exact_likelihood(shift):
    """With the true posterior at once (every weight is p(x)); with a wider one, with enough samples."""
    images = linear_images(200)
    vae, ppca = linear_vae(images, 4, shift)
    x = pixels.to_pixels(images)
    exact = exact_nll(ppca, x.numpy().reshape(200, -1).astype(np.float64))
    found = bound(vae, x, 2000 if shift else 3)
    assert abs(np.mean(found - exact)) < (0.01 if shift else 2e-3)


def test_more_samples_are_never_worse_in_expectation():
    images = linear_images(300)
    vae, _ = linear_vae(images, 4, 0.5)
    x = pixels.to_pixels(images)
    call = measures.build_importance_call(vae, SETTINGS)
    means = [bound(vae, x, samples, call=call).mean() for samples in (1, 5, 50, 500)]
    assert means == sorted(means, reverse=True) and means[0] - means[-1] > 0.1


def test_one_sample_is_the_elbo():
    """In expectation, -ELBO with its KL in closed form; sample for sample, log q(z|x) - log p(z) - log p(x|z)."""
    images = linear_images(100)
    vae, _ = linear_vae(images, 4, 0.5)
    x = pixels.to_pixels(images)
    mean, log_std = (part.numpy().astype(np.float64) for part in vae.posterior(x))
    noise = tf.random.stateless_normal((100, 4), pixels.random_key(0, pixels.IMPORTANCE, 7)).numpy().astype(np.float64)
    z = mean + np.exp(log_std) * noise
    log_q = -0.5 * (noise**2 + math.log(2 * math.pi)) - log_std
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi))
    expected = (log_q - log_prior).sum(axis=1) - vae.log_prob(x, tf.cast(z, tf.float32)).numpy()
    np.testing.assert_allclose(bound(vae, x, 1, first=7), expected, atol=1e-3)
    call = measures.build_importance_call(vae, SETTINGS)
    single = np.mean([bound(vae, x, 1, first=k, call=call) for k in range(200)])
    noise = np.random.default_rng(0).standard_normal((50, 100, 4))
    recon = np.mean([-vae.log_prob(x, tf.cast(mean + np.exp(log_std) * one, tf.float32)) for one in noise])
    kl = elbo.kl_to_standard_normal(mean, log_std).numpy().sum(axis=1).mean()
    assert single == pytest.approx(recon + kl, abs=0.1)


def test_the_sum_of_weights_does_not_depend_on_how_it_is_cut():
    images = linear_images(50)
    vae, _ = linear_vae(images, 4, 0.5)
    x = pixels.to_pixels(images)
    np.testing.assert_allclose(bound(vae, x, 60, steps=60), bound(vae, x, 60, steps=7), atol=1e-4)


@pytest.mark.parametrize("xla", [False, True])
def test_a_sum_of_many_weights_loses_none(xla):
    """5,000 equal weights: their mean is each of them, also where photographs' densities are.

    Adding to a float32 logarithm of that size would stop growing early, and be 0.9 nats off.
    """

    class Photographs(elbo.Vae):
        def log_prob(self, x, z):
            return super().log_prob(x, z) + 14_000

    images = linear_images(20)
    vae, ppca = linear_vae(images, 4)
    x = pixels.to_pixels(images)
    exact = exact_nll(ppca, x.numpy().reshape(20, -1).astype(np.float64)) - 14_000
    call = measures.build_importance_call(Photographs(**vars(vae)), argparse.Namespace(seed=0, xla=xla))
    np.testing.assert_allclose(bound(vae, x, 5000, steps=5000, call=call), exact, atol=0.02)


def two_clouds(count):
    """Codes (count, 2): three in four around (3, 0), stretched and turned; the rest around (-2, 1), narrow."""
    random = np.random.default_rng(0)
    turned, narrow = np.array([[1.0, 0.0], [0.8, 0.3]]), 0.1 * np.eye(2)
    first = random.random(count) < 0.75
    noise = random.standard_normal((count, 2))
    codes = np.where(first[:, None], [3.0, 0.0] + noise @ turned.T, [-2.0, 1.0] + noise @ narrow.T)
    return codes, [(0.75, [3, 0], turned @ turned.T), (0.25, [-2, 1], narrow @ narrow.T)]


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


def test_dequantised_images_round_to_the_image():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    noisy = measures.dequantise(images, 0, 0).numpy()
    np.testing.assert_array_equal(np.rint(noisy * 255).astype(int), images)
    noise = noisy * 255 - images
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(1 / math.sqrt(12), rel=0.03)
    assert not np.array_equal(noisy, measures.dequantise(images, 0, 1).numpy())


def test_bits_per_dim_of_a_uniform_density_are_eight():
    """256 grey levels with the density of a uniform distribution over them, [-0.5, 255.5] / 255, cost 8 bits each."""
    nats = 100 * math.log(256 / 255)
    assert measures.bits_per_dim(nats, 100) == pytest.approx(8)


def test_dequantised_bound_of_the_linear_model_is_tight():
    """Where the posterior is exact but for the noise, bits/dim of the VAE are those of pPCA, and never fewer."""
    images = linear_images(500)
    vae, ppca = linear_vae(images, 4)
    call = measures.build_dequantised_call(vae, SETTINGS)
    noisy = measures.dequantise(images, 0, 0)
    nats = call(tf.constant(images), noisy, tf.constant(0, tf.int64)).numpy()
    exact = measures.ppca_nll(ppca, noisy.numpy().reshape(500, -1))
    difference = nats - exact
    assert -3 * difference.std() / math.sqrt(500) < difference.mean() < 0.3


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
