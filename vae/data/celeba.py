"""CelebA (Liu et al. 2015): aligned faces and their attributes, from an archive or unpacked, with or without lists."""

import itertools
import os
import zipfile

import numpy as np
from PIL import Image

from vae.data.download import download, note_if_changed
from vae.data.files import by_file_name, first_of, readable
from vae.data.folders import split_by_name
from vae.data.images import as_rgb, cache_name, effective_limit, open_images, read_image
from vae.terminal import UserError, note

ALIGNED = (178, 218)  # width and height of the aligned images
FACES = 202_599  # number of images
MAX_FACE_BYTES = 10_000_000
FACE = (15, 35, 163, 183)  # the central 148 x 148 pixels: left, top, right, bottom (Larsen et al. 2016)
OUR_SPLIT = "instead, the test images are the tenth whose name has a CRC-32 divisible by 10"
LIST_HELP = "replace or remove the file"
CSV_NAME = "image_id"  # Kaggle's title of the column of names


def load_celeba(data_dir, size, limit):
    """Load CelebA: faces (size, size, 3) with 40 attributes; training = partition 0, test = partition 2.

    Returns a Dataset; raises UserError.
    """
    folder = data_dir / "celeba"
    source = find_faces(folder)
    states, find = list_unpacked(source) if source.is_dir() else list_archive(source)
    names = list(states)
    if len(names) < 2:
        raise UserError(f"{source}: holds {len(names)} .jpg images; put them there, or move it away for a download")
    attributes = find_list(folder, "Anno", "list_attr_celeba")
    partition = find_list(folder, "Eval", "list_eval_partition")
    lists = []
    for path in (attributes, partition):
        note_if_changed(path)
        lists.append([path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None)
    train, test = split_celeba(source, names, partition)
    limit = effective_limit(limit, max(train, test, key=len))
    splits = [train[:limit], test[:limit]]

    def decode(name):
        return read_image(lambda: find(name), source / name, lambda image: central_face(image, size))

    def labels():
        return read_attributes(attributes, [*splits[0], *splits[1]])

    if not attributes.exists():
        note(f"{attributes}: not found, so no attributes are shown; see mmlab.ie.cuhk.edu.hk/projects/CelebA.html")
        labels = None
    cache = data_dir, cache_name("celeba", size, limit), [size, limit, list(states.items()), lists]
    return open_images("celeba", cache, splits, decode, labels)


def central_face(image, size):
    """Return the part of an aligned image that is used, antialiased to uint8 (size, size, 3)."""
    if image.size != ALIGNED:
        raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, not 178x218")
    return np.asarray(as_rgb(image.crop(FACE)).resize((size, size), Image.Resampling.BICUBIC))


# Faces --------------------------------------------------------------------------------------------------------


def find_faces(folder):
    """Return the folder of .jpg files, or the archive of them, downloaded if there is neither."""
    places = (folder, folder / "Img")  # the second as CelebA's authors have it
    unpacked = [place / "img_align_celeba" for place in places]
    for faces in unpacked:
        for place in (faces / faces.name, faces):  # the first as Kaggle packs it
            if place.is_dir() and any(is_jpeg(entry.name) for entry in os.scandir(place)):
                return place
    archive = folder / "img_align_celeba.zip"
    found = first_of([*(place / archive.name for place in places), *unpacked])
    if not found:
        download(archive, "toy-faces")
    return found or archive


def list_unpacked(folder):
    """Return {name: (size, time)} of the .jpg files in a folder, in order, and a function that finds one."""
    entries = {entry.name: entry.stat() for entry in os.scandir(folder) if is_jpeg(entry.name)}
    states = {name: (entries[name].st_size, entries[name].st_mtime_ns) for name in sorted(entries)}
    return states, lambda name: folder / name


def list_archive(path):
    """Return {name: (size, checksum)} of the .jpg files in a zip archive, in order, and a function that opens one."""
    with readable(path, "delete it, and the next run downloads it"):
        archive = zipfile.ZipFile(path)
        faces = (entry for entry in archive.infolist() if is_face(entry))
        entries = by_file_name((entry.filename, entry) for entry in faces)
    states = {name: (entries[name].file_size, entries[name].CRC) for name in sorted(entries)}
    return states, lambda name: archive.open(entries[name])


def is_face(entry):
    """Whether a member of a zip archive is a photograph: what macOS adds and what is too large are not."""
    named = is_jpeg(entry.filename.rpartition("/")[2]) and "__MACOSX" not in entry.filename
    return named and entry.file_size < MAX_FACE_BYTES


def is_jpeg(name):
    """Whether a file name is a photograph's; macOS puts hidden files of similar names beside them."""
    return name.lower().endswith(".jpg") and not name.startswith(".")


# Lists --------------------------------------------------------------------------------------------------------


def find_list(folder, published_in, name):
    """Return the path of a list, the published .txt or Kaggle's .csv; if there is none, where it should be."""
    paths = [place / f"{name}{end}" for end in (".txt", ".csv") for place in (folder, folder / published_in)]
    return next((path for path in paths if path.exists() or path.is_symlink()), paths[0])  # also a broken link


def split_celeba(source, names, partition):
    """Return the names of training and test images: by the official partition, or by our own rule without one."""
    if not partition.exists():
        note(f"{partition}: not found; {OUR_SPLIT}")
        if len(names) != FACES:
            note(f"{source}: {len(names):,} of CelebA's {FACES:,} images")
        return split_by_name(names)
    _, rows = read_list(partition, ("0", "1", "2"), ["partition"])
    known = rows.keys() & names
    train, test = ([name for name, row in rows.items() if row[0] == part and name in known] for part in (0, 2))
    if len(known) < len(rows):
        missing = f"lacks {len(rows) - len(known):,} of the {len(rows):,} images in {partition.name}"
        note(f"{source}: {missing}; the others are used")
    if not train or not test:
        note(f"{partition}: no {'test' if train else 'training'} images (partition 0 or 2); {OUR_SPLIT}")
        return split_by_name(names)
    unknown = len(names) - len(known)
    if unknown:
        note(f"{partition}: does not list {unknown:,} of the {len(names):,} images in {source.name}; they are left out")
    return train, test


def read_attributes(path, names):
    """Return the names of the attributes and their values for these images, 0 or 1, uint8 (len(names), A)."""
    titles, rows = read_list(path, ("-1", "1"))
    for name in names:
        if name not in rows:
            raise UserError(f"{path}: has no row for {name}; {LIST_HELP}")
    values = b"".join(rows[name] for name in names)
    return titles, np.frombuffer(values, np.uint8).reshape(len(names), len(titles))


def read_list(path, allowed, titles=None):
    """Read a list: with spaces between its cells as published, or Kaggle's table with commas and titles.

    allowed: the texts that a value may be; titles: those of the columns, if the published list does not give them.

    Returns the titles and {name: bytes, the place of each of its values in `allowed`}: 202,599 rows of text would take
    half a gigabyte. Raises UserError if a row is bad or a name occurs twice.
    """
    is_table = path.suffix == ".csv"
    with readable(path, LIST_HELP):
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        rows = ([cell.strip() for cell in line.split("," if is_table else None)] or [""] for line in lines)
        head = 0
        if is_table and titles:  # a table may do without a row of titles that are known
            head = int(lines[:1] == [",".join([CSV_NAME, *titles])])
            rows = itertools.islice(rows, head, None)
        elif is_table:
            head, (name, *titles) = 1, next(rows, [""])
            if name != CSV_NAME or not titles:
                raise ValueError(f"its first row is not {CSV_NAME} and names of attributes")
        elif not titles:
            head, count = 2, max(0, len(lines) - 2)
            if next(rows, None) != [str(count)]:
                raise ValueError(f"its first row is not the number of its rows, {count}")
            titles = next(rows, [])
        found = {}
        for number, (name, *values) in enumerate(rows, head + 1):
            if len(values) != len(titles) or not set(values) <= set(allowed):
                raise ValueError(f"row {number} is not a name and {len(titles)} of the values {', '.join(allowed)}")
            if name in found:
                raise ValueError(f"row {number} lists {name} again")
            found[name] = bytes(map(allowed.index, values))
    return titles, found
