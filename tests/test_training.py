"""The parts of training: order, mirroring and shifting of images, averaged weights, rate, decay, finite numbers."""

import math
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import step_by_step

import utils
import vae_fc
from vae import checkpoints, elbo, likelihood, pixels, precision, steps, xla
from vae.data.dataset import Dataset
from vae.pictures import picture_rows
from vae.ppca import fit_ppca, start_at_ppca
from vae.terminal import NonFiniteError


def settings(**changes):
    defaults = {"z": 3, "batch_size": 4, "steps_per_call": 3, "learning_rate": 0.1, "decay_per_epoch": 0.5}
    defaults |= {"xla": False, "rate_falls_after": None}
    return replace(utils.parse_settings(vars(vae_fc), []), **defaults | changes)


def build_optimizer(variables, steps_per_epoch, **changes):
    chosen = settings(**changes)
    rates = chosen.learning_rate, chosen.warmup_steps, chosen.decay_per_epoch, chosen.rate_falls_after
    return steps.build_optimizer(variables, steps_per_epoch, *rates)


NO_LABELS = tf.zeros((100, 0))


def numbered(count):
    return np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)


def epoch_order(epoch, seed=0):
    """Steps of each call, and the rows that they are trained on, of 30 images in batches of 4, 3 steps a call."""
    calls = list(utils.epoch_calls(30, 4, 3, seed, epoch))
    assert {rows.shape for rows, _ in calls} == {(3, 4)}
    return [count for _, count in calls], np.concatenate([rows[:count].ravel() for rows, count in calls])


def test_an_epoch_takes_each_image_once_in_whole_batches():
    counts, order = epoch_order(1)
    assert counts == [3, 3, 1], "seven batches of four; two images are left out"
    assert len(set(order)) == len(order) == 28


def test_an_epoch_is_shuffled():
    """Its rows come in no order, and neighbours in the set do not stay together in a batch."""
    _, order = epoch_order(1)
    assert np.sum(np.diff(order) > 0) < 20, "of 27; 13.5 in the mean of random orders"
    [(rows, _)] = utils.epoch_calls(6000, 100, 60, 0, 1)
    halves = (rows < 3000).mean(axis=1)
    assert np.all(abs(halves - 0.5) < 0.25), "every batch has images of both halves of the set"
    assert abs(np.corrcoef(rows.ravel(), np.arange(6000))[0, 1]) < 0.06


def test_order_follows_from_seed_and_epoch_alone():
    assert np.array_equal(epoch_order(2)[1], epoch_order(2)[1])
    assert not np.array_equal(epoch_order(2)[1], epoch_order(3)[1])
    assert not np.array_equal(epoch_order(2)[1], epoch_order(2, seed=1)[1])


def test_mirrored_images_are_themselves_or_their_mirror_images():
    x = np.random.default_rng(0).random((400, 3, 5, 2)).astype(np.float32)
    found = pixels.mirrored(x, pixels.random_key(0, pixels.MIRROR, 1)).numpy()
    same = (found == x).all(axis=(1, 2, 3))
    turned = (found == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert np.all(same ^ turned) and 150 < same.sum() < 250


def test_shifted_images_are_moved_by_all_steps_within_reach_with_edges_repeated():
    x = np.random.default_rng(0).integers(0, 256, (900, 5, 6, 3), np.uint8)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    moves = [padded[:, row : row + 5, column : column + 6] for row in range(3) for column in range(3)]
    found = pixels.shifted(tf.constant(x), 1, pixels.random_key(0, pixels.SHIFT, 1)).numpy()
    same = np.array([(found == moved).all(axis=(1, 2, 3)) for moved in moves])
    assert np.all(same.sum(axis=0) == 1) and np.all(abs(same.sum(axis=1) - 100) < 40)


def test_training_sees_images_moved_then_mirrored():
    """The gradients of a step are those of images that were moved and mirrored by hand."""
    vae, moving = small_run("bernoulli"), settings(shift=2, mirror=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), np.uint8)
    keys = [pixels.random_key(0, stream, 7) for stream in (pixels.SHIFT, pixels.MIRROR)]
    by_hand = pixels.mirrored(pixels.shifted(tf.constant(images), 2, keys[0]), keys[1])
    assert not np.array_equal(by_hand, images)
    still = settings(shift=0, mirror=False)
    step = NO_LABELS[:4], tf.random.stateless_normal((4, 3), (0, 1)), tf.constant(7, tf.int64), tf.constant(1.0)
    found = steps.build_gradient_call(vae, utils.batch_loss, moving)(tf.constant(images), *step)
    expected = steps.build_gradient_call(vae, utils.batch_loss, still)(by_hand, *step)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_kl_weight_rises_in_a_straight_line_and_stays():
    assert [steps.kl_weight(0.5, 4, done) for done in (0, 1, 2, 4, 5)] == [0, 0.125, 0.25, 0.5, 0.5]
    assert steps.kl_weight(0.5, 0, 0) == 0.5


def test_average_weighs_each_step_by_a_power_of_its_number():
    """Karras et al. 2024, section 3.1: the weight of step t is proportional to t^power."""
    power, total = 7.0, 2000
    weights = np.zeros(total)
    for step in range(1, total + 1):
        rate = steps.averaging_weight(power, step, 1)
        weights *= 1 - rate
        weights[step - 1] = rate
    assert weights.sum() == pytest.approx(1)
    later = np.arange(1000, total)
    np.testing.assert_allclose(weights[later] / weights[-1], ((later + 1) / total) ** power, rtol=0.03)


def test_average_forgets_the_random_start():
    assert steps.averaging_weight(7.0, 32, 32) == 1.0


def test_learning_rate_warms_up_and_stays_or_falls():
    rate = build_optimizer([tf.Variable(0.0)], 10)._learning_rate
    assert [float(rate(step)) for step in (0, 100, 200, 5000)] == pytest.approx([0, 0.05, 0.1, 0.1])
    unwarmed = build_optimizer([tf.Variable(0.0)], 10, warmup_steps=0)
    assert float(unwarmed.learning_rate) == np.float32(0.1)
    for warmup, start in ((200, [0, 0.05]), (0, [0.1, 0.1])):
        rate = build_optimizer([tf.Variable(0.0)], 10, warmup_steps=warmup, rate_falls_after=400)._learning_rate
        assert [float(rate(step)) for step in (0, 100, 400, 1600, 6400)] == pytest.approx([*start, 0.1, 0.05, 0.025])


def small_run(likelihood):
    keras.utils.set_random_seed(0)
    linear = likelihood == "gaussian"
    encoder, decoder = vae_fc.build_encoder((6, 6, 1), 3, linear), vae_fc.build_decoder((6, 6, 1), 3, linear)
    return elbo.Vae(encoder, decoder, tf.Variable(-1.0), likelihood)


def test_a_call_takes_each_step_with_its_own_noise_and_then_moves_the_average():
    still = {"learning_rate": 1e-12, "decay_per_epoch": 0.0}
    chosen, vae = settings(**still), small_run("bernoulli")
    average = vae.copy()
    for mean in average.variables:
        mean.assign_add(tf.ones_like(mean))
    batches = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 6, 1), np.uint8)
    first = tf.constant(5, tf.int64)
    with step_by_step():
        optimizer = build_optimizer(vae.variables, 10, **still)
        train_call = steps.build_train_call(vae, average, optimizer, utils.batch_loss, chosen)
        labels = tf.zeros((3, 4, 0))
        terms = train_call(tf.constant(batches), labels, tf.constant(2), first, tf.ones(3), tf.constant(0.25)).numpy()
    noise = pixels.draw_noise(0, pixels.NOISE, first, 3, (4, 3))
    for step in range(2):
        expected = [np.mean(part) for part in vae.elbo_terms(pixels.to_pixels(batches[step]), noise[step])]
        np.testing.assert_allclose(terms[step], expected, rtol=1e-5)
    assert not terms[2].any() and not np.array_equal(noise[0], noise[1])
    for mean, variable in zip(average.variables, vae.variables, strict=True):
        np.testing.assert_allclose(mean - variable, 0.75 * np.ones(variable.shape), atol=1e-5)


def weights_after(*calls):
    """Those of a small run after calls of (steps, first step, betas)."""
    chosen, vae, labels = settings(), small_run("bernoulli"), tf.zeros((3, 4, 0))
    batches = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 6, 1), np.uint8).repeat(3, axis=0)
    with step_by_step():
        optimizer = build_optimizer(vae.variables, 10, warmup_steps=0)
        train_call = steps.build_train_call(vae, vae.copy(), optimizer, utils.batch_loss, chosen)
        for count, first, betas in calls:
            numbers = count, tf.constant(first, tf.int64), tf.constant(betas), tf.constant(1.0)
            train_call(tf.constant(batches), labels, *numbers)
    return np.concatenate([np.ravel(variable) for variable in vae.variables])


def test_each_step_of_a_call_has_its_own_weight_of_the_kl():
    whole = weights_after((2, 0, (0.0, 1.0, 0.0)))
    apart = weights_after((1, 0, (0.0, 0.0, 0.0)), (1, 1, (1.0, 0.0, 0.0)))
    np.testing.assert_allclose(whole, apart, rtol=1e-5, atol=1e-6)
    assert np.abs(whole - weights_after((2, 0, (0.0, 0.0, 0.0)))).max() > 1e-3


def test_an_epoch_numbers_its_steps_and_returns_the_mean_of_their_terms():
    chosen = settings(beta=0.5, kl_warmup_epochs=1.5, average_power=7.0)
    data = Dataset("numbers", numbered(30), numbered(30), None, None, ())
    weights = []

    def train_call(batches, labels, steps, first_step, betas, rate):
        assert batches.shape == (3, 4, 1, 1, 1) and labels.shape == (3, 4, 0)
        weights.extend(betas.numpy()[: int(steps)])
        terms = np.zeros((3, 2))
        terms[: int(steps), 0] = int(first_step) + np.arange(int(steps))
        terms[: int(steps), 1] = 1
        return tf.constant(terms)

    run = utils.Run(chosen, data, None, vae=small_run("bernoulli"))
    np.testing.assert_allclose(utils.train_epoch(run, train_call, 2), [np.mean(range(7, 14)), 1])
    np.testing.assert_allclose(weights, [0.5 * min(1, step / 7 / 1.5) for step in range(7, 14)], rtol=1e-6)


def test_each_image_is_trained_on_with_its_own_label():
    """For networks that take labels; here, the label of an image is its grey level."""
    levels = np.arange(30, dtype=np.int32)
    data = Dataset("numbers", numbered(30), numbered(30), levels, levels, tuple(map(str, range(30))))
    seen = []

    def train_call(batches, labels, steps, *others):
        assert labels.shape == (3, 4, 30)
        np.testing.assert_array_equal(np.argmax(labels, axis=-1), batches.numpy()[..., 0, 0, 0])
        np.testing.assert_array_equal(np.sum(labels, axis=-1), 1)
        seen.append(int(steps))
        return tf.zeros((3, 2))

    utils.train_epoch(utils.Run(settings(), data, None, vae=SimpleNamespace(takes_labels=True)), train_call, 1)
    assert seen == [3, 3, 1]


def test_the_loss_weighs_the_kl_and_the_terms_do_not():
    vae, random = small_run("bernoulli"), np.random.default_rng(0)
    x, noise = random.random((5, 6, 6, 1), np.float32), random.standard_normal((5, 3), np.float32)
    recon, kl = (part.numpy() for part in vae.elbo_terms(x, noise))
    loss, terms = utils.batch_loss(vae, x, None, noise, 0.25)
    np.testing.assert_allclose(terms, [recon.mean(), kl.mean()], rtol=1e-5)
    assert float(loss) == pytest.approx(recon.mean() + 0.25 * kl.mean(), rel=1e-5)
    share = np.array([0.5, 0, 0.1, 0.2, 0.2], np.float32)  # of a replica, in the mean over the whole batch
    loss, terms = utils.batch_loss(vae, x, None, noise, 0.25, share)
    np.testing.assert_allclose(terms, [share @ recon, share @ kl], rtol=1e-5)
    assert float(loss) == pytest.approx(share @ recon + 0.25 * share @ kl, rel=1e-5)


def test_evaluation_counts_every_image_once(monkeypatch):
    """Whatever the size of the evaluation's batches: 61 images in one batch, or in nine of which the last is filled up.

    The noise of the reconstruction term differs with the batches; KL, squared error and means do not depend on it.
    """
    images = np.random.default_rng(0).integers(0, 256, (61, 6, 6, 1), np.uint8)
    call = steps.build_evaluate_call(small_run("bernoulli"), 0, False)
    whole = steps.evaluate_images(call, images, NO_LABELS.numpy()[:61], "none", 0)
    monkeypatch.setattr(pixels, "EVALUATION_BATCH", 7)
    parts = steps.evaluate_images(call, images, NO_LABELS.numpy()[:61], "none", 0)
    assert {len(part) for part in (*whole, *parts)} == {61}
    for one, other in zip(whole[1:], parts[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_weight_decay_spares_biases_sigma_and_the_linear_path():
    """With no gradient, only matrices shrink: not what pPCA has set."""
    vae, random = small_run("gaussian"), np.random.default_rng(0)
    ppca = fit_ppca(random.integers(0, 256, (50, 6, 6, 1), np.uint8), 3)
    start_at_ppca(vae.encoder, vae.decoder, ppca, 8.0)
    for variable in vae.variables[:-1]:  # parts of which start at 0, which no decay would change
        variable.assign_add(random.uniform(0.1, 1, variable.shape))
    before = {variable.path: variable.numpy() for variable in vae.state[:-1]}
    assert all(values.all() for values in before.values())
    optimizer = build_optimizer(vae.variables, 10, warmup_steps=1)
    for _ in range(3):
        optimizer.apply([tf.zeros_like(variable) for variable in vae.variables], vae.variables)
    for variable in vae.state[:-1]:
        decays = len(variable.shape) == 2 and "linear" not in variable.path
        assert np.array_equal(before[variable.path], variable) != decays, variable.path
    assert float(vae.log_sigma) == -1


@pytest.mark.parametrize("count", [10, 1000])
def test_weight_decay_takes_the_same_share_in_an_epoch_of_any_length(count):
    kernel = tf.Variable(tf.ones((2, 2)))
    optimizer = build_optimizer([kernel], count, warmup_steps=1, learning_rate=1e-3)
    step = tf.function(lambda: optimizer.apply([tf.zeros_like(kernel)], [kernel]))
    for _ in range(count + 1):  # the first step, of the warm-up, has a rate of 0
        step()
    np.testing.assert_allclose(kernel, (1 - 0.5 / count) ** count, rtol=1e-4)


def test_frozen_linear_path_is_not_trained_but_kept():
    vae = small_run("gaussian")
    ppca = fit_ppca(np.zeros((5, 6, 6, 1), np.uint8), 3)
    start_at_ppca(vae.encoder, vae.decoder, ppca, 8.0)
    assert not [variable for variable in vae.variables[:-1] if "linear" in variable.path]
    assert len([variable for variable in vae.state[:-1] if "linear" in variable.path]) == 4


def test_copy_has_variables_of_its_own():
    vae = small_run("gaussian")
    twin = vae.copy()
    shapes = [[tuple(variable.shape) for variable in model.variables] for model in (twin, vae)]
    assert shapes[0] == shapes[1]
    twin.encoder.trainable_variables[0].assign_add(tf.ones_like(twin.encoder.trainable_variables[0]))
    assert not np.array_equal(twin.encoder.trainable_variables[0], vae.encoder.trainable_variables[0])


@pytest.mark.parametrize(("row", "column", "words"), [(2, 0, "reconstruction term"), (0, 1, "KL term")])
def test_first_bad_number_is_named(row, column, words, tmp_path):
    terms = np.zeros((4, 2))
    terms[row, column] = np.nan
    with pytest.raises(NonFiniteError, match=f"{words} became nan in epoch 3, step {100 + row + 1}"):
        checkpoints.check_finite(terms, "epoch 3, step", 100, 2, tmp_path)


def test_a_device_where_xla_cannot_compile_trains_without_it(monkeypatch, capsys):
    """As a GPU without libdevice: whatever XLA is asked for fails when it is called, so nothing may ask twice."""
    exact, failed = tf.function, []

    def function(body=None, *, jit_compile=None, **options):
        def fail(*_):
            failed.append(body)
            raise tf.errors.InternalError(None, None, "libdevice not found at ./libdevice.10.bc\n\t [[{{node Exp}}]]")

        if body is None:
            return lambda body: function(body, jit_compile=jit_compile, **options)
        return fail if jit_compile else exact(body, **options)

    monkeypatch.setattr(tf, "function", function)
    monkeypatch.setattr(elbo, "bernoulli_log_prob", xla.fused(elbo.bernoulli_log_prob.__wrapped__))
    xla.xla_works.cache_clear()
    chosen, vae = settings(xla=True, z=3), small_run("bernoulli")
    images, labels, noise = np.zeros((3, 4, 6, 6, 1), np.uint8), tf.zeros((3, 4, 0)), tf.zeros((4, 3))
    optimizer = build_optimizer(vae.variables, 10)
    train_call = steps.build_train_call(vae, vae.copy(), optimizer, utils.batch_loss, chosen)
    first, weight = tf.constant(0, tf.int64), tf.constant(1.0)
    assert np.isfinite(train_call(tf.constant(images), labels, tf.constant(3), first, tf.ones(3), weight)).all()
    x, batch = pixels.to_pixels(images[0]), (labels[0], noise, noise, tf.zeros(4), tf.zeros(4), first, tf.constant(2))
    steps.build_evaluate_call(vae, 0, True)(x, labels[0], first)
    likelihood.build_importance_call(vae, 0, True)(x, *batch)
    likelihood.build_dequantised_call(vae, 0, True)(tf.constant(images[0]), labels[0], x, first)
    precision.in_bfloat16(vae.encoder)(x)
    assert failed == [xla.trial]
    line = "XLA cannot compile on this device (libdevice not found at ./libdevice.10.bc); going on without it"
    assert capsys.readouterr().out.count(line) == 1
    xla.xla_works.cache_clear()


def test_pictures_show_people_with_glasses():
    labels = np.zeros((200, 2), np.uint8)
    labels[[0, 3, 77, 150], 1] = 1  # the first would be among the others, too
    data = Dataset("faces", *[np.zeros((200, 4, 4, 3), np.uint8)] * 2, labels, labels, ("Smiling", "Eyeglasses"))
    shown = picture_rows(data, 40).tolist()
    assert {0, 3, 77, 150} <= set(shown) and len(set(shown)) == len(shown)


def test_a_class_may_be_called_eyeglasses():
    images, labels = np.zeros((9, 4, 4, 3), np.uint8), np.arange(9) % 2
    data = Dataset("things", images, images, labels, labels, ("Eyeglasses", "Hats"))
    np.testing.assert_array_equal(picture_rows(data, 40), range(9))


@pytest.mark.parametrize("xla", [False, True])
def test_clipping_is_by_the_global_norm(xla):
    random = np.random.default_rng(0)
    gradients = [tf.constant(random.standard_normal(shape), tf.float32) for shape in [(3, 4), (2, 2, 3, 5), (7,), ()]]
    norm = math.sqrt(sum(np.square(g.numpy().astype(np.float64)).sum() for g in gradients))
    clip = tf.function(steps.clip_gradients, jit_compile=xla)
    for limit in (norm / 10, norm * 2):
        for found, gradient in zip(clip(gradients, limit), gradients, strict=True):
            np.testing.assert_allclose(found, gradient * min(1, limit / norm), rtol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_clipping_hides_no_gradient_that_is_not_finite(value):
    """Not even by shrinking the others to nothing: the next loss must not be a number."""
    clip = tf.function(steps.clip_gradients, jit_compile=True)
    assert all(np.isnan(g).all() for g in clip([tf.ones((2, 2)), tf.constant([value])], 1.0))
