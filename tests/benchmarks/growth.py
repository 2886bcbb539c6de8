"""What a face costs when there are more of them: decoding, an epoch of training, memory.

    python tests/benchmarks/growth.py

Decodes 10,000 faces and then 202,599, the number of CelebA's (hard links to the same files), and runs vae_fc.py
--dataset celeba --epochs 1 on them. Prints the rates and the memory of each. Memory is what the process itself holds,
sampled five times a second. It does not include the cache, which is mapped into memory and which the system takes back
when it needs the space.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, argument_parser, rows_of, training_images
from faces import write_faces

DECODE = """
import sys, time
from pathlib import Path
import utils
began = time.perf_counter()
utils.load_dataset("celeba", sys.argv[1], 64)
Path(sys.argv[1], "seconds").write_text(str(time.perf_counter() - began))
"""


def own_memory(pid):
    """MB that a process holds, without the files mapped into it. 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def peak_memory(*arguments):
    """Run a Python command and return its peak memory in MB; ends the benchmark if the command fails."""
    command, peak = [sys.executable, *map(str, arguments)], 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return peak


def measure(count, distinct, folder):
    """Decode `count` faces and train on them."""
    write_faces(folder, count, min(count, distinct))
    flags = ["--dataset", "celeba", "--epochs", 1, "--data-dir", folder, "--out", folder, "--name", "run"]
    peak = max(peak_memory("-c", DECODE, folder), peak_memory(ROOT / "vae_fc.py", *flags))
    seconds = float((folder / "seconds").read_text())
    print(
        f"{count:>8,} faces: decoded {count / seconds:,.0f} a second; trained on {training_images(folder / 'run'):,} "
        f"of them at {float(rows_of(folder / 'run')[0]['images_per_second']):,.0f} a second; at most {peak:,.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--faces", type=int, nargs="+", default=[10_000, 202_599])
    for number in parser.parse_args().faces:
        with tempfile.TemporaryDirectory() as temporary:
            measure(number, 10_000, Path(temporary))
