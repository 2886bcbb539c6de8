"""The published data sets, if they are in the data folder ($VAE_DATA, else data/); skipped if not."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import utils
import vae_conv
import vae_fc

DATA = Path(os.environ.get("VAE_DATA") or ROOT / "data")


def need(path):
    if not (DATA / path).exists():
        pytest.skip(f"{DATA / path} is not there: see data/README.md")


@pytest.fixture(autouse=True)
def data_folder(monkeypatch):
    monkeypatch.setenv("VAE_DATA", str(DATA))


def test_mnist_is_the_published_one():
    need("mnist/train-images-idx3-ubyte.gz")
    data = utils.load_dataset("mnist", DATA)
    assert data.train.shape == (60_000, 28, 28, 1) and data.test.shape == (10_000, 28, 28, 1)
    # Of the files' content behind their headers
    assert hashlib.sha256(header(3, 60_000) + data.train.tobytes()).hexdigest().startswith("ba891046e6505d7a")
    assert hashlib.sha256(header(3, 10_000) + data.test.tobytes()).hexdigest().startswith("0fa7898d509279e4")
    assert hashlib.sha256(header(1, 60_000) + data.train_labels.tobytes()).hexdigest().startswith("65a50cbbf4e906d7")
    assert hashlib.sha256(header(1, 10_000) + data.test_labels.tobytes()).hexdigest().startswith("ff7bcfd416de3373")


def header(rank, count):
    """Return the first bytes of an IDX file."""
    return bytes((0, 0, 8, rank)) + b"".join(size.to_bytes(4, "big") for size in (count, 28, 28)[:rank])


def test_mnist_is_learned(tmp_path):
    """One epoch gets far below 206 nats, the loss of the mean image and of a collapsed model."""
    need("mnist/train-images-idx3-ubyte.gz")
    metrics = vae_fc.main(["--dataset", "mnist", "--z", "100", "--epochs", "1", "--out", str(tmp_path)])
    assert metrics["test_loss"] < 150 and metrics["active_units"] > 10


def test_cifar10_is_whole():
    need("cifar10")
    data, grey = utils.load_dataset("cifar10", DATA), utils.load_dataset("cifar10-grey", DATA)
    assert data.train.shape == (50_000, 32, 32, 3) and data.test.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.train_labels).tolist() == [5_000] * 10
    assert grey.test.shape == (10_000, 32, 32, 1)
    assert abs(grey.test.mean() - data.test.mean(axis=(0, 1, 2)) @ [0.299, 0.587, 0.114]) < 0.1


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_photographs_start_at_pca(script, tmp_path):
    """One short epoch gets far better than the mean image, because training starts at PCA."""
    need("cifar10")
    flags = ["--dataset", "cifar10", "--epochs", "1", "--limit", "2000", "--out", str(tmp_path)]
    metrics = script.main(flags)
    assert metrics["test_psnr"] > 21 and metrics["active_units"] == 128


def test_celeba_has_faces_with_attributes():
    need("celeba")
    data = utils.load_dataset("celeba", DATA, limit=200)
    assert data.train.shape == (200, 64, 64, 3) and len(data.label_names) == 40
    assert data.train_labels.shape == (200, 40) and set(np.unique(data.train_labels)) == {0, 1}
    skin = data.train[:, 24:44, 24:40].mean(axis=(0, 1, 2))
    assert skin[0] > skin[1] > skin[2], "the middle of a face is redder than it is blue"
