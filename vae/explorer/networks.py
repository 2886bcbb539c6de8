"""Networks for the page: their layers as JSON, and their weights as small whole numbers in one compressed block."""

import base64
import zlib

import keras
import numpy as np

LEVELS = 127  # a kernel's numbers go from -127 to 127 steps
STEP = {"decoder": 0.12, "encoder": 0.9}  # of hidden layers, in root mean squares of a weight: few steps compress well
CONSTANT = {"decoder": 0.0, "encoder": 0.01}  # deviation: an input that varies less, as corners do, joins the bias
SMALL = 100_000  # weights: they need not be small
LARGE, LARGE_STEP = 2_000_000, 0.8  # weights; so large a layer is one of photographs, which have a linear path too
TOGETHER = 512  # weights of an output that make up for each other
BATCH = 100  # inputs computed at once
DAMPING = 0.001  # of the mean square of the inputs, added to each: it keeps the weights close to their own values
ACTIVATIONS = ("linear", "relu", "leaky_relu", "elu", "silu", "softplus", "sigmoid", "tanh")  # of networks.js


class Unsupported(Exception):
    """A network has something that the page cannot compute."""


class Block:
    """Arrays behind each other in one block of bytes."""

    def __init__(self):
        self.bytes = bytearray()

    def add(self, array, dtype=np.float32):
        """Append an array; returns where the page finds it."""
        array = np.ascontiguousarray(array, dtype)
        self.bytes += bytes(-len(self.bytes) % 4)  # typed arrays begin at a multiple of the size of their numbers
        place = {"type": array.dtype.name, "start": len(self.bytes), "length": array.size}
        self.bytes += array.tobytes()
        return place

    def text(self):
        """The block, compressed, as text."""
        packer = zlib.compressobj(wbits=31, strategy=zlib.Z_RLE)  # 31: gzip. Only zeros are ever repeated
        return base64.b64encode(packer.compress(self.bytes) + packer.flush()).decode()


def export(network, inputs, block):
    """The layers of a network as JSON, for `compute` in networks.js; their weights go to the block.

    inputs: typical ones, (N, ...), by which dense layers are rounded. Raises Unsupported.
    """
    if len(network.inputs) > 1:
        raise Unsupported(f"the {network.name} has a second input")
    seen = inputs_of_dense_layers(network, inputs)
    order, layers = {id(network.input): 0}, []
    for layer in network.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            sources = layer.input if isinstance(layer.input, list) else [layer.input]
            place = {"kind": type(layer).__name__, "inputs": [order[id(tensor)] for tensor in sources]}
            layers.append(place | described(layer, seen.get(layer.name), network.name, block))
            order[id(layer.output)] = len(layers)
    return {"input_shape": list(network.input_shape[1:]), "layers": layers}


def inputs_of_dense_layers(network, inputs):
    """What each dense layer gets, (N, features), by the layer's name."""
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    part = keras.Model(network.input, [layer.input for layer in dense])
    batches = [part(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]
    return {layer.name: np.concatenate(seen) for layer, *seen in zip(dense, *batches, strict=True)}


def described(layer, inputs, network, block):
    """What the page has to know of a layer besides its kind."""
    config, kind = layer.get_config(), type(layer).__name__
    if kind in ("Flatten", "Add"):
        return {}
    if kind == "Concatenate" and layer.axis in (-1, len(layer.output.shape) - 1):
        return {}
    if kind == "Reshape":
        return {"shape": list(layer.output.shape[1:])}
    if kind == "Rescaling" and np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        return {"factor": float(layer.scale), "offset": float(layer.offset)}
    if kind == "Activation":
        return {"activation": activation_of(layer)}
    if kind == "Cropping2D":
        return {"crop": [list(pair) for pair in layer.cropping]}
    if kind == "Dense":
        kernel, bias = with_bias(layer)
        varies = CONSTANT[network] < inputs.std(axis=0, keepdims=True).T
        scale = step_sizes(kernel * varies)
        if layer.activation is not keras.activations.linear and kernel.size > SMALL:  # later layers blur errors
            step = LARGE_STEP if kernel.size > LARGE else STEP[network]
            scale = np.maximum(scale.max(), step * np.sqrt(np.square(kernel).mean())) * np.ones_like(scale)
        steps, bias = rounded_for(kernel, varies, bias, inputs, scale)
        return weights(layer, steps, scale, bias, block)
    if kind in ("Conv2D", "Conv2DTranspose"):
        expected = {"padding": "same", "dilation_rate": (1, 1), "data_format": "channels_last", "groups": 1}
        square = len({*config["kernel_size"]}) == len({*config["strides"]}) == 1
        if square and all(config.get(name, value) == value for name, value in expected.items()):
            kernel, bias = with_bias(layer)
            if kind == "Conv2DTranspose":
                kernel = kernel.swapaxes(2, 3)  # Keras has its outputs before its inputs
            kernel = kernel.reshape(-1, kernel.shape[-1])
            sizes = {"size": config["kernel_size"][0], "stride": config["strides"][0]}
            scale = step_sizes(kernel)
            return sizes | weights(layer, np.rint(kernel / scale), scale, bias, block)
    raise Unsupported(f"layer {layer.name} is a {kind} that the page cannot compute")


def activation_of(layer):
    """The name of a layer's activation."""
    name = getattr(layer.activation, "__name__", "")
    if name not in ACTIVATIONS:
        raise Unsupported(f"layer {layer.name} has an activation that the page lacks, {name or layer.activation}")
    return name


def weights(layer, steps, scale, bias, block):
    """The weights of a layer, whose outputs are those of its kernel in `steps` times `scale` plus `bias`."""
    return {
        "kernel": block.add(steps, np.int8),
        "scale": block.add(scale),
        "bias": block.add(bias),
        "activation": activation_of(layer),
    }


def with_bias(layer):
    """The kernel and bias of a layer; zeros if it has no bias."""
    kernel, *bias = layer.get_weights()
    return kernel, bias[0] if bias else np.zeros(layer.output.shape[-1], np.float32)


def step_sizes(kernel):
    """The size of a step of each output channel, (M,), so that its largest weight has LEVELS steps.  (N, M)."""
    return np.maximum(np.abs(kernel).max(axis=0), 1e-12) / LEVELS


def rounded_for(kernel, varies, bias, inputs, scale):
    """The kernel (N, M) of a dense layer in steps of size `scale` (M,), and its bias (M,).

    varies: (N, 1), which inputs do; the others are part of the bias. Weights are rounded one input after the other, and
    the next ones move so that the outputs for `inputs` (B, N) change as little as possible. How far follows from the
    inverse of the inputs' second moments (GPTQ, Frantar et al. 2023, arXiv:2210.17323). The bias takes what is left.
    """
    steps = np.empty_like(kernel)
    for start in range(0, len(kernel), TOGETHER):
        part = slice(start, start + TOGETHER)
        steps[part] = rounded_together(kernel[part] * varies[part], scale, inputs[:, part].astype(np.float64))
    return steps, bias + inputs.mean(axis=0) @ (kernel - steps * scale)


def rounded_together(kernel, scale, inputs):
    """Round weights (N, M) that make up for each other to steps of size `scale` (M,), for inputs (B, N)."""
    count, steps = len(kernel), np.empty_like(kernel)
    order = np.argsort(-np.square(inputs).mean(axis=0))  # those that count most are rounded first
    kernel, inputs = kernel[order], inputs[:, order]
    moments = inputs.T @ inputs / len(inputs)
    moments += (DAMPING * moments.trace() / count + 1e-12) * np.eye(count)
    factor = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)  # the inverse is factor' factor
    for first in range(0, count, 64):  # what 64 inputs leave over moves all later weights at once, which is faster
        last = min(first + 64, count)
        errors = np.empty((last - first, kernel.shape[1]), np.float32)
        for row in range(first, last):
            steps[row] = np.clip(np.rint(kernel[row] / scale), -LEVELS, LEVELS)
            errors[row - first] = (kernel[row] - steps[row] * scale) / factor[row, row]
            kernel[row:last] -= np.outer(factor[row, row:last], errors[row - first])
        kernel[last:] -= factor[first:last, last:].T @ errors
    steps[order] = steps.copy()
    return steps
