"""Speed of evaluate.py's importance-weighted bound, as a share of the machine's peak rate.

    python tests/benchmarks/likelihood.py

Uses the network of vae_fc.py with z = 40 on black-and-white digits. Only the decoder's matrix products are counted,
though each importance sample also draws noise and sums the log-probabilities of 784 pixels. In turns with it: the same
products under XLA, with nothing between them.
"""

import numpy as np
from common import argument_parser, product_rate, seconds_of, spread, tf

import vae_fc
from vae import elbo, likelihood

SHAPE, Z, IMAGES, SAMPLES, STEPS = (28, 28, 1), 40, 500, 200, 10


def measure(repeats):
    """Print the decoder's matrix products a second, and their share of the peak."""
    encoder, decoder = vae_fc.build_encoder(SHAPE, Z, False), vae_fc.build_decoder(SHAPE, Z, False)
    kernels = [weight for weight in decoder.weights if len(weight.shape) == 2]
    operations = IMAGES * SAMPLES * sum(2 * np.prod(kernel.shape) for kernel in kernels)
    vae = elbo.Vae(encoder, decoder, tf.Variable(0.0), "bernoulli")
    call = likelihood.build_importance_call(vae, seed=0, xla=vae_fc.XLA)
    x = tf.cast(tf.random.stateless_uniform((IMAGES, *SHAPE), (0, 0)) < 0.2, tf.float32)
    labels, codes = tf.zeros((IMAGES, 0)), [tf.zeros((IMAGES, Z)), tf.zeros((IMAGES, Z))]
    products = build_products(kernels)
    tasks = {
        "in the bound": lambda: likelihood.importance_weighted_nll(call, x, labels, codes, SAMPLES, 0, STEPS),
        "with nothing between them": lambda: [products(codes[0]) for _ in range(SAMPLES // STEPS)][-1].numpy(),
    }
    turns = [(product_rate(), *map(seconds_of, tasks.values())) for _ in range(repeats + 1)]
    peaks, *times = np.transpose(turns[1:])  # the first turn compiles
    print(f"matrix products at {np.median(peaks) / 1e9:,.0f} GFLOP/s; those of the decoder")
    for name, seconds in zip(tasks, times, strict=True):
        rates = operations / seconds
        print(f"  {name}: {np.median(rates) / 1e9:,.0f}, a share of {spread(rates / peaks, '.0%')}")


def build_products(kernels):
    """Build a compiled function of codes (B, z): STEPS times the decoder's products, each time of other codes."""

    @tf.function(autograph=False, jit_compile=True)
    def products(codes):
        total = tf.zeros(())
        for step in range(STEPS):
            hidden = codes + step + total
            for kernel in kernels:
                hidden = tf.matmul(hidden, kernel)
            total = hidden[0, 0]
        return total

    return products


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    measure(parser.parse_args().repeats)
