"""--precision bf16 gives the same networks to 8 bits; weights, codes, losses and what is saved stay in float32."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_conv
import vae_fc
from vae import elbo, precision

SHAPE, Z = (12, 12, 3), 5


def build_networks(script, linear):
    """A script's encoder and decoder with random weights, even where training would start at 0."""
    rng = np.random.default_rng(0)
    networks = [build(SHAPE, Z, linear) for build in (script.build_encoder, script.build_decoder)]
    for network in networks:
        network.set_weights([weight + rng.normal(0, 0.02, weight.shape) for weight in network.get_weights()])
    return networks


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_hidden_layers_compute_in_bfloat16_on_float32_weights(script, linear, small_sets):
    for network in build_networks(script, linear):
        twin = precision.in_bfloat16(network)
        dtypes = {layer.name: layer.compute_dtype for layer in twin.layers}
        hidden = {dtypes[layer.name] for layer in twin.layers if precision.has_kernel(layer)}
        assert hidden == {"bfloat16"}
        assert {dtypes[name] for name in precision.CODES if name in dtypes} <= {"float32"}
        assert {variable.dtype for variable in twin.variables} == {"float32"}
        x = np.random.default_rng(1).random((6, *network.input_shape[1:]), np.float32)
        exact, rounded = network(x).numpy(), twin(x).numpy()
        assert rounded.dtype == np.float32
        assert 0 < abs(rounded - exact).max() < 0.02 * abs(exact).max()


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_gradients_point_where_those_of_float32_do(script, small_sets):
    tf.keras.utils.set_random_seed(0)  # how much rounding changes depends on the weights
    exact = elbo.Vae(*build_networks(script, True), tf.Variable(-1.0), "gaussian")
    rounded = replace(exact, **{n: precision.in_bfloat16(getattr(exact, n)) for n in ("encoder", "decoder")})
    rng = np.random.default_rng(2)
    x, noise = rng.random((16, *SHAPE), np.float32), rng.standard_normal((16, Z), np.float32)
    losses, gradients = [], []
    for vae in (exact, rounded):
        with tf.GradientTape() as tape:
            recon, kl = vae.elbo_terms(x, noise)
            loss = tf.reduce_mean(recon + kl)
        losses.append(float(loss))
        assert recon.dtype == kl.dtype == tf.float32
        gradients.append([gradient.numpy().ravel() for gradient in tape.gradient(loss, vae.variables)])
    assert losses[1] == pytest.approx(losses[0], rel=3e-3)
    one, other = (np.concatenate(part) for part in gradients)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(16, 4, 2, "valid"),
        keras.layers.Conv2D(16, 4, 2, "same", use_bias=False),
        keras.layers.Conv2DTranspose(16, 4, 2, "valid"),
        keras.layers.Conv2DTranspose(16, 4, 2, "same", output_padding=1),
    ],
)
def test_layers_of_other_kinds_compute_the_same(layer):
    """Padding and biases that the scripts do not have, but that a student may try."""
    image = keras.Input((9, 9, 16))
    network = keras.Model(image, layer(image))
    x = np.random.default_rng(0).random((6, 9, 9, 16), np.float32)
    gradients = []
    for model in (network, precision.in_bfloat16(network)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x)))
        gradients.append(tape.gradient(loss, model.trainable_variables))
    for exact, rounded in zip(*gradients, strict=True):
        np.testing.assert_allclose(rounded, exact, atol=0.03 * np.abs(exact).max())


@pytest.mark.parametrize(("size", "kernel_size"), [((8, 8), 4), ((7, 6), 4), ((9, 5), 2), ((12, 7), 6)])
def test_filter_gradients_are_those_of_tensorflow(size, kernel_size):
    rng = np.random.default_rng(0)
    large = tf.constant(rng.standard_normal((3, *size, 4)), tf.float32)
    small = tf.constant(rng.standard_normal((3, *(-(-side // 2) for side in size), 5)), tf.float32)
    shape = (kernel_size, kernel_size, 4, 5)
    expected = tf.raw_ops.Conv2DBackpropFilter(
        input=large, filter_sizes=shape, out_backprop=small, strides=[1, 2, 2, 1], padding="SAME"
    )
    np.testing.assert_allclose(precision.filter_gradient(large, small, kernel_size), expected, atol=1e-4)


def test_the_gradient_of_a_bias_counts_all_its_rows():
    """Of 10,000 ones a sum in bfloat16 would stop at 256."""
    maps, bias = tf.zeros((100, 10, 10, 3), tf.bfloat16), tf.Variable(tf.zeros(3))
    with tf.GradientTape() as tape:
        result = precision.add_bias(maps, tf.cast(bias, tf.bfloat16), tf.identity)
    gradient = tape.gradient(result, bias, tf.ones_like(maps))
    np.testing.assert_allclose(gradient, 10_000, rtol=0.01)


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [
        ("flags\t: fma avx512_bf16 avx2", False),
        ("Features\t: asimd bf16", False),
        ("flags\t: fma avx2", True),
        (None, False),
    ],
)
def test_a_processor_without_bfloat16_is_recognised(flags, lacks, tmp_path):
    path = tmp_path / "cpuinfo"
    if flags:
        path.write_text(flags)
    assert precision.lacks_instructions(path) == lacks
