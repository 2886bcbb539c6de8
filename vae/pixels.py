"""Random numbers by key, and pixels as the networks see them: in [0, 1], binarised, mirrored, moved, in test batches.

Images are uint8 (..., H, W, C) where they come from a data set, and float32 in [0, 1] once `to_pixels` has seen them.
"""

import numpy as np
import tensorflow as tf

EVALUATION_BATCH = 500  # images
STREAMS = 8  # of random numbers, each with a number of its own:
NOISE, BINARIZE, EVALUATE, SAMPLE, MIRROR, IMPORTANCE, DEQUANTISE, SHIFT = range(STREAMS)


def random_key(seed, stream, step):
    """Key of TensorFlow's stateless random numbers: the same numbers whenever (seed, stream, step) is the same."""
    return tf.stack([tf.cast(seed * STREAMS + stream, tf.int64), tf.cast(step, tf.int64)])


def draw_noise(seed, stream, first, count, shape):
    """Standard normal noise of `count` steps, each from the key of its own number: (count, *shape).

    Never called under XLA, which takes some 50 times as long for it on a CPU, and makes other numbers of the same key.
    """

    def draw(step):
        return tf.random.stateless_normal(shape, random_key(seed, stream, step))

    return tf.map_fn(draw, first + tf.range(count, dtype=tf.int64), fn_output_signature=tf.float32)


def to_pixels(images):
    """uint8 images as float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255


def binarized(images, binarize, key):
    """uint8 images as they are ("none") or as 0 and 255: above one half ("threshold"), or "dynamic": drawn anew with
    each pixel's grey level as probability (Salakhutdinov & Murray 2008).  (..., H, W, C), of the same shape.

    Never called under XLA, which makes other random numbers of the same key, and inside a dense net's training step
    took a third of its speed (7,500 images/s instead of 11,300).
    """
    if binarize == "none":
        return images
    level = tf.random.stateless_uniform(tf.shape(images), key) if binarize == "dynamic" else 0.5
    return tf.where(level < to_pixels(images), np.uint8(255), np.uint8(0))


def mirrored(x, key):
    """Each image as it is or mirrored left to right, by chance.  x: (B, H, W, C)."""
    chosen = tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), key) < 0.5
    return tf.where(chosen, tf.reverse(x, axis=[2]), x)


def shifted(images, reach, key):
    """Each image moved by up to `reach` pixels along both sides, by chance; its edges fill the gap.  (B, H, W, C)."""
    moves = tf.random.stateless_uniform((tf.shape(images)[0], 2), key, -reach, reach + 1, tf.int32)
    for axis, move in ((1, moves[:, :1]), (2, moves[:, 1:])):
        last = tf.shape(images)[axis] - 1
        images = tf.gather(images, tf.clip_by_value(tf.range(last + 1) + move, 0, last), axis=axis, batch_dims=1)
    return images


def rows_of(count):
    """Slices of at most EVALUATION_BATCH rows that cover `count` rows."""
    return [slice(start, min(start + EVALUATION_BATCH, count)) for start in range(0, count, EVALUATION_BATCH)]


def evaluation_rows(count, batch):
    """Rows of test batch number `batch` of `count` images. The last one is filled up: one shape, so one compilation."""
    size = min(EVALUATION_BATCH, count)
    return np.minimum(np.arange(batch * size, (batch + 1) * size), count - 1)


def evaluation_pixels(images, binarize, seed, batch):
    """Test batch number `batch` as the loss sees it, float32.

    Every run that binarises with the same seed, and everything that looks at its test images again, has the same
    pixels.
    """
    rows = evaluation_rows(len(images), batch)
    return to_pixels(binarized(images[rows], binarize, random_key(seed, BINARIZE, -1 - batch)))


def chosen_pixels(images, binarize, seed, chosen):
    """The test images of these numbers as the loss sees them, float32: (N, H, W, C)."""
    batches, rows = np.divmod(np.asarray(chosen), min(EVALUATION_BATCH, len(images)))
    found = np.empty((len(rows), *images.shape[1:]), np.float32)
    for batch in np.unique(batches):  # one at a time: those of a large set together would fill the memory
        own = batches == batch
        found[own] = evaluation_pixels(images, binarize, seed, batch).numpy()[rows[own]]
    return found
