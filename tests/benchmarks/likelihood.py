"""Speed of evaluate.py's importance-weighted bound, as a share of the machine's matrix-product rate.

    python tests/benchmarks/likelihood.py

The network of vae_fc.py with z = 40 on black-and-white digits; counted are the decoder's matrix products alone, while
each importance sample also draws noise and sums 784 pixels' log-probabilities. In turns with it: the same products
under XLA with nothing between them.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tensorflow as tf
from ceiling import product_rate

import vae_fc
from vae import elbo, likelihood

SHAPE, Z, IMAGES, SAMPLES, STEPS = (28, 28, 1), 40, 500, 200, 10


def measure(repeats):
    """Print the decoder's matrix products a second, and their share of the ceiling: median, least and greatest."""
    decoder = vae_fc.build_decoder(SHAPE, Z, False)
    operations = sum(2 * np.prod(weight.shape) for weight in decoder.weights if len(weight.shape) == 2)
    vae = elbo.Vae(vae_fc.build_encoder(SHAPE, Z, False), decoder, tf.Variable(0.0), "bernoulli")
    call = likelihood.build_importance_call(vae, 0, vae_fc.XLA)
    x = tf.cast(tf.random.stateless_uniform((IMAGES, *SHAPE), (0, 0)) < 0.2, tf.float32)
    codes, labels = [tf.zeros((IMAGES, Z)), tf.zeros((IMAGES, Z))], tf.zeros((IMAGES, 0))
    alone = products_alone([weight for weight in decoder.weights if len(weight.shape) == 2])
    tasks = {
        "in the bound": lambda: likelihood.importance_weighted_nll(call, x, labels, codes, SAMPLES, 0, STEPS),
        "with nothing between them": lambda: [alone(codes[0]) for _ in range(SAMPLES // STEPS)][-1].numpy(),
    }
    rates, products = {name: [] for name in tasks}, []
    for _ in range(repeats + 1):
        products.append(product_rate())
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            rates[name].append(IMAGES * SAMPLES * operations / (time.perf_counter() - began))
    print(f"matrix products at {np.median(products[1:]) / 1e9:,.0f} GFLOP/s; those of the decoder")
    for name, rate in rates.items():
        shares = np.array(rate[1:]) / products[1:]  # the first turn, which compiles, does not count
        share = f"a share of {np.median(shares):.0%} ({shares.min():.0%} to {shares.max():.0%})"
        print(f"  {name}: {np.median(rate[1:]) / 1e9:,.0f}, {share}")


def products_alone(kernels):
    """A compiled function of codes (B, z): STEPS times the decoder's matrix products, none like the one before."""

    @tf.function(autograph=False, jit_compile=True)
    def alone(codes):
        total = tf.zeros(())
        for step in range(STEPS):
            hidden = codes + step + total
            for kernel in kernels:
                hidden = tf.matmul(hidden, kernel)
            total = hidden[0, 0]
        return total

    return alone


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    measure(parser.parse_args().repeats)
