"""Photographs: decoded in parallel, once, into a memory-mapped cache in the data folder."""

import contextlib
import hashlib
import json
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from vae.data.cache import open_cache, save_array
from vae.data.dataset import Dataset
from vae.data.files import readable
from vae.startup import silent_stderr
from vae.terminal import note, one_line, progress

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")  # not EPS, which Ghostscript would run
BLOCK = 256  # images that threads decode before they are written
MAX_WARNINGS = 10  # files whose warnings are shown
CACHE_FORMAT = 3  # raise it when the same files are to give other pixels


def open_images(name, cache, splits, decode, labels=None):
    """Decode the images of a set into a cache unless it is there already.

    cache: data folder, name and signature of the cache, as for open_cache; splits: training files and test files;
    decode(file): returns uint8 (H, W, 3), called in threads; labels(): returns (label names, array with a row for each
    file), or None.

    Returns a Dataset with memory-mapped images.
    """
    files = [file for split in splits for file in split]

    def build(folder):
        label_names = []
        if labels:  # first: a fault in a small file shows before minutes of decoding
            label_names, rows = labels()
            save_array(folder / "labels.npy", rows)
        title = f"decoding {len(files):,} images of {name} (once; kept in the data folder)"
        sha256, repeated = write_images(folder / "images.npy", files, decode, title, len(splits[0]))
        about = {"label_names": label_names, "sha256": sha256, "repeated": repeated}
        (folder / "about.json").write_text(json.dumps(about))

    data_dir, cache_title, signature = cache
    folder = open_cache(data_dir, cache_title, [CACHE_FORMAT, signature], build)
    about = json.loads((folder / "about.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    count = len(splits[0])
    if about["repeated"]:
        number = f"{about['repeated']:,} of {len(splits[1]):,}"
        note(f"{name}: {number} test images are also training images, to the pixel, which flatters the test loss")
    rows = np.load(folder / "labels.npy") if labels else None
    row_parts = (rows[:count], rows[count:]) if labels else (None, None)
    about = tuple(about["label_names"]), about["sha256"]
    return Dataset(name, images[:count], images[count:], *row_parts, *about, *map(tuple, splits))


def cache_name(title, size, limit):
    """Return the name of a cache; each limit has its own, so that a limited run leaves the whole set decoded."""
    return f"{title}-{size}" + (f"-first-{limit}" if limit else "")


def effective_limit(limit, names):
    """Return the limit, or None if it leaves nothing out."""
    return limit if limit and limit < len(names) else None


# Decoding -----------------------------------------------------------------------------------------------------


def write_images(path, files, decode, title, train_count):
    """Write decoded images as one .npy file, block by block, so that memory use stays constant.

    Returns their SHA-256, and how many of the images after the first `train_count` equal one of those.

    Uses ordinary writes: on a full disk, writing to a memory map would be a bus error instead of a message.
    """
    sha256, digests = hashlib.sha256(), []
    starts = range(0, len(files), BLOCK)
    threads = ThreadPoolExecutor(os.cpu_count())
    with warnings_by_file() as found, silent_stderr(), path.open("wb") as file, stopping(threads):
        for start in progress(starts, len(starts), title):
            pixels = np.stack(list(threads.map(decode, files[start : start + BLOCK])))
            if start == 0:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *pixels.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            sha256.update(pixels)
            digests += [hashlib.blake2b(image, digest_size=8).digest() for image in pixels]
            file.write(pixels)
    for name in sorted(found)[:MAX_WARNINGS]:
        note(one_line(f"{name}: {found[name]}; used anyway"))
    if len(found) > MAX_WARNINGS:
        note(f"... and similar warnings about {len(found) - MAX_WARNINGS:,} more files")
    training = set(digests[:train_count])
    return sha256.hexdigest(), sum(digest in training for digest in digests[train_count:])


@contextlib.contextmanager
def stopping(threads):
    """At the end, or at an error or Ctrl-C, wait only for the images that are being decoded."""
    try:
        yield
    finally:
        threads.shutdown(cancel_futures=True)


reading = threading.local()  # .name: the file that a thread is decoding


@contextlib.contextmanager
def warnings_by_file():
    """Collect {file: Pillow's warning} instead of printing Python's two lines, which do not name the file."""
    found = {}
    with warnings.catch_warnings():

        def record(message, *_, **__):
            found.setdefault(str(getattr(reading, "name", "Pillow")), " ".join(str(message).split()).rstrip("."))

        warnings.showwarning = record
        for category in (UserWarning, Image.DecompressionBombWarning):
            warnings.simplefilter("always", category)  # for each file, not only for the first
        yield found


def read_image(find, name, convert):
    """Return convert(image) for the image in find(), a path or an open file; errors call it `name`."""
    reading.name = name
    with readable(name, "repair or remove it"):
        image = open_image(find())
        if image.format == "PNG":
            image.verify()  # its checksums, which load() ignores
            image = open_image(find())
        image.load()
        return convert(image)  # in this block, because some damage, as to Exif data, only shows here


def open_image(source):
    """Open the image in a path or an open file."""
    try:
        return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(FORMATS)}") from None


# Colours ------------------------------------------------------------------------------------------------------


def as_rgb(image):
    """Convert an image of any mode but F to RGB: 16 bits are reduced to 8, transparent parts become white."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, for which white is not defined")
    if image.mode.startswith("I"):
        image = as_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def as_grey(image):
    """Convert a grey image of 16 or 32 bits, mode I, to 8 bits."""
    pixels = np.asarray(image)
    levels = pixels.clip(0, 65_535)
    if (levels != pixels).any():
        warnings.warn("its pixels below 0 become black, those above 65,535 white", stacklevel=2)
    deep = image.mode != "I" or levels.max() > 255  # mode I has 32 bits, of which 8 or 16 are used
    inverse = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0  # Pillow inverts 8-bit images only
    if deep and levels.max() < 4096:
        colour = "white" if inverse else "black"
        warnings.warn(f"its 16-bit pixels use 12 bits or fewer, which makes them almost {colour}", stacklevel=2)
    if inverse:
        levels = 65_535 - levels
    levels[pixels == image.info.get("transparency", -1)] = 65_535 if deep else 255  # PNG's transparent level
    return Image.fromarray((levels // 257 if deep else levels).astype(np.uint8))
