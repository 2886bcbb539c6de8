"""What this machine's matrix products reach: the ceiling that the other benchmarks are held against."""

import time

import tensorflow as tf


def product_rate(size=2048, seconds=1.0):
    """Floating-point operations a second of matrix products of this size in float32, the best of some."""
    one = tf.random.normal((size, size))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        tf.matmul(one, one).numpy()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best
