"""All data sets by their names: types, checksums, limits, refused flags, and toy sets, which are drawn once."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import refusal
from sample_sets import (
    ARCHIVE,
    BATCHES,
    DIGITS,
    MNIST_FILES,
    assert_same,
    random_images,
    records,
    tree,
    write_idx,
    write_tar,
)

import vae_fc
from vae.data import toy
from vae.data.dataset import Dataset
from vae.data.registry import load_dataset
from vae.settings import parse_settings
from vae.terminal import launch

NAMES = ["mnist", "cifar10", "cifar10-grey", "toy-digits", "toy-faces"]
TINY = {"toy-digits": (7, 3), "toy-faces": (4, 2)}
pytestmark = pytest.mark.usefixtures("no_network", "no_bars")


@pytest.fixture(autouse=True)
def tiny_toys(monkeypatch):
    """Let toy sets have a few images."""
    sets = {name: (row[0], *TINY[name], row[3]) for name, row in toy.TOY_SETS.items()}
    monkeypatch.setattr(toy, "TOY_SETS", sets)


# All of them --------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path):
    """A data folder with MNIST and CIFAR-10 in it."""
    write_idx(tmp_path / "mnist", DIGITS)
    (tmp_path / "cifar10").mkdir()
    batches = {name: records(*random_images(seed, 4, 32, 32, 3)) for seed, name in enumerate(BATCHES)}
    write_tar(tmp_path / "cifar10" / ARCHIVE, batches)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_types_and_checksum(filled, name):
    data = load_dataset(name, str(filled))
    assert data.name == name and data.train.shape[1:] == data.test.shape[1:] == data.image_shape
    for part in (data.train, data.test, data.train_labels, data.test_labels):
        assert part.dtype == np.uint8
    assert len(data.train) == len(data.train_labels) and len(data.test) == len(data.test_labels)
    assert data.sha256 == hashlib.sha256(data.train.tobytes() + data.test.tobytes()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [1, 4, 1000])
def test_limit_takes_the_first(filled, name, limit):
    whole, some = load_dataset(name, filled), load_dataset(name, filled, limit=limit)
    parts = ("train", "test", "train_labels", "test_labels")
    assert_same(some, replace(whole, **{part: getattr(whole, part)[:limit] for part in parts}))
    assert some.label_names == whole.label_names
    assert some.sha256 == hashlib.sha256(some.train.tobytes() + some.test.tobytes()).hexdigest()
    assert (some.sha256 == whole.sha256) == (limit >= len(whole.train))


@pytest.mark.parametrize("name", NAMES)
def test_image_size_is_refused_where_images_have_one_size(filled, name):
    refusal(lambda: load_dataset(name, filled, image_size=64), "--image-size: ", f"the images of {name} have one size")


@pytest.mark.parametrize("name", ["mnits", "no/such/folder", "MNIST"])
def test_an_unknown_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refusal(lambda: load_dataset(name, tmp_path), f"--dataset {name}: ", *NAMES, "celeba")
    assert not tree(tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(("MNIST", "mnist"), ("CelebA", "celeba"), ("CIFAR-10", "cifar10"), ("Toy_Digits", "toy-digits")),
        *(("CIFAR10-Grey", "cifar10-grey"), ("cifar10_gray", "cifar10-grey")),
    ],
)
def test_names_in_any_case(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_settings(vars(vae_fc), ["--dataset", text]).dataset == name
    (tmp_path / text).mkdir()
    assert parse_settings(vars(vae_fc), ["--dataset", text]).dataset == text, "a folder of that name is meant"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnsit", "did you mean mnist?"),
        ("cifar-100", "did you mean cifar10?"),
        ("fashion_mnist", "name one with that set's four files"),
        ("photo.jpg", "is a file; name its folder, --dataset ."),
        ("images.zip", "is an archive; unpack it"),
        ("images.npz", "is a file of arrays; data/README.md"),
    ],
)
def test_what_is_no_data_set_gets_a_way_out(name, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "." in name:
        (tmp_path / name).write_text("")
    with pytest.raises(SystemExit) as stop:
        launch(lambda: vae_fc.main(["--dataset", name, "--out", str(tmp_path)]))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"--dataset {name}: " in error and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "path", "toy_set"),
    [
        ("mnist", f"mnist/{MNIST_FILES[0]}", "toy-digits"),
        ("cifar10", f"cifar10/{ARCHIVE}", "toy-faces"),
        ("cifar10-grey", f"cifar10/{ARCHIVE}", "toy-faces"),
    ],
)
def test_missing_files_are_downloaded(tmp_path, no_network, name, path, toy_set):
    refusal(lambda: load_dataset(name, tmp_path), "no network")
    assert no_network == [(tmp_path / path, toy_set)]


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.float32, (5, 8, 8, 1)), (np.uint8, (5, 8, 8)), (np.uint8, (5, 3, 8, 8))]
)
def test_a_dataset_has_to_have_uint8_images(dtype, shape):
    good, bad = np.zeros((5, 8, 8, 1), np.uint8), np.zeros(shape, dtype)
    for parts in ((good, bad), (bad, good)):
        refusal(lambda: Dataset("mine", *parts, None, None, ()), f"mine: images are {bad.dtype} {list(shape)}")  # noqa: B023


# Toy sets -----------------------------------------------------------------------------------------------------


def forbid_drawing(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("drawn again")

    sets = {name: (fail, *row[1:]) for name, row in toy.TOY_SETS.items()}
    monkeypatch.setattr(toy, "TOY_SETS", sets)


@pytest.mark.parametrize("name", TINY)
def test_toy_sets_are_drawn_once(tmp_path, monkeypatch, name):
    data = load_dataset(name, tmp_path)
    draw, train, test, label_names = toy.TOY_SETS[name]
    images, labels = draw(train + test, seed=0)
    assert data.name == name and data.label_names == tuple(label_names)
    assert_same(data, replace(data, train=images[:train], test=images[train:]))
    assert_same(data, replace(data, train_labels=labels[:train], test_labels=labels[train:]))
    forbid_drawing(monkeypatch)
    assert_same(data, load_dataset(name, tmp_path))
    files = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert files == {"images.npy", "labels.npy", "checksums.json"}, "arrays of numbers, no objects"


def test_toy_sets_are_drawn_again_by_another_program(tmp_path, monkeypatch):
    load_dataset("toy-digits", tmp_path)
    program = tmp_path / "toy.py"
    program.write_text("# another program")
    monkeypatch.setattr(toy, "__file__", str(program))
    forbid_drawing(monkeypatch)
    with pytest.raises(AssertionError, match="drawn again"):
        load_dataset("toy-digits", tmp_path)


def test_toy_sets_are_drawn_again_in_another_number(tmp_path, monkeypatch):
    load_dataset("toy-digits", tmp_path)
    monkeypatch.setitem(toy.TOY_SETS, "toy-digits", (toy.draw_digits, 9, 4, tuple("0123456789")))
    data = load_dataset("toy-digits", tmp_path)
    assert (len(data.train), len(data.test)) == (9, 4)


def test_toy_sets_lie_side_by_side(tmp_path, monkeypatch):
    for name in TINY:
        load_dataset(name, tmp_path)
    forbid_drawing(monkeypatch)
    for name in TINY:
        assert load_dataset(name, tmp_path, limit=2).train.shape[0] == 2
