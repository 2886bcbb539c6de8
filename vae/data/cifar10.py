"""CIFAR-10 (Krizhevsky 2009), in colour or grey: its binary version or its Python version, as archives or unpacked."""

import gzip
import hashlib
import io
import pickle
import pickletools
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from vae.data.dataset import Dataset
from vae.data.download import ensure_published, note_if_changed
from vae.data.files import by_file_name, first_of, max_unpacked, readable
from vae.terminal import UserError, note, one_line, reason

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {f"data_batch_{number}": f"training batch {number} of 5" for number in range(1, 6)}  # file: title inside
BATCHES["test_batch"] = "testing batch 1 of 1"
BINARY_FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
PYTHON_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz")  # as published, as Keras names it
LABELS_SHA256 = "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f"  # training labels, then test labels
PIXELS = 3 * 32 * 32  # bytes of an image: its red, green and blue planes
RECORD = 1 + PIXELS  # bytes of an image and its label in the binary files
MAX_BATCH_BYTES = 100_000 * RECORD


def load_cifar10(data_dir):
    """Load CIFAR-10: 50,000 + 10,000 images (32, 32, 3) of ten classes.

    Looks in data_dir/cifar10, in data_dir (torchvision) and in Keras' folder in it; downloads the binary version if
    none is there.
    """
    names = (BINARY_FOLDER, BINARY_ARCHIVE, PYTHON_FOLDER, *PYTHON_ARCHIVES)
    folders = (data_dir / "cifar10", data_dir, data_dir / "cifar-10-batches-py-target")
    source = first_of(folder / name for name in names for folder in folders)
    source = source or data_dir / "cifar10" / BINARY_ARCHIVE
    way_out = f"delete {source}, and the next run downloads the archive"
    batches = list(read_batches(source, way_out))
    counts = [len(labels) for _, labels in batches]
    if len(set(counts[:-1])) > 1:
        raise UserError(f"{source}: {counts[:-1]} images in its five training files, not equally many; {way_out}")
    if set(counts) != {10_000}:
        note(f"{source}: {counts[0]:,} images in a training file and {counts[-1]:,} in the test file, not 10,000")
    elif hashlib.sha256(b"".join(labels.tobytes() for _, labels in batches)).hexdigest() != LABELS_SHA256:
        note(f"{source}: its labels are not CIFAR-10's; were its files swapped?")
    train, train_labels = (np.concatenate(parts) for parts in zip(*batches[:-1], strict=True))
    test, test_labels = batches[-1]
    return Dataset("cifar10", train, test, train_labels, test_labels, CLASSES)


def load_cifar10_grey(data_dir):
    """Load CIFAR-10 in grey: images (32, 32, 1)."""
    data = load_cifar10(data_dir)
    return replace(data, name="cifar10-grey", train=to_grey(data.train), test=to_grey(data.test))


def to_grey(images):
    """Convert uint8 (N, H, W, 3) to luma, uint8 (N, H, W, 1): 0.299 R + 0.587 G + 0.114 B, rounded (ITU-R BT.601)."""
    grey = np.empty((*images.shape[:3], 1), np.uint8)
    for start in range(0, len(images), 1000):
        red, green, blue = np.moveaxis(images[start : start + 1000].astype(np.uint32), -1, 0)
        grey[start : start + 1000, ..., 0] = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return grey


# Files --------------------------------------------------------------------------------------------------------


def read_batches(source, way_out):
    """Yield images (N, 32, 32, 3) and labels (N,) of the six files of a folder or an archive, the test images last."""
    python = source.name in (PYTHON_FOLDER, *PYTHON_ARCHIVES)
    names = list(BATCHES) if python else [f"{name}.bin" for name in BATCHES]
    if source.name in (BINARY_FOLDER, PYTHON_FOLDER):
        files = ((name, read_file(source / name, way_out)) for name in names)
    else:
        ensure_published(source, "toy-faces")
        files = read_members(source, names, way_out)
    for name, content in files:
        records = (unpickle_records if python else binary_records)(content, source / name, way_out)
        yield split_records(records, source / name, way_out)


def read_file(path, way_out):
    """Return the content of one of the six files."""
    note_if_changed(path)
    with readable(path, way_out):
        if path.stat().st_size > MAX_BATCH_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        return path.read_bytes()


def read_members(archive, names, way_out):
    """Yield name and content of files in an archive, whatever their folders; nothing is unpacked onto the disk."""
    with readable(archive, way_out), BoundedGzip(archive) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        members = (member for member in tar if Path(member.name).name in names and is_plain_file(member))
        found = by_file_name((member.name, tar.extractfile(member).read()) for member in members)
        while file.read(1_000_000):  # read to the end, where gzip verifies its checksum
            pass
    for name in names:
        if name not in found:
            raise UserError(f"{archive}: {name} is not in it; {way_out}")
        yield name, found[name]


def is_plain_file(member):
    """Whether a member of an archive is a file of a plausible size with all of its content in the archive."""
    return member.isfile() and not member.issparse() and member.size <= MAX_BATCH_BYTES


class BoundedGzip(gzip.GzipFile):
    """A gzipped file that stops with EOFError once it has unpacked to far more than images would."""

    def __init__(self, path):
        super().__init__(path)
        self.max_bytes = max_unpacked(path.stat().st_size)

    def read(self, size=-1):
        """Read that many bytes."""
        content = super().read(size)
        if self.tell() > self.max_bytes:
            raise EOFError(f"it unpacks to more than {self.max_bytes:,} bytes")
        return content


def binary_records(content, path, way_out):
    """Return the records (N, RECORD) of a file of the binary version."""
    if not content or len(content) % RECORD:
        raise UserError(f"{path}: {len(content):,} bytes are not a whole number of {RECORD}-byte images; {way_out}")
    return np.frombuffer(content, np.uint8).reshape(-1, RECORD)


def split_records(records, path, way_out):
    """Split records (N, RECORD), a label and three planes each, into images (N, 32, 32, 3) and labels (N,)."""
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise UserError(f"{path}: label {labels.max()} of image {labels.argmax()} is not one of 0 to 9; {way_out}")
    return np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


# The Python version -------------------------------------------------------------------------------------------


def unpickle_records(content, path, way_out):
    """Return the records (N, RECORD) of a file of the Python version, a pickled dict, without running any code."""
    try:
        check_operations(content)
        batch = {as_text(key): value for key, value in BatchUnpickler(content).load().items()}
        title = as_text(batch.get("batch_label"))
        if title in BATCHES.values() and title != BATCHES.get(path.name):
            raise ValueError(f"it calls itself {title}")
        pixels, labels = as_pixels(batch["data"]), batch["labels"]
        valid = type(labels) is list and all(type(label) is int and 0 <= label < 256 for label in labels)
        if not valid or len(labels) != len(pixels):
            raise ValueError(f"it lacks an integer label for each of {len(pixels)} images")
    except Exception as error:  # a damaged or hostile pickle makes the unpickler raise anything
        raise UserError(f"{path}: is not a batch of CIFAR-10 ({reason(error)}); {way_out}") from None
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)


class StandIn:
    """Stands in for NumPy's arrays and dtypes: keeps what a pickle passes to them."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state):
        self.state = state


STAND_INS = {  # (module, name): what takes its place
    ("numpy.core.multiarray", "_reconstruct"): StandIn,
    ("numpy._core.multiarray", "_reconstruct"): StandIn,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): StandIn,
}


class BatchUnpickler(pickle.Unpickler):
    """An unpickler for the names that CIFAR-10's files use; any other name is refused, as it could run a program."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.unused_bytes = len(content)  # each text is encoded once, so all of them together are no longer than this

    def find_class(self, module, name):
        """Return what a name stands for."""
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {one_line(f'{module}.{name}')}, which CIFAR-10 does not use")
        return STAND_INS[module, name]

    def encode(self, text, encoding):
        """Return the bytes of a text: Python 3 writes bytes this way in old protocols."""
        self.unused_bytes -= len(text)
        if encoding not in ("latin1", b"latin1") or self.unused_bytes < 0:
            raise pickle.UnpicklingError("bytes in an unknown encoding, or the same text again and again")
        return text.encode("latin1")


def check_operations(content):
    """Refuse a pickle that would take far more memory than its file.

    An empty list has one byte in a file and 56 in memory, and the unpickler makes room up to the highest memo index.
    """
    limit = 1000 + len(content) // 100  # an image has 3,072 bytes and takes two or three operations
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number > limit or (operation.name in ("PUT", "LONG_BINPUT") and argument > limit):
            raise pickle.UnpicklingError("more operations than images need")


def as_text(key):
    """Return a text, which Python 2 wrote as bytes."""
    return key.decode("ascii", "replace") if isinstance(key, bytes) else key


def as_pixels(array):
    """Return the pixels uint8 (N, PIXELS) of a stand-in; its state is (version, shape, dtype, is Fortran, bytes)."""
    _, (count, size), dtype, is_fortran, content = array.state
    if dtype.arguments[0] not in ("u1", b"u1") or is_fortran:
        raise ValueError("its pixels are not bytes, row by row")
    if size != PIXELS or count < 1 or len(content) != count * size:
        raise ValueError(f"{len(content)} bytes for {count} x {size} pixels")
    return np.frombuffer(content, np.uint8).reshape(count, size)
