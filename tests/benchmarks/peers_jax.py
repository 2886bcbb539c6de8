"""The same networks and training in JAX: a compiled step, and a compiled epoch (lax.scan over the steps)."""

import math

import jax
import numpy as np
import optax
from jax import lax, nn
from jax import numpy as jnp

NAMES = ("JAX step", "JAX scan")
LAYOUT = ("NHWC", "HWIO", "NHWC")


def dense(layer, hidden):
    kernel, bias = layer
    return hidden @ kernel + bias


def down(layer, maps, stride=2):
    kernel, bias = layer
    return lax.conv_general_dilated(maps, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT) + bias


def up(layer, maps):
    """Keras' transposed convolution, kernels (h, w, out, in): the gradient of a convolution."""
    kernel, bias = layer
    return lax.conv_transpose(maps, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT, transpose_kernel=True) + bias


def encode(case, layers, x):
    hidden = x * 2 - 1
    if not case.filters:
        hidden = hidden.reshape(len(x), -1)
        for layer in layers[:-1]:
            hidden = nn.silu(dense(layer, hidden))
        return dense(layers[-1], hidden)
    for layer in layers[:3]:
        hidden = nn.leaky_relu(down(layer, hidden), 0.2)
    hidden = nn.leaky_relu(dense(layers[3], hidden.reshape(len(x), -1)), 0.2)
    return dense(layers[4], hidden)


def decode(case, layers, z):
    if not case.filters:
        hidden = nn.silu(dense(layers[0], z))
        for layer in layers[1:-1]:
            hidden = hidden + nn.silu(dense(layer, hidden))
        return dense(layers[-1], hidden).reshape(len(z), *case.shape)
    side = case.shape[0] // 8
    hidden = nn.leaky_relu(dense(layers[0], z), 0.2)
    hidden = nn.leaky_relu(dense(layers[1], hidden), 0.2).reshape(len(z), side, side, case.filters[-1])
    for layer in layers[2:5]:
        hidden = nn.leaky_relu(up(layer, hidden), 0.2)
    return down(layers[5], hidden, stride=1)


def loss_of(case, parameters, x, key):
    encoder, decoder, log_sigma = parameters
    mean, log_std = jnp.split(encode(case, encoder, x), 2, axis=1)
    log_std = 8 * jnp.tanh(log_std / 8)
    pixels = decode(case, decoder, mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))
    if case.bernoulli:
        recon = optax.sigmoid_binary_cross_entropy(pixels, x).sum()
    else:
        scaled = jnp.square((x - pixels) * jnp.exp(-log_sigma))
        recon = (0.5 * scaled + log_sigma + 0.5 * math.log(2 * math.pi)).sum()
    return (recon + (0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std).sum()) / len(x)


def epochs(case, images, weights, chosen):
    """{name: function of the epoch's number that trains one epoch and returns its mean loss}."""
    return {name: build(case, images, weights, scanned=name == "JAX scan") for name in NAMES if name in chosen}


def build(case, images, weights, scanned):
    arrays = [list(map(jnp.asarray, half)) for half in weights]
    encoder, decoder = (list(zip(half[::2], half[1::2], strict=True)) for half in arrays)
    parameters, optimizer = (encoder, decoder, jnp.zeros(())), optax.adam(case.learning_rate, eps=1e-7)
    source, state = jnp.asarray(images), [parameters, optimizer.init(parameters)]

    def step(carry, inputs):
        (parameters, moments), (x, key) = carry, inputs
        x = x.astype(jnp.float32) / 255
        loss, gradients = jax.value_and_grad(lambda p: loss_of(case, p, x, key))(parameters)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(parameters, updates), moments), loss

    def keys_of(number, steps):
        return jax.random.split(jax.random.key(number), steps)

    @jax.jit
    def scanned_epoch(carry, order, keys):
        return lax.scan(lambda carry, row: step(carry, (source[row[0]], row[1])), carry, (order, keys))

    one_step = jax.jit(step, donate_argnums=0)

    def epoch(number):
        steps = len(images) // case.batch
        order = np.random.default_rng(number).permutation(len(images))[: steps * case.batch].reshape(steps, case.batch)
        if scanned:
            carry, losses = scanned_epoch(tuple(state), order, keys_of(number, steps))
        else:
            carry, losses, keys = tuple(state), [], keys_of(number, steps)
            for rows, key in zip(order, keys, strict=True):
                carry, loss = one_step(carry, (images[rows], key))
                losses.append(loss)
        state[:] = carry
        return float(np.mean(losses))

    return epoch
