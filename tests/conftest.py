"""What the tests share: small sets of toy images in a data folder of their own, and runs of the scripts on them."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

import vae_conv
import vae_fc
from console import UserError
from data import datasets, image_files

# isort: split
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"toy-digits": (300, 60), "toy-faces": (150, 40)}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder that keeps toy images once drawn, for the session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def no_network(monkeypatch):
    """Downloads fail; returns the list of those that were tried."""
    tried = []

    def fail(path, toy_set):
        tried.append((path, toy_set))
        raise UserError("no network")

    for module in (datasets, image_files):
        monkeypatch.setattr(module, "download", fail)
    return tried


def refusal(load, *parts):
    """The message of a load that is refused: one line with these parts in it."""
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    for part in parts:
        assert str(part) in message
    return message


@pytest.fixture
def small_sets(monkeypatch, data_dir):
    """Toy sets of a few hundred images and small networks, for scripts that run inside the test's own process."""
    sets = {name: (row[0], *SMALL[name], row[3]) for name, row in datasets.TOY_SETS.items()}
    monkeypatch.setattr(datasets, "TOY_SETS", sets)
    monkeypatch.setenv("VAE_DATA", str(data_dir))
    monkeypatch.setattr(vae_fc, "HIDDEN", (64, 64, 64))
    monkeypatch.setattr(vae_conv, "HIDDEN", 64)
    monkeypatch.setattr(vae_conv, "FILTERS", (8, 16, 32))


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


def start_script(script, *flags):
    """Start a script and go on. Ctrl-C reaches it even where the tests, as under nohup, were started without."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heed)


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


@pytest.fixture
def image_folder(tmp_path):
    """A folder of images that a process of its own can train on without drawing any."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "my images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        pixels = np.repeat(np.repeat(random.integers(0, 256, (4, 4, 3), np.uint8), 10, 0), 10, 1)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder
