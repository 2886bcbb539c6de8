"""Speed of evaluate.py's importance-weighted bound, as a share of the machine's matrix-product rate.

    python tests/benchmarks/likelihood.py

The network of vae_fc.py with z = 40 on black-and-white digits; counted are the decoder's matrix products alone, while
each importance sample also draws noise and sums 784 pixels' log-probabilities.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import measures
import utils
import vae_fc

# isort: split
import tensorflow as tf
from ceiling import product_rate

SHAPE, Z, IMAGES, SAMPLES, STEPS = (28, 28, 1), 40, 500, 200, 10


def measure(repeats):
    """Print the decoder's matrix products a second, and their share of the ceiling: median, least and greatest."""
    decoder = vae_fc.build_decoder(SHAPE, Z, False)
    operations = sum(2 * np.prod(weight.shape) for weight in decoder.weights if len(weight.shape) == 2)
    vae = utils.Vae(vae_fc.build_encoder(SHAPE, Z, False), decoder, tf.Variable(0.0), "bernoulli")
    call = measures.build_importance_call(vae, argparse.Namespace(xla=vae_fc.XLA, seed=0))
    x = tf.cast(tf.random.stateless_uniform((IMAGES, *SHAPE), (0, 0)) < 0.2, tf.float32)
    codes = [tf.zeros((IMAGES, Z)), tf.zeros((IMAGES, Z))]
    rates, products = [], []
    for _ in range(repeats + 1):
        products.append(product_rate())
        began = time.perf_counter()
        measures.importance_weighted_nll(call, x, codes, SAMPLES, 0, STEPS)
        rates.append(IMAGES * SAMPLES * operations / (time.perf_counter() - began))
    shares = np.array(rates[1:]) / products[1:]  # the first turn, which compiles, does not count
    ceiling, rate = np.median(products[1:]) / 1e9, np.median(rates[1:]) / 1e9
    print(f"matrix products at {ceiling:,.0f} GFLOP/s; in the bound {rate:,.0f},")
    print(f"a share of {np.median(shares):.0%} ({shares.min():.0%} to {shares.max():.0%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    measure(parser.parse_args().repeats)
