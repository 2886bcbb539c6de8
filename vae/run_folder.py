"""A run's folder in results/: found or made, never overwritten, every file of it written whole."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import keras

from vae.terminal import UserError, name_file, note, reason

try:
    import fcntl
except ImportError:  # no file locking on Windows
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]  # of this program
FREE_TO_CHANGE = {"epochs", "resume", "data_dir", "out", "name", "strategy", "tensorboard"}  # on --resume
ORIGIN = ("versions", "program_sha256", "git_commit", "command")  # of config.json: with what epochs were trained
FREE_TO_CHANGE |= set(ORIGIN)
NEEDED = ("seconds", *(f"{split}_{term}" for split in ("train", "test") for term in ("loss", "recon", "kl")))


def open_run(settings, data):
    """The run's folder: a new one, or with --resume one of that name if there is one, with the same settings."""
    base = Path(settings.out) / (settings.name or f"{settings.script}_{data.name}_z{settings.z}")
    config = json.loads(json.dumps(run_config(settings, data)))
    earlier = run_numbers(base)
    runs = [folder for number in sorted(earlier, reverse=True) if (folder := numbered(base, number)).is_dir()]
    if settings.resume and runs:
        return run_to_resume(runs, config)
    if settings.resume:
        note(f"{base}: nothing to resume, so this is a new run")
    return make_folder(base, max(earlier, default=0) + 1)


def run_to_resume(folders, config):
    """The folder that --resume goes on with, of a name's runs, newest first; UserError if that cannot be.

    It is the newest run with these settings that is not ended, one with a trained epoch before one without; if all
    are ended, the newest with these settings that gets more epochs; else the newest of all.
    """
    faults = {folder: fault_of(folder, config) for folder in folders}
    sound = [folder for folder in folders if not faults[folder]]
    order = (has_epochs_to_go_on, is_open, lambda folder: len(read_rows(folder / "metrics.csv")) < config["epochs"])
    chosen = next((folder for suits in order for folder in sound if suits(folder)), folders[0])
    if faults[chosen]:
        raise faults[chosen]
    for folder in folders[: folders.index(chosen)]:
        if faults[folder]:
            note(f"{folder} is left alone: {faults[folder]}")
    remark_on_versions(chosen, config)
    return chosen


def fault_of(folder, config):
    """The UserError with which a run cannot go on under `config`, or None."""
    try:
        check_same_run(folder, config)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(f"{folder}: cannot be read ({reason(error)}); start a new run with --name")
    return None


def is_open(folder):
    """Whether a run was begun and has not reached the epochs that it was asked for, or not written all of its end."""
    asked, ended = read_key(folder / "config.json", "epochs"), read_key(folder / "metrics.json", "epoch")
    if not (isinstance(asked, int) and isinstance(ended, int)):
        return (folder / "config.json").exists()
    return ended < asked or ended < len(read_rows(folder / "metrics.csv"))


def has_epochs_to_go_on(folder):
    """Whether an open run has a checkpoint of a trained epoch."""
    return is_open(folder) and has_trained_checkpoint(folder)


def has_trained_checkpoint(folder):
    """Whether there is a checkpoint of an epoch, listed or not."""
    return any(path.stem != "ckpt-0" for path in folder.glob("checkpoint/ckpt-*.index"))


def numbered(base, number):
    """results/fc_mnist_z2, results/fc_mnist_z2-2, ..."""
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


def run_numbers(base):
    """Numbers of the folders of that name that exist."""
    names = [path.name for path in base.parent.iterdir()] if base.parent.is_dir() else []
    found = [re.fullmatch(rf"{re.escape(base.name)}(?:-([2-9]|[1-9]\d+))?", name) for name in names]
    numbers = [int(match[1] or 1) for match in found if match]
    return [number for number in numbers if number == 1 or not was_named(numbered(base, number))]


def was_named(folder):
    """Whether --name asked for this very name, number and all: then it is no further run of a shorter name."""
    return read_key(folder / "config.json", "name") == folder.name


def read_key(path, key):
    """What a JSON file of a run has under a key; None if it is not there, or there is no telling."""
    try:
        return json.loads(path.read_text())[key]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def make_folder(base, number):
    """Make the first free folder; one that another process makes meanwhile is theirs."""
    base.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            numbered(base, number).mkdir()
            return numbered(base, number)
        except FileExistsError:
            number += 1


@contextlib.contextmanager
def sole_writer(folder):
    """Keep other processes out of a run's folder; UserError if one is in it.  None: a folder that is not ours.

    The lock ends with the process, also if that is killed, and then what it had half written is removed here.
    """
    if not fcntl or not folder:
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, folder)
        for partial in folder.glob("partial-*"):
            partial.unlink(missing_ok=True)
        yield folder
    finally:
        os.close(descriptor)


def lock(descriptor, folder):
    """Lock an open file, where the file system can."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        way_out = "wait for it, or start a run with another --name"
        raise UserError(f"{folder}: another process is training this run; {way_out}") from None
    except OSError:
        return


def run_config(settings, data):
    """Every setting of the run, what it was trained on, and with which software."""
    modules = {name: name for name in ("tensorflow", "keras", "numpy", "matplotlib")} | {"pillow": "PIL"}
    versions = {name: import_module(module).__version__ for name, module in modules.items()}
    return settings.to_config() | {
        "image_shape": data.image_shape,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "pixels_sha256": data.sha256,
        "versions": {"python": platform.python_version()} | versions,
        "program_sha256": program_sha256(),
        "git_commit": git_commit(),
        "command": " ".join(sys.argv),
    }


def program_sha256():
    """SHA-256 of this program's own files, which an edit changes, committed or not."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("[!.]*.py"), *ROOT.glob("vae/**/[!.]*.py")]):  # not an editor's lock beside a file
        digest.update(path.read_bytes())
    return digest.hexdigest()


def git_commit():
    """The program's commit, with "-dirty" behind it where files were changed; None outside git, and where the
    repository around the program is one of something else."""
    try:
        git(ROOT, "ls-files", "--error-unmatch", "utils.py")
        return git(ROOT, "describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(folder, *arguments):
    """What git says in a folder; OSError or CalledProcessError if it cannot."""
    command = ["git", "-C", str(folder), *arguments]
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # where a hook of another repository runs this program
    own = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=own).stdout.strip()


def check_same_run(folder, config):
    """Refuse to go on with a run under other settings, with other images, or beyond its asked-for end."""
    try:
        begun = dict(json.loads((folder / "config.json").read_text()))
    except FileNotFoundError:
        if all(path.name.startswith("partial-") for path in folder.iterdir()):
            return  # stopped before it began
        raise UserError(f"{folder}: has no config.json, so it cannot be resumed; start a new run with --name") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / 'config.json'}: not JSON ({error}); start a new run with --name") from None
    for key in sorted(set(config) - FREE_TO_CHANGE):
        if key not in begun:
            raise UserError(
                f"--resume: {folder} was begun by a version without {key}; start a new run without --resume"
            )
        if begun[key] != config[key]:
            raise UserError(
                f"--resume: {key} is {begun[key]!r} in {folder} and {config[key]!r} now; "
                "use the same, or start a new run without --resume"
            )
    done = len(read_rows(folder / "metrics.csv"))
    if done > config["epochs"]:
        raise UserError(f"--epochs {config['epochs']}: {folder} has {done} already; ask for more, or start a new run")


def remark_on_versions(folder, config):
    """Say so where a run that goes on was trained with other packages, or before this program was edited."""
    origins = origins_of(folder, len(read_rows(folder / "metrics.csv")))
    if any(origin.get("versions") != config["versions"] for origin in origins):
        note(f"{folder} was trained with other versions of its packages: the rest may differ in the last digits")
    if any(origin.get("program_sha256") != config["program_sha256"] for origin in origins):
        note(f"{folder} was trained before this program was edited: the rest may differ from what it would have been")


def origins_of(folder, done):
    """With what the first `done` epochs of a run were trained, by its config.json: as begun, then as resumed."""
    if not done:
        return []
    begun = {name: read_key(folder / "config.json", name) for name in ORIGIN}
    later = read_key(folder / "config.json", "resumed")
    known = [origin for origin in (later if isinstance(later, list) else []) if isinstance(origin, dict)]
    return [begun, *(origin for origin in known if origin.get("after_epoch") in range(done))]


def with_origins(config, folder, done):
    """`config` for a run that goes on after epoch `done`: what trained the epochs before stays in it.

    "resumed" gets with what, and after which epoch, it goes on, if that is not how it was trained last.
    """
    config = config | {"name": read_key(folder / "config.json", "name")}  # "X-2" may have been begun as X's second run
    if not done:
        return config
    begun, *later = origins_of(folder, done)
    now = {name: config[name] for name in ORIGIN}
    last = {name: [begun, *later][-1].get(name) for name in ORIGIN}
    if done < config["epochs"] and now != last:
        later.append({"after_epoch": done} | now)
    return config | begun | ({"resumed": later} if later else {})


def read_rows(path):
    """Rows of metrics.csv, numbers as numbers; none where the file is missing or damaged."""
    whole = {"epoch", "active_units"}
    try:
        with path.open(newline="") as file:
            rows = [
                {name: None if text == "" else (int if name in whole else float)(text) for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (FileNotFoundError, ValueError, TypeError, csv.Error):
        return []
    return rows if all(is_row_of(epoch, row) for epoch, row in enumerate(rows, 1)) else []


def is_row_of(epoch, row):
    """Whether a row is that epoch's, with the finite numbers that curves and sums are made of."""
    numbers = [row.get(name) for name in NEEDED]
    return row.get("epoch") == epoch and all(isinstance(x, float) and math.isfinite(x) for x in numbers)


def load_network(path, way_out):
    """A network kept by Keras, in its safe mode; UserError, with the way out, if it is missing or damaged."""
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # whatever a damaged archive makes zipfile, json, h5py or Keras raise
        raise UserError(f"{path}: cannot be read ({reason(error)}); {way_out}") from None


def write_rows(path, rows):
    """Write metrics.csv whole."""
    text = io.StringIO()
    table = csv.DictWriter(text, rows[-1], extrasaction="ignore")  # those of a resumed run may have other columns
    table.writeheader()
    table.writerows(rows)
    replace_with(path, lambda partial: partial.write_text(text.getvalue(), newline=""))


def write_json(path, content):
    """Write a JSON file whole."""
    replace_with(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def replace_with(path, write):
    """Let `write(temporary path)` make a file and move it into place whole: a reader never sees half of it."""
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
