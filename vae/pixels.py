"""Random numbers by key, and pixels as the networks see them: in [0, 1], binarised, mirrored, shifted, in batches.

Images are uint8 (..., H, W, C) in a data set, and float32 in [0, 1] once `to_pixels` has converted them.
"""

import numpy as np
import tensorflow as tf

EVALUATION_BATCH = 500  # images
STREAMS = 8  # of random numbers
NOISE, BINARIZE, EVALUATE, SAMPLE, MIRROR, IMPORTANCE, DEQUANTISE, SHIFT = range(STREAMS)


def random_key(seed, stream, step):
    """Key for TensorFlow's stateless random numbers: the same (seed, stream, step) gives the same numbers."""
    return tf.stack([tf.cast(seed * STREAMS + stream, tf.int64), tf.cast(step, tf.int64)])


def draw_noise(seed, stream, first, count, shape):
    """Standard normal noise for `count` steps, each drawn from its own key: (count, *shape).

    Never called under XLA, which is about 50 times slower at it on a CPU and draws other numbers from the same key.
    """

    def draw(step):
        return tf.random.stateless_normal(shape, random_key(seed, stream, step))

    return tf.map_fn(draw, first + tf.range(count, dtype=tf.int64), fn_output_signature=tf.float32)


def to_pixels(images):
    """Convert uint8 images to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255


def binarized(images, binarize, key):
    """Turn uint8 images (..., H, W, C) into black and white ones, 0 and 255.

    binarize: "none" leaves them grey, "threshold" makes pixels above one half white, "dynamic" makes them white with
    their grey level as probability (Salakhutdinov & Murray 2008).

    Never called under XLA, which draws other numbers from the same key and slows a dense network's step by a third.
    """
    if binarize == "none":
        return images
    level = tf.random.stateless_uniform(tf.shape(images), key) if binarize == "dynamic" else 0.5
    return tf.where(level < to_pixels(images), np.uint8(255), np.uint8(0))


def mirrored(x, key):
    """Mirror a random half of the images left to right.  x: (B, H, W, C)."""
    chosen = tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), key) < 0.5
    return tf.where(chosen, tf.reverse(x, axis=[2]), x)


def shifted(images, reach, key):
    """Move each image at random by up to `reach` pixels both ways; its edges fill the gap.  (B, H, W, C)."""
    moves = tf.random.stateless_uniform((tf.shape(images)[0], 2), key, -reach, reach + 1, tf.int32)
    for axis, move in ((1, moves[:, :1]), (2, moves[:, 1:])):
        last = tf.shape(images)[axis] - 1
        images = tf.gather(images, tf.clip_by_value(tf.range(last + 1) + move, 0, last), axis=axis, batch_dims=1)
    return images


def rows_of(count):
    """Slices of at most EVALUATION_BATCH rows that together cover `count` rows."""
    return [slice(start, min(start + EVALUATION_BATCH, count)) for start in range(0, count, EVALUATION_BATCH)]


def evaluation_rows(count, batch):
    """Rows of test batch number `batch`, of `count` images. The last batch is filled up: one shape compiles once."""
    size = min(EVALUATION_BATCH, count)
    return np.minimum(np.arange(batch * size, (batch + 1) * size), count - 1)


def evaluation_pixels(images, binarize, seed, batch):
    """Test batch number `batch` as the loss sees it, float32 (B, H, W, C).

    With the same seed, binarised pixels are the same for every run and for everything that looks at them again.
    """
    rows = evaluation_rows(len(images), batch)
    return to_pixels(binarized(images[rows], binarize, random_key(seed, BINARIZE, -1 - batch)))


def chosen_pixels(images, binarize, seed, chosen):
    """The test images in rows `chosen` as the loss sees them, float32 (N, H, W, C)."""
    batches, rows = np.divmod(np.asarray(chosen), min(EVALUATION_BATCH, len(images)))
    found = np.empty((len(rows), *images.shape[1:]), np.float32)
    for batch in np.unique(batches):  # one at a time: all batches of a large set would fill the memory
        own = batches == batch
        found[own] = evaluation_pixels(images, binarize, seed, batch).numpy()[rows[own]]
    return found
