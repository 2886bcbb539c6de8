"""The table that evaluate.py prints: a row for each run, and below it the attributes of faces."""

from vae.evaluation_pictures import SHOWN_ATTRIBUTES
from vae.terminal import note

COLUMNS = {  # heading: (where evaluation.json has the number, its format)
    "loss": ("loss", ",.2f"),
    "recon": ("recon", ",.2f"),
    "KL": ("kl", ".2f"),
    "active": ("active_units", "d"),
    "NLL": ("nll", ",.2f"),
    "bits/dim": ("bits_per_dim", ".3f"),
    "(pPCA)": ("ppca_bits_per_dim", ".3f"),
    "PSNR": ("psnr_of_mean_mse", ".2f"),
    "(PCA)": ("pca_psnr_of_mean_mse", ".2f"),
    "SSIM": ("ssim", ".3f"),
    "Frechet": ("frechet.samples", ".2f"),
    "(mixture)": ("frechet.mixture_samples", ".2f"),
    "(recon.)": ("frechet.reconstructions", ".2f"),
    "(train)": ("frechet.training", ".2f"),
    "C_T": ("novelty.c_t", "+.1f"),
    "(blurred)": ("novelty.c_t_of_reconstructions", "+.1f"),
}


def print_tables(names, results):
    """Print a table of the contents of evaluation.json, without empty columns, and the attributes of each run."""
    columns = [[heading, *(cell(numbers, *where) for numbers in results)] for heading, where in COLUMNS.items()]
    columns = [["run", *names], *(column for column in columns if any(column[1:]))]
    note("\n" + table(list(zip(*columns, strict=True))))
    note(
        "loss, recon, KL and NLL (a tighter bound): nats per image. bits/dim: of dequantised pixels, a true bound.\n"
        "PSNR: dB, from the mean squared error. C_T: look for copies if it is below -3 and below (blurred), that of\n"
        "reconstructed test images. In brackets: for comparison."
    )
    if len({numbers["pixels_sha256"] for numbers in results}) > 1:
        note("These runs are of different images, so their Frechet distances and C_T cannot be compared.")
    for name, numbers in zip(names, results, strict=True):
        if numbers["nll_images"] < numbers["test_images"]:
            images = f"{numbers['nll_images']:,} test images, whose loss is {numbers['loss_of_nll_images']:,.2f}"
            note(f"{name}: NLL is of {images}, from {numbers['nll_samples']:,} samples each")
    for name, numbers in zip(names, results, strict=True):
        if numbers["attributes"]:
            print_attributes(name, numbers["attributes"])


def print_attributes(name, found):
    """Print how well ten attributes are recognised, first those of attributes.png."""
    order = sorted(found, key=lambda attribute: attribute not in SHOWN_ATTRIBUTES)[:10]
    views = ("originals", "reconstructions", "pca", "mean_image", "retention")
    rows = [["recognised", "", *(view.replace("_", " ") for view in views)]]
    for attribute in order:
        for answer in ("presence", "absence"):
            recalls = [found[attribute][answer][view] for view in views]
            rows.append([attribute, answer, *("-" if recall is None else f"{recall:.2f}" for recall in recalls)])
    note(f"\n{name}: share of the faces with an attribute, and of those without, that a classifier recognises\n")
    note(table(rows))


def cell(numbers, place, form):
    """A number as text; empty where the run has none."""
    for key in place.split("."):
        numbers = numbers and numbers[key]
    return "" if numbers is None else format(numbers, form)


def table(rows):
    """The text of a table with aligned columns.  rows: a list of cells each, the first one a name."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    formats = [f"{{:<{widths[0]}}}", *(f"{{:>{width}}}" for width in widths[1:])]
    return "\n".join("  ".join(map(str.format, formats, row)) for row in rows)
