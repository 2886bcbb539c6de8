"""Where data sets lie on people's disks: as published or unpacked, and as Keras, torchvision and Kaggle leave them."""

import stat
from pathlib import Path

SPLITS = {"train": "train", "test": "t10k"}  # ours: as MNIST's file names say it
RANKS = {"images": 3, "labels": 1}


def idx_name(split, kind):
    """Published name of one of MNIST's four files: split "train" or "test", kind "images" or "labels"."""
    return f"{SPLITS[split]}-{kind}-idx{RANKS[kind]}-ubyte.gz"


def find_idx(folder, split, kind):
    """One of MNIST's four files in a folder, gzipped or not, or with Kaggle's dot in its name; None if not there."""
    packed = idx_name(split, kind)
    names = [name for full in (packed, packed.replace("-idx", ".idx")) for name in (full, full[:-3])]
    return first_of(path for path in (folder / name for name in names) if not path.is_dir())


def idx_folder(folder):
    """The folder, or torchvision's raw/ in it, if MNIST's file names are in there; None if they are not."""
    places = (folder, folder / "raw")
    return next((place for place in places if any(find_idx(place, split, "images") for split in SPLITS)), None)


def first_of(paths):
    """The first path that exists; None if none does."""
    return next((path for path in paths if path.exists()), None)


def is_endless(path):
    """Whether reading it might never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_end(path):
    """ValueError if reading it might never end."""
    if is_endless(path):
        raise ValueError("a pipe or a device, which has no end")


def by_file_name(members):
    """{file name: content} of an archive's (path, content) pairs; ValueError where two files have one name."""
    found = {}
    for path, content in members:
        name = Path(path).name
        if name in found:
            raise ValueError(f"two files {name} in it")
        found[name] = content
    return found
