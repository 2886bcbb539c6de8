"""What the readers of data sets share: finding files, and one clear line about those that cannot be read."""

import contextlib
import gzip
import re
from pathlib import Path

from vae.terminal import UserError, reason

MAX_BYTES = 8_000_000_000  # a file that claims to contain more than this is damaged
MAX_BYTES_OF_SMALL_FILES = 500_000_000  # more than this only if the file itself is at least a hundredth as large


def first_of(paths):
    """Return the first path that exists, or None."""
    return next((path for path in paths if path.exists()), None)


def is_endless(path):
    """Whether reading a path might never end, because it is a pipe or a device."""
    return path.is_fifo() or path.is_char_device()


@contextlib.contextmanager
def readable(path, way_out):
    """Turn errors in this block, which reads a file, into UserErrors: damaged files make libraries raise anything."""
    try:
        if is_endless(path):
            raise ValueError("a pipe or a device, which has no end")
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path}: needs more memory than there is; {way_out}") from None
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); {way_out}") from None


def max_unpacked(path):
    """Return how many bytes a compressed file may contain: images rarely shrink to a hundredth of their size."""
    return min(MAX_BYTES, max(MAX_BYTES_OF_SMALL_FILES, 100 * path.stat().st_size))


def read_bytes(path):
    """Return the content of a file, unpacked if it is gzipped; ValueError if it unpacks to far more than images do."""
    content, limit = bytearray(), max_unpacked(path)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while block := file.read(2**20):
            content += block
            if len(content) > limit:
                raise ValueError(f"it unpacks to more than {limit:,} bytes")
    return content


def by_file_name(members):
    """Return {file name: content} of an archive's (path, content) pairs; ValueError if two files share a name."""
    found = {}
    for path, content in members:
        name = Path(path).name
        if name in found:
            raise ValueError(f"it contains two files {name}")
        found[name] = content
    return found


def plain_name(folder):
    """Return a folder's name without special characters, at most 100 bytes, for the names of runs and caches."""
    name = re.sub(r"[^\w.-]+", "_", folder.name).encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    return name.strip("._-") or "images"
