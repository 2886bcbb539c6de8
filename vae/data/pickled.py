"""CIFAR-10's Python version, read without running it: a pickle is a program, held here to what such files do.

Python's unpickler builds lists, tables, texts and numbers; in place of the few names of NumPy's that the published
files ask for, it gets stand-ins that only remember what they are told. Any other name ends it.
"""

import io
import pickle
import pickletools

import numpy as np

from vae.terminal import UserError, one_line, reason

PIXELS = 3 * 32 * 32


class Told:
    """What is in place of an array and of its type: remembers how it was made and what it was filled with."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state):
        self.state = state


KNOWN = {  # (module, name): its stand-in
    ("numpy.core.multiarray", "_reconstruct"): Told,
    ("numpy._core.multiarray", "_reconstruct"): Told,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): Told,
}
BYTES = ("_codecs", "encode")  # how Python 3 writes bytes in old protocols
TITLES = {f"data_batch_{number}": f"training batch {number} of 5" for number in range(1, 6)}
TITLES["test_batch"] = "testing batch 1 of 1"


class Reader(pickle._Unpickler):
    """Knows the names in CIFAR-10's files and no others, and tables by names only.

    The unpickler that is written in Python: the one in C makes room for all objects up to the largest number that a
    file remembers one by, and a key made of itself again and again would keep it busy for hours, heedless of Ctrl-C.
    """

    def __init__(self, content):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.unread = len(content)  # no text is encoded twice, so all of them together are not longer than this

    def latin_bytes(self, text, encoding):
        """The bytes that a text stands for."""
        if encoding not in ("latin1", b"latin1") or not isinstance(text, str) or len(text) > self.unread:
            raise pickle.UnpicklingError("bytes in an unknown encoding, or the same again and again")
        self.unread -= len(text)
        return text.encode("latin1")

    def find_class(self, module, name):
        """A stand-in; an error for a name that these files do not hold."""
        if (module, name) == BYTES:
            return self.latin_bytes
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"asks for {one_line(f'{module}.{name}')}, which CIFAR-10 has not")
        return KNOWN[module, name]

    def load_setitem(self):
        """A table's entry; its key and its value are the last two objects."""
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        """Entries of a table, key and value in turn."""
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self):
        """A table of such entries."""
        check_keys(self.stack[::2])
        super().load_dict()

    def load_set(self):
        """What is in a set is a key too, and CIFAR-10 has none."""
        raise pickle.UnpicklingError("a set, which CIFAR-10 has not")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_SET[0]: load_set,
        pickle.ADDITEMS[0]: load_set,
        pickle.FROZENSET[0]: load_set,
    }


def check_keys(keys):
    """Refuse a table by anything but names."""
    if not all(type(key) in (str, bytes) for key in keys):
        raise pickle.UnpicklingError("a table by other things than names")


def read_batch(content, path, way_out):
    """Records (N, 1 + 3072) of a pickled batch, label first, as in the binary version; UserError if it is none."""
    try:
        check_length(content)
        batch = {as_text(key): value for key, value in Reader(content).load().items()}
        title = as_text(batch.get("batch_label"))
        if title in TITLES.values() and title != TITLES.get(path.name):
            raise ValueError(f"it calls itself {title}")
        pixels, labels = as_pixels(batch["data"]), batch["labels"]
        good = type(labels) is list and all(type(label) is int and 0 <= label < 256 for label in labels)
        if not good or len(labels) != len(pixels):
            raise ValueError(f"no label for each of {len(pixels)} images")
    except Exception as error:  # whatever a damaged or hostile program makes the unpickler raise
        raise UserError(f"{path}: is no batch of CIFAR-10 ({reason(error)}); {way_out}") from None
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)


def check_length(content):
    """Refuse a program of more operations than images need: an empty list has one byte in a file and 56 in memory."""
    most = 1000 + len(content) // 100  # an image has 3,072 bytes, and two or three operations
    for number, _ in enumerate(pickletools.genops(content)):
        if number > most:
            raise pickle.UnpicklingError("more operations than images need")


def as_text(key):
    """A text, which Python 2 wrote as bytes."""
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
