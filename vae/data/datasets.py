"""Data sets as uint8 arrays: MNIST and CIFAR-10 as published, toy sets; image_files.py has CelebA and own images."""

import gzip
import hashlib
import io
import itertools
import math
import struct
import tarfile
import tokenize
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vae.data import toy
from vae.data.cache import open_cache, save_array
from vae.data.download import download, remark_on_content
from vae.data.folders import plain_name
from vae.data.image_files import UNREADABLE, load_celeba, load_folder
from vae.data.layouts import SPLITS, by_file_name, check_end, find_idx, first_of, idx_folder, idx_name
from vae.data.pickled import read_batch
from vae.terminal import UserError, note, reason

DIGITS = tuple("0123456789")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 32 * 32 * 3  # bytes of an image in CIFAR-10's binary files: its label, then red, green and blue planes
MOST_IMAGES, MOST_BYTES = 10_000_000, 8_000_000_000  # a header that promises more is damaged
MOST_HEADER = 10_000  # bytes of an extended header in an archive
MOST_OF_SMALL = 500_000_000  # bytes that any file may hold; more than this only if it is not much smaller itself
TOY_SETS = {  # name: (how to draw, training images, test images, names of the labels)
    "toy-digits": (toy.draw_digits, 10_000, 2_000, DIGITS),
    "toy-faces": (toy.draw_faces, 5_000, 1_000, toy.FACE_ATTRIBUTES),
}


@dataclass(frozen=True)
class Dataset:
    """uint8 images (N, H, W, C), perhaps memory-mapped; labels (N,), attributes (N, A) of 0 and 1, or None."""

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    label_names: tuple
    sha256: str = ""  # of the training pixels followed by the test pixels

    def __post_init__(self):
        """UserError if a loader has made images of another kind, floats for one, which would be divided by 255 too."""
        for images in (self.train, self.test):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
                kind = f"{images.dtype} {list(images.shape)}"
                raise UserError(f"{self.name}: images are {kind}; they have to be uint8 (N, H, W, 1 or 3)")

    @property
    def image_shape(self):
        """(H, W, C)."""
        return tuple(self.train.shape[1:])

    def label_matrix(self, split, wanted=True):
        """Labels of "train" or "test" as float32 (N, L): one-hot classes or attributes; (N, 0) if they are not wanted.

        UserError if they are wanted and there are none.
        """
        count, labels = len(getattr(self, split)), getattr(self, f"{split}_labels")
        if not wanted:
            return np.zeros((count, 0), np.float32)
        if labels is None:
            raise UserError(f"{self.name}: has no labels, and these networks take them; use a set with labels")
        return labels.astype(np.float32) if labels.ndim == 2 else np.eye(len(self.label_names), dtype=np.float32)[labels]

    @property
    def attributes(self):
        """Names of the attributes; none where the labels are classes, whatever these are called."""
        return self.label_names if self.train_labels is not None and self.train_labels.ndim == 2 else ()


def load_dataset(name, data_dir, image_size=None, limit=None):
    """Load a data set by its name, or a folder of images by its path; what is missing is downloaded or drawn.

    image_size: pixels a side, for celeba and folders only (None: 64). limit: at most N training and N test images, the
    first ones, in folders some from all of it. Raises UserError with one line that names the file or flag and the way
    out.
    """
    if name == "celeba":
        return Dataset(*load_celeba(Path(data_dir), image_size or 64, limit))
    own = is_own(name)
    if own and not idx_folder(Path(name)):
        return Dataset(*load_folder(name, Path(data_dir), image_size or 64, limit))
    if image_size:
        raise UserError(f"--image-size: is for celeba and folders of images; the images of {name} have one size")
    if own:
        data = load_idx_folder(name)
    else:
        data = load_toy(name, Path(data_dir)) if name in TOY_SETS else LOADERS[name](Path(data_dir))
    return with_checksum(first_images(data, limit))


KINDS = ("toy-digits", "toy-faces", "mnist", "cifar10", "cifar10-grey", "celeba", "folder", "digits", "photographs")


def keys_of(name):
    """Under which of KINDS the settings of a data set stand: its own name, then its kind."""
    if is_own(name):
        return ("digits",) if idx_folder(Path(name)) else ("folder", "photographs")
    return name, "digits" if name in ("toy-digits", "mnist") else "photographs"


def is_own(name):
    """Whether a data set is none that is known by its name, but a folder of the user's."""
    return name not in {"celeba", *LOADERS, *TOY_SETS}


def first_images(data, limit):
    """The first `limit` training images and at most as many test images; all of them where limit is None."""
    parts = ("train", "test", "train_labels", "test_labels")
    return replace(data, **{part: getattr(data, part)[:limit] for part in parts})


def with_checksum(data):
    """The data set with the SHA-256 of its pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(data.train))
    digest.update(np.ascontiguousarray(data.test))
    return replace(data, sha256=digest.hexdigest())


def load_toy(name, data_dir):
    """Draw a toy set, or read it where it has been drawn before by the same program."""
    draw, train, test, label_names = TOY_SETS[name]

    def build(folder):
        images, labels = draw(train + test, seed=0)
        save_array(folder / "images.npy", images)
        save_array(folder / "labels.npy", labels)

    signature = {"program": Path(toy.__file__).read_text(encoding="utf-8"), "images": train + test}
    folder = open_cache(data_dir, name, signature, build)
    images, labels = (np.load(folder / f"{part}.npy") for part in ("images", "labels"))
    return Dataset(name, images[:train], images[train:], labels[:train], labels[train:], tuple(label_names))


# MNIST --------------------------------------------------------------------------------------------------------

MNIST_HELP = "delete the file, and the next run downloads it"
OWN_HELP = "repair or replace it"
NPZ_HELP = "delete it, and the next run downloads MNIST"
MNIST_LABELS = "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"  # SHA-256 of the training labels
SIDES = range(1, 513)  # pixels of images in IDX files of other sets
IDX_FILES = list(itertools.product(SPLITS, ("images", "labels")))


def load_mnist(data_dir):
    """MNIST, 60,000 + 10,000 images (28, 28, 1) and their digits: its four IDX files, or Keras' mnist.npz."""
    folders = [folder for name in ("mnist", "MNIST") if (folder := idx_folder(data_dir / name))]
    whole = [folder for folder in folders if all(find_idx(folder, *file) for file in IDX_FILES)]
    packed = first_of((data_dir / "mnist" / "mnist.npz", data_dir / "mnist.npz"))
    if packed and not whole:
        return Dataset("mnist", label_names=DIGITS, **remarked(packed, read_npz(packed)))
    folder = (whole or folders or [data_dir / "mnist"])[0]
    paths = {file: find_idx(folder, *file) or folder / idx_name(*file) for file in IDX_FILES}
    paths = {file: published(path, "toy-digits") for file, path in paths.items()}
    return Dataset("mnist", label_names=DIGITS, **remarked(folder, read_idx_files(paths, [28], 10, MNIST_HELP)))


def remarked(source, parts):
    """The parts, after a line if they are not MNIST's: other sets go by its file names."""
    if (len(parts["train"]), len(parts["test"])) != (60_000, 10_000):
        note(
            f"{source}: {len(parts['train']):,} training and {len(parts['test']):,} test images, not 60,000 and 10,000"
        )
    elif hashlib.sha256(parts["train_labels"].tobytes()).hexdigest() != MNIST_LABELS:
        note(f"{source}: its labels are not MNIST's; a set of another name goes by that of its folder, with --dataset")
    return parts


def load_idx_folder(name):
    """Another set in MNIST's file names, Fashion-MNIST for one, called as its folder is: images (H, W, 1), labels."""
    folder = idx_folder(Path(name)).resolve()
    paths = {file: find_idx(folder, *file) for file in IDX_FILES}
    for file, path in paths.items():
        if not path:
            raise UserError(f"{folder / idx_name(*file)}: is not there, packed or unpacked; put it there")
    parts = read_idx_files(paths, SIDES, 256, OWN_HELP)
    sizes = [list(parts[split].shape[1:3]) for split in SPLITS]
    if sizes[0] != sizes[1]:
        raise UserError(f"{paths['test', 'images']}: images of {sizes[1]}, training images of {sizes[0]}; {OWN_HELP}")
    largest = max(int(parts[f"{split}_labels"].max()) for split in SPLITS)
    named = folder.parent if folder.name == "raw" else folder
    return Dataset(plain_name(named), label_names=tuple(map(str, range(max(10, largest + 1)))), **parts)


def read_idx_files(paths, sides, classes, way_out):
    """Images (N, H, W, 1) and labels (N,) of both splits, by the names of Dataset's parts."""
    parts = {}
    for split in SPLITS:
        images = read_idx(paths[split, "images"], (sides, sides), way_out)
        labels = read_idx(paths[split, "labels"], (), way_out)
        either = f"it or {paths[split, 'images'].name} is wrong: {way_out}"
        check_count(paths[split, "labels"], images, labels, either)
        check_labels(paths[split, "labels"], labels, classes, way_out)
        parts |= {split: images[..., None], f"{split}_labels": labels}
    check_order(paths["train", "images"], parts)
    return parts


def check_order(path, parts):
    """A line about it if training and test files seem to be exchanged."""
    train, test = (len(parts[split]) for split in SPLITS)
    if train < test:
        note(f"{path}: {train:,} training images and {test:,} test images; were they exchanged?")


def check_count(path, images, labels, way_out):
    """UserError unless there are as many labels as images."""
    if len(images) != len(labels):
        raise UserError(f"{path}: {len(labels)} labels for {len(images)} images; {way_out}")


def check_labels(path, labels, classes, way_out):
    """UserError unless all labels are below `classes`."""
    if labels.max() >= classes:
        first = labels.argmax()
        raise UserError(f"{path}: label {labels[first]} of image {first} is no digit; {way_out}")


def published(path, toy_set):
    """The path of a published file: downloaded if missing, with a line about it if it is not what was published."""
    if path.exists():
        remark_on_content(path)
    else:
        download(path, toy_set)
    return path


def read_idx(path, sides, way_out):
    """Read an IDX file of unsigned bytes, gzipped or not, and nothing that is not exactly that: (N, ...).

    sides: for each dimension behind the first, the sizes that it may have.
    """
    rank = 1 + len(sides)
    try:
        check_end(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * rank)
            if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, 8, rank)):
                raise UserError(f"{path}: not an IDX file of this kind (magic number {header[:4].hex()}); {way_out}")
            count, *shape = struct.unpack(f">{rank}I", header[4:])
            if not all(side in known for side, known in zip(shape, sides, strict=True)):
                raise UserError(f"{path}: holds items of size {shape}, not of {expected(sides)}; {way_out}")
            size = count * math.prod(shape)
            if not 0 < count <= MOST_IMAGES or size > most_bytes(path.stat().st_size):
                raise UserError(f"{path}: holds {count:,} items; {way_out}")
            content = file.read(size + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {way_out}") from None
    if len(content) != size:
        raise UserError(f"{path}: {'more' if len(content) > size else 'less'} than the {count} items; {way_out}")
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


def most_bytes(packed):
    """How many bytes a file of `packed` bytes may hold: few images are a hundred times smaller when they are packed."""
    return min(MOST_BYTES, max(MOST_OF_SMALL, 100 * packed))


def expected(sides):
    """Sizes as text: [28, 28], or 1 to 512 each."""
    return [known[0] for known in sides] if all(len(known) == 1 for known in sides) else "1 to 512 pixels a side"


def read_npz(path):
    """Keras' mnist.npz: Dataset's parts from its arrays x_train, y_train, x_test and y_test, nothing unpickled."""
    parts = {}
    for split in SPLITS:
        images, labels = read_array(path, f"x_{split}", 3), read_array(path, f"y_{split}", 1)
        if images.shape[1:] != (28, 28):
            sizes = f"{list(images.shape[1:])}, not of [28, 28]"
            raise UserError(f"{path}: x_{split} holds items of size {sizes}; {NPZ_HELP}")
        check_count(path, images, labels, NPZ_HELP)
        check_labels(path, labels, 10, NPZ_HELP)
        parts |= {split: images[..., None], f"{split}_labels": labels}
    check_order(path, parts)
    return parts


def read_array(path, name, rank):
    """An array of bytes from an .npz file."""
    try:
        check_end(path)
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{name}.npy")
            if entry.file_size > most_bytes(entry.compress_size):
                raise ValueError(f"{name} has {entry.file_size:,} bytes")
            with archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):
                    raise ValueError(f"more than the array {name}")
    except KeyError:
        raise UserError(f"{path}: has no array {name}; {NPZ_HELP}") from None
    except (*UNREADABLE, MemoryError, tokenize.TokenError) as error:  # the last: NumPy's, at a header cut off
        raise UserError(f"{path}: cannot be read ({reason(error)}); {NPZ_HELP}") from None
    if array.dtype != np.uint8 or array.ndim != rank or not len(array):
        raise UserError(f"{path}: {name} is {array.dtype} {list(array.shape)}, not bytes of {rank} axes; {NPZ_HELP}")
    return array


# CIFAR-10 -----------------------------------------------------------------------------------------------------


def load_cifar10(data_dir):
    """CIFAR-10, 50,000 + 10,000 images (32, 32, 3): its binary or its Python version, packed or not.

    In data_dir/cifar10, or in data_dir itself, where torchvision puts it.
    """
    folders = (data_dir / "cifar10", data_dir, data_dir / "cifar-10-batches-py-target")  # the last is Keras'
    source = first_of(folder / name for name in CIFAR_SOURCES for folder in folders)
    source = source or data_dir / "cifar10" / "cifar-10-binary.tar.gz"
    batches = list(read_batches(source))
    counts = [len(labels) for _, labels in batches]
    if len(set(counts[:-1])) > 1:
        uneven = f"{counts[:-1]} images in its five training files, not as many in each"
        raise UserError(f"{source}: {uneven}; {cifar_help(source)}")
    if set(counts) != {10_000}:
        note(f"{source}: {counts[0]:,} images in a training file and {counts[-1]:,} in the test file, not 10,000")
    elif hashlib.sha256(b"".join(labels.tobytes() for _, labels in batches)).hexdigest() != CIFAR_LABELS:
        note(f"{source}: its labels are not CIFAR-10's; were files of it exchanged?")
    train = [np.concatenate(parts) for parts in zip(*batches[:-1], strict=True)]
    test = batches[-1]
    return Dataset("cifar10", train[0], test[0], train[1], test[1], CLASSES)


PYTHON_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz")  # as published, as Keras calls it
CIFAR_LABELS = "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f"  # SHA-256, test images last
CIFAR_SOURCES = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar-10-batches-py", *PYTHON_ARCHIVES)


def read_batches(source):
    """Images (N, 32, 32, 3) and labels (N,) of the six files in their order; downloads the archive if it is missing."""
    way_out = cifar_help(source)
    python = source.name in ("cifar-10-batches-py", *PYTHON_ARCHIVES)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    names = names if python else [f"{name}.bin" for name in names]
    if source.name in ("cifar-10-batches-bin", "cifar-10-batches-py"):
        files = ((name, read_file(source / name, way_out)) for name in names)
    else:
        files = read_members(published(source, "toy-faces"), names, way_out)
    for name, content in files:
        records = (read_batch if python else as_records)(content, source / name, way_out)
        yield check_records(records, source / name, way_out)


def cifar_help(source):
    """The way out of damage: nothing is downloaded while a folder or an archive is there."""
    return f"delete {source}, and the next run downloads the archive"


def read_file(path, way_out):
    """Content of a file of CIFAR-10's."""
    remark_on_content(path)
    try:
        check_end(path)
        if path.stat().st_size > MOST_IMAGES // 100 * RECORD:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {way_out}") from None


def read_members(archive, names, way_out):
    """Name and content of files in the archive, wherever in it they lie; nothing is unpacked onto the disk."""
    try:
        check_end(archive)
        with BoundedGzip(archive) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=PlainTarInfo) as tar:
            members = (member for member in tar if is_batch(member, names))
            found = by_file_name((member.name, tar.extractfile(member).read()) for member in members)
            while file.read(1_000_000):  # to the end, where gzip has its checksum
                pass
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive}: cannot be read ({reason(error)}); {way_out}") from None
    for name in names:
        if name not in found:
            raise UserError(f"{archive}: {name} is not in it; {way_out}")
        yield name, found[name]


class PlainTarInfo(tarfile.TarInfo):
    """A member of an archive; ReadError at an extended header of a size that no archive of a few files needs.

    Older Pythons' tarfile searches those in a time that grows with the square of their size (CVE-2024-6232).
    """

    def _proc_member(self, archive):
        if self.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE) and self.size > MOST_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes in it")
        return super()._proc_member(archive)


class BoundedGzip(gzip.GzipFile):
    """A gzipped file of which nobody reads more than it may hold, wherever a header in it would lead."""

    def __init__(self, path):
        super().__init__(path)
        self.most = most_bytes(path.stat().st_size)

    def seek(self, offset, whence=io.SEEK_SET):
        """To a place that it may have; EOFError beyond."""
        self.check(offset)
        return super().seek(offset, whence)

    def read(self, size=-1):
        """So many bytes; EOFError where these are more than it may hold."""
        self.check(self.tell() + size)
        return super().read(size)

    def check(self, end):
        """EOFError if that is beyond."""
        if end > self.most:
            raise EOFError(f"more than {self.most:,} bytes in it")


def is_batch(member, names):
    """Whether a member of the archive is one of the files, and of a size that such a file can have."""
    if member.size < 0:  # it leads back, and older Pythons' tarfile would go round for ever (CVE-2025-8194)
        raise ValueError(f"{member.name} has {member.size} bytes")
    if member.issparse():  # nothing but its size would be in the archive
        raise ValueError(f"{member.name} is sparse")
    return member.isfile() and Path(member.name).name in names and member.size <= MOST_IMAGES // 100 * RECORD


def as_records(content, path, way_out):
    """Records (N, RECORD) of a binary batch."""
    if not content or len(content) % RECORD:
        raise UserError(f"{path}: {len(content):,} bytes are no whole number of {RECORD}-byte images; {way_out}")
    return np.frombuffer(content, np.uint8).reshape(-1, RECORD)


def check_records(records, path, way_out):
    """Records (N, RECORD), a label and three planes each, as images (N, 32, 32, 3) and labels (N,)."""
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise UserError(f"{path}: label {labels.max()} of image {labels.argmax()} is none of 0 to 9; {way_out}")
    return np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def load_cifar10_grey(data_dir):
    """CIFAR-10 in grey: images (32, 32, 1)."""
    data = load_cifar10(data_dir)
    return replace(data, name="cifar10-grey", train=to_grey(data.train), test=to_grey(data.test))


def to_grey(images):
    """Luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded.  uint8 (N, H, W, 3) -> uint8 (N, H, W, 1)."""
    grey = np.empty((*images.shape[:3], 1), np.uint8)
    for start in range(0, len(images), 1000):
        red, green, blue = np.moveaxis(images[start : start + 1000].astype(np.uint32), -1, 0)
        grey[start : start + 1000, ..., 0] = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return grey


LOADERS = {"mnist": load_mnist, "cifar10": load_cifar10, "cifar10-grey": load_cifar10_grey}
