"""Held-out numbers and pictures of finished runs.

    python evaluate.py results/fc_mnist_z2
    python evaluate.py results/fc_cifar10_z128 results/conv_cifar10_z128

Reads a run folder and the data set it was trained on, writes evaluation.json and pictures into that folder, and prints
a table with a row for each run. For several runs, results/summary.png shows the same test images and samples of each.
results/README.md says what each number means.
"""

from vae.evaluation import evaluate
from vae.settings import parse_evaluation
from vae.terminal import launch


def main(argv=None):
    """Evaluate the runs that the command line names; returns the contents of their evaluation.json."""
    options = parse_evaluation(__doc__, argv)
    return evaluate(options.runs, options)


if __name__ == "__main__":
    launch(main)
