"""--precision bf16: matrix products and convolutions in bfloat16, all that decides in float32.

Weights, updates, sums, posteriors, densities and losses stay float32 (Micikevicius et al. 2018, arXiv:1710.03740).
bfloat16 has float32's range, so nothing has to be scaled (Kalamkar et al. 2019, arXiv:1905.12322). What is tested,
pictured and saved is the averaged network, which computes in float32 throughout.
"""

from pathlib import Path

import keras
import tensorflow as tf

CHANNELS = 16  # from so many on, filter_gradient pays
CODES = ("mean", "log_std", "linear_mean", "linear_pixels")  # posterior and linear path: 8 bits are few for those


def lacks_instructions(cpuinfo=Path("/proc/cpuinfo")):
    """Whether the processor has none for bfloat16: avx512_bf16, amx_bf16 or, on ARM, bf16. Only Linux tells."""
    return cpuinfo.exists() and "bf16" not in cpuinfo.read_text()


def biased(maps, bias, activation):
    """activation(maps + bias), compiled: one pass over memory each way.  maps: (..., C), bias: (C,), both bfloat16.

    The bias's gradient is a product with ones, which is summed in float32; TensorFlow's own sum is in bfloat16, which
    stops growing at 256 times a summand.
    """

    @tf.function(autograph=False, jit_compile=True)
    def forward(maps, bias):
        return tf.cast(activation(tf.cast(maps, tf.float32) + tf.cast(bias, tf.float32)), maps.dtype)

    @tf.function(autograph=False, jit_compile=True)
    def backward(maps, bias, upstream):
        exact = tf.cast(maps, tf.float32) + tf.cast(bias, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(exact)
            result = activation(exact)
        return tf.cast(tape.gradient(result, exact, tf.cast(upstream, tf.float32)), maps.dtype)

    @tf.custom_gradient
    def apply(maps, bias):
        def gradients(upstream):
            inner = backward(maps, bias, upstream)
            rows = tf.reshape(inner, (-1, maps.shape[-1]))
            return inner, tf.matmul(tf.ones((1, tf.shape(rows)[0]), rows.dtype), rows)[0]

        return forward(maps, bias), gradients

    return apply(maps, bias)


def filter_gradient(large, small, kernel_size):
    """Gradient of the filters of a convolution of stride 2 from `large` maps (B, H, W, C) to `small` ones (B, h, w, F).

    As products over all places, one for each 2x2 block of the filters, which take about half of the time of oneDNN's
    own gradient in bfloat16.  Padding "same"; kernel_size: even.  (kernel_size, kernel_size, C, F).
    """
    sides = zip(large.shape[1:3], small.shape[1:3], strict=True)
    missing = [2 * (less - 1) + kernel_size - have for have, less in sides]
    padding = [[0, 0], *([count // 2, count - count // 2] for count in missing), [0, 0]]
    blocks = tf.nn.space_to_depth(tf.pad(large, padding), 2)  # one pixel of these covers 2x2 old ones
    height, width, filters = small.shape[1:]
    flat, count = tf.reshape(small, (-1, filters)), kernel_size // 2
    products = [
        tf.matmul(tf.reshape(blocks[:, i : i + height, j : j + width], (-1, blocks.shape[-1])), flat, transpose_a=True)
        for i in range(count)
        for j in range(count)
    ]
    kernel = tf.reshape(tf.stack(products), (count, count, 2, 2, large.shape[-1], filters))
    return tf.reshape(tf.transpose(kernel, (0, 2, 1, 3, 4, 5)), (kernel_size, kernel_size, large.shape[-1], filters))


@tf.custom_gradient
def convolved(maps, kernel):
    """A convolution of stride 2 with filter_gradient.  maps: (B, H, W, C), kernel: (k, k, C, F) -> (B, H/2, W/2, F)."""

    def gradients(upstream):
        inner = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(maps), 2, "SAME")
        return inner, filter_gradient(maps, upstream, kernel.shape[0])

    return tf.nn.conv2d(maps, kernel, 2, "SAME"), gradients


def transposed(maps, kernel, size):
    """A transposed convolution of stride 2 to `size` = height, width, with filter_gradient.

    maps: (B, h, w, F), kernel: (k, k, C, F) -> (B, *size, C).
    """

    @tf.custom_gradient
    def apply(maps, kernel):
        def gradients(upstream):
            inner = tf.nn.conv2d(upstream, kernel, 2, "SAME")
            return inner, filter_gradient(upstream, maps, kernel.shape[0])

        shape = tf.shape(maps)[0], *size, kernel.shape[2]
        result = tf.nn.conv2d_transpose(maps, kernel, shape, 2, "SAME")
        return tf.ensure_shape(result, (None, *size, kernel.shape[2])), gradients

    return apply(maps, kernel)


def has_fast_gradient(layer, channels):
    """Whether filter_gradient fits a layer whose larger maps have so many channels, and pays."""
    height, width = layer.kernel_size
    return channels >= CHANNELS and layer.strides == (2, 2) and height == width and height % 2 == 0


class Dense(keras.layers.Dense):
    """A dense layer whose bias is added by `biased`."""

    def call(self, inputs):
        return biased(tf.matmul(inputs, self.kernel), tf.convert_to_tensor(self.bias), self.activation)


class Conv2D(keras.layers.Conv2D):
    """A convolution whose bias is added by `biased`."""

    def call(self, inputs):
        kernel, fast = tf.convert_to_tensor(self.kernel), has_fast_gradient(self, inputs.shape[-1])
        maps = convolved(inputs, kernel) if fast else self.convolution_op(inputs, kernel)
        return biased(maps, tf.convert_to_tensor(self.bias), self.activation)


class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """A transposed convolution whose bias is added by `biased`."""

    def call(self, inputs):
        kernel = tf.convert_to_tensor(self.kernel)
        if has_fast_gradient(self, self.filters):
            maps = transposed(inputs, kernel, self.compute_output_shape(inputs.shape)[1:3])
        else:
            maps = keras.ops.conv_transpose(inputs, kernel, self.strides, self.padding)
        return biased(maps, tf.convert_to_tensor(self.bias), self.activation)


MIXED = {layer.__name__: layer for layer in (Dense, Conv2D, Conv2DTranspose)}


def in_bfloat16(network):
    """The same network with variables of its own, its hidden layers computing in bfloat16; results are float32.

    Those are all layers up to the last one with a kernel, which makes the pixels of a decoder, in the order in which
    they follow from each other; but for CODES, and for layers without weights next to them.
    """
    last = max(place for place, layer in enumerate(network.layers) if has_kernel(layer))
    codes = {id(end) for layer in network.layers if layer.name in CODES for end in (layer.input, layer.output)}

    def is_next_to_codes(layer):
        ends = [*tf.nest.flatten(layer.input), layer.output]
        return layer.name in CODES or (not layer.weights and not codes.isdisjoint(map(id, ends)))

    chosen = [layer.name for layer in network.layers[: last + 1] if not is_next_to_codes(layer)]

    def twin_of(layer):
        if layer.name not in chosen:
            return type(layer).from_config(layer.get_config())
        kind = MIXED.get(type(layer).__name__, type(layer))
        return kind.from_config(layer.get_config() | {"dtype": "mixed_bfloat16"})

    twin = keras.models.clone_model(network, clone_function=twin_of)
    twin.set_weights(network.get_weights())
    return keras.Model(twin.input, keras.layers.Activation("linear", dtype="float32")(twin.output))


def has_kernel(layer):
    """Whether the layer is a hidden one with a matrix product or a convolution."""
    return hasattr(layer, "kernel") and layer.name not in CODES
