"""Training throughput of this project's own loop beside its peers', on the same networks, in the same minutes.

    pip install -r tests/benchmarks/requirements.txt && python tests/benchmarks/throughput.py

All train from the same weights on the same uint8 images, with shuffling, the ELBO and Adam; ours clips gradients,
averages weights and checks for non-finite numbers besides. They take turns, so that a drifting machine hurts all alike;
what counts is the ratio of neighbours, its median and its spread. That all do the same work shows in the losses of the
last epoch.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import keras
import peers_jax
import peers_keras
import peers_torch
import tensorflow as tf
from ceiling import product_rate

import utils
import vae_conv
import vae_fc
from vae import elbo
from vae.data.dataset import Dataset

PEERS = (peers_torch, peers_jax, peers_keras)
NAMES = ["ours bf16", *(name for peer in PEERS for name in peer.NAMES)]
OURS = {"ours": "fp32", "ours bf16": "bf16"}
RIVALS = {"PyTorch bf16": "ours bf16"}  # whom a peer is held against; all others: ours


@dataclass(frozen=True)
class Case:
    """A network and its task; the peers build the same from these numbers."""

    script: object
    shape: tuple
    z: int
    bernoulli: bool
    images: int  # in an epoch
    batch: int = 128
    learning_rate: float = 1e-3
    hidden: tuple = (500, 500)

    @property
    def filters(self):
        """Of the convolutions; none of a dense net."""
        return () if self.script is vae_fc else vae_conv.FILTERS

    @property
    def full_size(self):
        """Maps of full size in the convolutional decoder."""
        return vae_conv.FULL_SIZE_FILTERS

    def networks(self):
        """Encoder and decoder in Keras, with the same weights every time."""
        keras.utils.set_random_seed(0)
        vae_fc.HIDDEN = self.hidden
        return self.script.build_encoder(self.shape, self.z, False), self.script.build_decoder(
            self.shape, self.z, False
        )

    def operations(self):
        """Floating-point operations a training image, in matrix products and convolutions.

        Forward and twice back, once only where the gradient would be that of the images.
        """
        layers = [layer for network in self.networks() for layer in network.layers if layer.count_params()]
        return sum((3 if number else 2) * operations_of(layer) for number, layer in enumerate(layers))


def operations_of(layer):
    """Floating-point operations of a layer forward, an image: two for each product."""
    kernel, places = layer.kernel.shape, 1
    if len(kernel) == 4:
        transposed = "Transpose" in type(layer).__name__
        places = np.prod((layer.input if transposed else layer.output).shape[1:3])
    return 2 * np.prod(kernel) * places


CASES = {
    "dense 784-500-500-20, batch 128": Case(vae_fc, (28, 28, 1), 20, True, 30_000),
    "dense 784-500-500-20, batch 512": Case(vae_fc, (28, 28, 1), 20, True, 30_000, 512),
    "conv 32-64-128 on 32x32x3, batch 128": Case(vae_conv, (32, 32, 3), 128, False, 6_000),
    "conv 32-64-128 on 64x64x3, batch 128": Case(vae_conv, (64, 64, 3), 128, False, 2_000),
}


def our_epoch(case, images, precision):
    """A function that trains one epoch in this project's loop and returns its mean loss."""
    likelihood = "bernoulli" if case.bernoulli else "gaussian"
    settings = argparse.Namespace(
        **{name.lower(): value for name, value in vars(case.script).items() if name.isupper()}
        | {"z": case.z, "likelihood": likelihood, "batch_size": case.batch, "learning_rate": case.learning_rate}
        | {"decay_per_epoch": 0.0, "mirror": False, "shift": 0, "warmup_steps": 1, "precision": precision}
    )
    encoder, decoder = case.networks()
    vae = elbo.Vae(encoder, decoder, tf.Variable(0.0), likelihood)
    vae, average = utils.trained_and_averaged(vae, precision)
    optimizer = utils.build_optimizer(settings, vae.variables, len(images) // case.batch)
    data = Dataset("random", images, images[:1], None, None, ())
    run = utils.Run(settings, data, None, vae, average, optimizer, None, [], None)
    train_call = utils.build_train_call(vae, average, optimizer, settings)
    return lambda epoch: utils.train_epoch(run, train_call, epoch).sum()


def measure(name, chosen, repeats):
    """Let all train in turn; print images a second of each and our ratio to it: median, least and greatest."""
    case = CASES[name]
    images = np.random.default_rng(0).integers(0, 256, (case.images, *case.shape), np.uint8)
    encoder, decoder = (network.get_weights() for network in case.networks())
    *encoder, mean, mean_bias, log_std, log_std_bias = encoder
    weights = [*encoder, np.hstack([mean, log_std]), np.hstack([mean_bias, log_std_bias])], decoder
    ours = {who: precision for who, precision in OURS.items() if who == "ours" or who in chosen}
    epochs = {who: our_epoch(case, images, precision) for who, precision in ours.items()}
    for peer in PEERS:
        epochs |= peer.epochs(case, images, weights, chosen)
    rates, losses, products = {who: [] for who in epochs}, {}, []
    for number in range(1, repeats + 2):  # the first epoch, which compiles, does not count
        products.append(product_rate())
        first = number % len(epochs)  # another one in each turn: who follows whom shall not count
        for who, epoch in [*epochs.items()][first:] + [*epochs.items()][:first]:
            began = time.perf_counter()
            losses[who] = epoch(number)
            rates[who].append(case.images // case.batch * case.batch / (time.perf_counter() - began))
    print(f"\n{name}: {repeats} turns, matrix products at {np.median(products) / 1e9:,.0f} GFLOP/s")
    for who, rate in rates.items():
        rival = RIVALS.get(who, "ours")
        ratios = np.array(rates[rival][1:]) / np.array(rate[1:])
        share = np.median(np.array(rate[1:]) / products[1:]) * case.operations()
        spread = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        print(
            f"  {who:<17} {np.median(rate[1:]):>8,.0f} images/s  {share:>5.0%} of that  loss {losses[who]:>8,.1f}"
            + ("" if who == "ours" else f"  {rival} is {spread} times as fast"),
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    parser.add_argument("--peer", choices=NAMES, action="append", help="only this one")
    arguments = parser.parse_args()
    for selected in arguments.case or CASES:
        usual = [name for name in NAMES if not (CASES[selected].filters and name in peers_jax.NAMES)]
        measure(selected, arguments.peer or usual, arguments.repeats)  # JAX's convolutions take minutes on a CPU
