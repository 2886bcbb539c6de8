"""The worked variant in vae/README.md, a conditional VAE: its diff applies, trains, resumes, samples."""

import importlib.util
import json
import re

import keras
import numpy as np
import pytest
from conftest import ROOT, read, same_weights, step_by_step

import evaluate
from vae import classifier, features, pixels
from vae.data.registry import load_dataset
from vae.terminal import UserError

PAGE = (ROOT / "vae" / "README.md").read_text(encoding="utf-8")
[DIFF] = re.findall(r"```diff\n(.*?)```", PAGE, flags=re.DOTALL)


def patched(text, diff):
    """The text after a unified diff, each hunk of which has to fit in exactly one place."""
    for hunk in re.split(r"(?m)^@@.*\n", diff)[1:]:
        lines = [(line[:1] or " ", line[1:]) for line in hunk.splitlines()]
        old, new = ("\n".join(line for sign, line in lines if sign in (" ", own)) for own in "-+")
        assert text.count(old) == 1, hunk
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """vae_conditional.py as the page makes it, with small networks."""
    path = tmp_path_factory.mktemp("variant") / "vae_conditional.py"
    path.write_text(patched((ROOT / "vae_fc.py").read_text(encoding="utf-8"), DIFF))
    spec = importlib.util.spec_from_file_location("vae_conditional", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HIDDEN, module.AVERAGE_POWER = (48, 48), 0.5
    return module


def train(variant, out, *flags):
    return variant.main([*"--epochs 2 --batch-size 50 --z 4 --limit 150".split(), "--out", str(out), *map(str, flags)])


def test_the_diff_is_about_twenty_lines():
    assert 15 <= len(re.findall(r"(?m)^[-+](?![-+])", DIFF)) <= 24


@pytest.fixture
def run(variant, small_sets, grids, tmp_path):
    """A run on toy digits, and the images of its pictures."""
    with step_by_step():
        metrics = train(variant, tmp_path)
        yield tmp_path / "conditional_toy-digits_z4", metrics, grids


def test_networks_take_labels_and_samples_have_a_digit_per_column(run, tmp_path, monkeypatch):
    folder, metrics, grids = run
    encoder, decoder = (keras.models.load_model(folder / f"{name}.keras") for name in ("encoder", "decoder"))
    config = json.loads((folder / "config.json").read_text())
    data = load_dataset("toy-digits", config["data_dir"])
    labels = np.eye(10, dtype=np.float32)[data.test_labels]
    x, labels = data.test[:60] / np.float32(255), labels[:60]
    means = encoder.predict([x, labels], verbose=0)[:, :4]
    decoded = 1 / (1 + np.exp(-decoder.predict([means, labels], verbose=0)))
    psnr = -10 * np.log10(np.mean((decoded - x) ** 2, axis=(1, 2, 3)))
    assert psnr.mean() == pytest.approx(metrics["test_psnr"], rel=1e-4), "each image with its own label"
    noise = pixels.draw_noise(0, pixels.SAMPLE, 0, 1, (100, 4))[0]
    columns = np.tile(np.eye(10, dtype=np.float32), (10, 1))
    samples = 1 / (1 + np.exp(-decoder.predict([noise.numpy(), columns], verbose=0)))
    np.testing.assert_allclose(grids["samples.png"], samples, atol=1e-5)
    others = 1 / (1 + np.exp(-decoder.predict([noise.numpy(), np.roll(columns, 1, axis=1)], verbose=0)))
    assert np.abs(samples - others).max() > 0.01, "labels count"
    [block] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "results").mkdir()
    folder.rename(tmp_path / "results" / "conditional_mnist_z2")
    monkeypatch.chdir(tmp_path)
    exec(block.replace("(10, 2)", "(10, 4)"), names := {})
    assert names["sevens"].shape == (10, 28, 28, 1)


def test_it_resumes_and_is_evaluated(variant, small_sets, no_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SAMPLES", 100)
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    with step_by_step():
        train(variant, tmp_path / "parts", "--epochs", 1)
        metrics = train(variant, tmp_path / "parts", "--resume")
        train(variant, tmp_path / "whole")
        parts, whole = (tmp_path / name / "conditional_toy-digits_z4" for name in ("parts", "whole"))
        assert read(parts) == read(whole) and same_weights(parts, whole)
        [numbers] = evaluate.main([str(parts), "--nll-samples", "5"])
    assert numbers["loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    assert numbers["loss"] > numbers["nll"]


def test_a_set_without_labels_is_refused(variant, image_folder, small_sets, tmp_path, capsys):
    flags = ("--dataset", image_folder, "--image-size", 32, "--data-dir", tmp_path)
    with step_by_step(), pytest.raises(UserError, match="has no labels"):
        train(variant, tmp_path, *flags)
