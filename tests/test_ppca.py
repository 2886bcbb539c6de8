"""The linear start against the exact solution: eigenvectors by NumPy, the closed-form likelihood, the ELBO."""

import math

import numpy as np
import pytest
import tensorflow as tf

import vae_conv
import vae_fc
from vae import elbo, pixels
from vae.ppca import SIGMA_FLOOR, fit_ppca, principal_components, start_at_ppca


def linear_images(count=3000, side=6, rank=4):
    """uint8 images of `rank` strong directions and a little noise."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((rank, side * side)) * np.array([0.10, 0.07, 0.05, 0.035])[:rank, None]
    x = 0.5 + random.standard_normal((count, rank)) @ directions + 0.02 * random.standard_normal((count, side * side))
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8).reshape(count, side, side, 1)


def exact_covariance(images):
    x = images.reshape(len(images), -1) / 255
    return x.mean(axis=0), np.cov(x.T, bias=True)


def test_components_equal_the_eigenvectors():
    images = linear_images()
    mean, covariance = exact_covariance(images)
    values, vectors = np.linalg.eigh(covariance)
    found_mean, found, found_values, trace = principal_components(images, 4, seed=0)
    np.testing.assert_allclose(found_mean, mean, atol=1e-6)
    np.testing.assert_allclose(found_values, values[::-1][:4], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(found * vectors[:, ::-1][:, :4], axis=0)), 1, atol=1e-3)
    assert trace == pytest.approx(np.trace(covariance), rel=1e-5)


def test_mirrored_components_are_those_of_both_orientations():
    images = linear_images(500)
    both = np.concatenate([images, images[:, :, ::-1]])
    expected = principal_components(both, 4, 0)
    found = principal_components(images, 4, 0, True)
    for one, other in zip(expected[::2], found[::2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(expected[1] * found[1], axis=0)), 1, atol=1e-3)


def test_ppca_posterior_is_the_exact_one():
    """p(z|x) of the linear model x ~ N(W z + mu, s^2 I) by Bayes' rule (Tipping & Bishop 1999, equation 7)."""
    images = linear_images()
    ppca = fit_ppca(images, 4)
    x = images[:10].reshape(10, -1) / 255
    precision = np.eye(4) + ppca.decode @ ppca.decode.T / ppca.sigma**2
    mean = (x - ppca.decode_bias) @ ppca.decode.T / ppca.sigma**2 @ np.linalg.inv(precision)
    np.testing.assert_allclose(x @ ppca.encode + ppca.encode_bias, mean, atol=1e-3)
    np.testing.assert_allclose(np.diag(np.exp(2 * ppca.log_std)), np.linalg.inv(precision), atol=1e-4)


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_vae_starts_at_the_exact_likelihood(script):
    """At its start the bound is tight: the mean of -ELBO is the linear model's exact negative log-likelihood."""
    images = linear_images()
    ppca = fit_ppca(images, 4)
    encoder, decoder = script.build_encoder((6, 6, 1), 4, True), script.build_decoder((6, 6, 1), 4, True)
    start_at_ppca(encoder, decoder, ppca, script.LOG_STD_BOUND)
    vae = elbo.Vae(encoder, decoder, tf.Variable(math.log(ppca.sigma), dtype=tf.float32), "gaussian")
    noise = tf.random.stateless_normal((len(images), 4), (0, 1))
    recon, kl = vae.elbo_terms(pixels.to_pixels(images), noise)
    mean, covariance = exact_covariance(images)
    model = ppca.decode.T @ ppca.decode + ppca.sigma**2 * np.eye(36)
    scatter = covariance + np.outer(mean - ppca.decode_bias, mean - ppca.decode_bias)
    exact = 0.5 * (36 * math.log(2 * math.pi) + np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, scatter)))
    standard_error = np.std(recon + kl) / math.sqrt(len(images))
    assert abs(np.mean(recon + kl) - exact) < 4 * standard_error + 1e-3 * abs(exact)


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_start_is_finite_where_posteriors_are_narrower_than_their_bound(script):
    """Fewer images than z leave nothing for sigma, which stays at its floor: log-stds below -8."""
    images = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255)]).astype(np.uint8)
    ppca = fit_ppca(images, 4)
    assert ppca.log_std.min() < -script.LOG_STD_BOUND
    encoder, decoder = script.build_encoder((32, 32, 3), 4, True), script.build_decoder((32, 32, 3), 4, True)
    start_at_ppca(encoder, decoder, ppca, script.LOG_STD_BOUND)
    vae = elbo.Vae(encoder, decoder, tf.Variable(math.log(ppca.sigma), dtype=tf.float32), "gaussian")
    mean, log_std = vae.posterior(pixels.to_pixels(images))
    assert -script.LOG_STD_BOUND < np.min(log_std) < -0.98 * script.LOG_STD_BOUND
    np.testing.assert_allclose(vae.pixel_means(mean), images / 255, atol=1e-3)
    assert np.all(np.isfinite(vae.elbo_terms(pixels.to_pixels(images), tf.ones((2, 4)))))


@pytest.mark.parametrize("images", [np.full((5, 6, 6, 1), 77, np.uint8), linear_images(2)], ids=["constant", "two"])
def test_ppca_of_degenerate_sets_is_finite(images):
    ppca = fit_ppca(images, 50)
    for array in (ppca.encode, ppca.encode_bias, ppca.log_std, ppca.decode, ppca.decode_bias):
        assert np.all(np.isfinite(array))
    assert ppca.encode.shape == (36, 50) and ppca.sigma >= SIGMA_FLOOR
