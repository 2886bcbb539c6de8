"""Folders in data/cache: built once, complete or not at all, and built again when their sources change."""

import contextlib
import hashlib
import json
import secrets
import shutil
import time
from pathlib import Path

import numpy as np

from vae.terminal import name_file, note

LAYOUT = 2  # raise it to have all caches built again
CHECKSUMS = "checksums.json"
ABANDONED_SECONDS = 3600  # an unfinished folder that is unchanged for so long was left by a killed program
HEX_DIGITS = 16 * "[0-9a-f]"  # in names of folders that this module makes


def cache_folder(data_dir, name, signature):
    """Where `open_cache` keeps what has this name and signature."""
    digest = hashlib.sha256(json.dumps([LAYOUT, signature], sort_keys=True).encode()).hexdigest()[:16]
    return Path(data_dir) / "cache" / f"{name}-{digest}"


def open_cache(data_dir, name, signature, build):
    """Return the folder data_dir/cache/name-<hash>, filled by `build(folder)` if it does not exist or is damaged.

    signature: a JSON value that changes when the content would. Removes outdated folders of the same name. If another
    process finishes first, its folder is used.
    """
    folder = cache_folder(data_dir, name, signature)
    if folder.is_dir() and not is_intact(folder):
        note(f"{folder}: is damaged, so it is built again")
        with partial_folder(folder.parent) as partial, contextlib.suppress(FileNotFoundError):  # others may do the same
            folder.rename(partial / folder.name)
    if not folder.is_dir():
        with partial_folder(folder.parent) as partial:
            try:
                build(partial)
                checksums = {path.name: checksum(path) for path in partial.iterdir()}
                (partial / CHECKSUMS).write_text(json.dumps(checksums, indent=2))
                partial.rename(folder)
            except OSError as error:
                name_file(error, folder)
                if not folder.is_dir():
                    raise
        for outdated in set(folder.parent.glob(f"{name}-{HEX_DIGITS}")) - {folder}:
            shutil.rmtree(outdated, ignore_errors=True)
    return folder


@contextlib.contextmanager
def partial_folder(parent):
    """Yield a new folder in `parent` for unfinished files and remove it at the end; also remove abandoned ones."""
    partial = parent / f"partial-{secrets.token_hex(8)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"partial-{HEX_DIGITS}"):
            with contextlib.suppress(OSError):  # its owner may be finishing it at this moment
                newest = max(path.stat().st_mtime for path in [left, *left.iterdir()])
                if time.time() - newest > ABANDONED_SECONDS:
                    shutil.rmtree(left)
        partial.mkdir()  # not tempfile.mkdtemp, whose folders only their owner may read
    except OSError as error:
        error.filename = str(parent)  # the folder that the user knows
        raise
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_intact(folder):
    """Whether the files that `open_cache` built are unchanged."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return checksums != {} and all(checksum(folder / name) == known for name, known in checksums.items())
    except (OSError, ValueError, AttributeError, RecursionError):  # the checksums are damaged, or a file is missing
        return False


def checksum(path, algorithm="sha256"):
    """Return the hex digest of a file."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def save_array(path, array):
    """Save an array as numpy.save does; but on a full disk, NumPy's error would not tell the reason."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array)
