"""Which folder a run gets: a new one or, with --resume, that of an earlier run of the same settings."""

import json
from pathlib import Path

from vae.checkpoints import has_trained_checkpoint
from vae.run_folder import make_folder, numbered, read_key, read_rows, run_config, run_numbers
from vae.terminal import UserError, note, one_line, reason, shown

SOFTWARE = ("versions", "program_sha256", "git_commit", "command")  # keys of config.json: what trained the epochs
FREE_TO_CHANGE = {"epochs", "resume", "data_dir", "out", "name", "strategy", "tensorboard", "changes", *SOFTWARE}
IMAGES = {"image_shape", "train_images", "test_images", "pixels_sha256"}  # keys of config.json
MOST_LISTED = 10  # runs


def open_run(settings, data):
    """Return the run's folder: a new one or, with --resume, that of an earlier run. UserError if none fits."""
    base = Path(settings.out) / (settings.name or f"{settings.script}_{data.name}_z{settings.z}")
    numbers = run_numbers(base)
    if settings.resume:
        runs = [folder for number in numbers if (folder := numbered(base, number)).is_dir()]
        config = json.loads(json.dumps(run_config(settings, data)))  # as read from config.json
        chosen = run_to_resume(runs, config)
        if chosen:
            return chosen
        note(f"{base}: nothing to resume, so this is a new run")
    return make_folder(base, max(numbers, default=0) + 1)


def run_to_resume(folders, config):
    """Choose the run that --resume continues. UserError if there are runs, but none that it can.

    folders: all runs of a name, newest first. The choice is the newest with the settings in `config` that is
    unfinished, if possible one that has trained an epoch; else the newest that gets more epochs; else the newest.
    Returns None if there is no run of this name, and none of this script and data set that could be meant instead.
    """
    faults = {folder: obstacles(folder, config) for folder in folders}
    good = [folder for folder in folders if not faults[folder]]
    if not good:
        listed = list_runs(folders, config)
        if listed:
            fix = "ask for those of a run below, or leave out --resume to start a new one"
            raise UserError(f"--resume: there is no run of these settings; {fix}:", listed)
        return None
    preferences = (
        lambda folder: is_unfinished(folder) and has_trained_checkpoint(folder),
        is_unfinished,
        lambda folder: len(read_rows(folder / "metrics.csv")) < config["epochs"],
    )
    chosen = next((folder for is_preferred in preferences for folder in good if is_preferred(folder)), good[0])
    for folder in folders[: folders.index(chosen)]:
        if faults[folder]:
            note(one_line(f"{folder} is left alone: {', '.join(faults[folder])}"))
    note_other_software(chosen, config)
    return chosen


def is_unfinished(folder):
    """Whether a run was started and has not written its final files, or not for all epochs that it was asked for."""
    asked, finished = read_key(folder / "config.json", "epochs"), read_key(folder / "metrics.json", "epoch")
    if not (isinstance(asked, int) and isinstance(finished, int)):
        return (folder / "config.json").exists()
    return finished < max(asked, len(read_rows(folder / "metrics.csv")))


def obstacles(folder, config):
    """What keeps a run from being continued under `config`, a text each: what differs, or what cannot be read."""
    path = folder / "config.json"
    try:
        if not path.exists():
            interrupted = all(path.name.startswith("partial-") for path in folder.iterdir())  # before config.json
            return [] if interrupted else ["it has no config.json"]
        return differences(dict(json.loads(path.read_text())), config, len(read_rows(folder / "metrics.csv")))
    except OSError as error:
        return [f"{error.filename or folder}: cannot be read ({reason(error)})"]
    except (ValueError, TypeError, RecursionError) as error:
        return [f"{path}: not JSON ({reason(error)})"]


def differences(there, asked, done):
    """How the config.json of a run with `done` epochs differs from the one asked for, a text for each setting."""
    names = sorted(set(asked) - FREE_TO_CHANGE - IMAGES)
    found = [f"begun by a version without {name}" for name in names if name not in there]
    pairs = {name: (there[name], asked[name]) for name in names if name in there}
    if done > asked["epochs"]:
        pairs["epochs"] = done, asked["epochs"]
    found += [f"{name} {shown(old)} (asked for: {shown(new)})" for name, (old, new) in pairs.items() if old != new]
    if not found and any(there.get(name) != asked[name] for name in IMAGES):
        return ["other images"]
    return found


def list_runs(folders, config):
    """A line for each run that --resume could mean: first the one in which least differs, of equals the newest.

    These are `folders`, the runs of the name, and where --name leaves it open, all of the same script and images.
    """
    others = [] if config["name"] else [path.parent for path in Path(config["out"]).glob("*/config.json")]
    found = [*folders, *(folder for folder in others if folder not in folders and is_alike(folder, config))]
    found = sorted(found, key=lambda folder: (len(obstacles(folder, config)), -newest_time(folder)))[:MOST_LISTED]
    width = max((len(str(folder)) for folder in found), default=0)
    return [f"{folder!s:{width}}  {describe(folder, config)}" for folder in found]


def is_alike(folder, config):
    """Whether a run is of the same script, and of the same data set or images."""
    script, *images = (
        read_key(folder / "config.json", key) == config[key] for key in ("script", "dataset", "pixels_sha256")
    )
    return script and any(images)


def newest_time(folder):
    """When a run was begun or resumed last, in seconds; 0 if nobody knows."""
    try:
        return (folder / "config.json").stat().st_mtime
    except OSError:
        return 0


def describe(folder, config):
    """How far a run has come, and what differs in it."""
    what = ", ".join(obstacles(folder, config)) or f"these settings: --name {folder.name} resumes it"
    asked = read_key(folder / "config.json", "epochs")
    try:
        return f"epoch {len(read_rows(folder / 'metrics.csv'))} of {asked}, {what}" if asked else what
    except OSError:
        return what


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
