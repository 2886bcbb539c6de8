"""Likelihoods against exact cases: a linear-Gaussian model with its full covariance, sums of many equal weights."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from test_ppca import linear_images

import vae_fc
from vae import elbo, likelihood, pixels
from vae.ppca import Ppca, fit_ppca, start_at_ppca


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


def no_labels(images):
    return tf.zeros((len(images), 0))


def bound(vae, x, samples, first=0, steps=50, call=None):
    call, ticks = call or likelihood.build_importance_call(vae, 0, xla=False), []
    tick = functools.partial(ticks.append, None)
    found = likelihood.importance_weighted_nll(call, x, no_labels(x), vae.posterior(x), samples, first, steps, tick)
    assert len(ticks) == -(-samples // steps)
    return found


def test_ppca_likelihood_is_that_of_the_full_covariance():
    images = linear_images(200)
    ppca, x = fit_ppca(images, 4), images.reshape(200, -1) / 255
    np.testing.assert_allclose(likelihood.ppca_nll(ppca, x), exact_nll(ppca, x), rtol=1e-9)


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
    call = likelihood.build_importance_call(vae, 0, xla=False)
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
    call = likelihood.build_importance_call(vae, 0, xla=False)
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
        def log_prob(self, x, z, labels=None):
            return super().log_prob(x, z, labels) + 14_000

    images = linear_images(20)
    vae, ppca = linear_vae(images, 4)
    x = pixels.to_pixels(images)
    exact = exact_nll(ppca, x.numpy().reshape(20, -1).astype(np.float64)) - 14_000
    call = likelihood.build_importance_call(Photographs(**vars(vae)), 0, xla)
    np.testing.assert_allclose(bound(vae, x, 5000, steps=5000, call=call), exact, atol=0.02)


def test_dequantised_images_round_to_the_image():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    noisy = likelihood.dequantise(images, 0, 0).numpy()
    np.testing.assert_array_equal(np.rint(noisy * 255).astype(int), images)
    noise = noisy * 255 - images
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(1 / math.sqrt(12), rel=0.03)
    assert not np.array_equal(noisy, likelihood.dequantise(images, 0, 1).numpy())


def test_bits_per_dim_of_a_uniform_density_are_eight():
    """256 grey levels with the density of a uniform distribution over them, [-0.5, 255.5] / 255, cost 8 bits each."""
    nats = 100 * math.log(256 / 255)
    assert likelihood.bits_per_dim(nats, 100) == pytest.approx(8)


def test_dequantised_bound_of_the_linear_model_is_tight():
    """Where the posterior is exact but for the noise, bits/dim of the VAE are those of pPCA, and never fewer."""
    images = linear_images(500)
    vae, ppca = linear_vae(images, 4)
    call = likelihood.build_dequantised_call(vae, 0, xla=False)
    noisy = likelihood.dequantise(images, 0, 0)
    nats = call(tf.constant(images), no_labels(images), noisy, tf.constant(0, tf.int64)).numpy()
    exact = likelihood.ppca_nll(ppca, noisy.numpy().reshape(500, -1))
    difference = nats - exact
    assert -3 * difference.std() / math.sqrt(500) < difference.mean() < 0.3
