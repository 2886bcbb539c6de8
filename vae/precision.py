"""What --precision bf16 does: hidden layers compute in bfloat16, everything else stays in float32.

Weights, updates, sums, posteriors, densities and losses stay float32 (Micikevicius et al. 2018, arXiv:1710.03740).
bfloat16 has the range of float32, so no loss scaling is needed (Kalamkar et al. 2019, arXiv:1905.12322). The averaged
network, which is tested, drawn and saved, computes in float32 throughout.
"""

from pathlib import Path

import keras
import tensorflow as tf

from vae.xla import xla_works

CODES = ("mean", "log_std", "linear_mean", "linear_pixels")  # layers that need more than the 8 bits of bfloat16
FEWEST_CHANNELS = 16  # with fewer, filter_gradient is slower than TensorFlow's own


def in_bfloat16(network):
    """Return a network with the same weights, in variables of its own, whose hidden layers compute in bfloat16.

    Hidden layers are those up to the last kernel, which makes the pixels of a decoder. CODES stay in float32, and so
    do the layers without weights next to them. The output is float32.
    """
    last = max(place for place, layer in enumerate(network.layers) if has_kernel(layer))
    exact = [layer for layer in network.layers if layer.name in CODES]
    ends = tensors_of(exact)
    exact += [layer for layer in network.layers if not layer.weights and ends & tensors_of([layer])]
    exact += network.layers[last + 1 :]

    def clone(layer):
        if layer in exact:
            return type(layer).from_config(layer.get_config())
        return FAST.get(type(layer), type(layer)).from_config(layer.get_config() | {"dtype": "mixed_bfloat16"})

    twin = keras.models.clone_model(network, clone_function=clone)
    twin.set_weights(network.get_weights())
    return keras.Model(twin.input, keras.layers.Activation("linear", dtype="float32")(twin.output))


def tensors_of(layers):
    """The ids of the tensors that go into layers and come out of them."""
    return {id(tensor) for layer in layers for tensor in tf.nest.flatten([layer.input, layer.output])}


def has_kernel(layer):
    """Whether a layer multiplies or convolves and is not one of CODES."""
    return hasattr(layer, "kernel") and layer.name not in CODES


def lacks_instructions(cpuinfo=Path("/proc/cpuinfo")):
    """Whether this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16, ARM's bf16). Known on Linux only."""
    return cpuinfo.exists() and "bf16" not in cpuinfo.read_text()


# Layers whose gradients are faster in bfloat16 ----------------------------------------------------------------


class FastGradients:
    """Keras layers that add their bias with add_bias and, where it pays, get filter_gradient."""

    def call(self, inputs):
        product = self.product(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(product) if self.bias is None else add_bias(product, self.bias, self.activation)

    def suits_filter_gradient(self, channels):
        """Whether filter_gradient fits, and pays. channels: of the larger of the input and output maps."""
        height, width = self.kernel_size
        fits = self.strides == (2, 2) and self.padding == "same" and height == width and height % 2 == 0
        return fits and channels >= FEWEST_CHANNELS


class Dense(FastGradients, keras.layers.Dense):
    product = staticmethod(tf.matmul)


class Conv2D(FastGradients, keras.layers.Conv2D):
    def product(self, maps, kernel):
        convolve = convolved if self.suits_filter_gradient(maps.shape[-1]) else self.convolution_op
        return convolve(maps, kernel)


class Conv2DTranspose(FastGradients, keras.layers.Conv2DTranspose):
    def product(self, maps, kernel):
        if self.suits_filter_gradient(self.filters) and self.output_padding is None:
            return transposed(maps, kernel)
        return keras.ops.conv_transpose(maps, kernel, self.strides, self.padding, self.output_padding)


FAST = {keras.layers.Dense: Dense, keras.layers.Conv2D: Conv2D, keras.layers.Conv2DTranspose: Conv2DTranspose}


def add_bias(maps, bias, activation):
    """Return activation(maps + bias), compiled to one pass over memory each way. maps: (..., C), bias: (C,), bfloat16.

    The gradient of the bias is a product with ones because that sums in float32. TensorFlow's own sum is in bfloat16,
    where a sum stops growing at 256 times its summands.
    """
    compiled = tf.function(autograph=False, jit_compile=xla_works())

    def forward(maps, bias):
        return tf.cast(activation(tf.cast(maps, tf.float32) + tf.cast(bias, tf.float32)), maps.dtype)

    @compiled
    def backward(maps, bias, upstream):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            result = forward(maps, bias)
        return tape.gradient(result, maps, upstream)

    @tf.custom_gradient
    def apply(maps, bias):
        def gradients(upstream):
            maps_gradient = backward(maps, bias, upstream)
            rows = tf.reshape(maps_gradient, (-1, maps.shape[-1]))
            return maps_gradient, tf.matmul(tf.ones((1, tf.shape(rows)[0]), rows.dtype), rows)[0]

        return compiled(forward)(maps, bias), gradients

    return apply(maps, tf.convert_to_tensor(bias))


@tf.custom_gradient
def convolved(maps, kernel):
    """A convolution of stride 2 with filter_gradient. maps: (B, H, W, C), kernel: (k, k, C, F) -> (B, H/2, W/2, F)."""

    def gradients(upstream):
        maps_gradient = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(maps), 2, "SAME")
        return maps_gradient, filter_gradient(maps, upstream, kernel.shape[0])

    return tf.nn.conv2d(maps, kernel, 2, "SAME"), gradients


@tf.custom_gradient
def transposed(maps, kernel):
    """The same the other way: a transposed convolution. (B, h, w, F), (k, k, C, F) -> (B, 2h, 2w, C)."""

    def gradients(upstream):
        return tf.nn.conv2d(upstream, kernel, 2, "SAME"), filter_gradient(upstream, maps, kernel.shape[0])

    size = 2 * maps.shape[1], 2 * maps.shape[2], kernel.shape[2]
    return tf.nn.conv2d_transpose(maps, kernel, (tf.shape(maps)[0], *size), 2, "SAME"), gradients


def filter_gradient(large, small, kernel_size):
    """Gradient of the filters of a convolution of stride 2 from `large` maps (B, H, W, C) to `small` ones (B, h, w, F).

    One matrix product over all places for each 2x2 block of a filter. Together they take about half the time of
    oneDNN's gradient in bfloat16. For padding "same" and an even kernel_size k; returns (k, k, C, F).
    """
    (height, width, filters), channels, blocks = small.shape[1:], large.shape[-1], kernel_size // 2
    missing = 2 * (height - 1) + kernel_size - large.shape[1], 2 * (width - 1) + kernel_size - large.shape[2]
    padded = tf.pad(large, [[0, 0], *([total // 2, total - total // 2] for total in missing), [0, 0]])
    packed = tf.nn.space_to_depth(padded, 2)  # 2x2 pixels become one with four times the channels
    rows = tf.reshape(small, (-1, filters))
    products = [
        tf.matmul(tf.reshape(packed[:, i : i + height, j : j + width], (-1, 4 * channels)), rows, transpose_a=True)
        for i in range(blocks)
        for j in range(blocks)
    ]
    kernel = tf.transpose(tf.reshape(products, (blocks, blocks, 2, 2, channels, filters)), (0, 2, 1, 3, 4, 5))
    return tf.reshape(kernel, (kernel_size, kernel_size, channels, filters))
