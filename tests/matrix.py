"""The README's two commands, and MNIST with z = 2, with other versions of Python and TensorFlow.

    python tests/matrix.py --data-dir data --logs logs

For each pair of versions, in a fresh environment and a fresh clone of this commit: the installation and the first run,
as the README has them, then the tests, and MNIST if it is in the data folder. MNIST's loss must be within 1 % of that
in results/reference.csv. "lowest" installs every package at the lower bound in requirements.txt. The interpreters
(python3.10, ...) must be in PATH. Prints each row of a table once it is known, after about a quarter of an hour on two
cores.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from reference import ROWS, read_reference

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ("3.10=lowest", "3.11=2.19", "3.12=2.20", "3.13=2.21", "3.10=2.21")
NAMES = ("tensorflow", "keras", "numpy", "matplotlib", "pillow")
LOSS = r"test loss (\S+) nats"
MNIST = next(row.command for row in ROWS if row.name == "mnist-z2")


def readme_commands():
    """The README's two commands: install and train, install the test tools and test."""
    text = (ROOT / "README.md").read_text()
    names = ("requirements.txt", "tests/requirements.txt")
    return [re.search(rf"^pip install -r {name}.*$", text, re.M)[0] for name in names]


def is_as_measured(loss):
    """Whether the test loss of MNIST with z = 2 is within 1 % of the one in results/reference.csv, if that has it."""
    measured = [float(row["test_loss"]) for row in read_reference() if row["name"] == "mnist-z2"]
    return not measured or abs(float(loss) / measured[0] - 1) < 0.01


def run(command, folder, environment):
    """Exit code of a shell command, and its output with errors."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    result = subprocess.run(command, cwd=folder, env=environment, shell=True, **streams)
    return result.returncode, result.stdout


def find(pattern, text):
    """The group of a pattern's first match, or a dash."""
    match = re.search(pattern, text, re.M)
    return match[1] if match else "–"


def check(python, tensorflow, data_dir, logs):
    """Return a row of the table and whether all passed. Writes what the commands print to a log."""
    interpreter = shutil.which(f"python{python}")
    if not interpreter:
        return f"| {python} | {tensorflow} | no python{python} in PATH", False
    with tempfile.TemporaryDirectory() as work:
        clone, environment = fresh_copy(work, interpreter, tensorflow)
        results = [run(command, clone, environment) for command in readme_commands()]
        loss, tests = find(LOSS, results[0][1]), find(r"^(\d+ (?:passed|failed).*)$", results[1][1])
        mnist = "–"
        if data_dir and (data_dir / "mnist").is_dir():
            results.append(run(MNIST, clone, environment | {"VAE_DATA": str(data_dir)}))
            mnist = find(LOSS, results[-1][1])
        _, packages = run("pip freeze", clone, environment)
    versions = [find(rf"(?i)^{name}==(\S+)$", packages) for name in NAMES]
    if logs:
        outputs = "\n".join([packages, *(output for _, output in results)])
        (logs / f"python{python}_tensorflow{versions[0]}.log").write_text(outputs)
    passed = not any(code for code, _ in results) and (mnist == "–" or is_as_measured(mnist))
    return f"| {python} | {' | '.join(versions)} | {loss} | {tests} | {mnist} |", passed


def fresh_copy(work, interpreter, tensorflow):
    """Clone this commit; return the clone, and environment variables that give it its own Python and TensorFlow."""
    subprocess.run(["git", "clone", "-q", str(ROOT), f"{work}/clone"], check=True)
    subprocess.run([interpreter, "-m", "venv", f"{work}/venv"], check=True)
    lowest = (ROOT / "requirements.txt").read_text().replace(">=", "==")
    Path(work, "constraints.txt").write_text(lowest if tensorflow == "lowest" else f"tensorflow=={tensorflow}.*\n")
    environment = os.environ | {"PATH": f"{work}/venv/bin:{os.environ['PATH']}", "VAE_DATA": f"{work}/data"}
    return f"{work}/clone", environment | {"PIP_CONSTRAINT": f"{work}/constraints.txt", "PIP_QUIET": "1"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=PAIRS, metavar="PYTHON=TENSORFLOW")
    parser.add_argument("--data-dir", type=Path, help="folder with mnist/")
    parser.add_argument("--logs", type=Path, help="folder for what the commands print")
    arguments = parser.parse_args()
    if arguments.logs:
        arguments.logs.mkdir(parents=True, exist_ok=True)
    print("| Python | TensorFlow | Keras | NumPy | Matplotlib | Pillow | toy digits | tests | MNIST, z = 2 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    passed = True
    for pair in arguments.pairs:
        row, good = check(*pair.split("="), arguments.data_dir and arguments.data_dir.resolve(), arguments.logs)
        print(row if good else f"{row} failed", flush=True)
        passed &= good
    sys.exit(not passed)
