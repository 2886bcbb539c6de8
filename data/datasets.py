"""Data sets as uint8 arrays: MNIST and CIFAR-10 as published, toy sets; image_files.py has CelebA and own images."""

import gzip
import hashlib
import os
import struct
import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from console import UserError, note, reason
from data import toy
from data.cache import open_cache
from data.download import PUBLISHED, download
from data.image_files import load_celeba, load_folder

DIGITS = tuple("0123456789")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 32 * 32 * 3  # bytes of an image in CIFAR-10's binary files: its label, then red, green and blue planes
MOST_IMAGES = 10_000_000  # a header that promises more is damaged
TOY_SETS = {  # name: (how to draw, training images, test images, names of the labels)
    "toy-digits": (toy.draw_digits, 10_000, 2_000, DIGITS),
    "toy-faces": (toy.draw_faces, 5_000, 1_000, toy.FACE_ATTRIBUTES),
}


@dataclass(frozen=True)
class Dataset:
    """uint8 images (N, H, W, C), perhaps memory-mapped; labels (N,), attributes (N, A) of 0 and 1, or None."""

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    label_names: tuple
    sha256: str = ""  # of the training pixels followed by the test pixels

    @property
    def image_shape(self):
        """(H, W, C)."""
        return tuple(self.train.shape[1:])


def load_dataset(name, data_dir, image_size=None, limit=None):
    """Load a data set by its name, or a folder of images by its path; what is missing is downloaded or drawn.

    image_size: pixels a side, for celeba and folders only (None: 64). limit: the first N training images and at most
    N test images. Raises UserError with one line that names the file or flag and the way out.
    """
    if name == "celeba":
        return Dataset(*load_celeba(Path(data_dir), image_size or 64, limit))
    loaders = {"mnist": load_mnist, "cifar10": load_cifar10, "cifar10-grey": load_cifar10_grey}
    if name not in loaders and name not in TOY_SETS:
        return Dataset(*load_folder(name, Path(data_dir), image_size or 64, limit))
    if image_size:
        raise UserError(f"--image-size: is for celeba and folders of images; the images of {name} have one size")
    data = load_toy(name, Path(data_dir)) if name in TOY_SETS else loaders[name](Path(data_dir) / name.split("-")[0])
    return with_checksum(first_images(data, limit))


def first_images(data, limit):
    """The first `limit` training images and at most as many test images; all of them where limit is None."""
    parts = ("train", "test", "train_labels", "test_labels")
    return replace(data, **{part: getattr(data, part)[:limit] for part in parts})


def with_checksum(data):
    """The data set with the SHA-256 of its pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(data.train))
    digest.update(np.ascontiguousarray(data.test))
    return replace(data, sha256=digest.hexdigest())


def load_toy(name, data_dir):
    """Draw a toy set, or read it where it has been drawn before by the same program."""
    draw, train, test, label_names = TOY_SETS[name]

    def build(folder):
        images, labels = draw(train + test, seed=0)
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)

    signature = {"program": Path(toy.__file__).read_text(encoding="utf-8"), "images": train + test}
    folder = open_cache(data_dir, name, signature, build)
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    return Dataset(name, images[:train], images[train:], labels[:train], labels[train:], tuple(label_names))


# MNIST --------------------------------------------------------------------------------------------------------


def load_mnist(folder):
    """MNIST from its four IDX files: 60,000 + 10,000 images (28, 28, 1) and their digits."""
    parts = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_path = published(folder / f"{prefix}-images-idx3-ubyte.gz", "toy-digits")
        labels_path = published(folder / f"{prefix}-labels-idx1-ubyte.gz", "toy-digits")
        images, labels = read_idx(images_path, (28, 28)), read_idx(labels_path, ())
        if len(images) != len(labels):
            raise UserError(f"{labels_path}: {len(labels)} labels for {len(images)} images; {MNIST_HELP}")
        if labels.max() > 9:
            first = labels.argmax()
            raise UserError(f"{labels_path}: label {labels[first]} of image {first} is no digit; {MNIST_HELP}")
        parts |= {split: images[..., None], f"{split}_labels": labels}
    return Dataset("mnist", label_names=DIGITS, **parts)


MNIST_HELP = "delete the file, and the next run downloads it"


def published(path, toy_set):
    """The path of a published file: downloaded if missing, with a line about it if it is not what was published."""
    if not path.exists():
        download(path, toy_set)
    elif path.is_file() and os.access(path, os.R_OK):  # else the reader has a message
        known = PUBLISHED[path.name]
        if hashlib.new(known.algorithm, path.read_bytes()).hexdigest() != known.checksum:
            note(f"{path}: not byte for byte the published file; used as it is")
    return path


def read_idx(path, item_shape):
    """Read a gzipped IDX file of unsigned bytes, (N, *item_shape), and nothing that is not exactly that."""
    rank = 1 + len(item_shape)
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * rank)
            if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, 8, rank)):
                raise UserError(f"{path}: not an IDX file of this kind (magic number {header[:4].hex()}); {MNIST_HELP}")
            count, *shape = struct.unpack(f">{rank}I", header[4:])
            if tuple(shape) != item_shape:
                raise UserError(f"{path}: holds items of size {shape}, not of {list(item_shape)}; {MNIST_HELP}")
            if not 0 < count <= MOST_IMAGES:
                raise UserError(f"{path}: holds {count:,} items; {MNIST_HELP}")
            size = count * int(np.prod(item_shape))
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {MNIST_HELP}") from None
    if len(content) != size:
        raise UserError(f"{path}: {'more' if len(content) > size else 'less'} than the {count} items; {MNIST_HELP}")
    return np.frombuffer(content, np.uint8).reshape(count, *item_shape)


# CIFAR-10 -----------------------------------------------------------------------------------------------------


def load_cifar10(folder):
    """CIFAR-10 from the files of its binary version, as archive or unpacked: 50,000 + 10,000 images (32, 32, 3)."""
    unpacked, archive = folder / "cifar-10-batches-bin", folder / "cifar-10-binary.tar.gz"
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    if unpacked.is_dir():
        source, files = unpacked, ((name, read_file(unpacked / name)) for name in names)
    else:
        source, files = published(archive, "toy-faces"), read_members(archive, names)
    batches = [decode_records(content, source / name) for name, content in files]
    counts = [len(labels) for _, labels in batches]
    if len(set(counts[:-1])) > 1:
        raise UserError(f"{source}: {counts[:-1]} images in its five training files, not as many in each; {CIFAR_HELP}")
    if set(counts) != {10_000}:
        note(f"{source}: {counts[0]:,} images in a training file and {counts[-1]:,} in the test file, not 10,000")
    train = [np.concatenate(parts) for parts in zip(*batches[:-1], strict=True)]
    test = batches[-1]
    return Dataset("cifar10", train[0], test[0], train[1], test[1], CLASSES)


CIFAR_HELP = "delete it, and the next run downloads the archive"


def read_file(path):
    """Content of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {CIFAR_HELP}") from None


def read_members(archive, names):
    """Name and content of files in the archive, wherever in it they lie; nothing is unpacked onto the disk."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = (member for member in tar if is_batch(member, names))
            found = {Path(member.name).name: tar.extractfile(member).read() for member in members}
            while tar.fileobj.read(1_000_000):  # to the end, where gzip has its checksum
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive}: cannot be read ({reason(error)}); {CIFAR_HELP}") from None
    for name in names:
        if name not in found:
            raise UserError(f"{archive}: {name} is not in it; {CIFAR_HELP}")
        yield name, found[name]


def is_batch(member, names):
    """Whether a member of the archive is one of the files, and of a size that such a file can have."""
    return member.isfile() and Path(member.name).name in names and member.size <= MOST_IMAGES // 100 * RECORD


def decode_records(content, path):
    """Images (N, 32, 32, 3) and labels (N,) of a binary batch."""
    if not content or len(content) % RECORD:
        raise UserError(f"{path}: {len(content):,} bytes are no whole number of {RECORD}-byte images; {CIFAR_HELP}")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise UserError(f"{path}: label {labels.max()} of image {labels.argmax()} is none of 0 to 9; {CIFAR_HELP}")
    return np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def load_cifar10_grey(folder):
    """CIFAR-10 in grey: images (32, 32, 1)."""
    data = load_cifar10(folder)
    return replace(data, name="cifar10-grey", train=to_grey(data.train), test=to_grey(data.test))


def to_grey(images):
    """Luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded.  uint8 (N, H, W, 3) -> uint8 (N, H, W, 1)."""
    grey = np.empty((*images.shape[:3], 1), np.uint8)
    for start in range(0, len(images), 1000):
        red, green, blue = np.moveaxis(images[start : start + 1000].astype(np.uint32), -1, 0)
        grey[start : start + 1000, ..., 0] = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return grey
