"""Data sets as they lie on people's disks: as Keras, torchvision and Kaggle leave them, in folders by class, in IDX."""

import gzip
import io
import os
import pickle
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import test_image_files as faces
from conftest import refusal
from test_datasets import MNIST, idx, random_images, tree

import vae_conv
import vae_fc
from vae.data import datasets, image_files
from vae.data.datasets import load_dataset
from vae.terminal import UserError, parse_settings

celeba = faces.celeba
pytestmark = pytest.mark.usefixtures("no_network", "no_bars")


# MNIST and its like -------------------------------------------------------------------------------------------

DIGITS = {"train": random_images(1, 6, 28, 28), "test": random_images(2, 4, 28, 28)}


def write_idx(folder, content, rename=lambda name: name, pack=True):
    folder.mkdir(parents=True)
    for split, names in MNIST.items():
        for name, array in zip(names, content[split], strict=True):
            raw = idx(array)
            (folder / rename(name if pack else name[:-3])).write_bytes(gzip.compress(raw) if pack else raw)


def check_digits(data, content=DIGITS):
    for split, (images, labels) in content.items():
        np.testing.assert_array_equal(getattr(data, split)[..., 0], images)
        np.testing.assert_array_equal(getattr(data, f"{split}_labels"), labels)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("folder", ["mnist", "mnist/raw", "MNIST/raw", "MNIST"])
@pytest.mark.parametrize("rename", [str, lambda name: name.replace("-idx", ".idx")], ids=["published", "Kaggle"])
def test_mnist_unpacked_in_torchvisions_folders_and_with_kaggles_names(tmp_path, pack, folder, rename):
    write_idx(tmp_path / folder, DIGITS, rename, pack)
    data = load_dataset("mnist", tmp_path)
    check_digits(data)
    assert data.name == "mnist" and data.label_names == tuple("0123456789")


@pytest.mark.parametrize("whole", ["MNIST/raw", "npz"])
def test_what_is_whole_goes_before_what_a_download_began(tmp_path, whole):
    write_idx(tmp_path / "mnist", DIGITS)
    for name in (*MNIST["test"], MNIST["train"][1]):
        (tmp_path / "mnist" / name).unlink()
    if whole == "npz":
        np.savez(tmp_path / "mnist.npz", **arrays())
    else:
        write_idx(tmp_path / whole, DIGITS)
    check_digits(load_dataset("mnist", tmp_path))


def test_other_sets_in_mnists_place_are_remarked_on(tmp_path, capsys):
    """Unpacked, Fashion-MNIST's files are told apart by their labels alone, parts of MNIST by their number."""
    write_idx(tmp_path / "mnist", DIGITS, pack=False)
    load_dataset("mnist", tmp_path)
    assert "mnist: 6 training and 4 test images, not 60,000 and 10,000\n" in capsys.readouterr().out
    blank = np.broadcast_to(np.uint8(0), (60_000, 1, 1, 1))
    parts = {"train": blank, "test": blank[:10_000], "train_labels": np.zeros(60_000, np.uint8)}
    datasets.remarked("folder", parts)
    assert capsys.readouterr().out.startswith("folder: its labels are not MNIST's; ")


def test_a_folder_of_that_name_is_no_file(tmp_path):
    """As some archives unpack: a folder train-images-idx3-ubyte/ beside the file train-images.idx3-ubyte."""
    write_idx(tmp_path / "mnist", DIGITS, lambda name: name.replace("-idx", ".idx"), pack=False)
    for names in MNIST.values():
        for name in names:
            (tmp_path / "mnist" / name[:-3]).mkdir()
    check_digits(load_dataset("mnist", tmp_path))


def arrays():
    return {
        f"{axis}_{split}": array for split, parts in DIGITS.items() for axis, array in zip("xy", parts, strict=True)
    }


@pytest.mark.parametrize("place", ["mnist.npz", "mnist/mnist.npz"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mnist_as_keras_keeps_it(tmp_path, place, save):
    (tmp_path / "mnist").mkdir()
    save(tmp_path / place, **arrays())
    check_digits(load_dataset("mnist", tmp_path))


def test_a_line_about_training_and_test_files_that_were_exchanged(tmp_path, capsys):
    write_idx(tmp_path / "mnist", {"train": DIGITS["test"], "test": DIGITS["train"]})
    assert len(load_dataset("mnist", tmp_path).train) == 4
    assert "4 training images and 6 test images; were they exchanged?" in capsys.readouterr().out
    other = {"train": "test", "test": "train"}
    (tmp_path / "keras").mkdir()
    content = {f"{kind}_{split}": arrays()[f"{kind}_{other[split]}"] for kind in "xy" for split in other}
    np.savez(tmp_path / "keras" / "mnist.npz", **content)
    load_dataset("mnist", tmp_path / "keras")
    assert "were they exchanged?" in capsys.readouterr().out


def test_idx_files_go_before_keras_file(tmp_path):
    write_idx(tmp_path / "mnist", DIGITS)
    (tmp_path / "mnist.npz").write_bytes(b"junk")
    check_digits(load_dataset("mnist", tmp_path))


NPZ_CHANGES = {  # what is in mnist.npz instead: (arrays, words of the message)
    "no test labels": ({"y_test": None}, "has no array y_test"),
    "floats": ({"x_train": np.zeros((6, 28, 28), np.float32)}, "x_train is float32 [6, 28, 28]"),
    "flat images": ({"x_train": np.zeros((6, 784), np.uint8)}, "x_train is uint8 [6, 784]"),
    "larger images": (
        {"x_test": np.zeros((4, 32, 32), np.uint8)},
        "x_test holds items of size [32, 32], not of [28, 28]",
    ),
    "no images": ({"x_test": np.zeros((0, 28, 28), np.uint8)}, "x_test is uint8 [0, 28, 28]"),
    "a label too few": ({"y_train": np.zeros(5, np.uint8)}, "5 labels for 6 images"),
    "label 10": ({"y_test": np.array([1, 10, 3, 4], np.uint8)}, "label 10 of image 1 is no digit"),
    "pickled objects": (
        {"y_test": np.array([1, 2, 3, None], object)},
        "cannot be read (Object arrays cannot be loaded",
    ),
}


@pytest.mark.parametrize("change", NPZ_CHANGES)
def test_another_mnist_npz(tmp_path, change):
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


def archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("damage", NPZ_DAMAGE)
def test_a_damaged_mnist_npz(tmp_path, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays())
    path.write_bytes(NPZ_DAMAGE[damage](path.read_bytes()))
    before = tree(tmp_path)
    refusal(lambda: load_dataset("mnist", tmp_path), f"{path}: ", "delete it")
    assert tree(tmp_path) == before


def test_a_small_npz_of_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MOST_OF_SMALL", 100_000)
    np.savez_compressed(tmp_path / "mnist.npz", **arrays() | {"x_train": np.zeros((999, 28, 28), np.uint8)})
    refusal(lambda: load_dataset("mnist", tmp_path), tmp_path / "mnist.npz", "x_train has 783,344 bytes", "delete it")


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "fashion", "my mnist-like set"])
def test_a_folder_in_mnists_file_names_is_called_as_it_is(tmp_path, pack, place, capsys):
    write_idx(tmp_path / place, DIGITS, pack=pack)
    data = load_dataset(str(tmp_path / Path(place).parts[0]), tmp_path / "elsewhere")
    check_digits(data)
    assert data.name == re.sub(" ", "_", Path(place).parts[0]) and data.label_names == tuple("0123456789")
    assert capsys.readouterr().out == "", "nothing about MNIST's checksums"


def test_such_a_folder_may_have_other_sizes_and_classes(tmp_path):
    letters = {"train": (np.zeros((5, 9, 17), np.uint8), np.array([1, 26, 3, 4, 5], np.uint8))}
    letters["test"] = (np.ones((2, 9, 17), np.uint8), np.array([2, 3], np.uint8))
    write_idx(tmp_path / "letters", letters)
    data = load_dataset(str(tmp_path / "letters"), tmp_path, limit=3)
    assert data.image_shape == (9, 17, 1) and len(data.train) == 3 and len(data.label_names) == 27


@pytest.mark.parametrize("script", ["fc", "conv"])
def test_such_a_folder_is_trained_as_mnist_is(tmp_path, script):
    write_idx(tmp_path / "kmnist", DIGITS)
    constants = vars({"fc": vae_fc, "conv": vae_conv}[script])
    own = parse_settings(script, "", constants, ["--dataset", str(tmp_path / "kmnist")])
    mnist = parse_settings(script, "", constants, ["--dataset", "mnist"])
    assert own.likelihood == "bernoulli"
    assert vars(own) | {"dataset": "mnist"} == vars(mnist)


def test_such_a_folder_without_one_of_its_files(tmp_path):
    write_idx(tmp_path / "kmnist", DIGITS)
    path = tmp_path / "kmnist" / MNIST["test"][1]
    path.unlink()
    refusal(lambda: load_dataset(str(tmp_path / "kmnist"), tmp_path), path, "is not there", "put it there")


def test_such_a_folder_with_two_sizes(tmp_path):
    content = {"train": random_images(1, 6, 28, 28), "test": random_images(2, 4, 28, 27)}
    write_idx(tmp_path / "two", content)
    refusal(lambda: load_dataset(str(tmp_path / "two"), tmp_path), "images of [28, 27], training images of [28, 28]")


# CIFAR-10, Python version -------------------------------------------------------------------------------------

PICKLED = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
TITLES = [*(f"training batch {number} of 5" for number in range(1, 6)), "testing batch 1 of 1"]


def short(text):
    """A string as Python 2 pickles it."""
    return b"U" + bytes((len(text),)) + text


def python2_batch(pixels, labels, title=TITLES[-1]):
    """The published files' own operations, written out: the offsets are those of the format."""
    count = struct.pack("<i", len(pixels))
    kind = b"cnumpy\ndtype\nq\x0b" + short(b"u1") + b"K\x00K\x01\x87q\x0cRq\x0d"
    kind += b"(K\x03" + short(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08" + short(b"b")
    array += b"\x87q\x09Rq\x0a(K\x01J" + count + b"M\x00\x0c\x86" + kind + b"\x89T"
    array += struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    numbers = b"]q\x04(" + b"".join(b"K" + bytes((label,)) for label in labels) + b"e"
    names = b"]q\x0e(" + b"".join(short(b"frog_s_%06d.png" % number) for number in range(len(labels))) + b"e"
    items = (b"batch_label", short(title.encode())), (b"labels", numbers), (b"data", array)
    items = (*items, (b"filenames", names))
    return b"\x80\x02}q\x01(" + b"".join(short(key) + value for key, value in items) + b"u."


def python3_batch(pixels, labels, title=None):
    """As somebody's own script writes them today, by NumPy's own pickling."""
    return pickle.dumps({"data": pixels, "labels": list(map(int, labels))}, protocol=2)


BATCH = {name: random_images(seed, 4 if seed < 5 else 3, 3, 32, 32) for seed, name in enumerate(PICKLED)}


def write_batches(folder, writer=python2_batch, changed=()):
    folder.mkdir(parents=True)
    for (name, (planes, labels)), title in zip(BATCH.items(), TITLES, strict=True):
        (folder / name).write_bytes(writer(planes.reshape(len(planes), -1), labels, title))
    for name, content in dict(changed).items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("writer", [python2_batch, python3_batch])
@pytest.mark.parametrize(
    "place",
    [
        *("cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"),
        *("cifar-10-python.tar.gz", "cifar10/cifar-10-batches-py.tar.gz"),
    ],
)
def test_cifar10s_python_version(tmp_path, writer, place):
    if place.endswith(".gz"):
        write_batches(tmp_path / "unpacked", writer)
        (tmp_path / place).parent.mkdir(exist_ok=True)
        with tarfile.open(tmp_path / place, "w:gz") as tar:
            tar.add(tmp_path / "unpacked", "cifar-10-batches-py")
    else:
        write_batches(tmp_path / place, writer)
    data = load_dataset("cifar10", tmp_path)
    train = np.concatenate([BATCH[name][0] for name in PICKLED[:5]])
    np.testing.assert_array_equal(data.train, train.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(data.train_labels, np.concatenate([BATCH[name][1] for name in PICKLED[:5]]))
    np.testing.assert_array_equal(data.test, BATCH["test_batch"][0].transpose(0, 2, 3, 1))
    assert np.array_equal(load_dataset("cifar10-grey", tmp_path).train, datasets.to_grey(data.train))


class Program:
    """Pickled, it is a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


GOOD = python2_batch(BATCH["test_batch"][0].reshape(3, -1), BATCH["test_batch"][1])
NINE = np.array([1, 2, 77], np.uint8)
HOSTILE = {  # what a batch is instead: (content, words of the message)
    "a program": (pickle.dumps(Program(os.mkdir, "made")), "asks for posix.mkdir"),
    "an old program": (b"cos\nsystem\n(S'mkdir made'\ntR.", "asks for os.system"),
    "eval": (pickle.dumps(Program(eval, "open('made', 'w')")), "asks for builtins.eval"),
    "a program among good data": (
        GOOD[:-2] + short(b"x") + b"cos\nmkdir\n" + short(b"made") + b"\x85Ru.",
        "asks for os",
    ),
    "NumPy's own functions": (b"cnumpy\nload\n" + short(b"made") + b"\x85R.", "asks for numpy.load"),
    "a name inside a known module": (b"cnumpy\nndarray.__class__\n.", "asks for numpy.ndarray.__class__"),
    "another batch": (python2_batch(*BATCH["test_batch"], TITLES[0]), "it calls itself training batch 1 of 5"),
    "a text that is many bytes": (
        b"\x80\x02(c_codecs\nencode\nq\x00X\xe8\x03\x00\x00"
        + 1000 * b"a"
        + b"q\x01X\x06\x00\x00\x00latin1q\x02"
        + 9 * b"h\x00h\x01h\x02\x86R"
        + b"l.",
        "the same again and again",
    ),
    "labels that are bytes": (
        pickle.dumps({"labels": b"1", "data": np.zeros((1, 3072), np.uint8)}, 2),
        "no label for",
    ),
    "lists in lists": (
        pickle.dumps({"labels": [[[1, 2]]], "data": np.zeros((1, 3072), np.uint8)}, 2),
        "no label for",
    ),
    "a huge memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "is no batch"),
    "a key made of itself": (b"\x80\x02}" + b")" + b"2\x86" * 40 + b"K\x01s.", "a table by other things than names"),
    "keys made of themselves": (b"\x80\x02}(" + b")" + b"2\x86" * 40 + b"K\x01u.", "a table by other things"),
    "a table of such a key": (b"\x80\x02(" + b")" + b"2\x86" * 40 + b"K\x01d.", "a table by other things"),
    "a set": (b"\x80\x04(" + b")" + b"2\x86" * 40 + b"\x91.", "a set, which CIFAR-10 has not"),
    "a great many empty lists": (b"\x80\x02(" + b"]" * 2000 + b"l.", "more operations than images need"),
    "an empty file": (b"", "is no batch"),
    "a web page": (b"<html>404</html>", "is no batch"),
    "a list": (pickle.dumps([1, 2]), "is no batch"),
    "no data": (pickle.dumps({"labels": [1]}), "data"),
    "data that is a list": (pickle.dumps({"labels": [1], "data": [1]}), "is no batch"),
    "cut": (GOOD[: len(GOOD) // 2], "is no batch"),
    "cut at its end": (GOOD[:-1], "is no batch"),
    "floats": (python3_batch(np.zeros((3, 3072), np.float32), [1, 2, 3]), "no bytes"),
    "columns first": (python3_batch(np.asfortranarray(np.zeros((3, 3072), np.uint8)), [1, 2, 3]), "row by row"),
    "another size": (python3_batch(np.zeros((3, 784), np.uint8), [1, 2, 3]), "3 x 784 pixels"),
    "no images": (python3_batch(np.zeros((0, 3072), np.uint8), []), "is no batch"),
    "a label too few": (python3_batch(np.zeros((3, 3072), np.uint8), [1, 2]), "no label for each of 3 images"),
    "labels that are texts": (
        pickle.dumps({"labels": ["1"], "data": np.zeros((1, 3072), np.uint8)}, 2),
        "no label for",
    ),
    "a negative label": (python3_batch(np.zeros((1, 3072), np.uint8), [-1]), "no label for"),
    "a label beyond 9": (python3_batch(np.zeros((3, 3072), np.uint8), NINE), "label 77 of image 2 is none of 0 to 9"),
    "more bytes promised": (
        GOOD.replace(struct.pack("<i", 3) + b"M\x00\x0c", struct.pack("<i", 4) + b"M\x00\x0c"),
        "4 x",
    ),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_pickle_that_is_no_batch_is_refused_and_not_run(tmp_path, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, words = HOSTILE[change]
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    write_batches(folder, changed={"test_batch": content})
    before = tree(tmp_path)
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{folder / 'test_batch'}: ", words)
    assert tree(tmp_path) == before, "nothing was run"


def test_a_missing_pickled_batch(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_batches(folder)
    (folder / "data_batch_3").unlink()
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{folder / 'data_batch_3'}: cannot be read")


@pytest.mark.parametrize("cut", range(0, len(GOOD), len(GOOD) // 40))
def test_a_cut_pickle(cut):
    with pytest.raises(UserError):
        datasets.read_batch(GOOD[:cut], Path("test_batch"), "replace it")


# CelebA as Kaggle ships it ------------------------------------------------------------------------------------


def kaggle(folder):
    """Turn CelebA as published into what Kaggle has: images one folder deeper, lists as tables."""
    inner = folder / "img_align_celeba" / "img_align_celeba"
    (folder / "img_align_celeba").rename(folder / "images")
    inner.parent.mkdir()
    (folder / "images").rename(inner)
    rows = [line.split() for line in faces.attributes_text().splitlines()]
    write_table(folder / "list_attr_celeba.csv", [["image_id", *rows[1]], *rows[2:]])
    rows = [line.split() for line in faces.partition_text().splitlines()]
    write_table(folder / "list_eval_partition.csv", [["image_id", "partition"], *rows])
    for path in folder.glob("*.txt"):
        path.unlink()


def write_table(path, rows):
    path.write_text("".join(",".join(row) + "\r\n" for row in rows), newline="")


def test_celeba_as_its_authors_hand_it_out(celeba):
    """In Img/, Anno/ and Eval/, with what macOS adds on other disks, and a folder left empty beside the archive."""
    before = faces.load_celeba(celeba)
    content = {path.name: path.read_bytes() for path in (celeba / "img_align_celeba").glob("*.jpg")}
    for place in ("Img", "Anno", "Eval"):
        (celeba / place).mkdir()
    (celeba / "Img" / "img_align_celeba.zip").write_bytes(archive(content | {"._000001.jpg": b"macOS"}))
    (celeba / "list_attr_celeba.txt").rename(celeba / "Anno" / "list_attr_celeba.txt")
    (celeba / "list_eval_partition.txt").rename(celeba / "Eval" / "list_eval_partition.txt")
    for path in (celeba / "img_align_celeba").iterdir():
        path.unlink()
    after = faces.load_celeba(celeba)
    assert after.sha256 == before.sha256 and np.array_equal(after.train_labels, before.train_labels)
    (celeba / "Img" / "img_align_celeba.zip").unlink()
    (celeba / "Img" / "img_align_celeba").mkdir()
    for name, photograph in content.items():
        (celeba / "Img" / "img_align_celeba" / name).write_bytes(photograph)
    assert faces.load_celeba(celeba).sha256 == before.sha256, "unpacked there"


def test_kaggles_celeba_is_the_published_one(celeba):
    before = faces.load_celeba(celeba)
    kaggle(celeba)
    after = faces.load_celeba(celeba)
    assert after.sha256 == before.sha256 and after.label_names == before.label_names
    for part in ("train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(after, part), getattr(before, part))


TABLE_DAMAGE = {  # (file, its text from a good one, words of the message)
    "no titles": ("attr_celeba", lambda text: text.split("\n", 1)[1], "first row is not image_id and names"),
    "empty": ("attr_celeba", lambda text: "", "first row is not image_id and names"),
    "a value too few": (
        "attr_celeba",
        lambda text: text.replace("000002.jpg,1,", "000002.jpg,"),
        "row 3 is no name and 3",
    ),
    "value 2": ("attr_celeba", lambda text: text.replace("000002.jpg,1,", "000002.jpg,2,"), "row 3 is no name and 3"),
    "a row twice": ("attr_celeba", lambda text: text + "000002.jpg,1,1,1\n", "row 14 is about 000002.jpg again"),
    "a row missing": ("attr_celeba", lambda text: text.replace("000002.jpg", "0.jpg"), "has no row for 000002.jpg"),
    "part 3": ("eval_partition", lambda text: text.replace("000001.jpg,0", "000001.jpg,3"), "row 3 is not a name and"),
    "a face twice": ("eval_partition", lambda text: text + "000001.jpg,2\n", "row 14 is about 000001.jpg again"),
}


@pytest.mark.parametrize("damage", TABLE_DAMAGE)
def test_damaged_tables(celeba, damage):
    kaggle(celeba)
    name, change, words = TABLE_DAMAGE[damage]
    path = celeba / f"list_{name}.csv"
    path.write_text(change(path.read_text()))
    refusal(lambda: faces.load_celeba(celeba), f"{path}: ", words, "replace or remove")


def test_a_face_twice_in_the_published_lists(celeba):
    path = celeba / "list_eval_partition.txt"
    path.write_text(faces.partition_text() + "000001.jpg 2\n")
    refusal(lambda: faces.load_celeba(celeba), f"{path}: row 13 is about 000001.jpg again")


# Folders by class ---------------------------------------------------------------------------------------------


def write_classes(folder, classes, count=30):
    names = [f"{name}/{number:02}.png" for name in classes for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        faces.Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / name)
    return names


def test_folders_by_class_are_labels(tmp_path):
    classes = ["cat", "dog", "Émile & $x$"]
    names = sorted(write_classes(tmp_path / "pets", classes))
    data = load_dataset(str(tmp_path / "pets"), tmp_path, 32)
    assert data.label_names == ("cat", "dog", "Émile _ _x_")
    for images, labels, side in zip(
        (data.train, data.test), (data.train_labels, data.test_labels), image_files.split_by_name(names), strict=True
    ):
        assert [data.label_names[label][:3] for label in labels] == [name[:3] for name in side]
        assert len(images) == len(labels) > 0
    again = load_dataset(str(tmp_path / "pets"), tmp_path, 32, limit=5)
    assert len(again.train_labels) == 5


@pytest.mark.parametrize("others", [["loose.png"], []])
def test_no_labels_without_two_classes_that_hold_every_image(tmp_path, others):
    write_classes(tmp_path / "pets", ["cat", "dog"] if others else ["cat"])
    for name in others:
        faces.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pets" / name)
    assert load_dataset(str(tmp_path / "pets"), tmp_path, 32).train_labels is None
