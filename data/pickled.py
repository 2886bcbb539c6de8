"""CIFAR-10's Python version, read without running it: a pickle is a program, held here to what such files do.

Python's unpickler builds lists, texts and numbers; in place of the few names of NumPy's that the published files ask
for, it gets stand-ins that only remember what they are told. Any other name ends it.
"""

import io
import pickle
import pickletools

import numpy as np

from console import UserError, reason

PIXELS = 3 * 32 * 32
MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}


class Told:
    """What is in place of an array and of its type: remembers how it was made and what it was filled with."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state):
        self.state = state


def latin_bytes(text, encoding):
    """Bytes, as Python 3 writes them in old protocols."""
    if encoding not in ("latin1", b"latin1") or not isinstance(text, str):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


KNOWN = {  # (module, name): its stand-in
    ("numpy.core.multiarray", "_reconstruct"): Told,
    ("numpy._core.multiarray", "_reconstruct"): Told,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): Told,
    ("_codecs", "encode"): latin_bytes,
}


class Reader(pickle.Unpickler):
    """Knows the names in CIFAR-10's files and no others."""

    def find_class(self, module, name):
        """A stand-in; an error for a name that these files do not hold."""
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which CIFAR-10 has not")
        return KNOWN[module, name]


def read_batch(content, path, way_out):
    """Records (N, 1 + 3072) of a pickled batch, label first, as in the binary version; UserError if it is none."""
    try:
        check_memo(content)
        batch = Reader(io.BytesIO(content), encoding="bytes").load()
        batch = {as_text(key): value for key, value in batch.items()}
        pixels, labels = as_pixels(batch["data"]), np.asarray(batch["labels"])
        if labels.dtype.kind != "i" or labels.shape != (len(pixels),) or not np.all((labels >= 0) & (labels < 256)):
            raise ValueError(f"no label for each of {len(pixels)} images")
    except Exception as error:  # whatever a damaged or hostile program makes the unpickler raise
        raise UserError(f"{path}: is no batch of CIFAR-10 ({reason(error)}); {way_out}") from None
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)


def check_memo(content):
    """Refuse large numbers of remembered objects: the unpickler would make room for all up to the largest."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in MEMO and not 0 <= argument <= len(content):
            raise pickle.UnpicklingError("remembers more objects than it has")


def as_text(key):
    """A key, which Python 2 wrote as bytes."""
    return key.decode("ascii", "replace") if isinstance(key, bytes) else key


def as_pixels(array):
    """uint8 (N, 3072) of what an array was told: its version, shape, type, order and bytes."""
    _, shape, kind, by_columns, content = array.state
    if kind.arguments[0] not in ("u1", b"u1") or by_columns:
        raise ValueError("its pixels are no bytes, row by row")
    count, size = shape
    if size != PIXELS or count < 1 or len(content) != count * size:
        raise ValueError(f"{len(content)} bytes for {count} x {size} pixels")
    return np.frombuffer(content, np.uint8).reshape(count, size)
