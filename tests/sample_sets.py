"""Small data sets in every layout that is read, written by the tests: MNIST, CIFAR-10, CelebA and folders of images."""

import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

from vae.data.registry import load_dataset


def tree(folder):
    """Return everything in a folder with its content."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def random_images(seed, count, *shape):
    """Return random images and labels, uint8."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *shape), np.uint8), random.integers(0, 10, count, np.uint8)


def archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


def checksum(data):
    return hashlib.sha256(data.train.tobytes() + data.test.tobytes()).hexdigest()


def assert_same(data, other):
    for part in ("train", "test", "train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(data, part), getattr(other, part))


def caches(data_dir):
    """Return the names in the cache folder, without the hashes of content and place."""
    return sorted(re.sub("-[0-9a-f]{8}(?=-)", "", path.name[:-17]) for path in (data_dir / "cache").iterdir())


# MNIST --------------------------------------------------------------------------------------------------------


MNIST = {"train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")}
MNIST["test"] = tuple(name.replace("train", "t10k") for name in MNIST["train"])
MNIST_FILES = [*MNIST["train"], *MNIST["test"]]
DIGITS = {"train": random_images(1, 6, 28, 28), "test": random_images(2, 4, 28, 28)}


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, content, rename=lambda name: name, pack=True):
    folder.mkdir(parents=True)
    for split, names in MNIST.items():
        for name, array in zip(names, content[split], strict=True):
            raw = idx(array)
            (folder / rename(name if pack else name[:-3])).write_bytes(gzip.compress(raw) if pack else raw)


def arrays():
    return {
        f"{axis}_{split}": array for split, parts in DIGITS.items() for axis, array in zip("xy", parts, strict=True)
    }


# CIFAR-10 -----------------------------------------------------------------------------------------------------


BATCHES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
ARCHIVE, UNPACKED = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"


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


PICKLED = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
TITLES = [*(f"training batch {number} of 5" for number in range(1, 6)), "testing batch 1 of 1"]
BATCH = {name: random_images(seed, 4 if seed < 5 else 3, 3, 32, 32) for seed, name in enumerate(PICKLED)}


def short(text):
    """Return a string as Python 2 pickles it."""
    return b"U" + bytes((len(text),)) + text


def python2_batch(pixels, labels, title=TITLES[-1]):
    """Return a batch in the operations of the published files, written out byte by byte."""
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
    """Return a batch as a script of today writes it, with NumPy's pickling."""
    return pickle.dumps({"data": pixels, "labels": list(map(int, labels))}, protocol=2)


def write_batches(folder, writer=python2_batch, changed=()):
    folder.mkdir(parents=True)
    for (name, (planes, labels)), title in zip(BATCH.items(), TITLES, strict=True):
        (folder / name).write_bytes(writer(planes.reshape(len(planes), -1), labels, title))
    for name, content in dict(changed).items():
        (folder / name).write_bytes(content)


# CelebA -------------------------------------------------------------------------------------------------------


COUNT = 12
NAMES = [f"{number:06}.jpg" for number in range(1, COUNT + 1)]
COLOURS = np.array([(20 * number, 255 - 20 * number, 83 * number % 256) for number in range(COUNT)], np.uint8)
ATTRIBUTES = "Bald Smiling Young".split()
VALUES = np.array([[number % 2, number // 2 % 2, number // 4 % 2] for number in range(COUNT)], np.uint8)
TRAIN, UNUSED, TEST = (7, 0, 1, 11, 5, 2), (3, 8), (9, 4, 10, 6)  # numbers of faces, in the partition file's order


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0, **options)
    return file.getvalue()


def face(number):
    """Return a JPEG of one colour inside the part that is used and the opposite colour around it."""
    pixels = np.empty((218, 178, 3), np.uint8)
    pixels[:] = COLOURS[number] + 128
    pixels[35:183, 15:163] = COLOURS[number]
    return jpeg(pixels)


FACES = {name: face(number) for number, name in enumerate(NAMES)}


def partition_text():
    rows = [(number, split) for split, numbers in enumerate((TRAIN, UNUSED, TEST)) for number in numbers]
    return "".join(f"{NAMES[number]} {split}\n" for number, split in rows)


def attributes_text():
    values = (" ".join("1" if value else "-1" for value in row) for row in VALUES)
    rows = (f"{name}  {row}" for name, row in zip(NAMES, values, strict=True))
    return "\n".join([str(COUNT), " ".join(ATTRIBUTES) + " ", *rows]) + "\n"


def write_images(folder, images, prefix=None):
    """Write images {name: content} to a folder, or with a prefix to an archive with what macOS adds to it."""
    if prefix is None:
        (folder / "img_align_celeba").mkdir(parents=True)
        for name, content in images.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
        return folder / "img_align_celeba"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.writestr("__MACOSX/" + prefix + "._000001.jpg", b"junk")
        for name, content in reversed(images.items()):
            archive.writestr(prefix + name, content)
        archive.writestr("readme.txt", b"junk")
        archive.writestr("folder.jpg/", b"")
    return folder / "img_align_celeba.zip"


def kaggle(folder):
    """Turn CelebA as published into Kaggle's layout: images one folder deeper, lists as tables."""
    inner = folder / "img_align_celeba" / "img_align_celeba"
    (folder / "img_align_celeba").rename(folder / "images")
    inner.parent.mkdir()
    (folder / "images").rename(inner)
    rows = [line.split() for line in attributes_text().splitlines()]
    write_table(folder / "list_attr_celeba.csv", [["image_id", *rows[1]], *rows[2:]])
    rows = [line.split() for line in partition_text().splitlines()]
    write_table(folder / "list_eval_partition.csv", [["image_id", "partition"], *rows])
    for path in folder.glob("*.txt"):
        path.unlink()


def write_table(path, rows):
    path.write_text("".join(",".join(row) + "\r\n" for row in rows), newline="")


def by_crc(names):
    """Split names into training and test names by our own rule."""
    test = [name for name in names if zlib.crc32(name.encode()) % 10 == 0]
    return [name for name in names if name not in test], test


# Folders of images --------------------------------------------------------------------------------------------


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)


def solid(colour, mode="RGB", size=(40, 40)):
    return Image.new(mode, size, colour)


def colour_of(number):
    return (number % 256, number // 256, 100)


def numbers_in(images):
    return [row[0] + 256 * row[1] for row in images[:, 0, 0].tolist()]


def write_numbered(folder, names):
    """Write images whose colours are their numbers."""
    for number, name in enumerate(names):
        save(folder / name, solid(colour_of(number), size=(8, 8)))


def split_of(folder, data_dir, **options):
    """Load a folder; returns the numbers of its training and of its test images."""
    data = load_dataset(str(folder), data_dir, 32, **options)
    return [numbers_in(data.train), numbers_in(data.test)]
