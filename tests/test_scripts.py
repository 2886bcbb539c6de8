"""Both scripts through their command line: every file and key of a run folder, and what training does."""

import csv
import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCRIPTS, networks, read, train
from PIL import Image, ImageSequence

import utils
import vae_fc
from vae import pictures, run_folder, steps
from vae.elbo import Vae
from vae.terminal import NonFiniteError

COLUMNS = (
    "epoch seconds images_per_second learning_rate train_loss train_recon train_kl test_loss test_recon test_kl "
    "active_units sigma cost"
).split()
METRICS = {*COLUMNS, *"test_psnr test_psnr_of_mean_mse likelihood binarize parameters total_seconds".split()}
FILES = {
    *"config.json metrics.csv metrics.json reconstructions.png samples.png losses.png latent.png".split(),
    *"encoder.keras decoder.keras explorer.html checkpoint training.gif".split(),
}


CASES = {  # run: (script, flags, image shape, likelihood, has manifold, how it runs); compiled is as users run it
    "fc_toy-digits_z2": ("fc", (), (28, 28, 1), "bernoulli", True, "small_sets"),
    "fc_toy-faces_z5": ("fc", ("--dataset", "toy-faces", "--z", 5), (64, 64, 3), "gaussian", False, "eager"),
    "conv_toy-faces_z64": ("conv", (), (64, 64, 3), "gaussian", False, "small_sets"),
    "conv_toy-digits_z3": ("conv", ("--dataset", "toy-digits", "--z", 3), (28, 28, 1), "bernoulli", False, "eager"),
}


@pytest.mark.parametrize("name", CASES)
def test_run_folder_keeps_the_contract(name, grids, tmp_path, capsys, request):
    script, flags, shape, likelihood, manifold, setting = CASES[name]
    request.getfixturevalue(setting)
    metrics = train(script, tmp_path, *flags)
    folder = tmp_path / name
    assert {path.name for path in folder.iterdir()} == FILES | ({"manifold.png"} if manifold else set())
    printed = capsys.readouterr().out
    for path in folder.glob("*.png"):
        Image.open(path).verify()
        assert str(path) in printed
    assert str(folder / "training.gif") in printed
    following = "python vae_fc.py --dataset toy-digits --z 10" if manifold else f"python evaluate.py {folder}"
    assert f"Next: {following}  (" in printed.splitlines()[-1]
    check_metrics(folder, metrics, likelihood)
    check_config(folder, script, shape)
    check_networks(folder, metrics, grids)
    check_film(folder, shape)


def check_metrics(folder, metrics, likelihood):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS and [row["epoch"] for row in rows] == ["1", "2"]
    last = {name: float(text) if text else None for name, text in rows[-1].items()}
    for split in ("train", "test"):
        assert last[f"{split}_loss"] == pytest.approx(last[f"{split}_recon"] + last[f"{split}_kl"])
    assert (last["sigma"] is not None) == (likelihood == "gaussian")
    kept = json.loads((folder / "metrics.json").read_text())
    assert kept == metrics
    assert {name: kept[name] for name in COLUMNS} == last
    assert set(kept) == METRICS
    assert kept["likelihood"] == likelihood and kept["binarize"] == "none"
    config = json.loads((folder / "config.json").read_text())
    assert kept["cost"] == pytest.approx(kept["train_loss"] * config["train_images"])
    steps = config["train_images"] // 50 * np.arange(1, 3)  # of 200 over which the rate rises
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(config["learning_rate"] * steps / 200)


def check_config(folder, script, shape):
    config = json.loads((folder / "config.json").read_text())
    constants = {name.lower() for name in vars(SCRIPTS[script]) if name.isupper() and name[0] != "_"}
    assert constants <= set(config)
    assert config["script"] == script and config["image_shape"] == list(shape)
    assert len(config["pixels_sha256"]) == 64 and config["train_images"] > config["test_images"] > 0
    assert {"python", "tensorflow", "keras", "numpy"} <= set(config["versions"])
    assert config["epochs"] == 2 and config["seed"] == 0 and "git_commit" in config and config["command"]
    assert config["program_sha256"] == run_folder.program_sha256(script)


def check_networks(folder, metrics, grids):
    """Keras alone encodes and decodes with them, in its safe mode, and finds the reported PSNR and what is pictured."""
    encoder, decoder = networks(folder)
    data = utils.load_dataset(json.loads((folder / "config.json").read_text())["dataset"], os.environ["VAE_DATA"])
    images, z = data.test / np.float32(255), decoder.input_shape[-1]
    code = encoder(images).numpy()
    assert code.shape == (len(images), 2 * z) and np.abs(code[:, z:]).max() <= vae_fc.LOG_STD_BOUND
    pixels = decoder(code[:, :z]).numpy()
    decoded = 1 / (1 + np.exp(-pixels)) if metrics["likelihood"] == "bernoulli" else np.clip(pixels, 0, 1)
    psnr = -10 * np.log10(np.mean((decoded - images) ** 2, axis=(1, 2, 3)))
    assert psnr.mean() == pytest.approx(metrics["test_psnr"], rel=1e-4)
    assert -10 * np.log10(np.mean((decoded - images) ** 2)) == pytest.approx(metrics["test_psnr_of_mean_mse"], rel=1e-4)
    chosen = pictures.picture_rows(data, 40)
    shown = pictures.interleave(images[chosen], decoded[chosen], 10)
    np.testing.assert_allclose(grids["reconstructions.png"], shown, atol=1e-3)


def check_film(folder, shape):
    """From before training to its end; the last frame, which stays longer, shows what the saved networks make."""
    film = Image.open(folder / "training.gif")
    frames = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 3 and film.info["loop"] == 0 and film.info["duration"] > 1000
    columns = film.width // (shape[1] + pictures.PADDING)
    encoder, decoder = networks(folder)
    if decoder.input_shape[-1] == 2:
        images, codes = [], pictures.manifold_codes(columns)
    else:
        data = utils.load_dataset(json.loads((folder / "config.json").read_text())["dataset"], os.environ["VAE_DATA"])
        images = data.test[pictures.picture_rows(data, columns * (columns // 2))] / np.float32(255)
        codes = encoder(images).numpy()[:, : decoder.input_shape[-1]]
    pixels = decoder(codes).numpy()
    decoded = 1 / (1 + np.exp(-pixels)) if shape[-1] == 1 else np.clip(pixels, 0, 1)
    decoded = pictures.interleave(images, decoded, columns) if len(images) else decoded
    shown = pictures.image_grid(decoded, columns)
    first, last = (frame[-len(shown) :] for frame in (frames[0], frames[-1]))
    assert np.abs(last - shown).mean() < 3, "but for having fewer colours"
    assert not np.array_equal(first, last)


def test_what_is_tested_pictured_and_saved_is_the_average(eager, grids, tmp_path, monkeypatch):
    """In so short a run, at the default power and in its warm-up, the average would be the newest weights."""
    monkeypatch.setattr(vae_fc, "AVERAGE_POWER", 0.5)
    monkeypatch.setattr(vae_fc, "WARMUP_STEPS", 0)
    metrics = train("fc", tmp_path)
    folder = tmp_path / "fc_toy-digits_z2"
    check_networks(folder, metrics, grids)
    kept, saved = weights_of_checkpoint(folder / "checkpoint"), networks(folder)
    assert all(map(np.array_equal, kept["average"], [w for network in saved for w in network.get_weights()]))
    data = utils.load_dataset("toy-digits", os.environ["VAE_DATA"])

    def test_loss():
        call = steps.build_evaluate_call(Vae(*saved, tf.Variable(0.0), "bernoulli"), 0, False)
        recon, kl, *_ = steps.evaluate_images(call, data.test, data.label_matrix("test", False), "none", 0)
        return recon.mean(dtype=np.float64) + kl.mean(dtype=np.float64)

    assert test_loss() == pytest.approx(metrics["test_loss"], rel=1e-6)
    for network, part in zip(saved, np.split(np.array(kept["vae"], object), [len(saved[0].weights)]), strict=True):
        network.set_weights(list(part))
    assert abs(test_loss() - metrics["test_loss"]) > 1e-3 * metrics["test_loss"], "another one with the newest weights"


def weights_of_checkpoint(folder):
    """Weights of the networks as trained, "vae", and of their averages, in the order of encoder and decoder."""
    reader = tf.train.load_checkpoint(str(folder))
    found = {"vae": {}, "average": {}}
    for name in reader.get_variable_to_shape_map():
        part, number, *_ = (*name.split("/"), "")
        if part in found:
            found[part][int(number)] = reader.get_tensor(name)
    return {part: [numbered[n] for n in sorted(numbered)][:-1] for part, numbered in found.items()}  # but log_sigma


def test_a_kl_warmup_that_ends_after_the_run_is_remarked_on(quick, tmp_path, capsys):
    for epochs, told in (("1.5", False), ("3", True)):
        train("fc", tmp_path, "--kl-warmup-epochs", epochs)
        assert (f"--kl-warmup-epochs {epochs}: the KL's weight reaches" in capsys.readouterr().out) == told


def test_beta_and_kl_warmup_weigh_training_only(quick, tmp_path):
    """With beta = 0, or where a warm-up begins, nothing holds the KL down; the reported loss still counts it."""
    free = train("fc", tmp_path, "--beta", 0, "--epochs", 4)
    rising = train("fc", tmp_path, "--kl-warmup-epochs", 1e6, "--epochs", 4)
    kept = train("fc", tmp_path, "--beta", 1, "--kl-warmup-epochs", 0, "--epochs", 4)
    assert free["test_kl"] > 2 * kept["test_kl"]
    assert free["test_loss"] == pytest.approx(free["test_recon"] + free["test_kl"])
    assert rising["test_kl"] == pytest.approx(free["test_kl"], rel=0.01)


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_black_and_white_pixels(binarize, quick, tmp_path, monkeypatch):
    seen, build = set(), steps.build_train_call

    def watched(*arguments):
        train_call = build(*arguments)

        def call(batches, *others):
            seen.update(np.unique(batches))
            return train_call(batches, *others)

        return call

    monkeypatch.setattr(steps, "build_train_call", watched)
    metrics = train("fc", tmp_path, "--binarize", binarize)
    assert seen == {0, 255}, "training images have no grey"
    assert metrics["binarize"] == binarize and np.isfinite(metrics["test_loss"])


def test_tensorboard_gets_numbers_and_pictures(eager, tmp_path):
    """Read back without TensorBoard: the records are TensorFlow's."""
    metrics = train("fc", tmp_path, "--tensorboard")
    folder = tmp_path / "fc_toy-digits_z2"
    [path] = (folder / "tensorboard").iterdir()
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    found = {(value.tag, event.step): value for event in events for value in event.summary.value}
    assert [step for tag, step in found if tag == "test/loss"] == [1, 2]
    assert found["test/loss", 2].simple_value == pytest.approx(metrics["test_loss"])
    assert ("run/sigma", 1) not in found, "Bernoulli pixels have none"
    picture = found["samples", 2].image
    assert picture.encoded_image_string == (folder / "samples.png").read_bytes()
    assert (picture.width, picture.height) == Image.open(folder / "samples.png").size
    train("fc", tmp_path, "--resume", "--epochs", 3)
    assert len(list((folder / "tensorboard").iterdir())) == 1, "only where it is asked for"


def test_fewer_images_than_a_batch(quick, tmp_path, capsys, monkeypatch):
    shapes, build = [], steps.build_train_call

    def watched(*arguments):
        train_call = build(*arguments)

        def call(batches, *others):
            shapes.append(tuple(batches.shape))
            return train_call(batches, *others)

        return call

    monkeypatch.setattr(steps, "build_train_call", watched)
    metrics = train("fc", tmp_path, "--limit", 3)
    assert np.isfinite(metrics["test_loss"])
    assert "--batch-size 50: lowered to 3" in capsys.readouterr().out
    assert set(shapes) == {(1, 3, 28, 28, 1)}, "a call holds no copies of the images that it does not need"


def test_the_largest_seed(quick, tmp_path):
    assert np.isfinite(train("fc", tmp_path, "--limit", 60, "--seed", 2**31 - 1)["test_loss"])


@pytest.mark.parametrize(
    ("script", "z", "limit", "words"),
    [("fc", 32, 3, "holds all that is in"), ("conv", 64, 3, "holds all that is in"), ("fc", 32, 50, "too many for 50")],
)
def test_fewer_photographs_than_latents(script, z, limit, words, quick, tmp_path, capsys):
    metrics = train(script, tmp_path, "--dataset", "toy-faces", "--limit", limit)
    assert np.isfinite(metrics["test_loss"]) and f"--z {z}: {words}" in capsys.readouterr().out


def test_a_collapse_is_remarked_on(quick, tmp_path, monkeypatch, capsys):
    for count, told in ((0, True), (1, False)):
        monkeypatch.setattr(utils, "active_units", lambda means, count=count: count)
        train("fc", tmp_path, "--epochs", 1)
        assert ("--z 2: no unit became active" in capsys.readouterr().out) == told


@pytest.mark.parametrize("script", ["fc", "conv"])
def test_a_folder_of_two_images(script, quick, image_folder, tmp_path):
    for path in sorted(image_folder.iterdir())[2:]:
        path.unlink()
    metrics = train(script, tmp_path, "--dataset", image_folder, "--image-size", 32, "--data-dir", tmp_path)
    assert np.isfinite(metrics["test_loss"])


def test_losses_that_leave_the_numbers_stop_the_run(quick, tmp_path):
    where = r"(reconstruction|KL) term became (nan|-?inf) in epoch \d+, step \d+; .* Try a smaller --learning-rate$"
    with pytest.raises(NonFiniteError, match=where) as stop:
        train("fc", tmp_path, "--learning-rate", 1e6, "--epochs", 30)
    epoch = re.search(r"holds epoch (\d+)\.", str(stop.value))[1]
    kept = tf.train.latest_checkpoint(tmp_path / "fc_toy-digits_z2" / "checkpoint")
    assert kept.endswith(f"-{epoch}")
    reader = tf.train.load_checkpoint(kept)
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    assert all(np.all(np.isfinite(reader.get_tensor(name))) for name in names), "the last good state"


def test_a_sigma_that_is_infinite_stops_the_run(quick, tmp_path, monkeypatch):
    """The loss, in which only its logarithm is, stays finite: log sigma is 89 here from the second epoch on."""
    run_epoch = utils.run_epoch

    def run_away(run, train_call, evaluate_call, epoch):
        if epoch == 2:
            run.vae.log_sigma.assign(89.0)
            monkeypatch.setattr(steps, "averaging_weight", lambda *_: 1.0)
        return run_epoch(run, train_call, evaluate_call, epoch)

    monkeypatch.setattr(utils, "run_epoch", run_away)
    with pytest.raises(NonFiniteError, match=r"^sigma became inf in epoch 2; .* holds epoch 1\. Try a smaller"):
        train("fc", tmp_path, "--dataset", "toy-faces", "--name", "run")
    assert len(read(tmp_path / "run")) == 1
