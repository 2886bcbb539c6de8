"""Training throughput of this project's own loop beside PyTorch's, on the same networks, in the same minutes.

    pip install -r tests/benchmarks/requirements.txt && python tests/benchmarks/throughput.py

Both train on uint8 images with shuffling, the ELBO, and Adam (PyTorch: eager, fused Adam; convolutions in channels-last
format). Ours clips gradients, averages weights and checks for non-finite numbers besides. They take turns, so that a
drifting machine hurts both; what counts is the ratio of neighbours. Three minutes on two cores.
"""

import argparse
import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import utils
import vae_conv
import vae_fc
from data.datasets import Dataset

# isort: split
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional

BATCH, LEARNING_RATE = 128, 1e-3
CASES = {  # name: (script, image shape, z, likelihood, images an epoch)
    "dense 784-500-500-20": (vae_fc, (28, 28, 1), 20, "bernoulli", 30_000),
    "conv 32-64-128 on 32x32x3": (vae_conv, (32, 32, 3), 128, "gaussian", 6_000),
    "conv 32-64-128 on 64x64x3": (vae_conv, (64, 64, 3), 128, "gaussian", 2_000),
}


def our_epoch(script, shape, z, likelihood, images):
    """A function that trains one epoch in this project's loop and returns its mean loss."""
    vae_fc.HIDDEN = (500, 500)
    settings = argparse.Namespace(
        **{name.lower(): value for name, value in vars(script).items() if name.isupper()}
        | {"z": z, "likelihood": likelihood, "batch_size": BATCH, "learning_rate": LEARNING_RATE}
        | {"decay_per_epoch": 0.0, "mirror": False, "shift": 0}
    )
    networks = script.build_encoder(shape, z, False), script.build_decoder(shape, z, False)
    vae = utils.Vae(*networks, tf.Variable(0.0), likelihood)
    average, optimizer = utils.copy_vae(vae), utils.build_optimizer(settings, vae.variables, len(images) // BATCH)
    data = Dataset("random", images, images[:1], None, None, ())
    run = utils.Run(settings, data, None, vae, average, optimizer, None, [], None)
    train_call = utils.build_train_call(vae, average, optimizer, settings)
    return lambda epoch: utils.train_epoch(run, train_call, epoch).sum()


class Residual(nn.Module):
    """A dense layer whose input is added to its output, as in vae_fc.residual_layers."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden):
        return hidden + functional.silu(self.dense(hidden))


def torch_networks(script, shape, z):
    """The same encoder and decoder in PyTorch, channels first."""
    height, width, channels = shape
    if script is vae_fc:
        size = height * width * channels
        encoder = [nn.Flatten(), nn.Linear(size, 500), nn.SiLU(), nn.Linear(500, 500), nn.SiLU()]
        encoder += [nn.Linear(500, 2 * z)]
        decoder = [nn.Linear(z, 500), nn.SiLU(), Residual(500), nn.Linear(500, size)]
        return nn.Sequential(*encoder), nn.Sequential(*decoder, nn.Unflatten(1, (channels, height, width)))
    side = height // 8
    down = itertools.pairwise([channels, *script.FILTERS])
    up = itertools.pairwise([*script.FILTERS[::-1], script.FULL_SIZE_FILTERS])
    flat = script.FILTERS[-1] * side * side
    encoder = [part for a, b in down for part in (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))]
    decoder = [part for a, b in up for part in (nn.LeakyReLU(0.2), nn.ConvTranspose2d(a, b, 4, 2, 1))]
    decoder += [nn.LeakyReLU(0.2), nn.Conv2d(script.FULL_SIZE_FILTERS, channels, 3, 1, 1)]
    encoder += [nn.Flatten(), nn.Linear(flat, 512), nn.LeakyReLU(0.2), nn.Linear(512, 2 * z)]
    image = nn.Unflatten(1, (script.FILTERS[-1], side, side))
    decoder = [nn.Linear(z, 512), nn.LeakyReLU(0.2), nn.Linear(512, flat), image, *decoder]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


def torch_epoch(script, shape, z, likelihood, images):
    """A function that trains one epoch in PyTorch and returns its mean loss."""
    torch.manual_seed(0)
    encoder, decoder = (net.to(memory_format=torch.channels_last) for net in torch_networks(script, shape, z))
    log_sigma = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), log_sigma], LEARNING_RATE, fused=True)
    source = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC in memory: channels-last

    def step(rows):
        x = source[rows].float() / 255
        mean, log_std = encoder(x * 2 - 1).chunk(2, dim=1)
        log_std = 8 * torch.tanh((log_std - 2) / 8)
        pixels = decoder(mean + log_std.exp() * torch.randn_like(mean))
        if likelihood == "bernoulli":
            recon = functional.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
        else:
            scaled = ((x - pixels) * torch.exp(-log_sigma)).square()
            recon = (0.5 * scaled + log_sigma + 0.5 * math.log(2 * math.pi)).sum()
        loss = (recon + (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum()) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def epoch(_):
        order = torch.randperm(len(source))[: len(source) // BATCH * BATCH]
        return np.mean([step(rows) for rows in order.split(BATCH)])

    return epoch


def measure(name, repeats):
    """Time both in turn and print images/s of each and the ratio of neighbours: median, least and greatest."""
    script, shape, z, likelihood, count = CASES[name]
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    runners = {"ours": our_epoch, "PyTorch": torch_epoch}
    epochs = {who: build(script, shape, z, likelihood, images) for who, build in runners.items()}
    rates = {who: [] for who in epochs}
    losses = {}
    for number in range(1, repeats + 2):  # the first epoch, which compiles, does not count
        for who, epoch in epochs.items():
            began = time.perf_counter()
            losses[who] = epoch(number)
            rates[who].append(count // BATCH * BATCH / (time.perf_counter() - began))
    ratios = np.array(rates["ours"][1:]) / np.array(rates["PyTorch"][1:])
    middle = {who: np.median(rate[1:]) for who, rate in rates.items()}
    print(
        f"{name}, batch {BATCH}: ours {middle['ours']:,.0f} images/s, PyTorch {middle['PyTorch']:,.0f}; "
        f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}, {repeats} pairs); "
        f"losses {losses['ours']:.1f} and {losses['PyTorch']:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one")
    arguments = parser.parse_args()
    print(f"TensorFlow {tf.__version__}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    for case in arguments.case or CASES:
        measure(case, arguments.repeats)
