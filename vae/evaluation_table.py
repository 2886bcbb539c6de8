"""What evaluate.py prints of its numbers: short tables that fit the terminal, whatever the runs are called."""

import textwrap

from vae.pictures import CHANGED_ATTRIBUTES, shortened
from vae.run_folder import read_key
from vae.terminal import note, one_line, shown

WIDTH = 100  # characters in a line
LONGEST = 10  # characters of a number; longer ones are in powers of ten
SHORTEST_NAME = 8  # characters that the tables leave for names, at the least

LOSSES = {  # heading: (where evaluation.json has the number, its format)
    "loss": ("loss", ",.2f"),
    "recon": ("recon", ",.2f"),
    "KL": ("kl", ",.2f"),
    "active": ("active_units", "d"),
    "NLL": ("nll", ",.2f"),
    "+-": ("nll_standard_error", ",.2f"),
    "bits/dim": ("bits_per_dim", ".3f"),
    "(pPCA)": ("ppca_bits_per_dim", ".3f"),
}
IMAGES = {
    "PSNR": ("psnr_of_mean_mse", ".2f"),
    "(PCA)": ("pca_psnr_of_mean_mse", ".2f"),
    "SSIM": ("ssim", ".3f"),
    "Frechet": ("frechet.samples", ",.2f"),
    "(mixture)": ("frechet.mixture_samples", ",.2f"),
    "(recon.)": ("frechet.reconstructions", ",.2f"),
    "(train)": ("frechet.training", ",.2f"),
    "C_T": ("novelty.c_t", "+.1f"),
    "(blurred)": ("novelty.c_t_of_reconstructions", "+.1f"),
}
LEGEND = (
    "loss, recon, KL and NLL (a tighter bound, +- its standard error): nats per image. bits/dim: of dequantised "
    "pixels, a true bound. PSNR: dB, from the mean squared error. C_T: look for copies if it is below -3 and below "
    "(blurred), that of reconstructed test images. In brackets: for comparison. evaluation.json has more numbers."
)


def print_tables(found):
    """Print tables of the numbers of each run, and the settings in which it differs from its script.

    found: {folder of the run: content of its evaluation.json}.
    """
    folders, results = list(found), list(found.values())
    names = names_of(folders)
    blocks = [number_columns(columns, results) for columns in (LOSSES, IMAGES)]
    widest = max(sum(2 + max(map(len, column)) for column in block) for block in blocks)
    short = short_names(names, max(SHORTEST_NAME, WIDTH - widest))
    for block in blocks:
        note("\n" + table(list(zip(["run", *short], *block, strict=True))))
    note("\n" + textwrap.fill(LEGEND, WIDTH))
    if len({numbers["pixels_sha256"] for numbers in results}) > 1:
        note("These runs are of different images, so their Frechet distances and C_T cannot be compared.")
    for name, full, folder, numbers in zip(short, names, folders, results, strict=True):
        lines = remarks(folder, numbers)
        for line in lines if name == full else [full, *lines]:
            note(wrapped(f"{name}: {line}"))
    for name, numbers in zip(short, results, strict=True):
        if numbers["attributes"]:
            print_attributes(name, numbers["attributes"])


def remarks(folder, numbers):
    """What has to be said of a run beside its numbers: its settings, and what its NLL is of."""
    lines = []
    changes = read_key(folder / "config.json", "changes")
    if changes and isinstance(changes, dict):
        lines.append("trained with " + ", ".join(f"{name} {shown(value)}" for name, value in changes.items()))
    if numbers["nll_images"] < numbers["test_images"]:
        images = f"{numbers['nll_images']:,} test images, whose loss is {numbers['loss_of_nll_images']:,.2f}"
        lines.append(f"NLL is of {images}, from {numbers['nll_samples']:,} samples each")
    return lines


def print_attributes(name, found):
    """Print how well ten attributes are recognised, first those of attributes.png."""
    order = sorted(found, key=lambda attribute: attribute not in CHANGED_ATTRIBUTES)[:10]
    views = ("originals", "reconstructions", "pca", "mean_image", "retention")
    rows = [["recognised", "", *(view.replace("_", " ") for view in views)]]
    for attribute in order:
        for answer in ("presence", "absence"):
            recalls = [found[attribute][answer][view] for view in views]
            rows.append([attribute, answer, *("-" if recall is None else f"{recall:.2f}" for recall in recalls)])
    share = f"{name}: share of the faces with an attribute, and of those without, that a classifier recognises"
    note(f"\n{wrapped(share)}\n\n{table(rows)}")


# Text ---------------------------------------------------------------------------------------------------------


def names_of(folders):
    """What to call runs: the names of their folders or, where two are the same, the paths."""
    names = [one_line(folder.name) for folder in folders]
    return names if len(set(names)) == len(names) else [one_line(str(folder)) for folder in folders]


def short_names(names, width):
    """Names of at most `width` characters: long ones lose their middle. If two would be the same, all get numbers."""
    short = [shortened(name, width) for name in names]
    if len(set(short)) == len(short):
        return short
    digits = len(str(len(names)))
    return [f"{number:{digits}} {shortened(name, width - digits - 1)}" for number, name in enumerate(names, 1)]


def number_columns(columns, results):
    """The columns of a table, each a heading and a text for each result, without those that are empty."""
    texts = [[heading, *(cell(numbers, *where) for numbers in results)] for heading, where in columns.items()]
    return [column for column in texts if any(column[1:])]


def cell(numbers, place, form):
    """A number as text; empty where the run has none."""
    for key in place.split("."):
        numbers = numbers and numbers[key]
    if numbers is None:
        return ""
    text = format(numbers, form)
    return text if len(text) <= LONGEST else f"{numbers:.2e}"


def table(rows):
    """The text of a table with aligned columns.  rows: a list of cells each, the first one a name."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])]
    return "\n".join("  ".join(map(str.format, formats, row)).rstrip() for row in rows)


def wrapped(text):
    """A line in lines of at most WIDTH characters, those after the first indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
