"""Seconds to a test loss of 105.6 nats on grey MNIST with z = 20, beside PyTorch's VAE example, both with defaults.

    python tests/benchmarks/time_to_loss.py --data-dir data

PyTorch's example (github.com/pytorch/examples, vae) is written anew here, with a test after every epoch: 784-400-20,
ReLU, Adam at 1e-3, batches of 128 from a DataLoader that turns images into tensors one by one. It prints about 105.6
after its ten epochs. Ours is vae_fc.py --dataset mnist --z 20. The seconds are those of the epochs, tests included, up
to the end of the first epoch at or below 105.6.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import ROOT, argument_parser, rows_of, run_python
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from utils import load_dataset

GOAL = 105.6  # nats


class Digits(Dataset):
    """One image at a time, as torchvision.datasets.MNIST with ToTensor gives it: (1, 28, 28) in [0, 1]."""

    def __init__(self, images):
        self.images = torch.from_numpy(images[..., 0])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        pixels = np.array(Image.fromarray(self.images[index].numpy(), mode="L"), copy=True)
        return torch.from_numpy(pixels)[None].to(torch.float32).div(255)


class Vae(nn.Module):
    """The example's network."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(784, 400)
        self.mean, self.log_variance = nn.Linear(400, 20), nn.Linear(400, 20)
        self.back, self.pixels = nn.Linear(20, 400), nn.Linear(400, 784)

    def loss(self, x):
        """-ELBO summed over the batch."""
        x = x.view(-1, 784)
        hidden = functional.relu(self.hidden(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        pixels = torch.sigmoid(self.pixels(functional.relu(self.back(z))))
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return functional.binary_cross_entropy(pixels, x, reduction="sum") + kl


def example(data, epochs):
    """Yield seconds and test loss after each epoch of the example."""
    torch.manual_seed(1)
    model = Vae()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train = DataLoader(Digits(data.train), batch_size=128, shuffle=True)
    test = DataLoader(Digits(data.test), batch_size=128, shuffle=False)
    began = time.perf_counter()
    for _ in range(epochs):
        for x in train:
            optimizer.zero_grad()
            loss = model.loss(x)
            loss.backward()
            loss.item()
            optimizer.step()
        with torch.no_grad():
            total = sum(model.loss(x).item() for x in test) / len(data.test)
        yield time.perf_counter() - began, total
        if total <= GOAL:
            return


def ours(data_dir):
    """Seconds and test loss after each epoch of vae_fc.py, as a list."""
    with tempfile.TemporaryDirectory() as out:
        flags = ["--dataset", "mnist", "--z", 20, "--epochs", 10, "--data-dir", data_dir, "--out", out]
        run_python(ROOT / "vae_fc.py", *flags, "--name", "run")
        rows = rows_of(Path(out, "run"))
    seconds = np.cumsum([float(row["seconds"]) for row in rows])
    return list(zip(seconds, (float(row["test_loss"]) for row in rows), strict=True))


def seconds_to_goal(curve, name):
    """Print and return the seconds to GOAL. NaN if it was not reached."""
    for epoch, (seconds, loss) in enumerate(curve, 1):
        if loss <= GOAL:
            print(f"{name}: {loss:.2f} nats after epoch {epoch} and {seconds:.1f} s", flush=True)
            return seconds
    print(f"{name}: {loss:.2f} nats after {seconds:.1f} s; {GOAL} not reached", flush=True)
    return np.nan


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data")
    parser.add_argument("--epochs", type=int, default=15, help="of the example at most")
    arguments = parser.parse_args()
    data_dir = arguments.data_dir.resolve()
    mnist = load_dataset("mnist", data_dir)
    first = seconds_to_goal(ours(data_dir), "ours")
    peer = seconds_to_goal(example(mnist, arguments.epochs), "PyTorch's example")
    again = seconds_to_goal(ours(data_dir), "ours again")
    print(f"ratio {peer / first:.1f} and {peer / again:.1f}")
