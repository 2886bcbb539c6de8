"""Images a second that explorer.html decodes, beside Keras decoding the same codes one by one.

    python tests/benchmarks/explorer.py results/fc_mnist_z2 results/conv_toy-faces_z64

Both decode the same codes of a run in turns, the page in Chromium; what counts is the ratio within a turn.
"""

import shutil
from pathlib import Path

import numpy as np
from common import argument_parser, seconds_of, spread
from playwright.sync_api import sync_playwright

from vae import keras

CODES = 20  # in each turn


def measure(page, run, repeats):
    """Let both decode in turns; print images a second of each, and how many times as fast the page is."""
    page.goto((run / "explorer.html").resolve().as_uri())
    page.wait_for_function("window.vae")
    decoder = keras.models.load_model(run / "decoder.keras", compile=False)
    codes = np.random.default_rng(0).standard_normal((CODES, decoder.input_shape[1]), np.float32)
    page.evaluate("codes => { window.codes = codes }", codes.tolist())
    works = {
        "the page": lambda: page.evaluate("void window.vae.decode(window.codes)"),
        "Keras": lambda: [decoder(code[None]).numpy() for code in codes],
    }
    for work in works.values():  # the first call compiles
        work()
    rates = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            rates[name].append(CODES / seconds_of(work))
    print(run, *(f"{name} {spread(found, ',.0f')} images/s" for name, found in rates.items()), sep="  ")
    print("ratio", spread(np.divide(*rates.values())))


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for run in arguments.runs:
            measure(browser.new_page(), run, arguments.repeats)
        browser.close()
