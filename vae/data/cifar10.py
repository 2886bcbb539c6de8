"""CIFAR-10 (Krizhevsky 2009), in colour or grey: its binary version or its Python version, as archives or unpacked."""

import hashlib
import io
import itertools
import pickle
import pickletools
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from vae.data.dataset import Dataset
from vae.data.download import ensure_published, note_if_changed
from vae.data.files import by_file_name, first_of, read_bytes, readable
from vae.terminal import UserError, note, one_line

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {f"data_batch_{number}": f"training batch {number} of 5" for number in range(1, 6)}  # file: title inside
BATCHES["test_batch"] = "testing batch 1 of 1"
BINARY_FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
PYTHON_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz")  # as published, as Keras names it
LABELS_SHA256 = "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f"  # training labels, then test labels
PIXELS = 3 * 32 * 32  # bytes of an image: its red, green and blue planes


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
    weighted = images.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    return ((weighted + 500) // 1000).astype(np.uint8)[..., None]


# Files --------------------------------------------------------------------------------------------------------


def read_batches(source, way_out):
    """Yield images (N, 32, 32, 3) and labels (N,) of the six files of a folder or an archive, the test images last."""
    is_python = source.name in (PYTHON_FOLDER, *PYTHON_ARCHIVES)
    names = list(BATCHES) if is_python else [f"{name}.bin" for name in BATCHES]
    members = None
    if source.name not in (BINARY_FOLDER, PYTHON_FOLDER):
        ensure_published(source, "toy-faces")
        with readable(source, way_out):
            members = read_members(source, names)
    for name in names:
        path = source / name
        with readable(path, way_out):
            if members is None:
                note_if_changed(path)
            content = members[name] if members else read_bytes(path)
            labels, planes = read_pickle(content, name) if is_python else read_records(content)
            wrong = np.flatnonzero((labels < 0) | (labels > 9))
            if len(wrong):
                raise ValueError(f"label {labels[wrong[0]]} of image {wrong[0]} is not one of 0 to 9")
        images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        yield np.ascontiguousarray(images), labels.astype(np.uint8)


def read_members(archive, names):
    """Return {name: content} of files in an archive, whatever their folders; nothing is unpacked onto the disk."""
    with tarfile.open(fileobj=io.BytesIO(read_bytes(archive)), mode="r|") as tar:
        members = (member for member in tar if Path(member.name).name in names and is_plain_file(member))
        found = by_file_name((member.name, tar.extractfile(member).read()) for member in members)
    for name in names:
        if name not in found:
            raise ValueError(f"{name} is not in it")
    return found


def is_plain_file(member):
    """Whether a member of an archive is a file whose content is all there; the holes of a sparse one would be black."""
    return member.isfile() and not member.issparse()


def read_records(content):
    """Return labels (N,) and planes (N, PIXELS) of a file of the binary version."""
    if not content or len(content) % (1 + PIXELS):
        raise ValueError(f"{len(content):,} bytes are not a whole number of {1 + PIXELS}-byte images")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 0], records[:, 1:]


# The Python version -------------------------------------------------------------------------------------------


def read_pickle(content, name):
    """Return labels (N,) and planes (N, PIXELS) of a file of the Python version, a pickled dict, running no code."""
    check_size(content)
    batch = BatchUnpickler(content).load()
    batch = {as_text(key): value for key, value in batch.items()}
    title = as_text(batch.get("batch_label"))
    if title in BATCHES.values() and title != BATCHES[name]:
        raise ValueError(f"it calls itself {title}")
    _, shape, dtype, is_fortran, pixels = batch["data"].state  # as numpy.ndarray.__reduce__ gives it
    if dtype.arguments[0] not in ("u1", b"u1") or is_fortran or shape[1:] != (PIXELS,):
        raise ValueError(f"its pixels {shape} are not {PIXELS} bytes an image, row by row")
    planes, labels = np.frombuffer(pixels, np.uint8).reshape(shape), np.array(batch["labels"])
    if labels.shape != (len(planes),) or labels.dtype.kind != "i":
        raise ValueError(f"it lacks an integer label for each of {len(planes)} images")
    return labels, planes


def check_size(content):
    """Refuse a pickle that takes far more memory than its file: an empty list has 1 byte there and 56 in memory."""
    limit = 1000 + len(content) // 100  # an image has 3,072 bytes and takes two or three operations
    if next(itertools.islice(pickletools.genops(content), limit, None), None):
        raise pickle.UnpicklingError("more operations than images need")


def as_text(key):
    """Return a text, which Python 2 wrote as bytes."""
    return key.decode("ascii", "replace") if isinstance(key, bytes) else key


class StandIn:
    """Stands in for NumPy's arrays and dtypes: keeps what a pickle passes to them."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


STAND_INS = {  # (module, name) in CIFAR-10's files: what takes its place
    ("numpy.core.multiarray", "_reconstruct"): StandIn,
    ("numpy._core.multiarray", "_reconstruct"): StandIn,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): StandIn,
}


class BatchUnpickler(pickle._Unpickler):
    """An unpickler that refuses all other names, as they could run a program.

    The one in Python, since damage can make the one in C reserve memory for billions of objects.
    """

    def __init__(self, content):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.unused_bytes = len(content)  # each text is encoded once, so all of them together are no longer than this

    def encode(self, text, encoding):
        """Return the bytes of a text: Python 3 writes bytes this way in old protocols."""
        self.unused_bytes -= len(text)
        if encoding not in ("latin1", b"latin1") or self.unused_bytes < 0:
            raise pickle.UnpicklingError("bytes in an unknown encoding, or the same text again and again")
        return text.encode("latin1")

    def find_class(self, module, name):
        """Return what a name stands for."""
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {one_line(f'{module}.{name}')}, which CIFAR-10 does not use")
        return STAND_INS[module, name]
