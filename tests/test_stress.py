"""Runs and downloads killed at dozens of moments, disks that fill up, hundreds of trainings far off the defaults.

    python -m pytest -m slow -n 0 -s tests/test_stress.py

is the long form, which prints its counts. The short one, in every run of the tests: one disk and three trainings here,
and a killed run in test_scripts.py.
"""

import functools
import gzip
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, contents, networks, read, run_python, run_script, same_weights
from sample_sets import MNIST_FILES, idx, random_images
from test_download import Handler, serving

import utils
import vae_conv
import vae_fc
from vae.data.dataset import Dataset
from vae.terminal import NonFiniteError

KILLS = 50  # moments, over both scripts
KILLED_DOWNLOADS = 20


KILLED_AT = """
import atexit, os, runpy, signal, sys
moment, part, count = int(sys.argv[1]), sys.argv[2], 0
def count_writing(event, arguments):
    global count
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and arguments[0] != os.devnull
    if (writes or event in ("os.rename", "os.remove", "os.mkdir")) and part in str(arguments[0]):
        count += 1
        if count == moment:
            os.write(2, f"killed at {arguments[0]}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
atexit.register(lambda: os.write(2, f"done after {count} operations".encode()))
sys.argv = sys.argv[3:]
sys.path[0] = os.path.dirname(sys.argv[0])
import utils
utils.PICTURE_SECONDS = float("inf")  # or a slow machine would write more files
sys.addaudithook(count_writing)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


LONG_ENOUGH = {"vae_fc.py": 20, "vae_conv.py": 8}  # epochs, so that the average is not just the newest weights


def flags_of(folder, out, name, epochs):
    small = ["--image-size", "32", "--batch-size", "10", "--z", "2", "--epochs", str(epochs)]
    return ["--dataset", str(folder), *small, "--data-dir", str(out.parent / "data"), "--out", str(out), "--name", name]


def killed(script, flags, moment, part="", checkpoints=None):
    """Run until killed: before file operation number `moment` on a path with `part` in it; below 1: after that of 20 s.

    With a folder of checkpoints: while number `moment` is being written there, which TensorFlow does unseen by Python.
    Returns what was going on, or None if the run was done before.
    """
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    operation = str(0 if checkpoints else int(moment))
    command = [sys.executable, "-c", KILLED_AT, operation, part, str(ROOT / script), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process, begun = subprocess.Popen(command, env=environment, **pipes), set()
    while checkpoints and process.poll() is None:
        begun.update(path.name for path in checkpoints.glob("*_temp*"))
        if len(begun) >= moment:
            process.kill()
    try:
        _, error = process.communicate(timeout=20 * moment if moment < 1 else 120)
    except subprocess.TimeoutExpired:
        process.kill()
        _, error = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), error
    return what_was_written(error, checkpoints) if process.returncode else None


def operations_of(script, flags):
    """How many file operations a whole run takes."""
    result = run_python("-c", KILLED_AT, 0, "", ROOT / script, *flags)
    return int(re.search(r"done after (\d+) operations", result.stderr)[1])


def what_was_written(error, checkpoints):
    """In a word or two, what a run that was killed was about to write."""
    found = re.search(r"killed at (.*)$", error)
    if not found:
        return "a checkpoint" if checkpoints else "at a moment"
    if "cache" in Path(found[1]).parts:
        return "the cache"
    name = re.sub(r"^partial-\d+-", "", Path(found[1]).name)
    return {".png": "a picture", ".keras": "a network"}.get(Path(name).suffix, name)


def assert_same_run(one, other):
    assert read(one) == read(other) and same_weights(one, other)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}, "nothing is left behind"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["vae_fc.py", "vae_conv.py"])
def test_runs_killed_at_many_moments_end_with_the_weights_of_one_never_stopped(script, image_folder, tmp_path, capsys):
    """Chains of kills, from the decoding of the images to the last picture, each going on from what the last left."""
    out, random, kills = tmp_path / "out", np.random.default_rng(len(script)), Counter()
    epochs = LONG_ENOUGH[script]
    operations = operations_of(script, flags_of(image_folder, out, "whole", epochs))
    untouched, chains = contents(out / "whole"), 0
    while kills.total() < KILLS // 2:
        chains += 1
        name = f"killed{chains}"
        shutil.rmtree(tmp_path / "data", ignore_errors=True)  # the cache is made anew, and killed over, in each chain
        flags = [*flags_of(image_folder, out, name, epochs), "--resume"]
        kills[killed(script, flags, random.integers(1, 8), "data/cache")] += 1
        kills[killed(script, flags, chains, "", out / name / "checkpoint")] += 1
        for moment in [*random.integers(1, operations // 3, 2), *random.uniform(0.15, 0.7, 2)]:  # each of what is left
            kills[killed(script, flags, moment)] += 1
        for part, most in ((".png", 8), (".keras", 4)):
            kills[killed(script, flags, random.integers(1, most), part)] += 1
        kills.pop(None, None)
        result = run_script(script, *flags)
        assert result.returncode == 0, result.stderr
        assert_same_run(out / name, out / "whole")
    assert contents(out / "whole") == untouched
    assert {"the cache", "a checkpoint", "metrics.csv", "a picture", "a network"} <= set(kills)
    with capsys.disabled():
        print(f"\n{script}: killed {kills.total()} times in {chains} runs, all of which ended as one never stopped")
        print(f"what was going on: {dict(kills)}")


DOWNLOAD = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from vae.data import download, registry
address, checksums, folder = json.loads(sys.argv[1])
for name, checksum in checksums.items():
    download.PUBLISHED[name] = download.Published((address + name,), "md5", checksum)
registry.load_dataset("mnist", folder)
"""


class SlowHandler(Handler):
    """Answers a path such as /name with the server's files["name"], in pieces over a second."""

    def do_GET(self):
        content = self.server.files[self.path[1:]]
        self.close_connection = True
        self.start(Content_Length=len(content))
        for piece in np.array_split(np.frombuffer(content, np.uint8), 10):
            self.wfile.write(piece.tobytes())
            time.sleep(0.1)


@pytest.fixture
def slow_server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(SlowHandler) as running:
        yield running


@pytest.mark.slow
def test_killed_downloads_leave_whole_files_or_none(slow_server, tmp_path, capsys):
    arrays = [array for count, seed in ((500, 1), (90, 2)) for array in random_images(seed, count, 28, 28)]
    files = {name: gzip.compress(idx(array)) for name, array in zip(MNIST_FILES, arrays, strict=True)}
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    (tmp_path / "fetch.py").write_text(DOWNLOAD)
    random, kills, chains, folder = np.random.default_rng(0), 0, 0, tmp_path / "mnist"
    slow_server.files = files
    task = json.dumps([f"http://127.0.0.1:{slow_server.server_port}/", checksums, str(tmp_path)])
    while kills < KILLED_DOWNLOADS:
        chains += 1
        for moment in [*random.uniform(0.15, 0.4, 2), *random.integers(1, 20, 2)]:
            kills += bool(killed(tmp_path / "fetch.py", [task], moment))
            found = {path.name: path.read_bytes() for path in folder.glob("*.gz")}
            assert found.items() <= files.items(), "whole or not there"
        assert run_script(tmp_path / "fetch.py", task).returncode == 0
        assert {path.name: path.read_bytes() for path in folder.glob("*.gz")} == files
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\ndownloads: killed {kills} times on the way to {chains} whole sets; never a half file in place")


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(megabytes): a file system of that size; asks for the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(megabytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a small disk here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


FULL_AT = """
import contextlib, os, runpy, sys
moment, count, disk = int(sys.argv[1]), 0, sys.argv[2]
def fill():
    with open(disk + "/filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
def count_writing(event, arguments):
    global count
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and arguments[0] != os.devnull
    if writes or event in ("os.rename", "os.remove", "os.mkdir"):
        count += 1
        if count == moment:
            fill()
sys.argv = sys.argv[3:]
sys.path[0] = os.path.dirname(sys.argv[0])
import utils
utils.PICTURE_SECONDS = float("inf")  # or a slow machine would write more files
sys.addaudithook(count_writing)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_ends_the_run_with_one_line(times, small_disk, image_folder, tmp_path, capsys):
    """At some file operation between the first image decoded and the last file of the run."""
    random, counts, operations = np.random.default_rng(0), Counter(), {}
    disk = small_disk(400)
    for number, script in zip(range(times), itertools.cycle(["vae_conv.py", "vae_fc.py"]), strict=False):
        whole = tmp_path / "whole" / Path(script).stem
        if not whole.exists():
            operations[script] = operations_of(script, flags_of(image_folder, whole.parent, whole.name, 3))
        flags = flags_of(image_folder, disk / "out", f"run{number}", 3)
        result = run_python("-c", FULL_AT, random.integers(1, operations[script]), disk, ROOT / script, *flags)
        counts[f"{script} {'stopped' if result.returncode else 'was done before'}"] += 1
        if result.returncode:
            assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
            assert str(disk) in result.stderr and "free some disk space" in result.stderr, result.stderr
        (disk / "filler").unlink(missing_ok=True)
        result = run_script(script, *flags, "--resume")
        assert result.returncode == 0, result.stderr
        assert_same_run(disk / "out" / f"run{number}", whole)
        for used in ("data", "out"):
            shutil.rmtree(disk / used)
    assert any("stopped" in ending for ending in counts)
    with capsys.disabled():
        print(f"\n{times} disks that filled up: {dict(counts)}; each run completed with --resume")


def images_of(kind, shape):
    random = np.random.default_rng(0)
    values = {"constant": 77, "black": 0, "white": 255}
    if kind in values:
        return np.full((60, *shape), values[kind], np.uint8)
    if kind == "two images":
        return np.repeat(random.integers(0, 256, (2, *shape), np.uint8), 30, axis=0)
    if kind == "noise":
        return random.integers(0, 256, (60, *shape), np.uint8)
    coarse = random.integers(0, 256, (60, 4, 4, shape[2]), np.uint8)
    return coarse.repeat(shape[0] // 4, axis=1).repeat(shape[1] // 4, axis=2)


CHOICES = {
    "script": (vae_fc, vae_conv),
    "kind": ("constant", "black", "white", "noise", "two images", "squares"),
    "z": (1, 2, 10, 100, 512),
    "factor": (1, 3, 10, 30),
    "likelihood": ("bernoulli", "gaussian"),
}


COMBINATIONS = list(itertools.product(*CHOICES.values()))
CHOSEN = np.random.default_rng(0).permutation(len(COMBINATIONS))[:300]


def test_trainings_far_off_the_defaults_end_finite_or_say_where_they_left(tmp_path):
    for number in CHOSEN[:3]:
        odd_training(number, tmp_path)


@pytest.mark.slow
def test_many_trainings_far_off_the_defaults(tmp_path, capsys):
    """In some processes one after the other: XLA keeps all that it compiles, and after 250 trainings one crashed."""
    counts = Counter()
    for numbers in np.array_split(CHOSEN, 8):
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            counts.update(pool.map(functools.partial(odd_training, out=tmp_path), numbers))
    with capsys.disabled():
        print(f"\n{counts.total()} short trainings: {dict(counts)}")
    assert counts.total() == len(CHOSEN)


def odd_training(number, out):
    """A short training of small networks, of such settings and images; how it ended."""
    script, kind, z, factor, likelihood = COMBINATIONS[number]
    shape = (20, 20, 1) if likelihood == "bernoulli" else (16, 16, 3)
    images = images_of(kind, shape)
    data = Dataset("odd", images[:50], images[50:], None, None, (), "x")
    dataset = "mnist" if likelihood == "bernoulli" else "cifar10"
    rate = factor * utils.parse_settings(vars(script), ["--dataset", dataset]).learning_rate
    flags = ["--z", z, "--likelihood", likelihood, "--learning-rate", rate, "--batch-size", 5, "--epochs", 10]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "WARMUP_STEPS", 10)  # of 100 that are taken: nine tenths of them at the full rate
        patch.setattr(vae_fc, "XLA", bool(number % 4 == 0))  # which takes seconds to compile
        patch.setattr(vae_fc, "HIDDEN", (32, 32))
        patch.setattr(vae_conv, "HIDDEN", (32,))
        patch.setattr(vae_conv, "FILTERS", (4, 8, 8))
        patch.setattr(utils, "draw_pictures", lambda run, means: None)
        patch.setattr(utils, "load_dataset", lambda *_: data)
        ending = training(script, [*flags, "--dataset", dataset, "--out", out, "--name", f"run{number}"])
    keras.backend.clear_session()
    return ending


def training(script, flags):
    """ "finite" to the last number, or "stopped": with what a person has to know, and a finite checkpoint kept."""
    folder = flags[flags.index("--out") + 1] / flags[-1]
    try:
        metrics = script.main(list(map(str, flags)))
    except NonFiniteError as error:
        where = r"(reconstruction|KL) term became (nan|-?inf) in epoch (\d+), step \d+; "
        where += r".*checkpoint holds epoch (\d+)\. Try a smaller --learning-rate"
        found = re.search(where, str(error))
        assert found and int(found[3]) == int(found[4]) + 1
        reader = tf.train.load_checkpoint(str(folder / "checkpoint"))
        names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
        assert all(np.all(np.isfinite(reader.get_tensor(name))) for name in names), "the last good state"
        return "stopped"
    assert all(np.isfinite(float(text)) for row in read(folder) for text in row.values() if text)
    weights = [weight for network in networks(folder) for weight in network.get_weights()]
    assert all(np.all(np.isfinite(weight)) for weight in weights) and np.isfinite(metrics["test_psnr"])
    return "finite"
