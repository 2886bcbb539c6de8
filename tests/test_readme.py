"""The README is true: its two commands, every other command's flags, every file it points to."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script

import vae_conv
import vae_fc
from vae import terminal
from vae.data.registry import load_dataset

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
RUNS = [command for command in COMMANDS if command.startswith("python vae_")]
RUNS += re.findall(r"`(python vae_\w+\.py(?! --help)[^`]*)`", README)


def test_the_two_commands_stand_there_word_for_word():
    assert COMMANDS[:2] == [
        "pip install -r requirements.txt && python vae_fc.py",
        "pip install -r tests/requirements.txt && python -m pytest",
    ]


def test_the_first_command_runs_without_a_network_and_says_where_its_pictures_are(tmp_path):
    """As a new user types it, but for the number of epochs and where things go."""
    finished = run_script("vae_fc.py", "--epochs", 2, "--out", tmp_path, "--data-dir", tmp_path / "data")
    assert finished.returncode == 0 and finished.stderr == ""
    for picture in ("reconstructions", "samples", "losses", "latent", "manifold"):
        path = tmp_path / "fc_toy-digits_z2" / f"{picture}.png"
        assert path.exists() and str(path) in finished.stdout
    assert "parameters, on the CPU\n" in finished.stdout
    lines = [line for line in finished.stdout.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    losses = [float(re.search(r"test ([\d.]+)", line)[1]) for line in lines]
    assert losses[1] < losses[0] - 1, "it learns"
    for word in ("train", "test", "active units", "images/s", "=", "+"):
        assert word in lines[0]


@pytest.mark.parametrize("command", RUNS)
def test_every_command_is_understood(command):
    _, script, *flags = shlex.split(command)
    module = {"vae_fc.py": vae_fc, "vae_conv.py": vae_conv}[script]
    settings = terminal.parse_settings("x", "", vars(module), flags)
    assert settings.z and settings.epochs


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python evaluate.py ")])
def test_every_evaluation_is_understood(command):
    assert terminal.parse_evaluation("", shlex.split(command)[2:]).runs


@pytest.mark.parametrize("page", ["README.md", "data/README.md", "results/README.md"])
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"(?:\]\(|<img src=\")(?!https?:)([^)#\"]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_arrays_of_ones_own_are_read_as_they_were_written(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "data" / "README.md").read_text(), flags=re.DOTALL)[1]
    exec(code, names := {"np": np, "Path": Path})
    random = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    for split, count in (("train", 9), ("t10k", 4)):
        written = {"images": random.integers(0, 256, (count, 20, 24), np.uint8), "labels": np.arange(count) % 3}
        for kind, array in written.items():
            names["write_idx"](folder / f"{split}-{kind}-idx{array.ndim}-ubyte", array)
    data = load_dataset(str(folder), tmp_path)
    assert data.image_shape == (20, 24, 1) and (len(data.train), len(data.test)) == (9, 4)
    np.testing.assert_array_equal(data.test[..., 0], written["images"])
    np.testing.assert_array_equal(data.test_labels, written["labels"])


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_help_lists_every_flag(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and script.__doc__.strip().splitlines()[0] in shown
    for name in (*terminal.FLAGS, "resume", "tensorboard"):
        assert "--" + name.replace("_", "-") in shown
