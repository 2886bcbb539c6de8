"""The data sets by name: which ones exist, which entries of the settings apply to them, and how to load them."""

import re
from functools import partial
from pathlib import Path

from vae.data.celeba import load_celeba
from vae.data.cifar10 import load_cifar10, load_cifar10_grey
from vae.data.folders import load_folder
from vae.data.mnist import idx_folder, load_idx_folder, load_mnist
from vae.data.toy import load_toy
from vae.terminal import UserError, did_you_mean

IMAGE_SIZE = 64  # pixels a side, for sets whose images are scaled
LOADERS = {  # name: loader of a set whose images have a fixed size
    "toy-digits": partial(load_toy, "toy-digits"),
    "toy-faces": partial(load_toy, "toy-faces"),
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "cifar10-grey": load_cifar10_grey,
}
NAMES = (*LOADERS, "celeba")
KINDS = (*NAMES, "folder", "digits", "photographs")


def spelling(name):
    """A name of a data set without its case and hyphens."""
    return re.sub("[-_ ]", "", name.lower()).replace("gray", "grey")


SPELLINGS = {spelling(name): name for name in NAMES}
OTHER_DIGITS = {"fashionmnist", "fmnist", "kmnist", "emnist", "qmnist"}  # sets in MNIST's format
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
ARRAYS = {".npz", ".npy", ".mat", ".h5", ".hdf5", ".csv", ".parquet", ".pkl"}


def known_name(text):
    """The name of a data set in our spelling, cifar10 for "CIFAR-10"; any other text, and a folder's path, as it is."""
    name = SPELLINGS.get(spelling(text), text)
    return text if name != text and Path(text).is_dir() else name


def keys_of(name):
    """Return the keys under which the settings of a data set may stand, most specific first; all are in KINDS."""
    if name not in NAMES:
        return ("digits",) if idx_folder(Path(name)) else ("folder", "photographs")
    return name, "digits" if name in ("toy-digits", "mnist") else "photographs"


def load_dataset(name, data_dir, image_size=None, limit=None):
    """Load a data set by its name, or a folder of images by its path; download or draw what is missing.

    image_size: pixels a side, for celeba and folders of images only (None: IMAGE_SIZE). limit: use at most this many
    training and as many test images: the first ones, or, of folders of images, some spread over all of them.

    Returns a Dataset. Raises UserError with one line that names the file or flag and the way out.
    """
    data_dir, own = Path(data_dir), name not in NAMES
    if name == "celeba":
        return load_celeba(data_dir, image_size or IMAGE_SIZE, limit)
    if own and not Path(name).is_dir():
        raise UserError(f"--dataset {name}: {about_unknown(name)}")
    if own and not idx_folder(Path(name)):
        return load_folder(Path(name), data_dir, image_size or IMAGE_SIZE, limit)
    if image_size:
        raise UserError(f"--image-size: is for celeba and folders of images; the images of {name} have one size")
    data = load_idx_folder(Path(name)) if own else LOADERS[name](data_dir)
    return data.first(limit).with_checksum()


def about_unknown(name):
    """What to say about a --dataset that is neither a known name nor a folder."""
    path = Path(name)
    if path.is_file() and path.suffix.lower() in ARRAYS:
        return 'is a file of arrays; data/README.md, "Arrays of your own", says how to train on them'
    if path.is_file() and path.suffix.lower() in ARCHIVES and "ubyte" not in path.name:
        return "is an archive; unpack it and name the folder"
    if path.is_file():
        return f"is a file; name its folder, --dataset {path.parent}"
    if spelling(name) in OTHER_DIGITS:
        return "no folder of that name; name one with that set's four files, --dataset path/to/it (see data/README.md)"
    return f"no folder of that name, and none of {', '.join(NAMES)}{did_you_mean(spelling(name), SPELLINGS)}"
