"""About how long an evaluation will take here: its operations, times the time that one takes in the decoder."""

import math
import time

import tensorflow as tf

from vae import classifier, features, likelihood, pixels
from vae.data.cache import cache_folder

STARTUP = 5  # seconds, for functions to compile and pictures to be drawn


def operations(network):
    """Multiplications and additions of a Keras network for one input, in its dense layers and convolutions."""
    total = 1
    for layer in network.layers:
        if hasattr(layer, "layers"):  # a network in the network
            total += operations(layer)
        elif hasattr(layer, "kernel"):
            maps = layer.input.shape, layer.output.shape  # (B, n) of a dense layer, (B, H, W, C) of a convolution
            total += 2 * math.prod(layer.kernel.shape) * min(math.prod(shape[1:-1]) for shape in maps)
    return total


def seconds_of(run, importance_call, nll_samples, nll_images):
    """Estimate the seconds of an evaluation.

    importance_call: of likelihood.build_importance_call; nll_samples: per image; nll_images: how many get them.
    """
    work = sum(work_of(run, nll_samples, nll_images).values())
    return STARTUP + work * decoding_seconds(run, importance_call) / operations(run.vae.decoder)


def work_of(run, nll_samples, nll_images):
    """{part of the evaluation: its operations}. Parts that are slower than products count for more."""
    data, z, size = run.data, run.config.z, math.prod(run.data.image_shape)
    encode, decode = operations(run.vae.encoder), operations(run.vae.decoder)
    count = features.image_count(data.image_shape)
    test, train = len(data.test), min(len(data.train), features.NEIGHBOURS)
    chosen, fitted = min(count, test), min(count, train)
    step = max(1, len(data.train) // features.pca_limit(data.image_shape))
    work = {
        "loss": test * (encode + 2 * decode) + fitted * encode,
        "mixture": 40 * features.MIXTURE * count * 4 * z * z,
        "pca": len(data.train) // step * features.PCA_ITERATIONS * 4 * size * (z + 16),
        "pixels": chosen * (decode + 1e3 * size),
        "nll": nll_images * nll_samples * decode,
        "features": (chosen + 2 * count) * decode,
        "novelty": (2 * chosen + count) * train * 5 * classifier.FEATURES,
    }
    if run.config.likelihood == "gaussian":
        work["density"] = chosen * (encode + decode)
    if data.train_labels is not None:
        look = operations(classifier.build_classifier(data.image_shape, len(data.label_names)))
        work["features"] += (3 * chosen + 2 * count + train) * look
        if not cache_folder(run.config.data_dir, *classifier.cache_entry(data)).is_dir():
            work["classifier"] = 4 * classifier.training_steps(data) * classifier.BATCH_SIZE * look
    return work


def decoding_seconds(run, importance_call):
    """Time the likelihood of some test images; returns the seconds of one importance sample of one image."""
    rows = slice(0, pixels.EVALUATION_BATCH)
    x = pixels.to_pixels(run.data.test[rows])
    labels, codes = tf.constant(run.labels("test")[rows]), tf.zeros((len(x), run.config.z))
    largest = scaled_sum = tf.zeros(len(x))
    steps = likelihood.STEPS if run.config.xla else 1  # XLA would compile another number of them again
    arguments = x, labels, codes, codes, largest, scaled_sum, tf.constant(0, tf.int64), tf.constant(steps)

    def timed():
        began = time.perf_counter()
        importance_call(*arguments)[0].numpy()
        return time.perf_counter() - began

    return min(timed() for _ in range(4)) / (steps * len(x))  # the first call compiles, the next may still be slow


def in_words(seconds):
    """A duration in words, rounded as an estimate should be."""
    if seconds < 95:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 95 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
