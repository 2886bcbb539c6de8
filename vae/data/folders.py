"""A folder of images: which files count, which of them are for training and for testing, and what classes there are."""

import itertools
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from vae.data.layouts import is_endless
from vae.terminal import UserError, note, one_line, reason

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".j2k", ".jpx"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".tga", ".svg", ".psd", ".exr", ".cr2", ".nef", ".arw", ".dng", ".raw"}
ROLES = {"train": "train", "training": "train", "test": "test", "testing": "test"}  # of the parts of a published split
ROLES |= {"val": "val", "valid": "val", "validation": "val", "dev": "val", "pred": "pred"}  # the last: without labels
MOST_NAMES = 10  # classes that a line names


@dataclass(frozen=True)
class Arrangement:
    """Images by their paths inside a folder, with "/" in them: training, test, and classes where there are some."""

    train: list
    test: list
    classes: list  # names, ascending; empty: none
    class_of: dict  # {path: name}

    def at_most(self, limit):
        """The same with `limit` training images at most, and as many test images, spread over all of them."""
        return replace(self, train=spread(self.train, limit), test=spread(self.test, limit))

    def labels(self):
        """The number of each image's class, training images first."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return [numbers[self.class_of[path]] for path in (*self.train, *self.test)]


def arrange(folder, names):
    """How the images `names` of a folder are used.

    Parts of a published split, train/ and test/ (or val/), are used as such; else a tenth is for testing. Where each
    image lies in a folder below, and there are two or more of those, they are its classes.
    """
    split = published_split(folder, names)
    train, test, inner = split or (*split_by_name(names), {name: name for name in names})
    classes = class_folders(folder, {name: inner[name] for name in (*train, *test)})
    if split and classes and {classes[name] for name in train}.isdisjoint(classes[name] for name in test):
        note(one_line(f"{folder}: no classes after all, since no test image is of a class of the training images"))
        classes = {}
    return Arrangement(train, test, sorted(set(classes.values())), classes)


def published_split(folder, names):
    """Training and test images, and all paths without that part of theirs, of a folder that has train/ and test/.

    None where it has not. Without test/, val/ is for testing; what is in other parts is left out, with a line.
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
    note(one_line(f"{folder}: {used[0]}/ is for training and {used[1]}/ for testing, as they are called{left_out}"))
    return train, test, without_parts(parts, level)


def without_parts(parts, level):
    """{path: the path without its part, the folder of that level}, of {path: part}.

    Kaggle packs some parts twice, test/test/.
    """
    below = {}
    for name, part in parts.items():
        below.setdefault(part, set()).add(name.split("/")[level + 1])
    ends = {part: level + (2 if found == {part} else 1) for part, found in below.items()}
    folders = {name: name.split("/") for name in parts}
    return {name: "/".join(folders[name][:level] + folders[name][ends[part] :]) for name, part in parts.items()}


def common_level(names):
    """How many folders all paths have in common."""
    folders = [name.split("/")[:-1] for name in names]
    pairs = zip(min(folders), max(folders), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def split_by_name(names):
    """Training and test names: about one in ten is a test image, by the CRC-32 of its name alone, and at least one.

    So a file stays on its side when others come or go.
    """
    test = {name for name in names if zlib.crc32(os.fsencode(name)) % 10 == 0}
    if not test or len(test) == len(names):
        test = {min(names, key=lambda name: zlib.crc32(os.fsencode(name)))}
    return [name for name in names if name not in test], [name for name in names if name in test]


def spread(names, limit):
    """`limit` of the names, in their order, whatever they are sorted by; the first ones may all be of one class."""
    if not limit or limit >= len(names):
        return names
    chosen = set(sorted(names, key=lambda name: zlib.crc32(os.fsencode(name)[::-1]))[:limit])  # not as the split is
    return [name for name in names if name in chosen]


def class_folders(folder, names):
    """{path: its class} of {path: path that counts}, by the first folders that differ; {} where those are no classes.

    A line says what they are, and where images outside of them are why there are none.
    """
    level = common_level(names.values())
    classes = {name: path.split("/")[level] for name, path in names.items() if path.count("/") > level}
    kinds = sorted(set(classes.values()))
    outside = [name for name in names if name not in classes]
    if len(kinds) > 1 and not outside:
        more = f" and {len(kinds) - MOST_NAMES:,} more" if len(kinds) > MOST_NAMES else ""
        note(one_line(f"{folder}: {len(kinds):,} classes, {', '.join(kinds[:MOST_NAMES])}{more}"))
        return classes
    if len(kinds) > 1:
        note(one_line(f"{folder}: no classes, since {len(outside):,} images like {outside[0]} lie in no folder of one"))
    return {}


def images_in(folder):
    """Images in a folder and those below it, but for what this program has drawn there; a line about unread ones."""
    entries = list(entries_below(folder))
    runs = {path.parent for path in entries if path.name == "config.json" and (path.parent / "metrics.csv").exists()}
    ours = runs | {run.parent / "summary.png" for run in runs}
    found = [path for path in entries if is_image(path)]
    endless = set(filter(is_endless, found))
    for path in sorted(endless):
        note(one_line(f"{path}: left out, since it is a pipe or a device, which has no end"))
    unread = Counter(suffix for path in entries if (suffix := path.suffix.lower()) in UNREAD)
    if unread:
        kinds = " and ".join(f"{count:,} {suffix}" for suffix, count in sorted(unread.items()))
        note(one_line(f"{folder}: {kinds} are left out; convert them to .png or .jpg"))
    found = [path for path in found if path not in endless and (not ours or ours.isdisjoint([path, *path.parents]))]
    return sorted(found, key=lambda path: path.parts)  # paths by themselves have another order on Windows


def entries_below(folder):
    """What is in a folder and those below it, linked ones too, but for hidden ones; a line about one that is locked."""
    followed = [folder.resolve()]

    def is_new(path):
        """Whether a folder is none that is walked already, as one to which a link leads may be, without end."""
        if not path.is_symlink():
            return True
        target = path.resolve()
        if any(target.is_relative_to(one) or one.is_relative_to(target) for one in followed):
            note(one_line(f"{path}: left out, since {target} lies in or around a folder that is read already"))
            return False
        followed.append(target)
        return True

    def locked(error):
        if Path(error.filename) == folder:
            raise UserError(f"{folder}: cannot be read ({reason(error)}); check its permissions")
        note(one_line(f"{error.filename}: cannot be read ({reason(error)}), so it is left out"))

    for place, folders, files in os.walk(folder, onerror=locked, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not is_hidden(name) and is_new(Path(place, name))]
        yield from (Path(place, name) for name in folders + files)


def is_hidden(name):
    """Whether a folder is for somebody else: hidden, or a network disk's own."""
    return name.startswith(".") or name == "@eaDir"


def is_image(path):
    """Whether a file looks like an image, by its name, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def states_of(folder, names):
    """Size and time of each file; UserError if one leads nowhere."""
    states = []
    for name in names:
        try:
            state = (folder / name).stat()
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({reason(error)}); repair or remove it") from None
        states.append((state.st_size, state.st_mtime_ns))
    return states


def check_not_empty(folder, names, states):
    """UserError if files of these, all of which are used, are empty: before others are decoded for minutes."""
    empty = [name for name in names if not states[name][0]]
    if empty:
        others = f", and so are {len(empty) - 1:,} more images" if len(empty) > 1 else ""
        raise UserError(f"{folder / empty[0]}: cannot be read (it is empty{others}); repair or remove it")


def plain_text(name):
    """A file name as a legend can show it."""
    return re.sub(r"[^\w .,+-]", "_", name)


def plain_name(folder):
    """A folder's name as part of the names of a run and of a cache, which may be 255 bytes long together."""
    name = re.sub(r"[^\w.-]+", "_", folder.name).encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    return name.strip("._-") or "images"
