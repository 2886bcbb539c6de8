"""Training images a second of this project's own loop beside other libraries', with the same networks.

    pip install -r tests/benchmarks/requirements.txt && python tests/benchmarks/throughput.py

All start from the same weights and train on the same uint8 images, shuffled, on the ELBO, with Adam. Ours also clips
gradients, averages weights and checks for non-finite numbers. They take turns, so that a machine whose speed drifts
slows all of them; what counts is the ratio within a turn, its median and its spread. The losses of the last epoch show
that all do the same work.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import peers_jax
import peers_keras
import peers_torch
from common import argument_parser, product_rate, spread, tf

import utils
import vae_conv
import vae_fc
from vae import elbo, keras
from vae.precision import in_bfloat16
from vae.steps import build_optimizer, build_train_call

PEERS = (peers_torch, peers_jax, peers_keras)
NAMES = ["ours bf16", *(name for peer in PEERS for name in peer.NAMES)]
OURS = {"ours": "fp32", "ours bf16": "bf16"}
RIVALS = {"PyTorch bf16": "ours bf16"}  # which of ours a peer is compared with, if not "ours"


@dataclass(frozen=True)
class Case:
    """A network and its task. The peers build the same from these numbers."""

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
        """Of the convolutions. None in a dense network."""
        return () if self.script is vae_fc else vae_conv.FILTERS

    @property
    def full_size(self):
        """Maps of full size in the convolutional decoder."""
        return vae_conv.FULL_SIZE_FILTERS

    def networks(self):
        """Encoder and decoder in Keras, with the same weights every time."""
        keras.utils.set_random_seed(0)
        vae_fc.HIDDEN = self.hidden
        return [build(self.shape, self.z, False) for build in (self.script.build_encoder, self.script.build_decoder)]

    def weights(self):
        """Their weights, by layer a kernel and a bias; mean and log-std, the encoder's last layers, are one layer."""
        encoder, decoder = self.networks()
        heads = zip(*(encoder.get_layer(name).get_weights() for name in ("mean", "log_std")), strict=True)
        return [*encoder.get_weights()[:-4], *map(np.hstack, heads)], decoder.get_weights()

    def vae(self):
        """The VAE of these networks."""
        return elbo.Vae(*self.networks(), tf.Variable(0.0), "bernoulli" if self.bernoulli else "gaussian")

    def operations(self):
        """Floating-point operations for a training image, in matrix products and convolutions.

        Once forward and twice back; once back in the first layer, which needs no gradient of the images.
        """
        layers = [layer for network in self.networks() for layer in network.layers if layer.count_params()]
        return sum((3 if number else 2) * operations_of(layer) for number, layer in enumerate(layers))


def operations_of(layer):
    """Floating-point operations of a layer for one image, forward: two for each product."""
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
    """A function of the epoch's number that trains one epoch in this project's loop and returns its mean loss."""
    vae, steps = case.vae(), len(images) // case.batch
    average = vae.copy()
    if precision == "bf16":
        vae = replace(vae, encoder=in_bfloat16(vae.encoder), decoder=in_bfloat16(vae.decoder))
    settings = replace(
        utils.parse_settings(vars(case.script), []),
        z=case.z,
        likelihood=vae.likelihood,
        batch_size=case.batch,
        steps_per_call=min(case.script.STEPS_PER_CALL, steps),
        precision=precision,
        mirror=False,
        shift=0,
    )
    optimizer = build_optimizer(vae.variables, steps, case.learning_rate, warmup_steps=1, decay_per_epoch=0.0)
    train_call = build_train_call(vae, average, optimizer, utils.batch_loss, settings)
    data = utils.Dataset("random", images, images[:1], None, None, ())
    parts = {"vae": vae, "average": average, "optimizer": optimizer, "checkpoints": None, "rows": [], "board": None}
    run = utils.Run(settings, data, folder=None, **parts)
    return lambda epoch: utils.train_epoch(run, train_call, epoch).sum()


def measure(name, chosen, repeats):
    """Let all train in turns; print images a second of each, and how many times as fast ours is."""
    case = CASES[name]
    images = np.random.default_rng(0).integers(0, 256, (case.images, *case.shape), np.uint8)
    weights = case.weights()
    ours = {who: precision for who, precision in OURS.items() if who == "ours" or who in chosen}
    epochs = {who: our_epoch(case, images, precision) for who, precision in ours.items()}
    for peer in PEERS:
        epochs |= peer.epochs(case, images, weights, chosen)
    rates, losses, products = {who: [] for who in epochs}, {}, []
    for number in range(1, repeats + 2):  # the first epoch, which compiles, does not count
        products.append(product_rate())
        first = number % len(epochs)  # another one in each turn, because it may matter who follows whom
        for who, epoch in [*epochs.items()][first:] + [*epochs.items()][:first]:
            began = time.perf_counter()
            losses[who] = epoch(number)
            rates[who].append(case.images // case.batch * case.batch / (time.perf_counter() - began))
    print(f"\n{name}: {repeats} turns, matrix products at {np.median(products[1:]) / 1e9:,.0f} GFLOP/s")
    for who, rate in rates.items():
        rival = RIVALS.get(who, "ours")
        share = np.median(np.array(rate[1:]) / products[1:]) * case.operations()
        ratio = spread(np.array(rates[rival][1:]) / rate[1:])
        print(
            f"  {who:<17} {np.median(rate[1:]):>8,.0f} images/s  {share:>5.0%} of that  loss {losses[who]:>8,.1f}"
            + ("" if who == "ours" else f"  {rival} is {ratio} times as fast"),
            flush=True,
        )


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    parser.add_argument("--peer", choices=NAMES, action="append", help="only this one")
    parser.add_argument("--images", type=int, help="images in an epoch")
    arguments = parser.parse_args()
    for selected in arguments.case or CASES:
        if arguments.images:
            CASES[selected] = replace(CASES[selected], images=arguments.images)
        usual = [name for name in NAMES if not (CASES[selected].filters and name in peers_jax.NAMES)]
        measure(selected, arguments.peer or usual, arguments.repeats)  # JAX's convolutions take minutes on a CPU
