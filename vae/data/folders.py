"""Folders of images: which files count, which are training and which are test images, and what the classes are."""

import os
import posixpath
import re
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from vae.data.files import is_endless, plain_name, readable
from vae.data.images import as_rgb, cache_name, effective_limit, open_images, read_image
from vae.terminal import UserError, note, one_line, reason

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".j2k", ".jpx"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".tga", ".svg", ".psd", ".exr", ".cr2", ".nef", ".arw", ".dng", ".raw"}
ROLES = {"train": "train", "training": "train", "test": "test", "testing": "test"}  # of folders in a published split
ROLES |= {"val": "val", "valid": "val", "validation": "val", "dev": "val", "pred": "pred"}  # the last: without labels
MAX_NAMES = 10  # classes that a message lists
FLIPS = "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"
TURNS = {orientation: Image.Transpose[flip] for orientation, flip in enumerate(FLIPS, 2)}  # by Exif's Orientation


def load_folder(folder, data_dir, size, limit):
    """Load the images in a folder and those below it, of any size and mode: the central squares as size x size, RGB.

    Returns a Dataset; raises UserError.
    """
    names = [path.relative_to(folder).as_posix() for path in images_in(folder)]
    if len(names) < 2:
        raise UserError(f"--dataset {folder}: contains {len(names)} images (.png, .jpg, ...); it needs two or more")
    states = states_of(folder, names)
    found = arrange(folder, names)
    limit = effective_limit(limit, max(found.train, found.test, key=len))
    found = found.at_most(limit)
    empty = [name for name in (*found.train, *found.test) if not states[name][0]]
    if empty:  # found before others are decoded for minutes
        others = f", and so are {len(empty) - 1:,} more" if len(empty) > 1 else ""
        raise UserError(f"{folder / empty[0]}: cannot be read (it is empty{others}); repair or remove it")
    place = folder.resolve()
    title = plain_name(place)
    signature = [str(place), size, limit, list(states.items()), found.classes]

    def decode(file):
        return read_image(lambda: folder / file, folder / file, lambda image: centre_square(image, size))

    def labels():
        plain = [re.sub(r"[^\w .,+-]", "_", name) for name in found.classes]  # as a legend can show them
        return plain, np.array(found.labels(), np.int32)

    unique = f"{title}-{zlib.crc32(os.fsencode(place)):08x}"  # two folders called "train" have two caches
    cache = data_dir, cache_name(unique, size, limit), signature
    return open_images(title, cache, [found.train, found.test], decode, labels if found.classes else None)


def centre_square(image, size):
    """Return the central square of an image, antialiased to uint8 (size, size, 3)."""
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    image = as_rgb(image)
    if turn is not None:  # not ImageOps.exif_transpose, which fails at any odd tag in the Exif data
        image = image.transpose(turn)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


# Splits and classes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrangement:
    """Training and test images, by their paths inside a folder with "/" as separator, and their classes, if any."""

    train: list
    test: list
    classes: list  # names in ascending order; empty if there are none
    class_of: dict  # {path: name of its class}

    def at_most(self, limit):
        """Return the arrangement with at most `limit` training and as many test images, spread over all of them."""
        return replace(self, train=spread(self.train, limit), test=spread(self.test, limit))

    def labels(self):
        """Return the number of each image's class, training images first."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return [numbers[self.class_of[path]] for path in (*self.train, *self.test)]


def arrange(folder, names):
    """Decide how the images `names` of a folder are used; returns an Arrangement.

    The folders of a published split, train/ and test/ (or val/), are used as such; otherwise, a tenth of the images is
    for testing. If every image is in a subfolder and there are two or more of those, they are the classes.
    """
    split = published_split(folder, names)
    train, test, inner = split or (*split_by_name(names), {name: name for name in names})
    classes = class_folders(folder, {name: inner[name] for name in (*train, *test)})
    if split and classes and {classes[name] for name in train}.isdisjoint(classes[name] for name in test):
        note(one_line(f"{folder}: no classes, since no test image is in a class of the training images"))
        classes = {}
    return Arrangement(train, test, sorted(set(classes.values())), classes)


def published_split(folder, names):
    """Find the folders train/ and test/, or similar names, of a published split.

    Returns training images, test images and {path: the path without that folder}, or None if there is no such split.
    Without test/, val/ is for testing. Prints a note about it, and about images that are left out.
    """
    level = common_level(names)
    parts = {name: name.split("/")[level] for name in names if name.count("/") > level}
    roles = {
        part: ROLES.get(re.sub(r"^seg_|[_-]?(set|images|data)?[\d_-]*$", "", part.lower())) for part in parts.values()
    }
    found = set(roles.values())
    testing = next((role for role in ("test", "val") if role in found), None)
    if None in found or "train" not in found or not testing:
        return None
    train, test = ([name for name in names if roles.get(parts.get(name)) == role] for role in ("train", testing))
    rest = len(names) - len(train) - len(test)
    left_out = f"; {rest:,} other images are left out" if rest else ""
    used = ["/".join(sorted(part for part in roles if roles[part] == role)) for role in ("train", testing)]
    note(one_line(f"{folder}: {used[0]}/ is for training and {used[1]}/ for testing, by their names{left_out}"))
    return train, test, without_parts(parts, level)


def without_parts(parts, level):
    """Return {path: the path without its part, the folder at that level} for {path: part}.

    Kaggle packs some parts twice, as test/test/.
    """
    once = {part for name, part in parts.items() if name.split("/")[level + 1] != part}
    inner = {}
    for name, part in parts.items():
        folders = name.split("/")
        inner[name] = "/".join(folders[:level] + folders[level + (1 if part in once else 2) :])
    return inner


def common_level(names):
    """Return how many folders all paths have in common."""
    common = posixpath.commonpath([posixpath.dirname(name) for name in names])
    return len(common.split("/")) if common else 0


def split_by_name(names):
    """Split names into training and test images: about one in ten, and at least one, is a test image.

    The CRC-32 of a name alone decides, so that a file stays on its side when others come or go.
    """
    test = {name for name in names if zlib.crc32(os.fsencode(name)) % 10 == 0}
    if not test or len(test) == len(names):
        test = {min(names, key=lambda name: zlib.crc32(os.fsencode(name)))}
    return [name for name in names if name not in test], [name for name in names if name in test]


def spread(names, limit):
    """Return `limit` of the names, in order, from all of them: the first ones may all belong to one class."""
    if not limit or limit >= len(names):
        return names
    by_hash = sorted(names, key=lambda name: zlib.crc32(os.fsencode(name)[::-1]))  # reversed: unrelated to the split
    chosen = set(by_hash[:limit])
    return [name for name in names if name in chosen]


def class_folders(folder, names):
    """Return {path: its class} for {path: path without its part of a split}, or {} if there are no classes.

    The first folders that differ are the classes. Prints a note about them, or about images that are in none.
    """
    level = common_level(names.values())
    classes = {name: path.split("/")[level] for name, path in names.items() if path.count("/") > level}
    kinds = sorted(set(classes.values()))
    outside = [name for name in names if name not in classes]
    if len(kinds) > 1 and not outside:
        more = f" and {len(kinds) - MAX_NAMES:,} more" if len(kinds) > MAX_NAMES else ""
        note(one_line(f"{folder}: {len(kinds):,} classes, {', '.join(kinds[:MAX_NAMES])}{more}"))
        return classes
    if len(kinds) > 1:
        note(one_line(f"{folder}: no classes, since {len(outside):,} images like {outside[0]} are in no class folder"))
    return {}


# Files --------------------------------------------------------------------------------------------------------


def images_in(folder):
    """Return the images in a folder and those below it, without pictures of runs; print a note about unread ones."""
    entries = list(entries_below(folder))
    runs = {path.parent for path in entries if path.name == "config.json" and (path.parent / "metrics.csv").exists()}
    drawn = runs | {run.parent / "summary.png" for run in runs}
    images = [path for path in entries if is_image(path) and (not drawn or drawn.isdisjoint([path, *path.parents]))]
    for path in filter(is_endless, images):
        note(one_line(f"{path}: left out, since it is a pipe or a device, which has no end"))
    images = [path for path in images if not is_endless(path)]
    unread = Counter(suffix for path in entries if (suffix := path.suffix.lower()) in UNREAD)
    if unread:
        kinds = " and ".join(f"{count:,} {suffix}" for suffix, count in sorted(unread.items()))
        note(one_line(f"{folder}: {kinds} are left out; convert them to .png or .jpg"))
    return sorted(images, key=lambda path: path.parts)  # paths themselves sort differently on Windows


def entries_below(folder):
    """Yield what is in a folder and those below it, following links; print a note about folders that are left out."""
    followed = [folder.resolve()]

    def is_new(path):  # links may form a circle
        if not path.is_symlink():
            return True
        target = path.resolve()
        if any(target.is_relative_to(one) or one.is_relative_to(target) for one in followed):
            note(one_line(f"{path}: left out, since {target} is in or around a folder that is already read"))
            return False
        followed.append(target)
        return True

    def report(error):
        if Path(error.filename) == folder:
            raise UserError(f"{folder}: cannot be read ({reason(error)}); check its permissions")
        note(one_line(f"{error.filename}: cannot be read ({reason(error)}), so it is left out"))

    for place, folders, files in os.walk(folder, onerror=report, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith(".") and name != "@eaDir")  # a NAS's own
        folders[:] = [name for name in visible if is_new(Path(place, name))]
        yield from (Path(place, name) for name in folders + files)


def is_image(path):
    """Whether a file looks like an image, by its name, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def states_of(folder, names):
    """Return {name: (size, time)} of the files; UserError if one cannot be found."""
    states = {}
    for name in names:
        with readable(folder / name, "repair or remove it"):
            state = (folder / name).stat()
        states[name] = state.st_size, state.st_mtime_ns
    return states
