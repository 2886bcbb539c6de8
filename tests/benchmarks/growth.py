"""What a face costs when there are more of them: decoding, an epoch of training, memory.

    python tests/benchmarks/growth.py

Decodes 10,000 faces and 202,599, as many as CelebA has (hard links to the same files), then runs vae_fc.py --dataset
celeba --epochs 1 on them, and prints the rates and the memory of each. Memory is what the process itself holds, sampled
five times a second; the cache is mapped into memory besides, and the system takes that back when it needs the room.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faces import write_faces

ROOT = Path(__file__).resolve().parents[2]


def anonymous_memory(pid):
    """MB that a process holds, without the files mapped into it; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


DECODE = """
import sys, time
from pathlib import Path
import keras  # for the progress bar; it takes seconds to import
from vae.data.celeba import load_celeba
began = time.perf_counter()
load_celeba(Path(sys.argv[1]), 64, None)
Path(sys.argv[1], "seconds").write_text(str(time.perf_counter() - began))
"""


def watch(*arguments):
    """Run a Python command; returns its peak of memory in MB."""
    command, peak = [sys.executable, *map(str, arguments)], 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return peak


def measure(count, distinct, folder):
    """Decode and train on `count` faces."""
    write_faces(folder, count, min(count, distinct))
    flags = ["--dataset", "celeba", "--epochs", "1", "--data-dir", str(folder), "--out", str(folder), "--name", "run"]
    peak = max(watch("-c", DECODE, folder), watch(ROOT / "vae_fc.py", *flags))
    seconds = float((folder / "seconds").read_text())
    row = next(csv.DictReader((folder / "run" / "metrics.csv").open()))
    images = json.loads((folder / "run" / "config.json").read_text())["train_images"]
    print(
        f"{count:>8,} faces: decoded {count / seconds:,.0f} a second; trained on {images:,} of them at "
        f"{float(row['images_per_second']):,.0f} a second; holds at most {peak:,.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, nargs="+", default=[10_000, 202_599])
    for number in parser.parse_args().faces:
        with tempfile.TemporaryDirectory() as temporary:
            measure(number, 10_000, Path(temporary))
