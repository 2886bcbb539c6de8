"""A small classifier of a data set's own labels or attributes: features to compare images by, and a judge of them.

Trained on the originals once and kept in the data folder, so that all runs on the same images share one judge. Its
features know nothing but these labels, so distances in them are no FID and compare with nothing but themselves.
"""

import hashlib
import sys

import numpy as np

from console import note
from data.cache import open_cache

# isort: split
import keras
import tensorflow as tf
from keras import layers

FILTERS = (32, 64, 128)  # of convolutions that halve the sides
FEATURES = 64  # width of the layer before the labels
DROPOUT = 0.3
EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATE = 1e-3  # of Adam, with cosine decay
MOST_IMAGES = 60_000  # evenly spaced ones, where the training set is larger
RECIPE = 1  # raise it when what is above or below changes: kept classifiers are trained anew


def load_classifier(data, data_dir, mirror):
    """The classifier of a labelled Dataset, trained at its first use; with `mirror`, on mirror images too.

    Returns a function of images (B, H, W, C) in [0, 1]: features (B, FEATURES) and logits (B, labels).
    """
    labels = hashlib.sha256(np.ascontiguousarray(data.train_labels)).hexdigest()
    recipe = [RECIPE, FILTERS, FEATURES, DROPOUT, EPOCHS, BATCH_SIZE, LEARNING_RATE, MOST_IMAGES, mirror]

    def build(folder):
        train_classifier(data, mirror).save(folder / "classifier.keras")

    folder = open_cache(data_dir, f"classifier-{data.name}-{len(data.train)}", [data.sha256, labels, recipe], build)
    model = keras.models.load_model(folder / "classifier.keras", compile=False)

    @tf.function(reduce_retracing=True)
    def describe(images):
        return model(255 * tf.cast(images, tf.float32))

    return describe


def train_classifier(data, mirror):
    """Train on the originals: cross-entropy of classes, or of attributes with both answers given the same weight."""
    step = max(1, -(-len(data.train) // MOST_IMAGES))
    images, labels = data.train[::step], data.train_labels[::step]
    note(f"training a classifier of {data.name}'s labels on {len(images):,} images (once; kept in the data folder)")
    keras.utils.set_random_seed(0)
    model = build_classifier(data.image_shape, len(data.label_names), mirror)
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), loss=[None, label_loss(labels)])
    model.fit(images, labels, BATCH_SIZE, EPOCHS, verbose=int(sys.stdout.isatty()))
    return model


def build_classifier(image_shape, label_count, mirror):
    """Grey levels 0 to 255 (B, H, W, C) -> strided convolutions -> [features (B, F), logits (B, labels)]."""
    image = keras.Input(image_shape)
    hidden = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    hidden = layers.RandomFlip("horizontal", seed=0)(hidden) if mirror else hidden
    for filters in FILTERS:
        hidden = layers.Conv2D(filters, 4, 2, "same", activation="leaky_relu")(hidden)  # (B, H/2, W/2, filters)
    hidden = layers.Dropout(DROPOUT, seed=0)(layers.Flatten()(hidden))
    features = layers.Dense(FEATURES, "leaky_relu", name="features")(hidden)
    return keras.Model(image, [features, layers.Dense(label_count, name="logits")(features)], name="classifier")


def label_loss(labels):
    """Loss of logits: of one class an image, labels (N,), or of attributes, labels (N, A) of 0 and 1.

    An attribute that one in fifteen has would be learned as never there: those who have it count as much as those
    who have it not.
    """
    if labels.ndim == 1:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    present = labels.mean(axis=0)
    weight = tf.constant((1 - present) / np.maximum(present, 1e-3), tf.float32)

    def balanced(truth, logits):
        return tf.nn.weighted_cross_entropy_with_logits(tf.cast(truth, tf.float32), logits, weight)

    return balanced
