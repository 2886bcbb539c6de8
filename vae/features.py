"""What a classifier sees of samples, reconstructions and test images: Frechet distances, novelty, attributes.

A view is a set of images. Its features are (N, F), its logits (N, L).
"""

import math

import numpy as np
import tensorflow as tf

from vae import elbo, measures, pixels
from vae.classifier import load_classifier
from vae.terminal import note, progress

SAMPLES = 10_000  # images of each kind at most: samples, reconstructions, test and training images
MOST_PIXELS = 1.6e7  # height x width of all images of a kind: fewer of larger images
NEIGHBOURS = 60_000  # training images among which the nearest one is looked for
PCA_PIXELS, PCA_ITERATIONS = 6e7, 10  # height x width of all images that PCA is fitted to; with fewer, it looks worse
MIXTURE = 10  # Gaussians fitted to the codes of at most SAMPLES training images; fewer for few codes
CODES_PER_UNIT = 5  # codes for each Gaussian and latent unit


def image_count(image_shape):
    """How many images of each kind are compared."""
    height, width, _ = image_shape
    return min(SAMPLES, math.ceil(MOST_PIXELS / (height * width)))


def pca_limit(image_shape):
    """The argument `limit` of fit_ppca: of larger sets, PCA is fitted to every second, third ... image."""
    height, width, _ = image_shape
    return math.ceil(PCA_PIXELS / (height * width))


def sample_codes(z, seed):
    """Draw codes (SAMPLES, z) from N(0, I), the same ones for every run of the same z and seed."""
    return tf.random.stateless_normal((SAMPLES, z), pixels.random_key(seed, pixels.SAMPLE, 1)).numpy()


def mixture_codes(means, log_stds, seed):
    """Draw codes (SAMPLES, z) from a mixture of Gaussians that lies where the training images' codes do.

    means, log_stds: of q(z|x) of training images, each (N, z). The mixture is fitted to one draw from each q(z|x).
    """
    key = pixels.random_key(seed, pixels.SAMPLE, 2)
    codes = elbo.reparameterize(means, log_stds, tf.random.stateless_normal(means.shape, key)).numpy()
    count, z = codes.shape
    gaussians = int(np.clip(count // (CODES_PER_UNIT * z), 1, MIXTURE))
    return measures.fit_mixture(codes, gaussians, seed).draw(SAMPLES, seed).astype(np.float32)


def feature_numbers(run, means, chosen, samples, mixture, ppca):
    """The values of frechet, novelty and attributes in evaluation.json, and the samples' nearest training images.

    Where the data set has no labels for a classifier, the features are pPCA codes, and only novelty is not None.

    means: posterior means of all test images, (N, z); chosen: rows of those that are looked at, (n,). samples, mixture:
    codes drawn from N(0, I) and from the mixture, (n, z). The nearest images are rows of the training set, (n,).
    """
    data, labelled = run.data, run.data.train_labels is not None

    def linear_features(images):
        flat = np.reshape(images, (len(images), -1))
        return flat @ ppca.encode + ppca.encode_bias, np.zeros((len(flat), 0))

    if not labelled:
        note(f"{data.name} has no labels: novelty by principal components, no Frechet distance, no attributes")
    describe = load_classifier(data, run.config.data_dir) if labelled else linear_features
    training = measures.evenly_spaced(len(data.train), NEIGHBOURS)
    views = describe_views(run, describe, means, chosen, training, samples, mixture, ppca)
    nearness, neighbours = novelty(views)
    labels = data.test_labels[chosen] if labelled else None
    return {
        "frechet": frechet(views, labels) if labelled else None,
        "novelty": nearness | {"features": "classifier" if labelled else "pca"},
        "attributes": attributes(views, labels, data.attributes) if data.attributes else None,
    }, training[neighbours]


def describe_views(run, describe, means, chosen, training, samples, mixture, ppca):
    """The features and logits of test images, of what becomes of them, of training images and of samples.

    describe: images in [0, 1] (B, H, W, C) -> features (B, F), logits (B, L); training: rows of the training images
    that are looked at; the rest as in feature_numbers. Returns {view: [features, logits]}.
    """
    data, shape = run.data, run.data.image_shape

    def project(rows):
        x = pixels.to_pixels(data.test[chosen[rows]]).numpy().reshape(-1, np.prod(shape))
        return measures.pca_reconstruction(ppca, x).reshape(-1, *shape)

    def decoder_of(codes, labels):
        return lambda rows: run.vae.pixel_means(codes[rows], labels[rows])

    views = {  # name: (number of images, function of rows that returns these images in [0, 1])
        "originals": (len(chosen), lambda rows: pixels.to_pixels(data.test[chosen[rows]])),
        "reconstructions": (len(chosen), decoder_of(means[chosen], run.labels("test")[chosen])),
        "pca": (len(chosen), project),
        "mean_image": (1, lambda rows: ppca.decode_bias.reshape(1, *shape)),
        "samples": (len(samples), decoder_of(samples, run.sample_labels(len(samples)))),
        "mixture_samples": (len(mixture), decoder_of(mixture, run.sample_labels(len(mixture)))),
        "training": (len(training), lambda rows: pixels.to_pixels(data.train[training[rows]])),
    }
    batches = [(name, rows) for name, (count, _) in views.items() for rows in pixels.rows_of(count)]
    found = {name: [] for name in views}
    for name, rows in progress(batches, len(batches), "features of test, training, reconstructed and sampled images"):
        found[name].append([np.asarray(part) for part in describe(views[name][1](rows))])
    return {name: [np.concatenate(part) for part in zip(*parts, strict=True)] for name, parts in found.items()}


def frechet(views, test_labels):
    """Squared Frechet distances to the test images; None where there are too few images for a covariance."""
    test, train = views["originals"][0], views["training"][0]
    if min(len(test), len(train)) < 2:
        return None
    others = {name: views[name][0] for name in ("samples", "mixture_samples", "reconstructions")}
    others["training"] = train[measures.evenly_spaced(len(train), len(others["samples"]))]
    distances = {name: measures.frechet_distance(features, test) for name, features in others.items()}
    counts = {f"{name}_images": len(features) for name, features in others.items()}
    accuracy = measures.accuracy(views["originals"][1], test_labels)
    return distances | counts | {"features": test.shape[1], "classifier_accuracy": accuracy}


def novelty(views):
    """Compare how near samples and held-out images are to the training images; also return the nearest ones.

    Reconstructions of held-out images are the control: they are not copies, but as blurred as samples.
    """
    names = {"samples": "samples", "reconstructions": "reconstructions", "held_out": "originals"}
    found = {name: measures.nearest(views[view][0], views["training"][0]) for name, view in names.items()}
    distances = {name: nearest[0] for name, nearest in found.items()}
    statistic, share = measures.copying_statistic(distances["samples"], distances["held_out"])
    control, _ = measures.copying_statistic(distances["reconstructions"], distances["held_out"])
    numbers = {"c_t": statistic, "c_t_of_reconstructions": control, "share_nearer_than_held_out": share}
    medians = {f"median_distance_of_{name}": float(np.median(values)) for name, values in distances.items()}
    return numbers | medians, found["samples"][1]


def attributes(views, labels, names):
    """The recall of each attribute's presence and absence in four views, and how much of it reconstructions retain.

    labels: of the test images, (N, A); names: of the attributes.
    """
    shown = ("originals", "reconstructions", "pca", "mean_image")
    recalls = {view: measures.recalls(np.broadcast_to(views[view][1] > 0, labels.shape), labels) for view in shown}
    numbers = {name: {} for name in names}
    for column, name in enumerate(names):
        for side, answer in enumerate(("presence", "absence")):
            found = {view: float(recalls[view][side][column]) for view in shown}
            found = {view: None if np.isnan(recall) else recall for view, recall in found.items()}
            retention = found["reconstructions"] / found["originals"] if found["originals"] else None
            numbers[name][answer] = found | {"retention": retention}
    return numbers
