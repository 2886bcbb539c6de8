"""Seconds from the shell's prompt to the first pictures, beside the import of TensorFlow plus an epoch's training.

    python tests/benchmarks/first_picture.py --data-dir data

`python vae_fc.py --dataset mnist --epochs 1`, from start to end, takes turns with `python -c "import tensorflow"`. To
the import is added the training of one epoch alone, at the speed of the second epoch of a run of two, which compiles
nothing. What counts is the ratio of the first to this sum.
"""

import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, argument_parser, rows_of, run_python, seconds_of, spread, training_images


def measure(data_dir, repeats):
    """Print the seconds of each, and the ratio."""
    with tempfile.TemporaryDirectory() as out:
        script = [ROOT / "vae_fc.py", "--dataset", "mnist", "--data-dir", data_dir, "--out", out, "--epochs"]
        run_python(*script, 2, "--name", "two")
        two = Path(out, "two")
        training = training_images(two) / float(rows_of(two)[-1]["images_per_second"])
        tasks = lambda: run_python(*script, 1), lambda: run_python("-c", "import tensorflow")
        ours, imports = np.transpose([[seconds_of(task) for task in tasks] for _ in range(repeats)])
    print(f"to the first picture {np.median(ours):.1f} s; import of TensorFlow {np.median(imports):.1f} s, training")
    print(f"of an epoch {training:.1f} s; ratio {spread(ours / (imports + training))}")


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.data_dir.resolve(), arguments.repeats)
