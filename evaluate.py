"""Held-out numbers and pictures of finished runs.

    python evaluate.py results/fc_mnist_z2
    python evaluate.py results/*

Reads a run folder and the data set that the run was trained on, writes
evaluation.json and pictures into that folder, and prints tables with a row for
each run. Several runs are shown side by side in results/summary.png. What is
not a finished run is skipped, and a run that was evaluated before, with the
same flags, is not evaluated again.
results/README.md explains each number.
"""

import os

from vae.evaluation import evaluate
from vae.settings import Parser, folder, output_path, path, whole
from vae.terminal import launch

FLAGS = {  # name: (how its value is read, help)
    "data_dir": (folder, "where the data sets are; default: $VAE_DATA, else the folder that the run used"),
    "out": (output_path, "where summary.png of several runs goes; default: results"),
    "nll_samples": (
        whole(1, 10**9),
        "importance samples per image; papers take 5,000; default: 500, or 100 for convolutional networks",
    ),
    "nll_images": (
        whole(1),
        "test images for nll, evenly spaced; default: as many as take about half a minute on two cores",
    ),
    "seed": (whole(0, 2**31 - 1), "noise, samples and mixture follow from it; default: 0"),
}


def parse_evaluation(argv=None):
    """Read the command line; returns the arguments of evaluate(). A bad value ends the program with one line."""
    parser = Parser(__doc__, "[flags] RUN [RUN ...]")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=path, help="a run's folder")
    for name, (read, text) in FLAGS.items():
        metavar = "FOLDER" if name in ("data_dir", "out") else "N"
        parser.add_argument("--" + name.replace("_", "-"), type=read, metavar=metavar, help=text)
    parser.set_defaults(data_dir=os.environ.get("VAE_DATA") or None, out="results", seed=0)
    return vars(parser.parse_args(argv))


def main(argv=None):
    """Evaluate the runs that the command line names; returns the contents of their evaluation.json."""
    return evaluate(**parse_evaluation(argv))


if __name__ == "__main__":
    launch(main)
