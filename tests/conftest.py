"""What the tests share: small sets of toy images in a data folder of their own, and runs of the scripts on them."""

import contextlib
import csv
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Bit for bit is a promise of the CPU alone, and two processes would fight for a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import utils
import vae_conv
import vae_fc
from vae import keras, pictures, tf
from vae.data import celeba, download, folders, images, toy
from vae.terminal import UserError

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"toy-digits": (300, 60), "toy-faces": (150, 40)}
PASSES_OVER_MODES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of Linux
SCRIPTS = {"fc": vae_fc, "conv": vae_conv}
TIMES = {"seconds", "images_per_second", "total_seconds"}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder that keeps toy images once drawn, for the session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def no_network(monkeypatch):
    """Let downloads fail; returns the list of those that were tried."""
    tried = []

    def fail(path, toy_set):
        tried.append((path, toy_set))
        raise UserError(f"{path.name}: no network")

    for module in (download, celeba):
        monkeypatch.setattr(module, "download", fail)
    return tried


def publish(monkeypatch, *paths):
    """Let these files be the published ones."""
    table = {}
    for path in paths:
        algorithm = download.PUBLISHED[path.name].algorithm
        table[path.name] = download.Published((), algorithm, download.checksum(path, algorithm))
    monkeypatch.setattr(download, "PUBLISHED", download.PUBLISHED | table)


@pytest.fixture
def no_bars(monkeypatch):
    """Decode and draw images without progress bars; returns the list of their labels."""
    labels = []

    def progress(items, total, label):
        labels.append(label)
        return items

    for module in (images, toy):
        monkeypatch.setattr(module, "progress", progress)
    return labels


@pytest.fixture
def decode_no_more(monkeypatch):
    """Return a function that makes all further decoding fail."""

    def fail(*_):
        raise AssertionError("decoded again")

    return lambda: [monkeypatch.setattr(module, "read_image", fail) for module in (celeba, folders)]


def refusal(load, *parts):
    """Return the message of a load that is refused: one line that contains these parts."""
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    for part in parts:
        assert str(part) in message
    return message


@contextlib.contextmanager
def modes_heeded():
    """As a user who may do to files what their modes say, even if root runs the tests.

    Root's right to pass over modes is put aside for this thread and those that it begins (man 2 capset).
    """
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the call; this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    assert libc.capget(header, held) == 0
    fewer = (ctypes.c_uint32 * 6)(held[0] & ~PASSES_OVER_MODES, *held[1:])
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


def use_few_images(patch, data_dir):
    """Let toy sets have a few hundred images, drawn once a session."""
    sets = {name: (row[0], *SMALL[name], row[3]) for name, row in toy.TOY_SETS.items()}
    patch.setattr(toy, "TOY_SETS", sets)
    patch.setenv("VAE_DATA", str(data_dir))


@pytest.fixture
def small_sets(monkeypatch, data_dir):
    """Toy sets of a few hundred images and small networks, for scripts that run inside the test's own process."""
    use_few_images(monkeypatch, data_dir)
    monkeypatch.setattr(vae_fc, "HIDDEN", (64, 64, 64))
    monkeypatch.setattr(vae_conv, "HIDDEN", (64,))
    monkeypatch.setattr(vae_conv, "FILTERS", (8, 16, 32))


@pytest.fixture
def grids(monkeypatch):
    """{name of a picture: the images that it is made of}, of the pictures to come."""
    found, save_grid = {}, pictures.save_grid

    def save(path, images, *others):
        found[path.name] = images
        save_grid(path, images, *others)

    monkeypatch.setattr(pictures, "save_grid", save)
    return found


@pytest.fixture
def grid_pages(monkeypatch):
    """The arguments of each page of images to come: images, columns, caption, labels."""
    found, grid_page = [], pictures.grid_page
    monkeypatch.setattr(pictures, "grid_page", lambda *page: found.append(page) or grid_page(*page))
    return found


@contextlib.contextmanager
def step_by_step():
    """TensorFlow without graphs: to trace and compile a run takes seconds, which most tests are not about."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def run_script(script, *flags, **options):
    """Run a script as a user does, in a process of its own."""
    return run_python(ROOT / script, *flags, **options)


def run_python(*arguments, **options):
    """Run Python in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=170, **options)
    if metadata.version("tensorflow") < "2.21":  # logs when XLA begins, and heeds nothing that would keep it from that
        finished.stderr = re.sub(r"(?m)^(WARNING: All log messages before absl|[IE]0000 ).*\n", "", finished.stderr)
    return finished


@contextlib.contextmanager
def python_beside(*arguments):
    """Python in a process of its own, which goes on beside the test and is killed at its end.

    Ctrl-C reaches it even where the tests, as under nohup, were started without.
    """
    command = [sys.executable, *map(str, arguments)]
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, **pipes, **heed)
    try:
        yield process
    finally:
        process.kill()
        if not process.stdout.closed:
            process.communicate()


def wait_for(condition, process):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


def contents(folder):
    """{path: bytes} of all files in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder):
    """metrics.csv of a run, without what a clock wrote."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: text for name, text in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def networks(folder):
    """Encoder and decoder of a run, as Keras alone loads them."""
    return [keras.models.load_model(folder / f"{name}.keras") for name in ("encoder", "decoder")]


def same_weights(one, other):
    """Whether two runs ended with the same networks, bit for bit."""
    pairs = zip(networks(one), networks(other), strict=True)
    weights = [zip(a.get_weights(), b.get_weights(), strict=True) for a, b in pairs]
    return all(np.array_equal(a, b) for pair in weights for a, b in pair)


@pytest.fixture
def image_folder(tmp_path):
    """A folder of images that a process of its own can train on without drawing any."""
    folder = tmp_path / "my images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        pixels = np.repeat(np.repeat(random.integers(0, 256, (4, 4, 3), np.uint8), 10, 0), 10, 1)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def train(script, out, *flags):
    return SCRIPTS[script].main([*"--epochs 2 --batch-size 50".split(), "--out", str(out), *map(str, flags)])


@pytest.fixture
def no_pictures(monkeypatch):
    """No pictures: each run's take a second, and most tests are about something else."""
    leave_out_pictures(monkeypatch)


def leave_out_pictures(patch):
    patch.setattr(utils, "draw_pictures", lambda run, means: None)
    patch.setattr(utils, "write_explorer", lambda *_: None)


@pytest.fixture
def eager(small_sets):
    """Small sets, step by step."""
    with step_by_step():
        yield


@pytest.fixture
def quick(monkeypatch, eager, no_pictures):
    """For tests of what lies around the networks: a single hidden layer and no pictures, besides."""
    monkeypatch.setattr(vae_fc, "HIDDEN", (32,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """A folder with a run of two epochs, under the settings of `quick`."""
    with pytest.MonkeyPatch.context() as patch, step_by_step():
        use_few_images(patch, data_dir)
        leave_out_pictures(patch)
        patch.setattr(vae_fc, "HIDDEN", (32,))
        out = tmp_path_factory.mktemp("trained")
        train("fc", out, "--name", "run")
    return out


@pytest.fixture
def out(quick, trained, tmp_path):
    """A copy of that folder, to damage and to go on with."""
    return shutil.copytree(trained, tmp_path / "out")
