"""A finished run, read back from its folder: settings, last metrics, data and networks, all checked."""

import functools
import json
import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tensorflow as tf

from vae import pictures
from vae.data.dataset import Dataset
from vae.data.registry import load_dataset
from vae.elbo import Vae
from vae.run_folder import load_network
from vae.terminal import UserError, did_you_mean, reason

load_once = functools.lru_cache(maxsize=1)(load_dataset)  # for several runs on the same images


@dataclass(frozen=True)
class Config:
    """The settings of config.json that are needed to use a run. Each must be of the type given here."""

    script: str
    dataset: str
    data_dir: str
    image_size: int | None
    limit: int | None
    pixels_sha256: str
    z: int
    xla: bool
    seed: int
    likelihood: Literal["bernoulli", "gaussian"]
    binarize: Literal["none", "dynamic", "threshold"]


@dataclass(frozen=True)
class Metrics:
    """The numbers of metrics.json that are needed to use a run."""

    epoch: int
    test_loss: float
    sigma: float | None  # of Gaussian pixels


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, with the data set that it was trained on."""

    folder: Path
    config: Config
    metrics: Metrics
    data: Dataset
    vae: Vae

    def labels(self, split):
        """The labels that the networks take with the "train" or "test" images, (N, L); L is 0 if they take none."""
        return self.data.label_matrix(split, self.vae.takes_labels)

    def sample_labels(self, count):
        """The labels that the networks take with samples, (count, L)."""
        return pictures.sample_labels(self.labels("test"), count)

    def decode(self, codes, labels=None):
        """Images (..., H, W, C) in [0, 1] of codes (..., z).  labels: (..., L) or one (L,); None: those of samples."""
        shape, count = codes.shape[:-1], math.prod(codes.shape[:-1])
        labels = self.sample_labels(count) if labels is None else labels
        flat = [np.resize(part, (count, part.shape[-1])).astype(np.float32) for part in (codes, labels)]
        return self.vae.pixel_means(*flat).numpy().reshape(*shape, *self.data.image_shape)


def why_no_run(folder):
    """What a path is if it is not the folder of a finished run, in a few words; None if it is one."""
    if not folder.is_dir():
        return "is not a folder"
    if not (folder / "config.json").exists():
        return "holds no run: no config.json in it"
    if not (folder / "metrics.json").exists():
        return "has not finished: no metrics.json in it; finish it with --resume"
    return None


def load_run(folder, data_dir=None):
    """Load the run in a folder.  data_dir: where its data set is; None: where it was during training.

    UserError if something is missing or damaged, or if the images are not those that the run was trained on.
    """
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: is read-only, and evaluation.json has to go there; copy the run elsewhere")
    config, metrics = read_json(folder / "config.json", Config), read_json(folder / "metrics.json", Metrics)
    config = replace(config, data_dir=data_dir or config.data_dir)
    data = load_data(folder, config)
    encoder = load_half(folder / "encoder.keras", data.image_shape, (2 * config.z,), data)
    decoder = load_half(folder / "decoder.keras", (config.z,), data.image_shape, data)
    # Training removes metrics.json before it replaces the networks, and writes it last
    if read_json(folder / "metrics.json", Metrics) != metrics:
        raise UserError(f"{folder}: was trained further while it was being read; evaluate it again")
    sigma = metrics.sigma if config.likelihood == "gaussian" else 1.0
    if not (sigma and 0 < sigma < math.inf):
        raise UserError(f"{folder / 'metrics.json'}: sigma is {sigma}, not a positive number; train the run again")
    log_sigma = tf.Variable(math.log(sigma), dtype=tf.float32)
    return FinishedRun(folder, config, metrics, data, Vae(encoder, decoder, log_sigma, config.likelihood))


def about_missing(folder):
    """What to say about a run that does not exist."""
    places = folder.parent, Path("results")
    runs = {path.parent.name: path.parent for place in places for path in place.glob("*/config.json")}
    return f"no such folder; name that of a finished run, like results/fc_mnist_z2{did_you_mean(folder.name, runs)}"


def read_json(path, kind):
    """Read a JSON file of a run as the dataclass `kind`. UserError if a value is missing or of another type."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); train the run again") from None
    content = content if isinstance(content, dict) else {}
    for item in fields(kind):
        if item.name not in content:
            raise UserError(f"{path}: lacks {item.name}; train the run again")
        value, accepted = content[item.name], get_args(item.type) or (item.type,)  # types, or values of a Literal
        if value not in accepted and type(value) not in accepted:
            raise UserError(f"{path}: {item.name} is {value!r}, which no run has; train the run again")
    return kind(**{item.name: content[item.name] for item in fields(kind)})


def load_data(folder, config):
    """The data set of a run, black and white if the run saw it so; UserError if its images are others."""
    data = load_once(config.dataset, config.data_dir, config.image_size, config.limit)
    if data.sha256 != config.pixels_sha256:
        way_out = "put those back, or name their folder with --data-dir"
        raise UserError(f"{folder}: was trained on other images than {config.dataset} has now; {way_out}")
    if config.binarize == "threshold":  # then the grey levels play no part in the run
        black_and_white = {split: np.uint8(255) * (getattr(data, split) > 127) for split in ("train", "test")}
        data = replace(data, **black_and_white).with_checksum()
    return data


def load_half(path, input_shape, output_shape, data):
    """Load the encoder or the decoder. UserError if its shapes do not fit z, the images or the labels."""
    network = load_network(path, "train the run again")
    labels = [data.label_matrix("test").shape[1:]] if len(network.inputs) > 1 else []
    expected = (tuple(input_shape), *labels, tuple(output_shape))
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in (*network.inputs, *network.outputs))
    if shapes != expected:
        raise UserError(f"{path}: has shapes {shapes}, not {expected}; train the run again")
    return network
