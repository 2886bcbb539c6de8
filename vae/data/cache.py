"""What was drawn or decoded once, kept in the data folder: made whole or not at all, remade when its sources change."""

import contextlib
import hashlib
import json
import re
import secrets
import shutil
import time
from pathlib import Path

import numpy as np

from vae.terminal import name_file, note

LAYOUT = 2  # to be raised when caches shall be made anew, whatever they hold
CHECKSUMS = "checksums.json"
ABANDONED_SECONDS = 3600  # a half-made folder that nobody has written to for so long was left by a killed program


def open_cache(data_dir, name, signature, build):
    """The folder that `build(folder)` fills, data_dir/cache/name-<hash>, built if it does not exist or was damaged.

    signature: whatever JSON can hold that changes when the content would. Builds that a change has outdated are
    removed; one that another process finishes first is used.
    """
    digest = hashlib.sha256(json.dumps([LAYOUT, signature], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(data_dir) / "cache" / f"{name}-{digest}"
    if folder.is_dir() and not is_whole(folder):
        note(f"{folder}: was damaged, so it is made anew")
        set_aside(folder)
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
        remove_outdated(folder, name)
    return folder


@contextlib.contextmanager
def partial_folder(parent):
    """A new folder in `parent` for what is not whole yet, removed at the end; so are those of killed programs."""
    partial = parent / f"partial-{secrets.token_hex(8)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        partial.mkdir()  # not tempfile.mkdtemp, which would lock out the other users of a shared data folder
    except OSError as error:
        error.filename = str(parent)  # the one that its user knows
        raise
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_whole(folder):
    """Whether the files that `open_cache` has built are still what they were."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return checksums != {} and all(checksum(folder / name) == known for name, known in checksums.items())
    except (OSError, ValueError, AttributeError, RecursionError):  # the list itself is damaged, or a file is gone
        return False


def checksum(path, algorithm="sha256"):
    """Hex digest of a file."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def set_aside(folder):
    """Remove a folder, at once for other processes, who may be about to do the same."""
    aside = folder.with_name(f"partial-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def save_array(path, array):
    """numpy.save, but for what is said when the disk is full: NumPy's own error then has no reason in it."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array)


def remove_outdated(folder, name):
    """Remove earlier builds of the same name."""
    for other in folder.parent.iterdir():
        if other != folder and re.fullmatch(re.escape(name) + "-[0-9a-f]{16}", other.name):
            shutil.rmtree(other, ignore_errors=True)


def remove_abandoned(folder):
    """Remove half-made folders in it of programs that were killed."""
    for partial in folder.glob("partial-*"):
        if not re.fullmatch(r"partial-[0-9a-f]{16}", partial.name):
            continue  # not made by `partial_folder`
        with contextlib.suppress(OSError):  # its owner may be finishing it just now
            newest = max(path.stat().st_mtime for path in [partial, *partial.iterdir()])
            if time.time() - newest > ABANDONED_SECONDS:
                shutil.rmtree(partial)
