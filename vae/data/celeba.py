"""CelebA (Liu et al. 2015): aligned faces and their attributes, from an archive or unpacked, with or without lists."""

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
FACE = (15, 35, 163, 183)  # the central 148 x 148 pixels: left, top, right, bottom (Larsen et al. 2016)
MAX_FACE_BYTES = 10_000_000
OUR_SPLIT = "instead, the test images are the tenth whose name has a CRC-32 divisible by 10"
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
    for path in (attributes, partition):
        note_if_changed(path)
    train, test = split_celeba(source, names, partition)
    limit = effective_limit(limit, max(train, test, key=len))
    splits = [train[:limit], test[:limit]]
    lists = [file_state(path) for path in (attributes, partition)]
    signature = [size, limit, list(states.items()), lists]

    def central_face(image):
        if image.size != ALIGNED:
            raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, not 178x218")
        return np.asarray(as_rgb(image.crop(FACE)).resize((size, size), Image.Resampling.BICUBIC))

    def decode(name):
        return read_image(lambda: find(name), source / name, central_face)

    def labels():
        return read_attributes(attributes, [*splits[0], *splits[1]])

    if not attributes.exists():
        note(f"{attributes}: not found, so no attributes are shown; see mmlab.ie.cuhk.edu.hk/projects/CelebA.html")
        labels = None
    cache = data_dir, cache_name("celeba", size, limit), signature
    return open_images("celeba", cache, splits, decode, labels)


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
        entries = by_file_name((entry.filename, entry) for entry in archive.infolist() if is_face(entry))
    states = {name: (entries[name].file_size, entries[name].CRC) for name in sorted(entries)}
    return states, lambda name: archive.open(entries[name])


def is_face(entry):
    """Whether a member of a zip archive is a photograph: not too large, and not what macOS adds to archives."""
    named = is_jpeg(entry.filename.rpartition("/")[2]) and "__MACOSX" not in entry.filename
    return named and entry.file_size < MAX_FACE_BYTES


def is_jpeg(name):
    """Whether a file name is a photograph's; macOS puts hidden files of similar names beside them."""
    return name.lower().endswith(".jpg") and not name.startswith(".")


# Lists --------------------------------------------------------------------------------------------------------


def find_list(folder, published_in, name):
    """Return the path of a list, the published .txt or Kaggle's .csv; if there is none, where it should be."""
    paths = [place / f"{name}{end}" for end in (".txt", ".csv") for place in (folder, folder / published_in)]
    return first_of(paths) or next((path for path in paths if path.is_symlink()), paths[0])  # a broken link


def file_state(path):
    """Return size and time of a file, which change with its content; None if there is no file."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None


def split_celeba(source, names, partition):
    """Return the names of training and test images: by the official partition, or by our own rule without one."""
    if not partition.exists():
        note(f"{partition}: not found; {OUR_SPLIT}")
        if len(names) != FACES:
            note(f"{source}: {len(names):,} of CelebA's {FACES:,} images")
        return split_by_name(names)
    rows = read_partition(partition)
    known = rows.keys() & names
    train, test = ([name for name, split in rows.items() if split == part and name in known] for part in ("0", "2"))
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


def read_partition(path):
    """Return {name: "0" (training), "1" (validation) or "2" (test)} in the order of the list."""
    lines = read_lines(path)
    head = int(path.suffix == ".csv" and lines[:1] != [] and cells_of(path, lines[0]) == [CSV_NAME, "partition"])

    def convert(values):
        return values[0] if len(values) == 1 and values[0] in ("0", "1", "2") else None

    return read_rows(path, lines, head, "a name and 0, 1 or 2", convert)


def read_attributes(path, names):
    """Return the names of the attributes and their values for these images, 0 or 1, uint8 (len(names), A)."""
    lines = read_lines(path)
    titles, head = attribute_titles(path, lines)

    def convert(values):  # to bytes: 202,599 rows of text would take half a gigabyte
        valid = len(values) == len(titles) and set(values) <= {"1", "-1"}
        return bytes(value == "1" for value in values) if valid else None

    table = read_rows(path, lines, head, f"a name and {len(titles)} values of 1 or -1", convert)
    for name in names:
        if name not in table:
            raise UserError(f"{path}: has no row for {name}; replace or remove the file")
    rows = b"".join(table[name] for name in names)
    return titles, np.frombuffer(rows, np.uint8).reshape(len(names), len(titles))


def read_rows(path, lines, head, wanted, convert):
    """Return {name: convert(values)} of the rows below the head; UserError if one is bad or its name occurs twice.

    wanted: what a row is, in words; convert: returns None for bad values.
    """
    table = {}
    for number, line in enumerate(lines[head:], head + 1):
        name, *values = cells_of(path, line) or [""]
        value = convert(values)
        if value is None:
            raise UserError(f"{path}: row {number} is not {wanted}; replace or remove the file")
        if name in table:
            raise UserError(f"{path}: row {number} lists {name} again; replace or remove the file")
        table[name] = value
    return table


def attribute_titles(path, lines):
    """Return the names of the attributes, and the number of lines above the rows of the list."""
    head = 1 if path.suffix == ".csv" else 2
    cells = [cells_of(path, line) for line in lines[:head]]
    if head == 1:
        if not cells or cells[0][0] != CSV_NAME or not cells[0][1:]:
            wanted = f"{CSV_NAME} and names of attributes"
            raise UserError(f"{path}: its first row is not {wanted}; replace or remove the file")
        return cells[0][1:], head
    count = max(0, len(lines) - head)
    if len(cells) < head or not cells[1] or cells[0] != [str(count)]:
        raise UserError(f"{path}: its first row is not the number of its rows, {count}; replace or remove the file")
    return cells[1], head


def cells_of(path, line):
    """Return the cells of a line: between spaces as published, between commas in Kaggle's tables."""
    return [cell.strip() for cell in line.split("," if path.suffix == ".csv" else None)]


def read_lines(path):
    """Return the lines of a text file, without empty ones at its end."""
    with readable(path, "replace it"):
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
