"""Densities, KL and the ELBO against closed forms, float64 references and Monte Carlo."""

import itertools
import math
import sys

import numpy as np
import pytest
import tensorflow as tf

import vae_conv
import vae_fc
from vae import elbo, pixels
from vae.ppca import SIGMA_FLOOR

RANDOM = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def the_same_numbers_each_time(monkeypatch):
    """Whatever tests came before."""
    monkeypatch.setattr(sys.modules[__name__], "RANDOM", np.random.default_rng(7))


def images(*shape):
    return RANDOM.random(shape).astype(np.float32)


def small_vae(likelihood="bernoulli", script=vae_fc, shape=(8, 8, 1), z=3):
    tf.keras.utils.set_random_seed(1)
    linear = likelihood == "gaussian"
    models = [build(shape, z, linear) for build in (script.build_encoder, script.build_decoder)]
    return elbo.Vae(*models, tf.Variable(-2.0), likelihood)


def test_kl_equals_monte_carlo():
    mean, log_std = np.array([[0.7, -1.2, 0.0]]), np.array([[-0.5, 0.3, -2.0]])
    draws = 400_000
    noise = RANDOM.standard_normal((draws, 3))
    z = mean + np.exp(log_std) * noise
    log_ratio = -0.5 * noise**2 - log_std + 0.5 * z**2  # log q(z) - log p(z); the constants cancel
    error = log_ratio.std(axis=0) / math.sqrt(draws)
    closed = elbo.kl_to_standard_normal(tf.constant(mean), tf.constant(log_std)).numpy()[0]
    assert np.all(np.abs(closed - log_ratio.mean(axis=0)) < 5 * error)


def test_kl_is_exact_in_known_cases():
    def kl(mean, std):
        return elbo.kl_to_standard_normal(tf.constant([mean]), tf.constant([math.log(std)])).numpy()[0]

    assert kl(0.0, 1.0) == 0
    assert kl(3.0, 1.0) == pytest.approx(4.5)
    assert kl(0.0, 2.0) == pytest.approx(1.5 - math.log(2))


@pytest.mark.parametrize("binary", [False, True])
def test_bernoulli_equals_float64_reference(binary):
    x = images(5, 4, 4, 3)
    x = np.round(x) if binary else x
    logits = RANDOM.normal(0, 5, x.shape).astype(np.float32)
    wide = logits.astype(np.float64)
    p = 1 / (1 + np.exp(-wide))
    reference = (x * np.log(p) + (1 - x) * np.log1p(-p)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(elbo.bernoulli_log_prob(x, logits), reference, rtol=1e-5)


def test_bernoulli_gradient_equals_float64_reference():
    x, upstream = images(5, 4, 4, 3), np.arange(1, 6, dtype=np.float32)
    logits = tf.Variable(RANDOM.normal(0, 5, x.shape).astype(np.float32))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(upstream * elbo.bernoulli_log_prob(x, logits))
    reference = upstream[:, None, None, None] * (x - 1 / (1 + np.exp(-logits.numpy().astype(np.float64))))
    np.testing.assert_allclose(tape.gradient(value, logits), reference, rtol=1e-4, atol=1e-5)


def test_gaussian_equals_float64_reference():
    x, mean, log_sigma = images(5, 4, 4, 3), images(5, 4, 4, 3), -2.3
    squares = (x.astype(np.float64) - mean) ** 2
    sigma = math.exp(log_sigma)
    reference = (-squares / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(elbo.gaussian_log_prob(x, mean, log_sigma), reference, rtol=1e-5)


def test_gaussian_is_best_where_sigma_squared_is_the_mean_squared_error():
    """Rybkin et al. 2021, equation 5."""
    x, mean = images(50, 4, 4, 1), images(50, 4, 4, 1)
    best = 0.5 * math.log(np.mean((x - mean) ** 2))
    values = [tf.reduce_mean(elbo.gaussian_log_prob(x, mean, best + shift)).numpy() for shift in (-0.05, 0, 0.05)]
    assert values[1] == max(values)


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_bernoulli_gradient_is_finite_at_huge_logits(logit):
    x, logits = tf.constant(images(2, 4, 4, 1)), tf.Variable(tf.fill((2, 4, 4, 1), logit))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(elbo.bernoulli_log_prob(x, logits))
    assert np.isfinite(loss) and np.all(np.isfinite(tape.gradient(loss, logits)))


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
@pytest.mark.parametrize("raw", [1e3, -1e3])
def test_elbo_gradient_is_finite_at_huge_log_std(script, raw):
    """The encoder's raw log-std is pushed to +-1e3; what leaves it is bounded, and everything stays finite."""
    vae = small_vae(script=script)
    log_std = vae.encoder.get_layer("log_std")
    log_std.set_weights([np.zeros(log_std.kernel.shape), np.full(3, raw)])
    with tf.GradientTape() as tape:
        recon, kl = vae.elbo_terms(tf.constant(images(4, 8, 8, 1)), tf.random.normal((4, 3)))
        loss = tf.reduce_mean(recon + kl)
    gradients = tape.gradient(loss, vae.variables)
    assert np.isfinite(loss) and all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert np.all(np.abs(vae.posterior(images(1, 8, 8, 1))[1]) <= script.LOG_STD_BOUND)


def test_sigma_has_a_floor_where_the_data_are_copied_exactly():
    vae = small_vae("gaussian")
    vae.log_sigma.assign(-1e3)
    assert np.all(np.isfinite(vae.log_prob(tf.constant(images(2, 8, 8, 1)), tf.zeros((2, 3)))))


@pytest.mark.parametrize("error, leads", [(0.5, -1), (0.0, 0)])
def test_sigma_can_leave_its_floor_but_goes_no_lower(error, leads):
    """As the sign of the gradient of the loss says: where the error grows again, sigma has to."""
    log_sigma = tf.Variable(math.log(SIGMA_FLOOR) - 1)
    x = tf.zeros((2, 8, 8, 1))
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(elbo.gaussian_log_prob(x, x + error, elbo.bounded_log_sigma(log_sigma)))
    assert np.sign(tape.gradient(loss, log_sigma)) == leads


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_loss_does_not_depend_on_how_a_batch_is_split(likelihood, script):
    vae, x, noise = small_vae(likelihood, script), images(12, 8, 8, 1), RANDOM.standard_normal((12, 3)).astype("f4")
    whole = np.stack(vae.elbo_terms(x, noise))
    parts = [np.stack(vae.elbo_terms(x[rows], noise[rows])) for rows in (slice(0, 5), slice(5, 6), slice(6, 12))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_no_sum_of_gradients_has_more_than_two_terms(likelihood, script):
    """TensorFlow's AddN starts with whichever buffer is free first: sums of three differ in the last bit, by chance.

    Seldom in networks as small as a test's, so that to run twice and compare does not find it.
    """
    vae, x, noise = small_vae(likelihood, script), images(4, 8, 8, 1), RANDOM.standard_normal((4, 3)).astype("f4")

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.add(*map(tf.reduce_mean, vae.elbo_terms(x, noise)))
        return tape.gradient(loss, vae.variables)

    sums = [op for op in gradients.get_concrete_function().graph.get_operations() if op.type == "AddN"]
    assert sums and all(len(op.inputs) <= 2 for op in sums)


def test_elbo_is_the_expected_log_density_minus_kl():
    """Averaged over many z, the ELBO equals E_q[log p(x|z) + log p(z) - log q(z|x)] (Kingma & Welling, eq. 2)."""
    vae, x = small_vae(), np.repeat(images(1, 8, 8, 1), 20_000, axis=0)
    noise = tf.random.stateless_normal((20_000, 3), (1, 2))
    recon, kl = vae.elbo_terms(x, noise)
    mean, log_std = vae.posterior(x)
    z = mean + tf.exp(log_std) * noise
    log_p = vae.log_prob(x, z) - tf.reduce_sum(z**2, -1) / 2
    log_q = -tf.reduce_sum(noise**2 / 2 + log_std, -1)
    draws = (log_p - log_q).numpy()
    assert abs(draws.mean() + np.mean(recon + kl)) < 5 * (draws + recon.numpy()).std() / math.sqrt(len(draws))


def test_binarised_pixels():
    grey = np.full((200, 8, 8, 1), 64, np.uint8)
    key = pixels.random_key(0, pixels.BINARIZE, 5)
    drawn = pixels.binarized(grey, "dynamic", key).numpy()
    assert set(np.unique(drawn)) == {0, 255}
    assert (drawn / 255).mean() == pytest.approx(64 / 255, abs=5 * math.sqrt(0.25 * 0.75 / drawn.size))
    assert np.array_equal(drawn, pixels.binarized(grey, "dynamic", key))
    assert not np.array_equal(drawn, pixels.binarized(grey, "dynamic", pixels.random_key(0, pixels.BINARIZE, 6)))
    levels = np.array([0, 127, 128, 255], np.uint8).reshape(1, 2, 2, 1)
    assert pixels.binarized(levels, "threshold", key).numpy().ravel().tolist() == [0, 0, 255, 255]
    assert pixels.binarized(levels, "none", key) is levels
    np.testing.assert_allclose(pixels.to_pixels(levels).numpy().ravel(), [0, 127 / 255, 128 / 255, 1])


def test_random_streams_do_not_meet():
    where = list(itertools.product((0, 1), range(pixels.STREAMS), (0, 1)))
    assert len({tuple(pixels.random_key(*place).numpy()) for place in where}) == len(where) == 32
