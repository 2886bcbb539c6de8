"""Run the commands whose numbers the pages print, and keep the numbers in results/reference.csv.

    python tests/reference.py toy-digits mnist-z2      train and evaluate these rows, then rewrite the pages
    python tests/reference.py --list                   show the rows there are
    python tests/reference.py --tables                 rewrite the pages from results/reference.csv

Each row is a command as the pages show it. Its run goes to a temporary folder, or to --out, and evaluate.py measures
it. A row replaces an earlier one of the same name and seed.

In README.md and results/README.md, the text between these markers comes from results/reference.csv:

    <!-- table: NAME --> ... <!-- end -->              one of TABLES
    <!-- value: ROW TEMPLATE --> ... <!-- end -->      figures of a row, as in {test_loss:.2f} nats; after a "|"
                                                       comes what stands there if the row has not been measured
"""

import argparse
import csv
import io
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference.csv"
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
MISSING = "–"


class Row(NamedTuple):
    """A command of the pages, and how evaluate.py measures its run."""

    name: str
    command: str
    evaluate: str = ""


PAPERS = "--nll-samples 5000 --nll-images 10000"  # as papers measure likelihoods
ROWS = [
    # minutes each
    Row("toy-digits", "python vae_fc.py", "--nll-samples 500"),
    Row("toy-faces", "python vae_conv.py"),
    Row("mnist-z2", "python vae_fc.py --dataset mnist --z 2", "--nll-samples 500"),
    Row("mnist-z10", "python vae_fc.py --dataset mnist --z 10", "--nll-samples 500"),
    Row("mnist-z20", "python vae_fc.py --dataset mnist --z 20", "--nll-samples 500"),
    Row("mnist-z100", "python vae_fc.py --dataset mnist --z 100", "--nll-samples 500"),
    # half an hour to hours each
    Row("mnist-black-and-white", "python vae_fc.py --dataset mnist --binarize dynamic --z 40 --epochs 300", PAPERS),
    Row("mnist-conv", "python vae_conv.py --dataset mnist --binarize dynamic --z 40 --epochs 50", PAPERS),
    Row("cifar10", "python vae_fc.py --dataset cifar10 --z 128"),
    Row("cifar10-200-epochs", "python vae_fc.py --dataset cifar10 --z 128 --epochs 200"),
    Row("cifar10-conv", "python vae_conv.py --dataset cifar10 --z 128"),
    Row("cifar10-grey", "python vae_fc.py --dataset cifar10-grey --z 128"),
    Row("cifar10-grey-200-epochs", "python vae_fc.py --dataset cifar10-grey --z 128 --epochs 200"),
    Row("cifar10-grey-conv", "python vae_conv.py --dataset cifar10-grey --z 128"),
    Row("celeba", "python vae_fc.py --dataset celeba --z 128"),
    Row("celeba-conv", "python vae_conv.py --dataset celeba --z 128"),
]
NOTED = ("cifar10", "celeba")  # rows of these sets need --data-note: copies of them differ

# results/reference.csv ------------------------------------------------------------------------------------------

SOFTWARE = ("python", "tensorflow", "keras", "numpy")
METRICS = (
    *"epoch images_per_second learning_rate train_loss train_recon train_kl test_loss test_recon test_kl".split(),
    *"active_units sigma cost test_psnr test_psnr_of_mean_mse likelihood binarize parameters total_seconds".split(),
)
EVALUATION = (  # a dot leads into a dict of evaluation.json
    *"nll nll_samples nll_images nll_standard_error bits_per_dim ppca_bits_per_dim".split(),
    *"psnr_of_mean_mse pca_psnr_of_mean_mse ssim".split(),
    *"frechet.samples frechet.mixture_samples frechet.reconstructions frechet.training novelty.c_t".split(),
    *"attributes.Smiling.presence.retention attributes.Eyeglasses.presence.retention".split(),
)
COLUMNS = (
    *"name command evaluate data_note seed commit".split(),
    *SOFTWARE,
    *"processor cores device seconds".split(),
    *METRICS,
    *EVALUATION,
)


def read_reference():
    """The rows of results/reference.csv, a dict of texts each."""
    with REFERENCE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_to_reference(row):
    """Write a row into results/reference.csv, in place of one with its name and seed; rows keep the order of ROWS."""
    row = {name: str(value) for name, value in row.items()}
    kept = [other for other in read_reference() if (other["name"], other["seed"]) != (row["name"], row["seed"])]
    order = {known.name: number for number, known in enumerate(ROWS)}
    rows = sorted([*kept, row], key=lambda other: (order.get(other["name"], len(order)), int(other["seed"])))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    REFERENCE.write_text(text.getvalue(), encoding="utf-8")


# Running a row --------------------------------------------------------------------------------------------------


def measure(row, seed, out, data_dir, data_note):
    """Train and evaluate a row in the folder `out`; returns its row of results/reference.csv."""
    data = ["--data-dir", data_dir] if data_dir else []
    command = row.command + (f" --seed {seed}" if seed else "")
    place = out / f"{row.name}-seed{seed}"
    began = time.perf_counter()
    printed = run(*shlex.split(command)[1:], "--out", place, *data)
    seconds = time.perf_counter() - began
    folder = max(place.iterdir(), key=lambda path: path.stat().st_mtime)  # earlier runs may be there
    run("evaluate.py", folder, *shlex.split(row.evaluate), *data)
    metrics, evaluation, config = (
        json.loads((folder / f"{part}.json").read_text()) for part in ("metrics", "evaluation", "config")
    )
    return {
        "name": row.name,
        "command": command,
        "evaluate": row.evaluate,
        "data_note": data_note,
        "seed": seed,
        "commit": commit(),
        **{package: config["versions"][package] for package in SOFTWARE},
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": re.search(r"parameters, on the (\w+)", printed)[1],
        "seconds": round(seconds, 1),
        **{key: figure(metrics, key) for key in METRICS},
        **{key: figure(evaluation, key) for key in EVALUATION},
    }


def run(script, *arguments):
    """Run a script of this program and show what it prints; returns that."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with exit code {process.returncode}")
    return "".join(lines)


def figure(numbers, key):
    """What nested dicts hold under a key with dots; an empty text where there is nothing."""
    for part in key.split("."):
        numbers = numbers.get(part) if isinstance(numbers, dict) else None
    return "" if numbers is None else numbers


def commit():
    """The commit of this program, with "-dirty" behind it where Python files differ from it."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "*.py") else "")


def processor():
    """The processor's name."""
    try:
        return re.search(r"(?m)^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


# Tables and values ----------------------------------------------------------------------------------------------

LOSS = ("{test_loss:,.2f} = {test_recon:,.2f} + {test_kl:,.2f}",)
DENSITY = ("{bits_per_dim:.3f} bits/dim ({ppca_bits_per_dim:.3f})", "{nll:,.2f} ± {nll_standard_error:.2f} nats")
PSNR = ("{psnr_of_mean_mse:.2f} ({pca_psnr_of_mean_mse:.2f})",)
FRECHET = (
    "{frechet_samples:.2f}, {frechet_mixture_samples:.2f} ({frechet_reconstructions:.2f}, {frechet_training:.2f})",
)
COMMAND = ("`{command}`",)
TABLES = {  # name: (rows, {heading: templates, of which the first counts whose figures are all there})
    "results": (
        ("toy-digits", "toy-faces", "mnist-z2", "mnist-z10", "mnist-z20", "mnist-z100"),
        {
            "command": COMMAND,
            "loss = reconstruction + KL": LOSS,
            "NLL, or bits/dim (pPCA)": DENSITY,
            "PSNR (PCA), dB": PSNR,
            "seconds": ("{seconds:,.0f}",),
        },
    ),
    "reference": (
        tuple(row.name for row in ROWS),
        {
            "command": COMMAND,
            "loss = reconstruction + KL": LOSS,
            "mean of seeds": ("{mean:,.2f} ± {deviation:.2f} ({count:.0f})",),
            "NLL, or bits/dim (pPCA)": DENSITY,
            "importance samples": ("{nll_samples:.0f}",),
            "PSNR (PCA), dB": PSNR,
            "SSIM": ("{ssim:.3f}",),
            "active units": ("{active_units:.0f}",),
            "Fréchet: samples, mixture (reconstructions, training)": FRECHET,
            "C_T": ("{novelty_c_t:+.1f}",),
            "seconds": ("{seconds:,.0f}",),
            "on": ("{device}: {processor}, {cores:.0f} cores",),
        },
    ),
}
MARKED = re.compile(r"<!-- (table|value): (\S+)(?: ([^>]*?))? -->(.*?)<!-- end -->", re.DOTALL)
TEXTS = {*"name command evaluate data_note commit processor device likelihood binarize".split(), *SOFTWARE}


def figures_of(name, rows):
    """What templates can print of a row: its figures with the first seed, and the mean loss of all seeds.

    Dots in names become underscores. A row that has not been measured has its name and its command.
    """
    found = [row for row in rows if row["name"] == name]
    if not found:
        return {"name": name, "command": next(row.command for row in ROWS if row.name == name)}
    figures = {
        key.replace(".", "_"): text if key in TEXTS else float(text) for key, text in found[0].items() if text != ""
    }
    losses = [float(row["test_loss"]) for row in found]
    if len(losses) > 1:
        figures |= {"mean": statistics.mean(losses), "deviation": statistics.stdev(losses), "count": len(losses)}
    return figures


def fill_in(figures, *templates):
    """The first of the templates whose figures are all there, filled in; a dash if there is none."""
    for template in templates:
        try:
            return template.format_map(figures)
        except KeyError:
            continue
    return MISSING


def render_table(name, rows):
    """A table in Markdown of the rows that have been measured, with a footnote for each note about data."""
    names, columns = TABLES[name]
    lines, notes = [list(columns), ["---"] * len(columns)], []
    measured = {row["name"] for row in rows}
    for figures in (figures_of(row, rows) for row in names if row in measured):
        cells = [fill_in(figures, *templates) for templates in columns.values()]
        if note := figures.get("data_note"):
            notes = notes if note in notes else [*notes, note]
            cells[0] += f" <sup>{1 + notes.index(note)}</sup>"
        lines.append(cells)
    footnotes = " ".join(f"<sup>{number}</sup> {note}." for number, note in enumerate(notes, 1))
    return "\n".join(["", *(f"| {' | '.join(cells)} |" for cells in lines), *(["", footnotes] if notes else []), ""])


def render_value(name, templates, rows):
    """Figures of a row in a sentence, with the note about its data."""
    figures = figures_of(name, rows)
    note = figures.get("data_note")
    return fill_in(figures, *re.split(r"\s*\|\s*", templates)) + (f" ({note})" if note else "")


def render(text, rows):
    """A page with all its tables and values as the rows have them."""

    def replaced(match):
        kind, name, templates, _ = match.groups()
        body = render_table(name, rows) if kind == "table" else render_value(name, templates, rows)
        return f"{match[0].split('-->')[0]}-->{body}<!-- end -->"

    return MARKED.sub(replaced, text)


def write_pages():
    """Rewrite the tables and values of the pages."""
    rows = read_reference()
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


def main(argv=None):
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="NAME", help="rows to measure")
    parser.add_argument("--list", action="store_true", help="show the rows and which of them are measured")
    parser.add_argument("--tables", action="store_true", help="rewrite the pages")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    parser.add_argument("--data-dir", type=lambda text: Path(text).resolve(), help="where the data sets are")
    parser.add_argument("--data-note", help='how these images differ from the published ones, for a footnote; "": not')
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), help="where to keep the runs")
    arguments = parser.parse_args(argv)
    known = {row.name: row for row in ROWS}
    for name in arguments.rows:
        if name not in known:
            parser.error(f"{name} is not a row; --list shows the rows")
        if any(noted in known[name].command for noted in NOTED) and arguments.data_note is None:
            parser.error(f"{name}: say with --data-note how its images differ from the published ones")
    if arguments.list:
        measured = {row["name"] for row in read_reference()}
        for row in ROWS:
            print(f"{row.name:<24} {'measured' if row.name in measured else '':<9} {row.command}")
    for name in arguments.rows:
        with tempfile.TemporaryDirectory() as temporary:
            out = arguments.out or Path(temporary)
            note = arguments.data_note or ""
            add_to_reference(measure(known[name], arguments.seed, out, arguments.data_dir, note))
    if arguments.rows or arguments.tables:
        write_pages()


if __name__ == "__main__":
    main()
