"""What the benchmarks share: the project's modules on the path, seconds, spreads, runs, and the machine's peak rate."""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vae import tf

ROOT = Path(__file__).resolve().parents[2]


def argument_parser(description):
    """An argument parser that shows a module's docstring as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def seconds_of(work):
    """Seconds that a call of `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values, form=".2f"):
    """Median, least and greatest of some values, as text: 1.52 (1.40 to 1.61)."""
    return f"{np.median(values):{form}} ({np.min(values):{form}} to {np.max(values):{form}})"


def run_python(*arguments):
    """Run a Python command without its output; ends the benchmark if the command fails."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def rows_of(run):
    """The rows of a run's metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def training_images(run):
    """How many images a run was trained on."""
    return json.loads((run / "config.json").read_text())["train_images"]


def product_rate(size=2048, seconds=1.0):
    """Floating-point operations a second of float32 matrix products: the machine's peak rate."""
    matrix = tf.random.normal((size, size))
    end, best = time.perf_counter() + seconds, np.inf
    while time.perf_counter() < end:
        best = min(best, seconds_of(lambda: tf.matmul(matrix, matrix).numpy()))
    return 2 * size**3 / best
