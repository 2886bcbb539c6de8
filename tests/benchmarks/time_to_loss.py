"""Time to a test loss of 105.6 nats on grey MNIST, z = 20, beside the VAE example of PyTorch, both as they are run.

    python tests/benchmarks/time_to_loss.py --data-dir data

PyTorch's example (github.com/pytorch/examples, vae): 784-400-20, ReLU, Adam at 1e-3, batches of 128 from a DataLoader
over images that are turned into tensors one by one; here written anew, with its test after every epoch. It prints about
105.6 after its ten epochs. Ours: vae_fc.py --dataset mnist --z 20, its defaults. Counted are the seconds of the epochs,
tests included, until the first epoch that ends at or below 105.6.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vae.data.registry import load_dataset

ROOT = Path(__file__).resolve().parents[2]
GOAL = 105.6  # nats


class Digits(Dataset):
    """Image by image as torchvision.datasets.MNIST with ToTensor gives them: (1, 28, 28) in [0, 1]."""

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
    """Seconds and test loss after each epoch of the example."""
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
    """Seconds and test loss after each epoch of vae_fc.py."""
    with tempfile.TemporaryDirectory() as out:
        flags = [
            "--dataset",
            "mnist",
            "--z",
            "20",
            "--epochs",
            "10",
            "--data-dir",
            data_dir,
            "--out",
            out,
            "--name",
            "run",
        ]
        subprocess.run([sys.executable, str(ROOT / "vae_fc.py"), *flags], check=True, stdout=subprocess.DEVNULL)
        rows = list(csv.DictReader((Path(out) / "run" / "metrics.csv").open()))
    seconds = np.cumsum([float(row["seconds"]) for row in rows])
    return list(zip(seconds, (float(row["test_loss"]) for row in rows), strict=True))


def arrival(curve, name):
    """Prints and returns the seconds to GOAL; nan if it was not reached."""
    for epoch, (seconds, loss) in enumerate(curve, 1):
        if loss <= GOAL:
            print(f"{name}: {loss:.2f} nats after epoch {epoch} and {seconds:.1f} s", flush=True)
            return seconds
    print(f"{name}: {loss:.2f} nats after {seconds:.1f} s; {GOAL} not reached", flush=True)
    return np.nan


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=15, help="of the example at most")
    arguments = parser.parse_args()
    mnist = load_dataset("mnist", arguments.data_dir, None, None)
    first = arrival(ours(arguments.data_dir), "ours")
    peer = arrival(example(mnist, arguments.epochs), "PyTorch's example")
    again = arrival(ours(arguments.data_dir), "ours again")
    print(f"ratio {peer / first:.1f} and {peer / again:.1f}")
