"""CelebA and folders of images: decoded once, in parallel, into a memory-mapped cache."""

import contextlib
import hashlib
import json
import os
import struct
import threading
import warnings
import zipfile
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from vae.data.cache import open_cache, save_array
from vae.data.download import download, remark_on_content
from vae.data.folders import arrange, check_not_empty, images_in, plain_name, plain_text, split_by_name, states_of
from vae.data.layouts import by_file_name, check_end, first_of
from vae.startup import silent_stderr
from vae.terminal import UserError, note, one_line, progress, reason

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without
    LZMAError = zlib.error

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")  # no EPS: Ghostscript would run it
ALIGNED = (178, 218)  # width and height of CelebA's aligned images
FACES = 202_599  # images of CelebA
FACE = (15, 35, 163, 183)  # their central 148 x 148 pixels: left, top, right, bottom (Larsen et al. 2016)
BLOCK = 32  # images that a thread decodes before it asks for more
AHEAD = 4 * (os.cpu_count() or 1)  # blocks that are decoded before the first of them is written
MOST_REMARKS = 10  # files that are remarked on by name
UNREADABLE = (  # what Pillow and zipfile raise at damaged files
    *(OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, LZMAError, zipfile.BadZipFile, Image.DecompressionBombError),
    *(AttributeError, AssertionError),
)
TURNS = {  # Exif's Orientation: how an image is turned upright
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270},
    **{7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90},
}
OUR_SPLIT = "test images are instead the tenth whose name has a CRC-32 divisible by 10"
CSV_NAME = "image_id"  # Kaggle's title of the column of names
CACHE_FORMAT = 3  # to be raised when the same files shall give other pixels


# A cache of decoded images ------------------------------------------------------------------------------------


def open_images(title, cache, splits, decode, labels=None):
    """Decode `splits`, lists of training and test files of the set called `title`, unless a cache has them.

    cache: data folder, name and signature of that cache, for open_cache; decode(file): uint8 (H, W, 3), in threads;
    labels(): (names, array of a row a file), for the cache too, or None.
    Returns training and test images (memory-mapped), their labels or None, label names, SHA-256 of the pixels.
    """
    files = [file for split in splits for file in split]

    def build(folder):
        found = labels() if labels else None  # first: a fault in a small file shows before minutes of decoding
        about = {"label_names": found[0] if found else []}
        if found:
            save_array(folder / "labels.npy", found[1])
        label = f"decoding {len(files):,} images of {title} (once; kept in the data folder)"
        about["sha256"], about["repeated"] = write_images(folder / "images.npy", files, decode, label, len(splits[0]))
        (folder / "about.json").write_text(json.dumps(about))

    *place, signature = cache
    folder = open_cache(*place, [CACHE_FORMAT, signature], build)
    about = json.loads((folder / "about.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    rows = np.load(folder / "labels.npy") if labels else None
    count = len(splits[0])
    if about["repeated"]:
        number = f"{about['repeated']:,} of {len(splits[1]):,}"
        note(f"{title}: {number} test images are also training images, to the pixel, which flatters the test loss")
    parts = (rows[:count], rows[count:]) if labels else (None, None)
    return images[:count], images[count:], *parts, tuple(about["label_names"]), about["sha256"]


def write_images(path, files, decode, label, train_count):
    """Write decoded images as one .npy file, block by block, so that memory stays flat.

    Returns their SHA-256, and how many of them behind the first `train_count` equal one of those.

    Ordinary writes, not a writable memory map: on a full disk that would be a bus error instead of a message.
    """
    digest, each = hashlib.sha256(), []
    with warnings_by_file() as remarks, silent_stderr(), path.open("wb") as file:
        blocks = decoded_blocks(files, decode)
        for number, pixels in enumerate(progress(blocks, -(-len(files) // BLOCK), label)):
            if number == 0:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *pixels.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            digest.update(pixels)
            each += [hashlib.blake2b(image, digest_size=8).digest() for image in pixels]
            file.write(pixels)
    pass_on(remarks)
    training = set(each[:train_count])
    return digest.hexdigest(), sum(image in training for image in each[train_count:])


def pass_on(remarks):
    """A line about each of the first files in {file: remark}."""
    for name in sorted(remarks)[:MOST_REMARKS]:
        note(one_line(f"{name}: {remarks[name]}; used all the same"))
    if len(remarks) > MOST_REMARKS:
        note(f"... and such remarks on {len(remarks) - MOST_REMARKS:,} more files")


def decoded_blocks(files, decode):
    """Decoded images (BLOCK, H, W, 3) in their order; threads go on with the next while a block is written."""
    ahead = deque()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for start in range(0, len(files), BLOCK):
            ahead.append(pool.submit(lambda block: np.stack(list(map(decode, block))), files[start : start + BLOCK]))
            if len(ahead) == AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after a fault, nobody waits for the rest


reading = threading.local()  # .name: the file that a thread decodes


@contextlib.contextmanager
def warnings_by_file():
    """{file: what Pillow warns of while it is decoded}, in place of Python's two lines, which name no file."""
    found = {}
    with warnings.catch_warnings():
        elsewhere = warnings.showwarning

        def hear(message, *where, **more):
            if hasattr(reading, "name"):
                found.setdefault(str(reading.name), " ".join(str(message).split()).rstrip("."))
            else:
                elsewhere(message, *where, **more)

        warnings.showwarning = hear
        for category in (UserWarning, Image.DecompressionBombWarning):
            warnings.simplefilter("always", category)  # for each file, not for the first one only
        yield found


def open_image(source):
    """An image in a file of a path, or in an open file."""
    if isinstance(source, Path):
        check_end(source)
    return Image.open(source, formats=FORMATS)


def read_image(find, name, convert):
    """`convert(image)` of the image in what `find()` returns, a path or an open file; an error calls it `name`."""
    reading.name = name
    try:
        image = open_image(find())
        if image.format == "PNG":
            image.verify()  # its checksums, which load() takes no notice of
            image = open_image(find())
        image.load()
        return convert(image)  # in here, because some damage, to Exif data for one, is only found by now
    except MemoryError:
        raise UserError(f"{name}: takes more memory than there is; make it smaller or remove it") from None
    except UNREADABLE as error:
        why = f"no {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise UserError(f"{name}: cannot be read ({why}); repair or remove it") from None


# A folder of images -------------------------------------------------------------------------------------------


def load_folder(name, data_dir, size, limit):
    """Images of any size and mode, in a folder and those below it: centre-cropped to squares, size x size, RGB.

    Returns Dataset's parts in their order; raises UserError.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"--dataset {name}: no folder of that name, and none of toy-digits, toy-faces, mnist, cifar10, "
            "cifar10-grey, celeba"
        )
    names = [path.relative_to(folder).as_posix() for path in images_in(folder)]
    if len(names) < 2:
        raise UserError(f"--dataset {name}: {len(names)} images (.png, .jpg, ...) in it; there have to be two or more")
    states = states_of(folder, names)
    found = arrange(folder, names)
    limit = limit_of(limit, max(found.train, found.test, key=len))
    found = found.at_most(limit)
    check_not_empty(folder, [*found.train, *found.test], dict(zip(names, states, strict=True)))
    title = plain_name(folder.resolve())
    signature = [str(folder.resolve()), size, limit, list(zip(names, states, strict=True)), found.classes]

    def decode(file):
        return read_image(lambda: folder / file, folder / file, lambda image: centre_square(image, size))

    def labels():
        return [plain_text(name) for name in found.classes], np.array(found.labels(), np.int32)

    place = zlib.crc32(os.fsencode(folder.resolve()))  # so that two folders called "train" have two caches
    cache = data_dir, cache_name(f"{title}-{place:08x}", size, limit), signature
    return title, *open_images(title, cache, [found.train, found.test], decode, labels if found.classes else None)


def cache_name(title, size, limit):
    """Name of a cache: what a limit left out is another cache, not a reason to decode all again."""
    return f"{title}-{size}" + (f"-first-{limit}" if limit else "")


def limit_of(limit, names):
    """None for a limit that leaves nothing out."""
    return limit if limit and limit < len(names) else None


def centre_square(image, size):
    """The central square of an image, antialiased to size x size: uint8 (size, size, 3)."""
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    image = as_rgb(image)
    if turn is not None:  # not ImageOps.exif_transpose, which refuses an image for any odd tag of its Exif data
        image = image.transpose(turn)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def as_rgb(image):
    """An image of any mode but F as RGB: 16 bits are reduced to 8, what is transparent becomes white."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which say not what is white")
    if image.mode.startswith("I"):
        image = as_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def as_grey(image):
    """A grey image of 16 or 32 bits, mode I, as one of 8 bits."""
    pixels = np.asarray(image)
    levels = pixels.clip(0, 65_535)
    if (levels != pixels).any():
        warnings.warn("its pixels below 0 are made black, those above 65,535 white", stacklevel=2)
    deep = image.mode != "I" or levels.max() > 255  # "I" has 32 bits, of which 8 or 16 are in use
    inverse = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0  # Pillow heeds it in 8 bits only
    if deep and levels.max() < 4096:
        colour = "white" if inverse else "black"
        warnings.warn(f"its 16-bit pixels use 12 bits or fewer, which makes them almost {colour}", stacklevel=2)
    if inverse:
        levels = 65_535 - levels
    levels[pixels == image.info.get("transparency", -1)] = 65_535 if deep else 255  # of PNG: a level that is not seen
    return Image.fromarray((levels // 257 if deep else levels).astype(np.uint8))


# CelebA -------------------------------------------------------------------------------------------------------


def load_celeba(data_dir, size, limit):
    """CelebA (Liu et al. 2015): faces (size, size, 3), 40 attributes; training = partition 0, test = partition 2.

    Returns Dataset's parts in their order; raises UserError.
    """
    folder = data_dir / "celeba"
    source = find_faces(folder)
    names, states, read = list_unpacked(source) if source.is_dir() else list_archive(source)
    attributes, partition = (
        find_list(folder, "Anno", "list_attr_celeba"),
        find_list(folder, "Eval", "list_eval_partition"),
    )
    for path in (attributes, partition):
        remark_on_content(path)
    train, test = split_celeba(source, names, partition)
    limit = limit_of(limit, max(train, test, key=len))
    splits = [train[:limit], test[:limit]]
    lists = [file_state(path) for path in (attributes, partition)]
    signature = [size, limit, list(zip(names, states, strict=True)), lists]

    def central_face(image):
        if image.size != ALIGNED:
            raise ValueError(f"{image.size[0]}x{image.size[1]} pixels, not 178x218")
        return np.asarray(as_rgb(image.crop(FACE)).resize((size, size), Image.Resampling.BICUBIC))

    def decode(name):
        return read_image(lambda: read(name), source / name, central_face)

    def labels():
        return read_attributes(attributes, [*splits[0], *splits[1]])

    if not attributes.exists():
        note(f"{attributes}: not there, so no attributes are shown; see mmlab.ie.cuhk.edu.hk/projects/CelebA.html")
        labels = None
    cache = data_dir, cache_name("celeba", size, limit), signature
    return "celeba", *open_images("celeba", cache, splits, decode, labels)


def find_faces(folder):
    """The folder of CelebA's .jpg files, or the archive of them, downloaded if there is neither."""
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


def find_list(folder, published_in, name):
    """One of CelebA's lists: the published .txt, or Kaggle's .csv; where it should lie, if it is not there."""
    paths = [place / f"{name}{end}" for end in (".txt", ".csv") for place in (folder, folder / published_in)]
    return first_of(paths) or next((path for path in paths if path.is_symlink()), paths[0])  # a link to nowhere


def file_state(path):
    """Size and time of a file, which change with its content; None if there is none."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None


def list_unpacked(folder):
    """Names of the .jpg files in a folder, their sizes and times, and how to open one."""
    entries = {entry.name: entry.stat() for entry in os.scandir(folder) if is_jpeg(entry.name)}
    names = check_any(sorted(entries), folder)
    return names, [(entries[name].st_size, entries[name].st_mtime_ns) for name in names], lambda name: folder / name


def list_archive(path):
    """Names of the .jpg files in a zip archive, their sizes and checksums, and how to open one."""
    try:
        check_end(path)
        archive = zipfile.ZipFile(path)
        entries = by_file_name((entry.filename, entry) for entry in archive.infolist() if is_face(entry))
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); delete it, and the next run downloads it") from None
    names = check_any(sorted(entries), path)
    states = [(entries[name].file_size, entries[name].CRC) for name in names]
    return names, states, lambda name: archive.open(entries[name])


def is_face(entry):
    """Whether a zip member is a photograph; what macOS adds to archives and what is too large is not."""
    named = is_jpeg(entry.filename.rpartition("/")[2]) and "__MACOSX" not in entry.filename
    return named and entry.file_size < 10_000_000


def is_jpeg(name):
    """Whether a file name is a photograph's, and not that of what macOS keeps beside one."""
    return name.lower().endswith(".jpg") and not name.startswith(".")


def check_any(names, source):
    """The names, of which there have to be two at least."""
    if len(names) < 2:
        raise UserError(f"{source}: holds {len(names)} .jpg images; put them there, or move it away for a download")
    return names


def split_celeba(source, names, partition):
    """Names of training and test images by the official partition, or by a rule of our own where it cannot be."""
    if not partition.exists():
        note(f"{partition}: not there; {OUR_SPLIT}")
        if len(names) != FACES:
            note(f"{source}: {len(names):,} of CelebA's {FACES:,} images")
        return split_by_name(names)
    rows = read_partition(partition)
    known = set(names)
    chosen = [[name for name, split in rows if split == wanted and name in known] for wanted in ("0", "2")]
    missing = len(rows) - len(known.intersection(name for name, _ in rows))
    if missing:
        note(f"{source}: lacks {missing:,} of the {len(rows):,} images in {partition.name}; the others are used")
    if not all(chosen):
        note(f"{partition}: no {'test' if chosen[0] else 'training'} images (partition 0 or 2); {OUR_SPLIT}")
        return split_by_name(names)
    unknown = len(known.difference(name for name, _ in rows))
    if unknown:
        note(f"{partition}: does not list {unknown:,} of the {len(names):,} images in {source.name}; they are left out")
    return chosen


def read_partition(path):
    """Names and their parts, "0" (training), "1" or "2" (test), each name once."""
    rows, seen = [cells_of(path, line) for line in read_lines(path)], set()
    head = int(path.suffix == ".csv" and rows[:1] == [[CSV_NAME, "partition"]])
    for number, row in enumerate(rows[head:], head + 1):
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise UserError(f"{path}: row {number} is not a name and 0, 1 or 2; replace or remove the file")
        if row[0] in seen:
            raise UserError(f"{path}: row {number} is about {row[0]} again; replace or remove the file")
        seen.add(row[0])
    return rows[head:]


def read_attributes(path, names):
    """Attribute names, and their values in {0, 1}, uint8 (len(names), A), for these images."""
    lines = read_lines(path)
    titles, head = attribute_titles(path, lines)
    table = {}
    for number, line in enumerate(lines[head:], head + 1):
        name, *values = cells_of(path, line) or [""]
        if len(values) != len(titles) or not set(values) <= {"1", "-1"}:
            raise UserError(f"{path}: row {number} is no name and {len(titles)} values 1 or -1; replace or remove it")
        if name in table:
            raise UserError(f"{path}: row {number} is about {name} again; replace or remove it")
        table[name] = bytes(value == "1" for value in values)  # the texts of 202,599 rows would be half a gigabyte
    for name in names:
        if name not in table:
            raise UserError(f"{path}: has no row for {name}; replace or remove it")
    rows = b"".join(table[name] for name in names)
    return titles, np.frombuffer(rows, np.uint8).reshape(len(names), len(titles))


def attribute_titles(path, lines):
    """Names of the attributes, and how many lines stand above the rows of the list."""
    head = 1 if path.suffix == ".csv" else 2
    cells = [cells_of(path, line) for line in lines[:head]]
    if head == 1:
        if not cells or cells[0][0] != CSV_NAME or not cells[0][1:]:
            raise UserError(f"{path}: its first row is not {CSV_NAME} and names of attributes; replace or remove it")
        return cells[0][1:], head
    count = max(0, len(lines) - head)
    if len(cells) < head or not cells[1] or cells[0] != [str(count)]:
        raise UserError(f"{path}: its first row is not the number of its rows, {count}; replace or remove it")
    return cells[1], head


def cells_of(path, line):
    """Cells of a line in one of CelebA's lists: between spaces as published, between commas as Kaggle has them."""
    return [cell.strip() for cell in line.split("," if path.suffix == ".csv" else None)]


def read_lines(path):
    """Lines of a text file, without empty ones at its end."""
    try:
        check_end(path)
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); replace it") from None
