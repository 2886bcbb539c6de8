"""What the readers of data sets share: finding files, and one clear line about those that cannot be read."""

import contextlib
import re
import stat
from pathlib import Path

from vae.terminal import UserError, reason

MAX_BYTES = 8_000_000_000  # a file that claims to contain more than this is damaged
MAX_BYTES_OF_SMALL_FILES = 500_000_000  # more than this only if the file itself is at least a hundredth as large


def first_of(paths):
    """Return the first path that exists, or None."""
    return next((path for path in paths if path.exists()), None)


def is_endless(path):
    """Whether reading a path might never end: a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


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


def max_unpacked(packed_bytes):
    """Return how many bytes a compressed file may contain: images rarely shrink to a hundredth of their size."""
    return min(MAX_BYTES, max(MAX_BYTES_OF_SMALL_FILES, 100 * packed_bytes))


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
