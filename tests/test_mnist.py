"""MNIST and sets in its file names: right values from every layout, or one line that names the file."""

import gzip
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import modes_heeded, publish, refusal
from sample_sets import DIGITS, MNIST, MNIST_FILES, archive, arrays, idx, random_images, tree, write_idx

import vae_conv
import vae_fc
from vae.data import download, files
from vae.data import mnist as reader
from vae.data.registry import load_dataset
from vae.settings import parse_settings

pytestmark = pytest.mark.usefixtures("no_network")


# As published -------------------------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path):
    """Write four small files to tmp_path/mnist; returns their content {split: (images, labels)}."""
    (tmp_path / "mnist").mkdir()
    content = {"train": random_images(1, 6, 28, 28), "test": random_images(2, 4, 28, 28)}
    for split, names in MNIST.items():
        for name, array in zip(names, content[split], strict=True):
            (tmp_path / "mnist" / name).write_bytes(gzip.compress(idx(array)))
    return content


def load_mnist(tmp_path):
    return load_dataset("mnist", tmp_path)


def test_mnist_is_what_the_files_hold(mnist, tmp_path):
    data = load_mnist(tmp_path)
    assert data.name == "mnist" and data.image_shape == (28, 28, 1) and data.label_names == tuple("0123456789")
    for split, (images, labels) in mnist.items():
        np.testing.assert_array_equal(getattr(data, split)[..., 0], images)
        np.testing.assert_array_equal(getattr(data, f"{split}_labels"), labels)


def test_an_idx_file_byte_by_byte(mnist, tmp_path):
    """Offsets as in the format: idx() could share a mistake with the reader."""
    raw = bytearray(bytes.fromhex("00000803 00000006 0000001c 0000001c") + bytes(6 * 784))
    raw[16 + 4 * 784 + 5 * 28 + 9] = 77  # image 4, row 5, column 9
    (tmp_path / "mnist" / MNIST["train"][0]).write_bytes(gzip.compress(raw))
    train = load_mnist(tmp_path).train
    assert train[4, 5, 9, 0] == 77 == train.sum()


RAW_DAMAGE = {  # what happens to the content before it is compressed: (damage, words of the message)
    "no content": (lambda raw: b"", "not an IDX file"),
    "cut in the magic number": (lambda raw: raw[:3], "not an IDX file"),
    "cut in the header": (lambda raw: raw[:6], "not an IDX file"),
    "cut behind the header": (lambda raw: raw[: 4 + 4 * raw[3]], "fewer bytes than its"),
    "cut in the middle": (lambda raw: raw[: len(raw) - 2], "fewer bytes than its"),
    "one byte more": (lambda raw: raw + b"\0", "more bytes than its"),
    "signed bytes": (lambda raw: b"\0\0\x09" + raw[3:], "magic number 000009"),
    "another rank": (lambda raw: b"\0\0\x08\x02" + raw[4:], "magic number 00000802"),
    "little-endian": (lambda raw: raw[3::-1] + raw[4:], "magic number"),
    "no items": (lambda raw: raw[:4] + bytes(4) + raw[8:], "more bytes than its 0 items"),
    "one item more": (lambda raw: raw[:7] + bytes((raw[7] + 1,)) + raw[8:], "fewer bytes than its"),
    "one item fewer": (lambda raw: raw[:7] + bytes((raw[7] - 1,)) + raw[8:], "more bytes than its"),
    "no items and no bytes": (lambda raw: raw[:4] + bytes(4) + raw[8 : 4 + 4 * raw[3]], "are uint8 [0"),
    "four billion items": (lambda raw: raw[:4] + b"\xff" * 4 + raw[8:], "fewer bytes than its 4294967295 items"),
}
PACKED_DAMAGE = {  # what happens to the compressed file
    "empty file": (lambda packed: b"", "not an IDX file"),
    "not gzip": (lambda packed: gzip.decompress(packed), "cannot be read"),
    "a web page": (lambda packed: b"<html>404</html>", "cannot be read"),
    "cut in gzip's header": (lambda packed: packed[:5], "cannot be read"),
    "cut in gzip's stream": (lambda packed: packed[: len(packed) // 2], "cannot be read"),
    "cut in gzip's checksum": (lambda packed: packed[:-5], "cannot be read"),
    "wrong checksum": (lambda packed: packed[:-8] + bytes(4) + packed[-4:], "cannot be read"),
    "garbage behind": (lambda packed: packed + b"garbage", "cannot be read"),
    "another file behind": (lambda packed: packed + packed, "more bytes than its"),
}


def test_a_small_file_that_claims_gigabytes(mnist, tmp_path):
    path = tmp_path / "mnist" / MNIST["train"][0]
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 9_000_000, 28, 28) + bytes(999)))
    refusal(lambda: load_mnist(tmp_path), f"{path}: cannot be read (fewer bytes than its 9000000 items need)")


def test_a_pipe_in_place_of_a_file(mnist, tmp_path):
    path = tmp_path / "mnist" / MNIST["test"][0]
    path.unlink()
    os.mkfifo(path)
    refusal(lambda: load_mnist(tmp_path), f"{path}: cannot be read (a pipe or a device, which has no end)")


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize("damage", [*RAW_DAMAGE, *PACKED_DAMAGE])
def test_a_damaged_idx_file(mnist, tmp_path, name, damage):
    path = tmp_path / "mnist" / name
    packed = path.read_bytes()
    if damage in RAW_DAMAGE:
        change, words = RAW_DAMAGE[damage]
        path.write_bytes(gzip.compress(change(gzip.decompress(packed))))
    else:
        change, words = PACKED_DAMAGE[damage]
        path.write_bytes(change(packed))
    refusal(lambda: load_mnist(tmp_path), f"{path}: ", words, "delete it, and the next run downloads MNIST")


@pytest.mark.parametrize("shape", [(28, 27), (27, 28), (1, 784), (32, 32)])
def test_images_of_another_size(mnist, tmp_path, shape):
    path = tmp_path / "mnist" / MNIST["test"][0]
    path.write_bytes(gzip.compress(idx(np.zeros((4, *shape), np.uint8))))
    refusal(lambda: load_mnist(tmp_path), f"{path}: ", f"test images are of size {list(shape)}, not [28, 28]")


@pytest.mark.parametrize("split", MNIST)
@pytest.mark.parametrize("change", [-1, 1])
def test_fewer_or_more_labels_than_images(mnist, tmp_path, split, change):
    path, count = tmp_path / "mnist" / MNIST[split][1], len(mnist[split][0])
    path.write_bytes(gzip.compress(idx(np.zeros(count + change, np.uint8))))
    words = f"{count + change} labels for the {count} images in {MNIST[split][0]}: one of both is wrong"
    refusal(lambda: load_mnist(tmp_path), f"{path}: ", words)


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_that_is_not_a_digit(mnist, tmp_path, label):
    path = tmp_path / "mnist" / MNIST["train"][1]
    path.write_bytes(gzip.compress(idx(np.array([0, 1, 2, label, 9, 0], np.uint8))))
    refusal(lambda: load_mnist(tmp_path), f"{path}: ", f"label {label} of image 3 is not a digit")


@pytest.mark.parametrize("name", MNIST_FILES)
def test_a_folder_in_place_of_a_file(mnist, tmp_path, name):
    path = tmp_path / "mnist" / name
    path.unlink()
    path.mkdir()
    refusal(lambda: load_mnist(tmp_path), f"{path}: cannot be read (Is a directory)")


def test_a_file_without_read_permission(mnist, tmp_path):
    path = tmp_path / "mnist" / MNIST["train"][0]
    path.chmod(0)
    with modes_heeded():
        refusal(lambda: load_mnist(tmp_path), f"{path}: cannot be read (Permission denied)")


def test_only_missing_files_are_downloaded(mnist, tmp_path, monkeypatch, capsys):
    """A file that was just downloaded is not compared with the published one again."""
    path = tmp_path / "mnist" / MNIST["test"][1]
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(download, "download", lambda path, toy_set: path.write_bytes(content))
    np.testing.assert_array_equal(load_mnist(tmp_path).test_labels, mnist["test"][1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 1 and str(path) not in "".join(lines), "the last is about the number of images"


def test_files_that_differ_from_the_published_ones_are_used_with_a_note(mnist, tmp_path, monkeypatch, capsys):
    paths = [tmp_path / "mnist" / name for name in MNIST_FILES]
    publish(monkeypatch, paths[0], paths[2])
    load_mnist(tmp_path)
    line = "{}: not byte for byte the published file; used as it is"
    count = f"{tmp_path / 'mnist'}: 6 training and 4 test images, not 60,000 and 10,000"
    assert capsys.readouterr().out.splitlines() == [line.format(paths[1]), line.format(paths[3]), count]


# Other layouts ------------------------------------------------------------------------------------------------


def check_digits(data, content=DIGITS):
    for split, (images, labels) in content.items():
        np.testing.assert_array_equal(getattr(data, split)[..., 0], images)
        np.testing.assert_array_equal(getattr(data, f"{split}_labels"), labels)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "mnist/raw", "MNIST/raw", "MNIST"])
@pytest.mark.parametrize("rename", [str, lambda name: name.replace("-idx", ".idx")], ids=["published", "Kaggle"])
def test_unpacked_files_in_torchvisions_folders_and_under_kaggles_names(tmp_path, pack, folder, rename):
    write_idx(tmp_path / folder, DIGITS, rename, pack)
    data = load_dataset("mnist", tmp_path)
    check_digits(data)
    assert data.name == "mnist" and data.label_names == tuple("0123456789")


@pytest.mark.parametrize("whole", ["MNIST/raw", "npz"])
def test_a_complete_set_is_preferred_to_an_unfinished_download(tmp_path, whole):
    write_idx(tmp_path / "mnist", DIGITS)
    for name in (*MNIST["test"], MNIST["train"][1]):
        (tmp_path / "mnist" / name).unlink()
    if whole == "npz":
        np.savez(tmp_path / "mnist.npz", **arrays())
    else:
        write_idx(tmp_path / whole, DIGITS)
    check_digits(load_dataset("mnist", tmp_path))


def test_other_sets_in_place_of_mnist_cause_a_note(tmp_path, capsys):
    """Only its labels tell unpacked Fashion-MNIST from MNIST; parts of MNIST have fewer images."""
    write_idx(tmp_path / "mnist", DIGITS, pack=False)
    load_dataset("mnist", tmp_path)
    assert "mnist: 6 training and 4 test images, not 60,000 and 10,000\n" in capsys.readouterr().out
    blank = np.broadcast_to(np.uint8(0), (60_000, 1, 1, 1))
    parts = {"train": blank, "test": blank[:10_000], "train_labels": np.zeros(60_000, np.uint8)}
    reader.note_if_not_mnist("folder", parts)
    assert capsys.readouterr().out.startswith("folder: its labels are not MNIST's; ")


def test_a_folder_with_a_file_name_of_mnist_is_ignored(tmp_path):
    """Some archives unpack to a folder train-images-idx3-ubyte/ beside the file train-images.idx3-ubyte."""
    write_idx(tmp_path / "mnist", DIGITS, lambda name: name.replace("-idx", ".idx"), pack=False)
    for names in MNIST.values():
        for name in names:
            (tmp_path / "mnist" / name[:-3]).mkdir()
    check_digits(load_dataset("mnist", tmp_path))


def test_a_note_about_swapped_training_and_test_files(tmp_path, capsys):
    write_idx(tmp_path / "mnist", {"train": DIGITS["test"], "test": DIGITS["train"]})
    assert len(load_dataset("mnist", tmp_path).train) == 4
    assert "4 training images and 6 test images; were they swapped?" in capsys.readouterr().out
    other = {"train": "test", "test": "train"}
    (tmp_path / "keras").mkdir()
    content = {f"{kind}_{split}": arrays()[f"{kind}_{other[split]}"] for kind in "xy" for split in other}
    np.savez(tmp_path / "keras" / "mnist.npz", **content)
    load_dataset("mnist", tmp_path / "keras")
    assert "were they swapped?" in capsys.readouterr().out


# mnist.npz ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["mnist.npz", "mnist/mnist.npz"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mnist_npz_of_keras(tmp_path, place, save):
    (tmp_path / "mnist").mkdir()
    save(tmp_path / place, **arrays())
    check_digits(load_dataset("mnist", tmp_path))


def test_idx_files_are_preferred_to_mnist_npz(tmp_path):
    write_idx(tmp_path / "mnist", DIGITS)
    (tmp_path / "mnist.npz").write_bytes(b"junk")
    check_digits(load_dataset("mnist", tmp_path))


NPZ_CHANGES = {  # what is in mnist.npz instead: (arrays, words of the message)
    "no test labels": ({"y_test": None}, "no item named 'y_test.npy'"),
    "floats": ({"x_train": np.zeros((6, 28, 28), np.float32)}, "train images are float32 [6, 28, 28]"),
    "flat images": ({"x_train": np.zeros((6, 784), np.uint8)}, "train images are uint8 [6, 784]"),
    "larger images": ({"x_test": np.zeros((4, 32, 32), np.uint8)}, "test images are of size [32, 32], not [28, 28]"),
    "no images": ({"x_test": np.zeros((0, 28, 28), np.uint8)}, "test images are uint8 [0, 28, 28]"),
    "a label too few": ({"y_train": np.zeros(5, np.uint8)}, "5 labels for the 6 images"),
    "label 10": ({"y_test": np.array([1, 10, 3, 4], np.uint8)}, "label 10 of image 1 is not a digit"),
    "pickled objects": (
        {"y_test": np.array([1, 2, 3, None], object)},
        "cannot be read (Object arrays cannot be loaded",
    ),
}


@pytest.mark.parametrize("change", NPZ_CHANGES)
def test_other_arrays_in_mnist_npz(tmp_path, change):
    changed, words = NPZ_CHANGES[change]
    content = {name: array for name, array in (arrays() | changed).items() if array is not None}
    np.savez(tmp_path / "mnist.npz", **content)
    refusal(lambda: load_dataset("mnist", tmp_path), tmp_path / "mnist.npz", words, "delete it")


def npy(header, content=b""):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


NPZ_DAMAGE = {  # the file's bytes from those of a good one
    "empty": lambda good: b"",
    "no zip": lambda good: b"<html>404</html>",
    "cut": lambda good: good[: len(good) // 2],
    "cut at its end": lambda good: good[:-10],
    "called encrypted": lambda good: re.sub(rb"(PK\x01\x02.{4})\x00", b"\\1\x01", good, flags=re.DOTALL),
    "a byte changed": lambda good: good[:3000] + bytes((good[3000] ^ 255,)) + good[3001:],
    "another array format": lambda good: archive({"x_train.npy": b"NUMPY"}),
    "a huge array": lambda good: archive(
        {"x_train.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999, 28, 28)}\n")}
    ),
    "a negative array": lambda good: archive(
        {"x_train.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 28, 28)}\n", bytes(784))}
    ),
    "a header that is a program": lambda good: archive({"x_train.npy": npy("__import__('os').mkdir('made')\n")}),
    "a header without an end": lambda good: archive({"x_train.npy": npy("{'descr': '|u1', 'shape': (1, 28, 28\n")}),
    "a header of brackets": lambda good: archive({"x_train.npy": npy("[" * 9000)}),
    "more than the array": lambda good: archive(
        {"x_train.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 28, 28)}\n", bytes(785))}
    ),
}


@pytest.mark.parametrize("damage", NPZ_DAMAGE)
def test_a_damaged_mnist_npz(tmp_path, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays())
    path.write_bytes(NPZ_DAMAGE[damage](path.read_bytes()))
    before = tree(tmp_path)
    refusal(lambda: load_dataset("mnist", tmp_path), f"{path}: ", "delete it")
    assert tree(tmp_path) == before


def test_a_small_npz_that_unpacks_to_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES_OF_SMALL_FILES", 100_000)
    np.savez_compressed(tmp_path / "mnist.npz", **arrays() | {"x_train": np.zeros((999, 28, 28), np.uint8)})
    refusal(lambda: load_dataset("mnist", tmp_path), tmp_path / "mnist.npz", "x_train has 783,344 bytes", "delete it")


# Other sets in the same file names ----------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "fashion", "my mnist-like set"])
def test_another_set_is_named_after_its_folder(tmp_path, pack, place, capsys):
    write_idx(tmp_path / place, DIGITS, pack=pack)
    data = load_dataset(str(tmp_path / Path(place).parts[0]), tmp_path / "elsewhere")
    check_digits(data)
    assert data.name == re.sub(" ", "_", Path(place).parts[0]) and data.label_names == tuple("0123456789")
    assert capsys.readouterr().out == "", "nothing about MNIST's checksums"


def test_another_set_may_have_other_sizes_and_classes(tmp_path):
    letters = {"train": (np.zeros((5, 9, 17), np.uint8), np.array([1, 26, 3, 4, 5], np.uint8))}
    letters["test"] = (np.ones((2, 9, 17), np.uint8), np.array([2, 3], np.uint8))
    write_idx(tmp_path / "letters", letters)
    data = load_dataset(str(tmp_path / "letters"), tmp_path, limit=3)
    assert data.image_shape == (9, 17, 1) and len(data.train) == 3 and len(data.label_names) == 27


@pytest.mark.parametrize("script", ["fc", "conv"])
def test_another_set_is_trained_with_the_settings_of_mnist(tmp_path, script):
    write_idx(tmp_path / "kmnist", DIGITS)
    constants = vars({"fc": vae_fc, "conv": vae_conv}[script])
    own = parse_settings(constants, ["--dataset", str(tmp_path / "kmnist")])
    mnist = parse_settings(constants, ["--dataset", "mnist"])
    assert own.likelihood == "bernoulli"
    assert vars(own) | {"dataset": "mnist"} == vars(mnist)


def test_another_set_with_a_missing_file(tmp_path):
    write_idx(tmp_path / "kmnist", DIGITS)
    path = tmp_path / "kmnist" / MNIST["test"][1]
    path.unlink()
    refusal(lambda: load_dataset(str(tmp_path / "kmnist"), tmp_path), path, "No such file", "put a good one there")


def test_another_set_with_two_image_sizes(tmp_path):
    content = {"train": random_images(1, 6, 28, 28), "test": random_images(2, 4, 28, 27)}
    write_idx(tmp_path / "two", content)
    refusal(lambda: load_dataset(str(tmp_path / "two"), tmp_path), "test images are of size [28, 27], not [28, 28]")
