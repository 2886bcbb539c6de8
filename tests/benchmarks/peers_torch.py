"""The same networks and training in PyTorch: eager, compiled, and in bfloat16 wherever autocast uses it."""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

NAMES = ("PyTorch eager", "PyTorch compiled", "PyTorch bf16")


class Residual(nn.Module):
    """A dense layer whose input is added to its output, as in vae_fc.residual_layers."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden):
        return hidden + functional.silu(self.dense(hidden))


class FlattenChannelsLast(nn.Module):
    """Maps (B, C, H, W) as rows in Keras' order of height, width, channels: no copy if memory has that order."""

    def forward(self, maps):
        return maps.permute(0, 2, 3, 1).flatten(1)


class UnflattenChannelsLast(nn.Module):
    """Rows in Keras' order as maps (B, C, H, W)."""

    def __init__(self, side, channels):
        super().__init__()
        self.shape = side, side, channels

    def forward(self, rows):
        return rows.unflatten(1, self.shape).permute(0, 3, 1, 2)


def networks(case):
    """Encoder and decoder of maps (B, C, H, W)."""
    height, width, channels = case.shape
    if not case.filters:
        size, hidden = height * width * channels, case.hidden
        sizes = list(itertools.pairwise([size, *hidden]))
        encoder = [FlattenChannelsLast(), *(part for a, b in sizes for part in (nn.Linear(a, b), nn.SiLU()))]
        decoder = [nn.Linear(case.z, hidden[-1]), nn.SiLU(), *(Residual(width) for width in hidden[1:])]
        decoder += [nn.Linear(hidden[0], size), UnflattenChannelsLast(height, channels)]
        return nn.Sequential(*encoder, nn.Linear(hidden[-1], 2 * case.z)), nn.Sequential(*decoder)
    side, down = height // 8, list(itertools.pairwise([channels, *case.filters]))
    up = list(itertools.pairwise([*case.filters[::-1], case.full_size]))
    flat, leaky = case.filters[-1] * side * side, lambda: nn.LeakyReLU(0.2)
    encoder = [part for a, b in down for part in (nn.Conv2d(a, b, 4, 2, 1), leaky())]
    encoder += [FlattenChannelsLast(), nn.Linear(flat, 512), leaky(), nn.Linear(512, 2 * case.z)]
    decoder = [
        nn.Linear(case.z, 512),
        leaky(),
        nn.Linear(512, flat),
        leaky(),
        UnflattenChannelsLast(side, case.filters[-1]),
    ]
    decoder += [part for a, b in up for part in (nn.ConvTranspose2d(a, b, 4, 2, 1), leaky())]
    return nn.Sequential(*encoder), nn.Sequential(*decoder, nn.Conv2d(case.full_size, channels, 3, 1, 1))


def set_weights(network, arrays):
    """Copy Keras' weights: by layer a kernel, (in, out), (h, w, in, out) or transposed (h, w, out, in), and a bias."""
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
    with torch.no_grad():
        for layer, (kernel, bias) in zip(layers, zip(arrays[::2], arrays[1::2], strict=True), strict=True):
            kernel = torch.from_numpy(kernel)
            layer.weight.copy_(kernel.T if kernel.ndim == 2 else kernel.permute(3, 2, 0, 1))
            layer.bias.copy_(torch.from_numpy(bias))


def epochs(case, images, weights, chosen):
    """{name: function of the epoch's number that trains one epoch and returns its mean loss}."""
    options = {"PyTorch eager": (False, False), "PyTorch compiled": (True, False), "PyTorch bf16": (False, True)}
    return {name: build(case, images, weights, *options[name]) for name in NAMES if name in chosen}


def build(case, images, weights, compiled, bf16):
    torch.manual_seed(0)
    encoder, decoder = networks(case)
    set_weights(encoder, weights[0])
    set_weights(decoder, weights[1])
    encoder, decoder = (net.to(memory_format=torch.channels_last) for net in (encoder, decoder))
    log_sigma = nn.Parameter(torch.zeros(()))
    parameters = [*encoder.parameters(), *decoder.parameters(), *([] if case.bernoulli else [log_sigma])]
    optimizer = torch.optim.Adam(parameters, case.learning_rate, eps=1e-7, fused=True)
    source = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC in memory: channels-last

    def loss_of(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            mean, log_std = encoder(x * 2 - 1).float().chunk(2, dim=1)
            log_std = 8 * torch.tanh(log_std / 8)
            pixels = decoder(mean + log_std.exp() * torch.randn_like(mean)).float()
        if case.bernoulli:
            recon = functional.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
        else:
            scaled = ((x - pixels) * torch.exp(-log_sigma)).square()
            recon = (0.5 * scaled + log_sigma + 0.5 * math.log(2 * math.pi)).sum()
        return (recon + (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum()) / len(x)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(rows):
        loss = loss_of(source[rows].float() / 255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def epoch(_):
        order = torch.randperm(len(source))[: len(source) // case.batch * case.batch]
        return np.mean([step(rows) for rows in order.split(case.batch)])

    return epoch
