"""Which folder a run gets: a new one or, with --resume, that of an earlier run of the same settings."""

import json
from pathlib import Path

from vae.checkpoints import has_trained_checkpoint
from vae.run_folder import NEW_RUN, make_folder, numbered, read_key, read_rows, run_config, run_numbers
from vae.terminal import UserError, note, reason

SOFTWARE = ("versions", "program_sha256", "git_commit", "command")  # keys of config.json: what trained the epochs
FREE_TO_CHANGE = {"epochs", "resume", "data_dir", "out", "name", "strategy", "tensorboard", *SOFTWARE}  # on --resume


def open_run(settings, data):
    """Return the run's folder: a new one or, with --resume, one of that name with the same settings."""
    base = Path(settings.out) / (settings.name or f"{settings.script}_{data.name}_z{settings.z}")
    numbers = run_numbers(base)
    runs = [folder for number in numbers if (folder := numbered(base, number)).is_dir()]
    if settings.resume and runs:
        return run_to_resume(runs, json.loads(json.dumps(run_config(settings, data))))  # as read from config.json
    if settings.resume:
        note(f"{base}: nothing to resume, so this is a new run")
    return make_folder(base, max(numbers, default=0) + 1)


def run_to_resume(folders, config):
    """Choose the run that --resume continues. UserError if it cannot be continued under `config`.

    folders: all runs of a name, newest first. The choice is the newest with these settings that is unfinished, if
    possible one that has trained an epoch; else the newest with these settings that gets more epochs; else the newest.
    """
    errors = {}
    for folder in folders:
        try:
            errors[folder] = resume_error(folder, config)
        except OSError as error:
            errors[folder] = f"{error.filename or folder}: cannot be read ({reason(error)}); {NEW_RUN}"
    preferences = (
        lambda folder: is_unfinished(folder) and has_trained_checkpoint(folder),
        is_unfinished,
        lambda folder: len(read_rows(folder / "metrics.csv")) < config["epochs"],
    )
    good = [folder for folder in folders if not errors[folder]]
    chosen = next((folder for is_preferred in preferences for folder in good if is_preferred(folder)), folders[0])
    if errors[chosen]:
        raise UserError(errors[chosen])
    for folder in folders[: folders.index(chosen)]:
        if errors[folder]:
            note(f"{folder} is left alone: {errors[folder]}")
    note_other_software(chosen, config)
    return chosen


def is_unfinished(folder):
    """Whether a run was started and has not written its final files, or not for all epochs that it was asked for."""
    asked, finished = read_key(folder / "config.json", "epochs"), read_key(folder / "metrics.json", "epoch")
    if not (isinstance(asked, int) and isinstance(finished, int)):
        return (folder / "config.json").exists()
    return finished < max(asked, len(read_rows(folder / "metrics.csv")))


def resume_error(folder, config):
    """Why a run cannot be continued under `config`: other settings or images, or more epochs. None if it can.

    OSError if its files cannot be read.
    """
    path = folder / "config.json"
    try:
        old = dict(json.loads(path.read_text()))
    except FileNotFoundError:
        interrupted = all(path.name.startswith("partial-") for path in folder.iterdir())  # before config.json
        return None if interrupted else f"{folder}: has no config.json, so it cannot be resumed; {NEW_RUN}"
    except (ValueError, TypeError, RecursionError) as error:
        return f"{path}: not JSON ({reason(error)}); {NEW_RUN}"
    for key in sorted(set(config) - FREE_TO_CHANGE):
        if key not in old:
            return f"--resume: {folder} was begun by a version without {key}; {NEW_RUN}"
        if old[key] != config[key]:
            fix = "use the same, or start a new run without --resume"
            return f"--resume: {key} is {old[key]!r} in {folder} and {config[key]!r} now; {fix}"
    done = len(read_rows(folder / "metrics.csv"))
    if done > config["epochs"]:
        return f"--epochs {config['epochs']}: {folder} has {done} already; ask for more, or {NEW_RUN}"
    return None


# What trained which epochs ------------------------------------------------------------------------------------


def note_other_software(folder, config):
    """Print a line if a run was trained with other packages, or by another version of this program."""
    history = software_history(folder, len(read_rows(folder / "metrics.csv")))
    if any(software.get("versions") != config["versions"] for software in history):
        note(f"{folder} was trained with other versions of its packages: the rest may differ in the last digits")
    if any(software.get("program_sha256") != config["program_sha256"] for software in history):
        note(f"{folder} was trained before this program was edited: the rest may differ from an uninterrupted run")


def software_history(folder, done):
    """The software that trained the first `done` epochs, from config.json: a dict at the start and at each change."""
    if not done:
        return []
    first = {name: read_key(folder / "config.json", name) for name in SOFTWARE}
    resumed = read_key(folder / "config.json", "resumed")
    changes = [change for change in (resumed if isinstance(resumed, list) else []) if isinstance(change, dict)]
    return [first, *(change for change in changes if change.get("after_epoch") in range(done))]


def with_origins(config, folder, done):
    """The config.json of a run that continues after epoch `done`: `config` with the software that trained the start.

    Where the software changes, the list "resumed" gets an entry: the new software, and the epoch after which it trains.
    """
    config = config | {"name": read_key(folder / "config.json", "name")}  # "--name X-2" may resume the second run of X
    if not done:
        return config
    first, *changes = software_history(folder, done)
    latest, current = [first, *changes][-1], {name: config[name] for name in SOFTWARE}
    if done < config["epochs"] and current != {name: latest.get(name) for name in SOFTWARE}:
        changes.append({"after_epoch": done} | current)
    return config | first | ({"resumed": changes} if changes else {})
