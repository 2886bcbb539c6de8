"""MNIST, and other sets in its file names: IDX files, gzipped or not, or Keras' mnist.npz."""

import gzip
import hashlib
import itertools
import math
import struct
import zipfile

import numpy as np

from vae.data.dataset import Dataset
from vae.data.download import ensure_published
from vae.data.files import first_of, max_unpacked, plain_name, readable
from vae.terminal import UserError, note

DIGITS = tuple("0123456789")
SPLITS = {"train": "train", "test": "t10k"}  # our name of a split: the one in MNIST's file names
RANKS = {"images": 3, "labels": 1}
IDX_FILES = list(itertools.product(SPLITS, RANKS))
LABELS_SHA256 = "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"  # of MNIST's training labels
MAX_IMAGES = 10_000_000  # a header that claims more is damaged
SIDES = range(1, 513)  # pixels a side of the images in other sets
MNIST_HELP = "delete the file, and the next run downloads it"
NPZ_HELP = "delete it, and the next run downloads MNIST"
OWN_HELP = "repair or replace it"


def load_mnist(data_dir):
    """Load MNIST: 60,000 + 10,000 images (28, 28, 1) of digits.

    Reads the four IDX files in data_dir/mnist or where torchvision puts them, or Keras' mnist.npz, and downloads files
    that are missing.
    """
    folders = [folder for name in ("mnist", "MNIST") if (folder := idx_folder(data_dir / name))]
    complete = [folder for folder in folders if all(find_idx(folder, *file) for file in IDX_FILES)]
    npz = first_of((data_dir / "mnist" / "mnist.npz", data_dir / "mnist.npz"))
    if npz and not complete:
        source, parts = npz, read_npz(npz)
    else:
        source = (complete or folders or [data_dir / "mnist"])[0]
        paths = {file: find_idx(source, *file) or source / idx_name(*file) for file in IDX_FILES}
        for path in paths.values():
            ensure_published(path, "toy-digits")
        parts = read_idx_files(paths, [28], 10, MNIST_HELP)
    note_if_not_mnist(source, parts)
    return Dataset("mnist", label_names=DIGITS, **parts)


def load_idx_folder(folder):
    """Load another set in MNIST's file names, such as Fashion-MNIST: images (H, W, 1), named after its folder."""
    folder = idx_folder(folder).resolve()
    paths = {file: find_idx(folder, *file) for file in IDX_FILES}
    for file, path in paths.items():
        if not path:
            raise UserError(f"{folder / idx_name(*file)}: is missing, gzipped or not; put it there")
    parts = read_idx_files(paths, SIDES, 256, OWN_HELP)
    train, test = (list(parts[split].shape[1:3]) for split in SPLITS)
    if train != test:
        raise UserError(f"{paths['test', 'images']}: has images of {test}, but training images are {train}; {OWN_HELP}")
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


# Checks -------------------------------------------------------------------------------------------------------


def note_if_not_mnist(source, parts):
    """Print a note if the images are not MNIST's: other sets use its file names, too."""
    counts = len(parts["train"]), len(parts["test"])
    if counts != (60_000, 10_000):
        note(f"{source}: {counts[0]:,} training and {counts[1]:,} test images, not 60,000 and 10,000")
    elif hashlib.sha256(parts["train_labels"].tobytes()).hexdigest() != LABELS_SHA256:
        note(f"{source}: its labels are not MNIST's; to use another set, pass its folder to --dataset")


def note_if_swapped(path, parts):
    """Print a note if there are more test images than training images."""
    train, test = (len(parts[split]) for split in SPLITS)
    if train < test:
        note(f"{path}: {train:,} training images and {test:,} test images; were they swapped?")


def check_labels(path, images, labels, classes, either, way_out):
    """Raise UserError unless there is one label for each image, below `classes`."""
    if len(images) != len(labels):
        raise UserError(f"{path}: {len(labels)} labels for {len(images)} images; {either}{way_out}")
    if labels.max() >= classes:
        first = labels.argmax()
        raise UserError(f"{path}: label {labels[first]} of image {first} is not a digit; {way_out}")


# IDX files ----------------------------------------------------------------------------------------------------


def read_idx_files(paths, sides, classes, way_out):
    """Read the four files as parts of a Dataset: images (N, H, W, 1) and labels (N,) of both splits."""
    parts = {}
    for split in SPLITS:
        images = read_idx(paths[split, "images"], RANKS["images"], sides, way_out)
        labels = read_idx(paths[split, "labels"], RANKS["labels"], sides, way_out)
        either = f"it or {paths[split, 'images'].name} is wrong: "
        check_labels(paths[split, "labels"], images, labels, classes, either, way_out)
        parts |= {split: images[..., None], f"{split}_labels": labels}
    note_if_swapped(paths["train", "images"], parts)
    return parts


def read_idx(path, rank, sides, way_out):
    """Read an IDX file of unsigned bytes, gzipped or not: uint8 of that rank.

    sides: the sizes that each dimension after the first may have. Raises UserError for anything else.
    """
    with readable(path, way_out), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(4 + 4 * rank)
        if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, 8, rank)):
            raise UserError(f"{path}: not an IDX file of this kind (magic number {header[:4].hex()}); {way_out}")
        count, *shape = struct.unpack(f">{rank}I", header[4:])
        if not all(side in sides for side in shape):
            one_size = len(sides) == 1
            wanted = [*sides] * len(shape) if one_size else f"{sides[0]} to {sides[-1]} pixels a side"
            raise UserError(f"{path}: holds items of size {shape}, not of {wanted}; {way_out}")
        size = count * math.prod(shape)
        if not 0 < count <= MAX_IMAGES or size > max_unpacked(path.stat().st_size):
            raise UserError(f"{path}: holds {count:,} items; {way_out}")
        content = file.read(size + 1)
    if len(content) != size:
        more = "more" if len(content) > size else "fewer"
        raise UserError(f"{path}: has {more} bytes than its {count} items need; {way_out}")
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


# mnist.npz ----------------------------------------------------------------------------------------------------


def read_npz(path):
    """Read Keras' mnist.npz as parts of a Dataset, from its arrays x_train, y_train, x_test and y_test."""
    parts = {}
    for split in SPLITS:
        images, labels = read_array(path, f"x_{split}", 3), read_array(path, f"y_{split}", 1)
        if images.shape[1:] != (28, 28):
            sizes = f"{list(images.shape[1:])}, not of [28, 28]"
            raise UserError(f"{path}: x_{split} holds items of size {sizes}; {NPZ_HELP}")
        check_labels(path, images, labels, 10, "", NPZ_HELP)
        parts |= {split: images[..., None], f"{split}_labels": labels}
    note_if_swapped(path, parts)
    return parts


def read_array(path, name, rank):
    """Read an array of bytes from an .npz file, without unpickling anything."""
    with readable(path, NPZ_HELP), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise UserError(f"{path}: has no array {name}; {NPZ_HELP}")
        entry = archive.getinfo(f"{name}.npy")
        if entry.file_size > max_unpacked(entry.compress_size):
            raise ValueError(f"{name} has {entry.file_size:,} bytes")
        with archive.open(entry) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):
                raise ValueError(f"more data after the array {name}")
    if array.dtype != np.uint8 or array.ndim != rank or not len(array):
        raise UserError(f"{path}: {name} is {array.dtype} {list(array.shape)}, not uint8 of rank {rank}; {NPZ_HELP}")
    return array
