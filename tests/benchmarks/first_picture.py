"""From the shell's prompt to the first picture, beside a plain import of TensorFlow and an epoch's own compute.

    python tests/benchmarks/first_picture.py --data-dir data

In turns: `python vae_fc.py --dataset mnist --epochs 1`, from its start to its end, when all its pictures are there, and
`python -c "import tensorflow"`. To the latter is added one epoch's pure compute, at the speed of the second epoch of a
run of two, which compiles nothing. What counts is the ratio of the first to this sum.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def seconds_of(*command):
    """How long a Python command takes, as a process of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(data_dir, repeats):
    """Print the seconds of each, and the ratio."""
    with tempfile.TemporaryDirectory() as out:
        script = [str(ROOT / "vae_fc.py"), "--dataset", "mnist", "--data-dir", data_dir, "--out", out, "--epochs"]
        seconds_of(*script, "2", "--name", "two")
        *_, row = csv.DictReader((Path(out) / "two" / "metrics.csv").open())
        images = json.loads((Path(out) / "two" / "config.json").read_text())["train_images"]
        compute = images / float(row["images_per_second"])
        turns = [(seconds_of(*script, "1"), seconds_of("-c", "import tensorflow")) for _ in range(repeats)]
    ours, imports = np.transpose(turns)
    ratios = ours / (imports + compute)
    print(f"to the first picture {np.median(ours):.1f} s; import of TensorFlow {np.median(imports):.1f} s, an epoch's")
    print(f"compute {compute:.1f} s; ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.data_dir, arguments.repeats)
