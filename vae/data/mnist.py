"""MNIST, and other sets in its file names: IDX files, gzipped or not, or Keras' mnist.npz."""

import hashlib
import io
import itertools
import math
import struct
import zipfile

import numpy as np

from vae.data.dataset import Dataset
from vae.data.download import ensure_published
from vae.data.files import first_of, max_unpacked, plain_name, read_bytes, readable
from vae.terminal import UserError, note

DIGITS = tuple("0123456789")
SPLITS = {"train": "train", "test": "t10k"}  # our name of a split: the one in MNIST's file names
RANKS = {"images": 3, "labels": 1}
NPZ_NAMES = {"images": "x", "labels": "y"}  # with _train and _test, the arrays in mnist.npz
IDX_FILES = list(itertools.product(SPLITS, RANKS))
LABELS_SHA256 = "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"  # of MNIST's training labels
MAX_SIDE = 512  # pixels of images in other sets
MNIST_HELP = "delete it, and the next run downloads MNIST"
OWN_HELP = "put a good one there, gzipped or not"


def load_mnist(data_dir):
    """Load MNIST: 60,000 + 10,000 images (28, 28, 1) of digits.

    Reads the four IDX files in data_dir/mnist or where torchvision puts them, or Keras' mnist.npz, and downloads files
    that are missing.
    """
    folders = [folder for name in ("mnist", "MNIST") if (folder := idx_folder(data_dir / name))]
    complete = [folder for folder in folders if all(find_idx(folder, *file) for file in IDX_FILES)]
    npz = first_of((data_dir / "mnist" / "mnist.npz", data_dir / "mnist.npz"))
    if npz and not complete:
        source, paths = npz, dict.fromkeys(IDX_FILES, npz)
    else:
        source = (complete or folders or [data_dir / "mnist"])[0]
        paths = {file: find_idx(source, *file) or source / idx_name(*file) for file in IDX_FILES}
        for path in paths.values():
            ensure_published(path, "toy-digits")
    parts = read_parts(paths, (28, 28), 10, MNIST_HELP)
    note_if_not_mnist(source, parts)
    return Dataset("mnist", label_names=DIGITS, **parts)


def load_idx_folder(folder):
    """Load another set in MNIST's file names, such as Fashion-MNIST: images (H, W, 1), named after its folder."""
    folder = idx_folder(folder).resolve()
    paths = {file: find_idx(folder, *file) or folder / idx_name(*file) for file in IDX_FILES}
    parts = read_parts(paths, None, 256, OWN_HELP)
    if max(parts["train"].shape[1:3]) > MAX_SIDE:
        raise UserError(f"{folder}: has images of more than {MAX_SIDE} pixels a side; reduce them")
    classes = 1 + max(int(parts[f"{split}_labels"].max()) for split in SPLITS)
    named = folder.parent if folder.name == "raw" else folder
    return Dataset(plain_name(named), label_names=tuple(map(str, range(max(10, classes)))), **parts)


# Finding files ------------------------------------------------------------------------------------------------


def idx_name(split, kind):
    """Return the published name of one of MNIST's four files; split: "train" or "test", kind: "images" or "labels"."""
    return f"{SPLITS[split]}-{kind}-idx{RANKS[kind]}-ubyte.gz"


def find_idx(folder, split, kind):
    """Return the path of one of the four files, gzipped or not, or with Kaggle's dot in its name; None if missing."""
    published = idx_name(split, kind)
    names = [name for full in (published, published.replace("-idx", ".idx")) for name in (full, full[:-3])]
    return first_of(path for path in (folder / name for name in names) if not path.is_dir())


def idx_folder(folder):
    """Return the folder, or torchvision's raw/ in it, if it has files in MNIST's names; else None."""
    places = (folder, folder / "raw")
    return next((place for place in places if any(find_idx(place, split, "images") for split in SPLITS)), None)


# Reading files ------------------------------------------------------------------------------------------------


def note_if_not_mnist(source, parts):
    """Print a note if the images are not MNIST's: other sets use its file names, too."""
    counts = len(parts["train"]), len(parts["test"])
    if counts != (60_000, 10_000):
        note(f"{source}: {counts[0]:,} training and {counts[1]:,} test images, not 60,000 and 10,000")
    elif hashlib.sha256(parts["train_labels"].tobytes()).hexdigest() != LABELS_SHA256:
        note(f"{source}: its labels are not MNIST's; to use another set, pass its folder to --dataset")


def read_parts(paths, size, classes, way_out):
    """Read parts of a Dataset: images (N, H, W, 1) and labels (N,), uint8, of both splits.

    paths: {(split, kind): file}, all of them mnist.npz or none; size: (H, W), or None for any that both splits have;
    classes: labels are below it. Raises UserError for anything else.
    """
    parts = {}
    for (split, kind), path in paths.items():
        rank = RANKS[kind]
        with readable(path, way_out):
            array = read_npz(path, f"{NPZ_NAMES[kind]}_{split}") if path.suffix == ".npz" else read_idx(path, rank)
            if array.dtype != np.uint8 or array.ndim != rank or not array.size:
                raise ValueError(f"{split} {kind} are {array.dtype} {list(array.shape)}, not uint8 of rank {rank}")
            if kind == "images":
                size = size or array.shape[1:]
                if array.shape[1:] != size:
                    raise ValueError(f"{split} images are of size {list(array.shape[1:])}, not {list(size)}")
                parts[split] = array[..., None]
            else:
                count, images = len(parts[split]), paths[split, "images"].name
                if len(array) != count:
                    raise ValueError(f"{len(array)} labels for the {count} images in {images}: one of both is wrong")
                if array.max() >= classes:
                    raise ValueError(f"label {array.max()} of image {array.argmax()} is not a digit")
                parts[f"{split}_labels"] = array
    train, test = len(parts["train"]), len(parts["test"])
    if train < test:
        note(f"{paths['train', 'images']}: {train:,} training images and {test:,} test images; were they swapped?")
    return parts


def read_idx(path, rank):
    """Read an IDX file of unsigned bytes, gzipped or not: uint8 of that rank."""
    content, start = read_bytes(path), 4 + 4 * rank
    if len(content) < start or content[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(f"not an IDX file of rank {rank}: magic number {content[:4].hex()}")
    shape = struct.unpack(f">{rank}I", content[4:start])
    missing = math.prod(shape) - (len(content) - start)
    if missing:
        raise ValueError(f"{'fewer' if missing > 0 else 'more'} bytes than its {shape[0]} items need")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_npz(path, name):
    """Read an array from an .npz file, without unpickling anything."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        if entry.file_size > max_unpacked(path):
            raise ValueError(f"{name} has {entry.file_size:,} bytes")
        content = archive.read(entry)  # all of it, which verifies its checksum
    stream = io.BytesIO(content)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1):
        raise ValueError(f"more bytes in it than the array {name} needs")
    return array
