"""Whether XLA, TensorFlow's compiler, works on this device. It does not on a GPU without NVIDIA's libdevice."""

import functools

import tensorflow as tf

from vae.terminal import note, reason


def trial(x):
    """Functions that XLA takes from libdevice on a GPU."""
    return tf.exp(tf.tanh(x)) + tf.math.log(x) + tf.pow(x, 0.3)


@functools.cache
def xla_works():
    """Whether XLA can compile for TensorFlow's default device. The first call tries it, and says so if it cannot.

    Call it after the devices are chosen: like all work on tensors, it fixes which ones there are.
    """
    try:
        with tf.init_scope():  # at once, even while another function is being traced
            tf.function(trial, autograph=False, jit_compile=True)(tf.ones(8))
    except tf.errors.OpError as error:
        note(f"XLA cannot compile on this device ({reason(error)}); going on without it, which is slower")
        return False
    return True


def fused(function):
    """Let XLA compile a function to one operation where it works, whatever XLA does around it."""

    @functools.cache
    def compiled():  # not before the first call: devices are chosen after the imports
        return tf.function(function, autograph=False, jit_compile=xla_works())

    return functools.wraps(function)(lambda *arguments: compiled()(*arguments))
