"""A run's folder in results/: its name, its lock, and its files, each written whole or not at all."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib
import numpy as np
import PIL
import tensorflow as tf

from vae.terminal import UserError, name_file, reason

try:
    import fcntl
except ImportError:  # no file locking on Windows
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]  # of this program
PACKAGES = {"tensorflow": tf, "keras": keras, "numpy": np, "matplotlib": matplotlib, "pillow": PIL}
NEW_RUN = "start a new run with --name"  # the way out where a run cannot be resumed
LOSSES = [f"{split}_{term}" for split in ("train", "test") for term in ("loss", "recon", "kl")]

# Folders ------------------------------------------------------------------------------------------------------


def numbered(base, number):
    """The folder of a name's run by number: results/fc_mnist_z2, results/fc_mnist_z2-2, ..."""
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


def run_numbers(base):
    """Numbers of the runs of a name that exist, newest first. Not of runs that --name gave the number itself."""
    numbers = []
    for path in base.parent.glob("*"):
        match = re.fullmatch(rf"{re.escape(base.name)}(?:-([2-9]|[1-9]\d+))?", path.name)
        if match and not (match[1] and read_key(path / "config.json", "name") == path.name):
            numbers.append(int(match[1] or 1))
    return sorted(numbers, reverse=True)


def make_folder(base, number):
    """Make the folder of that number, or of the next one that no other process makes meanwhile; returns it."""
    base.parent.mkdir(parents=True, exist_ok=True)
    for free in itertools.count(number):
        with contextlib.suppress(FileExistsError):
            numbered(base, free).mkdir()
            return numbered(base, free)


@contextlib.contextmanager
def sole_writer(folder):
    """Lock a run's folder against other processes and yield it. UserError if another process has locked it.

    The system releases the lock when the process ends, even if it is killed. Files that a killed process left half
    written are removed here. folder: None if another worker keeps it.
    """
    if not fcntl or not folder:
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "wait for it, or start a run with another --name"
            raise UserError(f"{folder}: another process is training this run; {fix}") from None
        except OSError:
            pass  # a file system without locks
        for partial in folder.glob("partial-*"):
            partial.unlink(missing_ok=True)
        yield folder
    finally:
        os.close(descriptor)


# What config.json says ----------------------------------------------------------------------------------------


def run_config(settings, data):
    """The content of config.json: the settings, the images, and the software."""
    versions = {"python": platform.python_version()}
    return settings.to_config() | {
        "image_shape": data.image_shape,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "pixels_sha256": data.sha256,
        "versions": versions | {name: package.__version__ for name, package in PACKAGES.items()},
        "program_sha256": program_sha256(settings.script),
        "git_commit": git_commit(),
        "command": " ".join(sys.argv),
    }


def program_sha256(script):
    """SHA-256 of the files that a script runs: itself, utils.py and vae/. Every edit of one changes it."""
    digest = hashlib.sha256()
    scripts = [path for path in (ROOT / f"vae_{script}.py", ROOT / "utils.py") if path.exists()]
    for path in sorted([*scripts, *ROOT.glob("vae/**/[!.]*.py")]):  # editors lock files as .#name.py
        digest.update(path.read_bytes())
    return digest.hexdigest()


def git_commit():
    """The program's commit, plus "-dirty" if files were changed. None if git does not track the program."""
    tracked = git(ROOT, "ls-files", "--error-unmatch", "utils.py")  # the repository may be one around the program
    return tracked and git(ROOT, "describe", "--always", "--dirty", "--abbrev=40")


def git(folder, *arguments):
    """What a git command prints in that folder, without the last newline. None if it fails."""
    hooks = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # a hook of another repository sets these
    environment = {name: value for name, value in os.environ.items() if name not in hooks}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=environment)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return None


# Reading ------------------------------------------------------------------------------------------------------


def read_key(path, key):
    """The value of a key in a JSON file. None if the key or the file is missing, or the file is damaged."""
    try:
        return json.loads(path.read_text())[key]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def read_rows(path):
    """The rows of metrics.csv as dicts of numbers. None of them if the file is missing or damaged."""
    kinds = {"epoch": int, "active_units": int}
    try:
        with path.open(newline="") as file:
            rows = [
                {name: None if text == "" else kinds.get(name, float)(text) for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (FileNotFoundError, ValueError, TypeError, csv.Error):
        return []
    return rows if all(is_row_of(epoch, row) for epoch, row in enumerate(rows, 1)) else []


def is_row_of(epoch, row):
    """Whether a row belongs to that epoch and has finite numbers wherever curves and sums need them."""
    numbers = [row.get(name) for name in ("seconds", *LOSSES)]
    return row.get("epoch") == epoch and all(isinstance(x, float) and math.isfinite(x) for x in numbers)


def load_network(path, fix):
    """Load a Keras network in safe mode. UserError, which ends with `fix`, if it is missing or damaged."""
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever zipfile, json, h5py or Keras raises at a damaged file
        raise UserError(f"{path}: cannot be read ({reason(error)}); {fix}") from None


# Writing ------------------------------------------------------------------------------------------------------


def write_rows(path, rows):
    """Write metrics.csv. It has the columns of the last row, because an edited program may have other ones."""
    text = io.StringIO()
    table = csv.DictWriter(text, rows[-1], extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    replace_with(path, lambda partial: partial.write_text(text.getvalue(), newline=""))


def write_json(path, content):
    """Write a JSON file."""
    replace_with(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


@contextlib.contextmanager
def writing(path, otherwise):
    """While TensorFlow writes to a path. UserError, which ends with `otherwise`, if it cannot."""
    try:
        yield
    except tf.errors.OpError as error:
        fix = "free some disk space" if isinstance(error, tf.errors.ResourceExhaustedError) else "check its permissions"
        raise UserError(f"{path}: cannot be written ({reason(error)}); {fix}, {otherwise}") from None


def replace_with(path, write):
    """Call `write(temporary path)`, then move the file into place, so that nobody ever reads half of it."""
    path = Path(path)
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        name_file(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)
