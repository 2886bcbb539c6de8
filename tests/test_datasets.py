"""MNIST, CIFAR-10 and toy sets from files that the tests write: right values, or one line that names the file."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import modes_heeded, refusal

from vae.data import datasets, toy
from vae.data.datasets import load_dataset
from vae.data.download import PUBLISHED, Published

MNIST = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")}
MNIST["test"] = tuple(name.replace("train", "t10k") for name in MNIST["train"])
MNIST_FILES = [*MNIST["train"], *MNIST["test"]]
BATCHES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
ARCHIVE, UNPACKED = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
NAMES = ["mnist", "cifar10", "cifar10-grey", "toy-digits", "toy-faces"]
TINY = {"toy-digits": (7, 3), "toy-faces": (4, 2)}


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(autouse=True)
def tiny_toys(monkeypatch):
    """Toy sets of a few images, without a progress bar, for which Keras would have to load."""
    sets = {name: (row[0], *TINY[name], row[3]) for name, row in datasets.TOY_SETS.items()}
    monkeypatch.setattr(datasets, "TOY_SETS", sets)
    monkeypatch.setattr(toy, "progress", lambda items, total, label: items)


def tree(folder):
    """Everything in a folder, with its content."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def random_images(seed, count, *shape):
    """Random images and labels, as uint8."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *shape), np.uint8), random.integers(0, 10, count, np.uint8)


def assert_same(data, other):
    for part in ("train", "test", "train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(data, part), getattr(other, part))


# MNIST --------------------------------------------------------------------------------------------------------


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """Four small files in tmp_path/mnist; returns what is in them: {split: (images, labels)}."""
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
    """The writer above could share a mistake with the reader: here, the offsets are those of the format."""
    raw = bytearray(bytes.fromhex("00000803 00000006 0000001c 0000001c") + bytes(6 * 784))
    raw[16 + 4 * 784 + 5 * 28 + 9] = 77  # image 4, row 5, column 9
    (tmp_path / "mnist" / MNIST["train"][0]).write_bytes(gzip.compress(raw))
    train = load_mnist(tmp_path).train
    assert train[4, 5, 9, 0] == 77 == train.sum()


RAW_DAMAGE = {  # what happens to the content before it is compressed: (damage, words of the message)
    "no content": (lambda raw: b"", "not an IDX file"),
    "cut in the magic number": (lambda raw: raw[:3], "not an IDX file"),
    "cut in the header": (lambda raw: raw[:6], "not an IDX file"),
    "cut behind the header": (lambda raw: raw[: 4 + 4 * raw[3]], "less than the"),
    "cut in the middle": (lambda raw: raw[: len(raw) - 2], "less than the"),
    "one byte more": (lambda raw: raw + b"\0", "more than the"),
    "signed bytes": (lambda raw: b"\0\0\x09" + raw[3:], "magic number 000009"),
    "another rank": (lambda raw: b"\0\0\x08\x02" + raw[4:], "magic number 00000802"),
    "little-endian": (lambda raw: raw[3::-1] + raw[4:], "magic number"),
    "no items": (lambda raw: raw[:4] + bytes(4) + raw[8:], "holds 0 items"),
    "one item more": (lambda raw: raw[:7] + bytes((raw[7] + 1,)) + raw[8:], "less than the"),
    "one item fewer": (lambda raw: raw[:7] + bytes((raw[7] - 1,)) + raw[8:], "more than the"),
    "four billion items": (lambda raw: raw[:4] + b"\xff" * 4 + raw[8:], "holds 4,294,967,295 items"),
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
    "another file behind": (lambda packed: packed + packed, "more than the"),
}


def test_a_small_file_of_gigabytes(mnist, tmp_path):
    path = tmp_path / "mnist" / MNIST["train"][0]
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 9_000_000, 28, 28) + bytes(999)))
    refusal(lambda: load_mnist(tmp_path), f"{path}: holds 9,000,000 items")


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
    refusal(lambda: load_mnist(tmp_path), f"{path}: ", words, "delete the file, and the next run downloads it")


@pytest.mark.parametrize("shape", [(28, 27), (27, 28), (1, 784), (32, 32)])
def test_images_of_another_size(mnist, tmp_path, shape):
    path = tmp_path / "mnist" / MNIST["test"][0]
    path.write_bytes(gzip.compress(idx(np.zeros((4, *shape), np.uint8))))
    refusal(lambda: load_mnist(tmp_path), f"{path}: holds items of size {list(shape)}, not of [28, 28]")


@pytest.mark.parametrize("split", MNIST)
@pytest.mark.parametrize("change", [-1, 1])
def test_labels_that_are_fewer_or_more_than_images(mnist, tmp_path, split, change):
    path, count = tmp_path / "mnist" / MNIST[split][1], len(mnist[split][0])
    path.write_bytes(gzip.compress(idx(np.zeros(count + change, np.uint8))))
    counts, either = f"{count + change} labels for {count} images", f"it or {MNIST[split][0]} is wrong: delete"
    refusal(lambda: load_mnist(tmp_path), f"{path}: {counts}; {either}")


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_that_is_no_digit(mnist, tmp_path, label):
    path = tmp_path / "mnist" / MNIST["train"][1]
    path.write_bytes(gzip.compress(idx(np.array([0, 1, 2, label, 9, 0], np.uint8))))
    refusal(lambda: load_mnist(tmp_path), f"{path}: label {label} of image 3 is no digit")


@pytest.mark.parametrize("name", MNIST_FILES)
def test_a_folder_in_place_of_a_file(mnist, tmp_path, name):
    path = tmp_path / "mnist" / name
    path.unlink()
    path.mkdir()
    refusal(lambda: load_mnist(tmp_path), f"{path}: cannot be read (Is a directory)")


def test_a_file_that_may_not_be_read(mnist, tmp_path):
    path = tmp_path / "mnist" / MNIST["train"][0]
    path.chmod(0)
    with modes_heeded():
        refusal(lambda: load_mnist(tmp_path), f"{path}: cannot be read (Permission denied)")


def test_only_missing_files_are_downloaded(mnist, tmp_path, monkeypatch, capsys):
    """A file that has just been downloaded and checked is not checked, nor remarked on, again."""
    path = tmp_path / "mnist" / MNIST["test"][1]
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(datasets, "download", lambda path, toy_set: path.write_bytes(content))
    np.testing.assert_array_equal(load_mnist(tmp_path).test_labels, mnist["test"][1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 1 and str(path) not in "".join(lines), "the last is about the number of images"


def publish(monkeypatch, *paths):
    """Let these files be the published ones."""
    table = {}
    for path in paths:
        algorithm = PUBLISHED[path.name].algorithm
        table[path.name] = Published((), algorithm, hashlib.new(algorithm, path.read_bytes()).hexdigest())
    monkeypatch.setattr("data.download.PUBLISHED", PUBLISHED | table)


def test_other_files_than_the_published_ones_are_used_and_remarked_on(mnist, tmp_path, monkeypatch, capsys):
    paths = [tmp_path / "mnist" / name for name in MNIST_FILES]
    publish(monkeypatch, paths[0], paths[2])
    load_mnist(tmp_path)
    line = "{}: not byte for byte the published file; used as it is"
    count = f"{tmp_path / 'mnist'}: 6 training and 4 test images, not 60,000 and 10,000"
    assert capsys.readouterr().out.splitlines() == [line.format(paths[1]), line.format(paths[3]), count]


# CIFAR-10 -----------------------------------------------------------------------------------------------------


def records(images, labels):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.column_stack([labels, planes]).astype(np.uint8).tobytes()


def write_tar(path, files, folder=UNPACKED + "/"):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_files(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def parts():
    """Images and labels of five training files of 4 and a test file of 3 images."""
    return [random_images(seed, 4 if seed < 5 else 3, 32, 32, 3) for seed in range(6)]


@pytest.fixture
def batches(parts, tmp_path):
    """The files that hold `parts`: {name: content}; tmp_path/cifar10 is there to write them to."""
    (tmp_path / "cifar10").mkdir()
    return {name: records(*part) for name, part in zip(BATCHES, parts, strict=True)}


@pytest.fixture(params=["folder", "archive"])
def cifar10(request, tmp_path):
    """cifar10(batches) puts the files there, unpacked or in an archive; returns how to load them, and the path."""

    def put(batches):
        if request.param == "folder":
            write_files(tmp_path / "cifar10" / UNPACKED, batches)
            return lambda: load_dataset("cifar10", tmp_path), tmp_path / "cifar10" / UNPACKED
        write_tar(tmp_path / "cifar10" / ARCHIVE, batches)
        return lambda: load_dataset("cifar10", tmp_path), tmp_path / "cifar10" / ARCHIVE

    return put


def test_cifar10_is_what_the_files_hold(cifar10, batches, parts):
    shuffled = {name: batches[name] for name in sorted(batches, key=lambda name: name[::-1])}
    data = cifar10(shuffled)[0]()
    assert data.name == "cifar10" and data.image_shape == (32, 32, 3) and len(data.label_names) == 10
    np.testing.assert_array_equal(data.train, np.concatenate([images for images, _ in parts[:5]]))
    np.testing.assert_array_equal(data.train_labels, np.concatenate([labels for _, labels in parts[:5]]))
    np.testing.assert_array_equal(data.test, parts[5][0])
    np.testing.assert_array_equal(data.test_labels, parts[5][1])


def test_a_cifar10_record_byte_by_byte(cifar10, batches):
    """Label, then the red, green and blue planes, each row by row."""
    record = bytearray(3073)
    record[0] = 7
    for plane, value in enumerate((11, 22, 33)):
        record[1 + plane * 1024 + 5 * 32 + 9] = value  # row 5, column 9
    data = cifar10(batches | {"data_batch_2.bin": bytes(2 * 3073) + bytes(record) + bytes(3073)})[0]()
    assert data.train_labels[4 + 2] == 7 and data.label_names[7] == "horse"
    assert data.train[4 + 2, 5, 9].tolist() == [11, 22, 33]
    assert data.train[4:8].sum() == 66


BATCH_DAMAGE = {
    "empty": (lambda content: b"", "0 bytes are no whole number of 3073-byte images"),
    "cut": (lambda content: content[:-1], "bytes are no whole number"),
    "cut in the first image": (lambda content: content[:100], "100 bytes are no whole number"),
    "one byte more": (lambda content: content + b"\0", "bytes are no whole number"),
    "label 10": (lambda content: content[:3073] + b"\x0a" + content[3074:], "label 10 of image 1"),
    "CIFAR-100": (lambda content: b"".join(b"\1" + content[at : at + 3073] for at in range(0, 9219, 3073)), "bytes"),
    "pickled": (lambda content: pickle.dumps({b"data": content, b"labels": [1]}), "bytes are no whole number"),
}


@pytest.mark.parametrize("name", [BATCHES[0], BATCHES[4], BATCHES[5]])
@pytest.mark.parametrize("damage", BATCH_DAMAGE)
def test_a_damaged_batch(cifar10, batches, name, damage):
    change, words = BATCH_DAMAGE[damage]
    load, path = cifar10(batches | {name: change(batches[name])})
    refusal(load, f"{path / name}: ", words, f"delete {path}, and the next run downloads the archive")


def test_a_batch_with_fewer_images_than_the_others(cifar10, batches):
    load, path = cifar10(batches | {"data_batch_3.bin": batches["data_batch_3.bin"][:3073]})
    refusal(load, f"{path}: [4, 4, 1, 4, 4] images in its five training files")


@pytest.mark.parametrize("name", [BATCHES[0], BATCHES[5]])
def test_a_missing_batch(cifar10, batches, name):
    del batches[name]
    load, path = cifar10(batches)
    refusal(load, f"{path}", name, "No such file" if path.is_dir() else "is not in it")


@pytest.mark.parametrize("name", [f"{UNPACKED}/{BATCHES[2]}", ARCHIVE])
def test_a_folder_in_place_of_a_batch_or_the_archive(batches, tmp_path, name):
    if name != ARCHIVE:
        write_files(tmp_path / "cifar10" / UNPACKED, batches)
        (tmp_path / "cifar10" / name).unlink()
    (tmp_path / "cifar10" / name).mkdir()
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{tmp_path / 'cifar10' / name}: cannot be read (Is a dir")


def test_a_batch_or_archive_that_may_not_be_read(cifar10, batches, tmp_path):
    load, path = cifar10(batches)
    path = path / BATCHES[0] if path.is_dir() else path
    path.chmod(0)
    with modes_heeded():
        refusal(load, f"{path}: cannot be read (Permission denied)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"",
        lambda packed: b"<html>404</html>",
        lambda packed: packed[:7],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-4],
        lambda packed: packed[:5000] + bytes(100) + packed[5100:],  # pixels alone, which only the checksum shows
        lambda packed: packed + b"garbage",
        lambda packed: gzip.decompress(packed),
        lambda packed: gzip.compress(b"not a tar" * 100),
        lambda packed: gzip.compress(gzip.decompress(packed)[:20_000]),
        lambda packed: gzip.compress(gzip.decompress(packed)[:500]),
    ],
)
def test_a_damaged_archive(batches, tmp_path, damage):
    path = tmp_path / "cifar10" / ARCHIVE
    write_tar(path, batches)
    path.write_bytes(damage(path.read_bytes()))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", f"delete {path}, and the next run downloads")


@pytest.mark.parametrize("pax", [False, True])
def test_a_member_of_negative_size_leads_nowhere(batches, tmp_path, pax):
    """It would lead back in the archive, for ever."""
    first, back = tarfile.TarInfo("a"), tarfile.TarInfo("b")
    if pax:
        back.pax_headers = {"size": "-1536"}
    else:
        back.size = -512
    headers = [one.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) for one in (first, back)]
    path = tmp_path / "cifar10" / ARCHIVE
    path.write_bytes(gzip.compress(b"".join(headers) + bytes(10_240)))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", f"delete {path}, and the next run downloads")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_an_endless_header_is_not_searched(batches, tmp_path, kind):
    """Older Pythons' tarfile would search these ten million digits for days; packed, they are ten kilobytes."""
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, 10_000_000
    path = tmp_path / "cifar10" / ARCHIVE
    path.write_bytes(gzip.compress(header.tobuf() + b"0" * (header.size + 10_240)))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", "an extended header of 10,000,000 bytes in it")


def test_a_sparse_member_is_no_batch(batches, tmp_path):
    """Of a thousand images, all of them holes."""
    path, size = tmp_path / "cifar10" / ARCHIVE, str(1000 * datasets.RECORD)
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in BATCHES:
            member = tarfile.TarInfo(name)
            member.pax_headers = {"GNU.sparse.map": f"{size},0", "GNU.sparse.size": size}
            tar.addfile(member)
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", "is sparse")


def test_the_unpacked_folder_goes_before_the_archive(batches, tmp_path, capsys):
    write_files(tmp_path / "cifar10" / UNPACKED, batches)
    (tmp_path / "cifar10" / ARCHIVE).write_bytes(b"damaged")
    load_dataset("cifar10", tmp_path)
    assert ARCHIVE not in capsys.readouterr().out


def special(kind, name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_members_that_lead_elsewhere_do_nothing(batches, tmp_path):
    """Nothing at all is unpacked; a file is found by its last name, wherever the archive says that it belongs."""
    outside, path = tmp_path / "outside", tmp_path / "cifar10" / ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.addfile(special(tarfile.SYMTYPE, UNPACKED, str(outside)))
        tar.addfile(special(tarfile.SYMTYPE, "link/" + BATCHES[0], "/etc/passwd"))
        tar.addfile(special(tarfile.LNKTYPE, "link/" + BATCHES[1], "../../etc/passwd"))
        tar.addfile(special(tarfile.FIFOTYPE, BATCHES[2], ""))
        tar.addfile(special(tarfile.DIRTYPE, BATCHES[3], ""))
        for folder, name in zip((f"{outside}/", "../", "../../", "//", "", "a/../"), batches, strict=True):
            member = tarfile.TarInfo(folder + name)
            member.size = len(batches[name])
            tar.addfile(member, io.BytesIO(batches[name]))
    before = tree(tmp_path)
    assert load_dataset("cifar10", tmp_path).train.shape == (20, 32, 32, 3)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_no_batch(batches, tmp_path, kind):
    path = tmp_path / "cifar10" / ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name in BATCHES:
            tar.addfile(special(kind, name, "/etc/passwd"))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: {BATCHES[0]} is not in it")


def inflated(files, size):
    """Tar archives of the files with so many zeros in a further member, behind the end, and in a header."""
    member = tarfile.TarInfo("zeros")
    member.size = size
    with io.BytesIO() as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            batch = tarfile.TarInfo(name)
            batch.size = len(content)
            tar.addfile(batch, io.BytesIO(content))
        whole = packed.getvalue()
    yield member.tobuf() + bytes(size) + whole + bytes(1024)
    yield whole + bytes(size + 1024)


@pytest.mark.parametrize("place", range(2))
def test_an_archive_that_unpacks_without_end_is_refused_before(place, batches, tmp_path, monkeypatch):
    path = tmp_path / "cifar10" / ARCHIVE
    content = list(inflated(batches, 512 * 60_000))[place]
    path.write_bytes(gzip.compress(content, 9))
    load_dataset("cifar10", tmp_path)
    monkeypatch.setattr(datasets, "MOST_OF_SMALL", 10_000_000)
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: cannot be read (more than ", "bytes in it")


class Bomb:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def test_the_pickled_version_is_not_opened(batches, tmp_path):
    path, bomb = tmp_path / "cifar10" / ARCHIVE, pickle.dumps(Bomb(tmp_path / "unpickled"))
    write_tar(path, dict.fromkeys([Path(name).stem for name in BATCHES], bomb), "cifar-10-batches-py/")
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: {BATCHES[0]} is not in it")
    write_tar(path, dict.fromkeys(BATCHES, bomb))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path / BATCHES[0]}: ")
    assert not (tmp_path / "unpickled").exists()


def test_another_number_of_images_is_remarked_on(cifar10, batches, monkeypatch, capsys):
    load, path = cifar10(batches)
    if path.is_file():
        publish(monkeypatch, path)
    load()
    line = f"{path}: 4 images in a training file and 3 in the test file, not 10,000\n"
    assert capsys.readouterr().out == line


def test_ten_thousand_images_are_not(cifar10, batches, monkeypatch, capsys):
    """But files in each other's place are, whose labels come in another order."""
    load, path = cifar10(batches)
    if path.is_file():
        publish(monkeypatch, path)
    parts = {path / name: np.full(10_000, number, np.uint8) for number, name in enumerate(BATCHES)}
    images = np.zeros((10_000, 1, 1, 3), np.uint8)
    monkeypatch.setattr(datasets, "check_records", lambda records, path, way_out: (images, parts[path]))
    monkeypatch.setattr(datasets, "CIFAR_LABELS", hashlib.sha256(b"".join(parts.values())).hexdigest())
    load()
    assert capsys.readouterr().out == ""
    parts[path / BATCHES[-1]] = parts[path / BATCHES[0]]
    load()
    assert capsys.readouterr().out == f"{path}: its labels are not CIFAR-10's; were files of it exchanged?\n"


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.float32, (5, 8, 8, 1)), (np.uint8, (5, 8, 8)), (np.uint8, (5, 3, 8, 8))]
)
def test_a_loader_of_ones_own_has_to_make_images(dtype, shape):
    good, bad = np.zeros((5, 8, 8, 1), np.uint8), np.zeros(shape, dtype)
    for parts in ((good, bad), (bad, good)):
        refusal(lambda: datasets.Dataset("mine", *parts, None, None, ()), f"mine: images are {bad.dtype} {list(shape)}")  # noqa: B023


def test_another_archive_than_the_published_one_is_remarked_on(batches, tmp_path, capsys):
    write_tar(tmp_path / "cifar10" / ARCHIVE, batches)
    load_dataset("cifar10", tmp_path)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{tmp_path / 'cifar10' / ARCHIVE}: not byte for byte the published file; used as it is"


# Grey ---------------------------------------------------------------------------------------------------------


def test_grey_is_bt601_luma_rounded():
    images = random_images(0, 2500, 4, 3, 3)[0]  # more than two of the blocks in which they are converted
    grey, exact = datasets.to_grey(images), images.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert grey.shape == (2500, 4, 3, 1) and grey.dtype == np.uint8
    assert np.abs(grey[..., 0] - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("colour", "grey"),
    [
        *[((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)],
        *[((255, 255, 0), 226), ((0, 255, 255), 179), ((255, 0, 255), 105)],
        *[((value, value, value), value) for value in (0, 1, 127, 128, 254, 255)],
    ],
)
def test_grey_of_pure_colours(colour, grey):
    assert datasets.to_grey(np.array(colour, np.uint8).reshape(1, 1, 1, 3)).item() == grey


def test_cifar10_grey_is_cifar10_in_grey(cifar10, batches, tmp_path):
    colour = cifar10(batches)[0]()
    grey = load_dataset("cifar10-grey", tmp_path)
    assert grey.name == "cifar10-grey" and grey.image_shape == (32, 32, 1) and grey.sha256 != colour.sha256
    converted = {part: datasets.to_grey(getattr(colour, part)) for part in ("train", "test")}
    assert_same(grey, replace(colour, **converted))


# All of them --------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(mnist, batches, tmp_path):
    """A data folder with MNIST and CIFAR-10 in it."""
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
    ("name", "path", "toy_set"),
    [
        ("mnist", f"mnist/{MNIST_FILES[0]}", "toy-digits"),
        ("cifar10", f"cifar10/{ARCHIVE}", "toy-faces"),
        ("cifar10-grey", f"cifar10/{ARCHIVE}", "toy-faces"),
    ],
)
def test_what_is_missing_is_downloaded(tmp_path, no_network, name, path, toy_set):
    refusal(lambda: load_dataset(name, tmp_path), "no network")
    assert no_network == [(tmp_path / path, toy_set)]


# Toy sets -----------------------------------------------------------------------------------------------------


def forbid_drawing(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("drawn again")

    sets = {name: (fail, *row[1:]) for name, row in datasets.TOY_SETS.items()}
    monkeypatch.setattr(datasets, "TOY_SETS", sets)


@pytest.mark.parametrize("name", TINY)
def test_toy_sets_are_drawn_once(tmp_path, monkeypatch, name):
    data = load_dataset(name, tmp_path)
    draw, train, test, label_names = datasets.TOY_SETS[name]
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
    monkeypatch.setitem(datasets.TOY_SETS, "toy-digits", (toy.draw_digits, 9, 4, tuple("0123456789")))
    data = load_dataset("toy-digits", tmp_path)
    assert (len(data.train), len(data.test)) == (9, 4)


def test_toy_sets_lie_side_by_side(tmp_path, monkeypatch):
    for name in TINY:
        load_dataset(name, tmp_path)
    forbid_drawing(monkeypatch)
    for name in TINY:
        assert load_dataset(name, tmp_path, limit=2).train.shape[0] == 2
