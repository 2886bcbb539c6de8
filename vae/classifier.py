"""A small classifier of a data set's own labels or attributes, whose features and answers compare images.

It is trained on the originals once and kept in the data folder, so that all runs on the same images share it. Its
features know only these labels: distances between them are not an FID, and compare only with each other.
"""

import hashlib
import math
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from vae.data.cache import open_cache
from vae.run_folder import load_network
from vae.terminal import note, reason

FILTERS = (32, 64, 128)  # of convolutions that halve the sides, from SIDE on; larger images have some more before
SIDE = 32  # pixels
FEATURES = 64  # units of the layer before the logits
DROPOUT = 0.3
EPOCHS = 10
MOST_IMAGES, MOST_PIXELS = 200_000, 2e8  # that it is shown in all, height x width: fewer epochs for large sets
BATCH_SIZE = 128
LEARNING_RATE = 1e-3  # of Adam, with cosine decay
RECIPE = 2  # raise it to train kept classifiers again after a change of this file


def load_classifier(data, data_dir):
    """Load the classifier of a labelled Dataset, or train it at its first use.

    Returns a function: images (B, H, W, C) in [0, 1] -> features (B, FEATURES), logits (B, L).
    """

    def build(folder):
        train_classifier(data).save(folder / "classifier.keras")

    try:
        cached = open_cache(data_dir, *cache_entry(data), build)
        model = load_network(cached / "classifier.keras", "delete it, and the next evaluation trains it again")
    except OSError as error:
        note(f"{data_dir}: the classifier cannot be kept there ({reason(error)}), so it is used only once")
        model = train_classifier(data)

    @tf.function(reduce_retracing=True)
    def describe(images):
        return model(255 * tf.cast(images, tf.float32), training=False)  # without Dropout

    return describe


def cache_entry(data):
    """The name and the signature of a data set's classifier in the cache."""
    labels = hashlib.sha256(np.ascontiguousarray(data.train_labels)).hexdigest()
    recipe = [RECIPE, FILTERS, SIDE, FEATURES, DROPOUT, EPOCHS, MOST_IMAGES, MOST_PIXELS, BATCH_SIZE, LEARNING_RATE]
    name = f"classifier-{data.name}-{data.sha256[:8]}"  # data sets of the same name have one each
    return name, [data.sha256, labels, list(data.label_names), recipe]


def training_steps(data):
    """How many batches the classifier is trained on."""
    height, width, _ = data.image_shape
    images = min(MOST_IMAGES, MOST_PIXELS / (height * width))
    return min(EPOCHS * -(-len(data.train) // BATCH_SIZE), math.ceil(images / BATCH_SIZE))


def shuffled_batches(images, labels, mirror):
    """Yield batches of a training set that need not fit in memory, epoch after epoch, each in another order.

    images: uint8 (N, H, W, C), labels: (N,) or (N, A). With `mirror`, a random half of the images is mirrored.
    """
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(len(images))
        for start in range(0, len(images), BATCH_SIZE):
            rows = np.sort(order[start : start + BATCH_SIZE])
            batch = images[rows]
            if mirror:
                chosen = random.random(len(rows)) < 0.5
                batch[chosen] = batch[chosen, :, ::-1]
            yield batch, labels[rows]


def train_classifier(data):
    """Train a classifier on the originals; returns a Keras model as build_classifier does."""
    steps = training_steps(data)
    count = min(len(data.train), steps * BATCH_SIZE)
    note(f"training a classifier of {data.name} on {count:,} images (once; kept in the data folder)")
    keras.utils.set_random_seed(0)
    model = build_classifier(data.image_shape, len(data.label_names))
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), loss=[None, label_loss(data.train_labels)])
    mirror = not all(map(str.isdigit, data.label_names))  # digits and letters, whose labels are numbers, stay
    batches = shuffled_batches(data.train, data.train_labels, mirror)
    model.fit(batches, steps_per_epoch=steps, verbose=int(sys.stdout.isatty()), shuffle=False)
    return model


def filters_of(image_shape):
    """Filters of the convolutions: halved for every time that the image is larger than SIDE, so that all cost alike."""
    doublings = max(0, math.ceil(math.log2(max(image_shape[:2]) / SIDE)))
    return [FILTERS[0] // 2**number or 1 for number in range(doublings, 0, -1)] + list(FILTERS)


def build_classifier(image_shape, label_count):
    """Images with levels 0 to 255 (B, H, W, C) -> [features (B, FEATURES), logits (B, L)], by strided convolutions."""
    image = keras.Input(image_shape)
    hidden = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    for filters in filters_of(image_shape):
        hidden = layers.Conv2D(filters, 4, 2, "same", activation="leaky_relu")(hidden)  # (B, H/2, W/2, filters)
    hidden = layers.Dropout(DROPOUT, seed=0)(layers.Flatten()(hidden))
    features = layers.Dense(FEATURES, "leaky_relu", name="features")(hidden)
    return keras.Model(image, [features, layers.Dense(label_count, name="logits")(features)], name="classifier")


def label_loss(labels):
    """The cross-entropy of classes, labels (N,), or of attributes, labels (N, A) of 0 and 1.

    Of each attribute, images with it and images without it weigh the same in total. Otherwise the classifier would
    learn that an attribute of one image in fifteen is never there.
    """
    if labels.ndim == 1:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    present = labels.mean(axis=0)
    weight = tf.constant((1 - present) / np.maximum(present, 1e-3), tf.float32)

    def balanced(truth, logits):
        return tf.nn.weighted_cross_entropy_with_logits(tf.cast(truth, tf.float32), logits, weight)

    return balanced
