"""Both scripts through their command line: every file and key of a run folder, resuming, exit codes."""

import argparse
import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    ROOT,
    contents,
    modes_heeded,
    networks,
    python_beside,
    read,
    run_script,
    same_weights,
    step_by_step,
    use_few_images,
    wait_for,
)
from PIL import Image
from test_damage import mutated

import utils
import vae_conv
import vae_fc
from vae import pictures, run_folder
from vae.elbo import Vae
from vae.precision import lacks_instructions
from vae.run_folder import make_folder, replace_with, run_numbers, sole_writer
from vae.terminal import NonFiniteError, UserError, launch, loading, parse_settings

COLUMNS = (
    "epoch seconds images_per_second learning_rate train_loss train_recon train_kl test_loss test_recon test_kl "
    "active_units sigma cost"
).split()
METRICS = {*COLUMNS, *"test_psnr test_psnr_of_mean_mse likelihood binarize parameters total_seconds".split()}
FILES = {
    *"config.json metrics.csv metrics.json reconstructions.png samples.png losses.png latent.png".split(),
    *"encoder.keras decoder.keras checkpoint".split(),
}
RANDOM_DAMAGES = 150
SCRIPTS = {"fc": vae_fc, "conv": vae_conv}


def train(script, out, *flags):
    return SCRIPTS[script].main([*"--epochs 2 --batch-size 50".split(), "--out", str(out), *map(str, flags)])


@pytest.fixture
def no_pictures(monkeypatch):
    """No pictures: each run's take a second, and most tests are about something else."""
    monkeypatch.setattr(utils, "draw_pictures", lambda run, means: None)


@pytest.fixture
def eager(small_sets):
    """Small sets, step by step."""
    with step_by_step():
        yield


@pytest.fixture
def quick(monkeypatch, eager, no_pictures):
    """For tests of what lies around the networks: a single hidden layer and no pictures, besides."""
    monkeypatch.setattr(vae_fc, "HIDDEN", (32,))


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
    check_metrics(folder, metrics, likelihood)
    check_config(folder, script, shape)
    check_networks(folder, metrics, grids)


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
    constants = {name.lower() for name in vars(SCRIPTS[script]) if name.isupper() and name[0] != "_"} - {"by_dataset"}
    assert constants <= set(config)
    assert config["script"] == script and config["image_shape"] == list(shape)
    assert len(config["pixels_sha256"]) == 64 and config["train_images"] > config["test_images"] > 0
    assert {"python", "tensorflow", "keras", "numpy"} <= set(config["versions"])
    assert config["epochs"] == 2 and config["seed"] == 0 and "git_commit" in config and config["command"]
    assert config["program_sha256"] == run_folder.program_sha256()


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
    chosen = utils.picture_rows(data, 40)
    shown = pictures.interleave(images[chosen], decoded[chosen], 10)
    np.testing.assert_allclose(grids["reconstructions.png"], shown, atol=1e-3)


@pytest.mark.parametrize(
    ("script", "dataset", "setting"),
    [
        ("fc", "toy-digits", "no_pictures"),  # compiled, as users run it
        ("conv", "toy-faces", "no_pictures"),
        ("fc", "toy-faces", "quick"),  # the killed run, below, is such a one, compiled
        ("conv", "toy-digits", "quick"),
    ],
)
def test_two_and_two_epochs_are_four_epochs_bit_for_bit(
    script, dataset, setting, small_sets, tmp_path, request, monkeypatch
):
    """With averages that remember: at the default power, in so short a run, they would be the newest weights."""
    request.getfixturevalue(setting)
    monkeypatch.setattr(SCRIPTS[script], "AVERAGE_POWER", 0.5)
    flags = ("--dataset", dataset, "--z", 4, "--limit", 150, "--kl-warmup-epochs", 3)
    train(script, tmp_path, *flags, "--name", "parts")
    train(script, tmp_path, *flags, "--name", "parts", "--epochs", 4, "--resume")
    train(script, tmp_path, *flags, "--name", "whole", "--epochs", 4)
    assert read(tmp_path / "parts") == read(tmp_path / "whole")
    assert same_weights(tmp_path / "parts", tmp_path / "whole")


def test_a_run_in_bfloat16_resumes_exactly_and_saves_float32(
    image_folder, small_sets, no_pictures, tmp_path, monkeypatch, capsys
):
    """Compiled, with the linear path and the U-net."""
    small = ("--image-size", 32, "--batch-size", 18, "--z", 4, "--data-dir", tmp_path)
    flags = ("--dataset", image_folder, *small, "--learning-rate", 2e-3, "--precision", "bf16")
    monkeypatch.setattr(vae_conv, "AVERAGE_POWER", 0.5)
    monkeypatch.setattr(vae_conv, "WARMUP_STEPS", 0)
    train("conv", tmp_path, *flags, "--name", "parts", "--epochs", 1)
    assert ("--precision bf16: slow here" in capsys.readouterr().out) == (lacks_instructions() and not utils.GPUS)
    found = train("conv", tmp_path, *flags, "--name", "parts", "--resume", "--epochs", 4)
    train("conv", tmp_path, *flags, "--name", "whole", "--epochs", 4)
    assert read(tmp_path / "parts") == read(tmp_path / "whole")
    assert same_weights(tmp_path / "parts", tmp_path / "whole")
    layers = [layer for network in networks(tmp_path / "whole") for layer in network.layers]
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    with step_by_step():
        exact = train("conv", tmp_path, *flags[:-1], "fp32", "--name", "exact", "--epochs", 4)
        start = train("conv", tmp_path, *flags[:-1], "fp32", "--learning-rate", 1e-12, "--name", "start", "--epochs", 1)
    fall, same_fall = (start["train_loss"] - run["train_loss"] for run in (exact, found))
    assert same_fall == pytest.approx(fall, rel=0.02) and same_fall != fall
    assert keras.config.dtype_policy().name == "float32", "nothing else in the process is changed"


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
    settings = argparse.Namespace(seed=0, z=2, binarize="none", xla=False)

    def test_loss():
        vae = Vae(*saved, tf.Variable(0.0), "bernoulli")
        recon, kl, *_ = utils.evaluate_images(utils.build_evaluate_call(vae, settings), data.test, settings)
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


def test_what_a_run_was_trained_with_stays_in_its_config(quick, tmp_path, monkeypatch, capsys):
    """By the epoch from which on it was; a line says so wherever a run goes on with another form of the program."""
    told = []
    for epochs, program in ((2, "a"), (3, "a"), (3, "b"), (4, "b"), (5, "b"), (6, "a")):
        monkeypatch.setattr(run_folder, "program_sha256", lambda program=program: program)
        monkeypatch.setattr(sys, "argv", ["vae_fc.py", f"--epochs {epochs}"])
        train("fc", tmp_path, "--resume", "--epochs", epochs)
        told.append("was trained before this program was edited" in capsys.readouterr().out)
    assert told == [False, False, True, True, True, True]
    config = json.loads((tmp_path / "fc_toy-digits_z2" / "config.json").read_text())
    assert (config["program_sha256"], config["command"], config["epochs"]) == ("a", "vae_fc.py --epochs 2", 6)
    found = [(part["after_epoch"], part["program_sha256"], part["command"][-1]) for part in config["resumed"]]
    assert found == [(2, "a", "3"), (3, "b", "4"), (4, "b", "5"), (5, "a", "6")], "nothing was trained by the third"
    assert set(config["resumed"][0]) == {"after_epoch", "versions", "program_sha256", "git_commit", "command"}


def test_what_trained_no_epoch_is_not_in_a_config(quick, tmp_path, monkeypatch, capsys):
    """Begun by a, which b goes on with: both are stopped before an epoch has ended. c trains, d is stopped again."""
    build = utils.build_train_call

    def stopped(*_):
        raise KeyboardInterrupt

    for epochs, program, train_call in ((1, "a", stopped), (1, "b", stopped), (1, "c", build), (2, "d", stopped)):
        monkeypatch.setattr(run_folder, "program_sha256", lambda program=program: program)
        monkeypatch.setattr(utils, "build_train_call", train_call)
        with contextlib.suppress(KeyboardInterrupt):
            train("fc", tmp_path, "--resume", "--epochs", epochs)
        assert ("was trained before this program was edited" in capsys.readouterr().out) == (program == "d")
    monkeypatch.setattr(utils, "build_train_call", build)
    monkeypatch.setattr(run_folder, "program_sha256", lambda: "c")
    train("fc", tmp_path, "--resume", "--epochs", 2)
    assert "was trained before" not in capsys.readouterr().out
    config = json.loads((tmp_path / "fc_toy-digits_z2" / "config.json").read_text())
    assert config["program_sha256"] == "c" and "resumed" not in config


@pytest.mark.parametrize("damaged", [5, "text", [5], [{}], {}, None])
def test_a_damaged_history_does_not_cost_the_run(damaged, out, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["another command"])
    path = out / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resumed": damaged}))
    assert train("fc", out, "--name", "run", "--resume", "--epochs", 3)["epoch"] == 3
    assert json.loads(path.read_text())["resumed"][-1]["after_epoch"] == 2


def test_the_program_is_all_of_its_files(tmp_path, monkeypatch):
    sums = [run_folder.program_sha256()]
    for name in ("run_folder.py", "elbo.py", "data/toy.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))
    (tmp_path / ".#elbo.py").symlink_to("an editor's lock")
    for name in ("notes.txt", "elbo.py", "data/toy.py"):
        (tmp_path / name).write_text("edited")
        sums.append(run_folder.program_sha256())
    assert len(set(sums)) == 4, "each edit counts"


def test_a_resumed_run_may_get_other_columns(quick, tmp_path, monkeypatch):
    """A student's epoch_row has one more number, and one fewer."""
    train("fc", tmp_path)
    row = utils.epoch_row

    def edited(*those):
        return {name: value for name, value in row(*those).items() if name != "cost"} | {"seen": 7.5}

    monkeypatch.setattr(utils, "epoch_row", edited)
    train("fc", tmp_path, "--resume", "--epochs", 3)
    rows = read(tmp_path / "fc_toy-digits_z2")
    assert [line["seen"] for line in rows] == ["", "", "7.5"] and "cost" not in rows[0]


def test_the_caller_s_settings_stay(quick, tmp_path):
    """A script that trains twice from one Namespace gets two like runs."""
    flags = ["--dataset", "toy-digits", "--batch-size", "100000", "--epochs", "1", "--out", str(tmp_path)]
    settings = parse_settings("fc", "", vars(vae_fc), flags)
    before = dict(vars(settings))
    data = utils.load_dataset(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    networks = [build(data.image_shape, settings.z, False) for build in (vae_fc.build_encoder, vae_fc.build_decoder)]
    utils.train(*networks, data, settings)
    assert vars(settings) == before


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
    seen, build = set(), utils.build_train_call

    def watched(*arguments):
        train_call = build(*arguments)

        def call(batches, *others):
            seen.update(np.unique(batches))
            return train_call(batches, *others)

        return call

    monkeypatch.setattr(utils, "build_train_call", watched)
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


def test_finished_runs_stay(quick, tmp_path):
    train("fc", tmp_path, "--epochs", 1)
    before = contents(tmp_path / "fc_toy-digits_z2")
    train("fc", tmp_path, "--epochs", 1)
    train("fc", tmp_path, "--epochs", 1, "--seed", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"fc_toy-digits_z2{end}" for end in ("", "-2", "-3")]
    assert before == {path: path.read_bytes() for path in before}
    assert same_weights(tmp_path / "fc_toy-digits_z2", tmp_path / "fc_toy-digits_z2-2"), "the same seed, the same run"
    assert not same_weights(tmp_path / "fc_toy-digits_z2", tmp_path / "fc_toy-digits_z2-3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """A folder with a run of two epochs, under the settings of `quick`."""
    with pytest.MonkeyPatch.context() as patch, step_by_step():
        use_few_images(patch, data_dir)
        patch.setattr(utils, "draw_pictures", lambda run, means: None)
        patch.setattr(vae_fc, "HIDDEN", (32,))
        out = tmp_path_factory.mktemp("trained")
        train("fc", out, "--name", "run")
    return out


@pytest.fixture
def out(quick, trained, tmp_path):
    """A copy of that folder, to damage and to go on with."""
    return shutil.copytree(trained, tmp_path / "out")


def test_resume_refuses_another_setting_and_changes_nothing(out):
    before = (out / "run" / "config.json").read_bytes()
    for flags, word in ((("--learning-rate", "0.5"), "learning_rate"), (("--epochs", 1), "--epochs")):
        with pytest.raises(UserError, match=word):
            train("fc", out, "--name", "run", "--resume", *flags)
    assert (out / "run" / "config.json").read_bytes() == before


def test_resume_names_a_setting_that_earlier_versions_had_not(out):
    path = out / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["precision"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="begun by a version without precision; start a new run"):
        train("fc", out, "--name", "run", "--resume", "--epochs", 3)


@pytest.mark.parametrize(("content", "table"), [(b"", True), (b"\x00garbage", True), (None, True), (None, False)])
def test_a_list_of_checkpoints_that_is_lost_does_not_cost_the_run(content, table, out):
    """Power failed: the small file that names the last checkpoint is empty, garbled or gone. The epochs stay."""
    path = out / "run" / "checkpoint" / "checkpoint"
    path.unlink() if content is None else path.write_bytes(content)
    if not table:
        (out / "run" / "metrics.csv").write_bytes(b"")
    before = contents(out / "run")
    with pytest.raises(UserError, match=r"checkpoint/checkpoint: .*; start a new run with --name"):
        train("fc", out, "--name", "run", "--resume", "--epochs", 3)
    assert before == contents(out / "run")


def test_a_damaged_checkpoint_costs_an_epoch_and_not_the_run(out, capsys):
    train("fc", out, "--name", "whole", "--epochs", 3)
    shutil.copytree(out / "run", out / "good")
    for file in ("index", "data-00000-of-00001"):
        shutil.rmtree(out / "run")
        shutil.copytree(out / "good", out / "run")
        newest = out / "run" / "checkpoint" / f"ckpt-2.{file}"
        newest.write_bytes(newest.read_bytes()[:-9])
        train("fc", out, "--name", "run", "--resume", "--epochs", 3)
        assert re.search(r"ckpt-2: cannot be read .*; going on from the one before", capsys.readouterr().out)
        assert same_weights(out / "run", out / "whole") and read(out / "run") == read(out / "whole")


@pytest.mark.parametrize("name", ["config.json", "metrics.csv"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"\0" * 9, b'"' * 300_000])
def test_a_run_folder_full_of_garbage(name, content, out):
    (out / "run" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*; start a new run with --name"):
        train("fc", out, "--name", "run", "--resume", "--epochs", 3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("epoch", "epock", 1),
        lambda text: text.replace("test_kl", "test_kl2", 1),
        lambda text: re.sub(r"(?m)^1,[^,]*,", "1,,", text),
        lambda text: re.sub(r"(?m)^2,[^,]*,", "2,nan,", text),
        lambda text: re.sub(r"(?m)^2,", "3,", text),
        lambda text: text + text.splitlines()[-1] + "\n",
    ],
)
def test_a_table_with_a_damaged_row_is_not_gone_on_with(damage, out):
    """Its curves are drawn, and its seconds added up, at the end only."""
    path = out / "run" / "metrics.csv"
    path.write_text(damage(path.read_text()))
    before = contents(out)
    with pytest.raises(UserError, match=r"metrics.csv: 0 of 2 epochs can be read; start a new run with --name"):
        train("fc", out, "--name", "run", "--resume", "--epochs", 3)
    assert contents(out) == before


@pytest.mark.slow
def test_a_run_folder_damaged_at_random_resumes_exactly_or_is_refused(quick, tmp_path, monkeypatch, capsys):
    """python -m pytest -m slow -n 0 tests/test_scripts.py prints its counts."""
    monkeypatch.setattr(vae_fc, "AVERAGE_POWER", 0.5)  # or the average would be the newest weights
    train("fc", tmp_path, "--name", "whole", "--limit", 100, "--epochs", 3)
    train("fc", tmp_path, "--name", "good", "--limit", 100)
    files = sorted(contents(tmp_path / "good").items())
    random, counts = np.random.default_rng(0), Counter()
    for number in range(RANDOM_DAMAGES):
        path, good = files[number % len(files)]
        run = shutil.copytree(tmp_path / "good", tmp_path / f"run{number}")
        damaged = run / path.relative_to(tmp_path / "good")
        damaged.write_bytes(mutated(random, good, path.suffix in (".json", ".csv")))
        before = contents(run)
        try:
            train("fc", tmp_path, "--name", run.name, "--resume", "--limit", 100, "--epochs", 3)
        except UserError as error:
            assert str(run) in str(error) and len(str(error).splitlines()) == 1 and contents(run) == before
            counts["refused"] += 1
        else:
            assert same_weights(run, tmp_path / "whole"), damaged
            rows = run_folder.read_rows(run / "metrics.csv")
            pictures.save_losses(run / "losses.png", rows, "what draw_pictures would draw")
            same_rows = read(run) == read(tmp_path / "whole")
            assert same_rows or damaged.name == "metrics.csv", damaged
            counts["resumed exactly" if same_rows else "resumed exactly, with other numbers of an earlier epoch"] += 1
    with capsys.disabled():
        print(f"\nrun folders damaged at random: {dict(counts)}")


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_run_stopped_while_it_is_saved_again_is_finished_only_if_it_is(epochs, quick, tmp_path, monkeypatch):
    train("fc", tmp_path, "--name", "run")
    assert (tmp_path / "run" / "metrics.json").exists()

    def stop(path, write):
        if path.name == "decoder.keras":
            raise KeyboardInterrupt
        replace_with(path, write)

    monkeypatch.setattr(utils, "replace_with", stop)
    with pytest.raises(KeyboardInterrupt):
        train("fc", tmp_path, "--name", "run", "--resume", "--epochs", epochs)
    assert (tmp_path / "run" / "metrics.json").exists() == (epochs == 2), "of two it is whole, of three half"


def test_resume_goes_on_with_the_run_that_is_not_ended(quick, tmp_path, capsys):
    """Not with one begun by mistake since, when --resume was forgotten, nor with one of other settings."""
    flags = ("--name", "run", "--limit", 100)
    train("fc", tmp_path, *flags)
    (tmp_path / "run" / "metrics.json").unlink()  # killed before it was written
    train("fc", tmp_path, *flags, "--seed", 1, "--epochs", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "train_epoch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train("fc", tmp_path, *flags)
    (tmp_path / "run-4").mkdir()
    (tmp_path / "run-5").write_text("a file")
    capsys.readouterr()
    train("fc", tmp_path, *flags, "--resume")
    assert (tmp_path / "run" / "metrics.json").exists() and not (tmp_path / "run-3" / "metrics.csv").exists()
    assert f"{tmp_path / 'run-2'} is left alone: --resume: epochs" not in capsys.readouterr().out
    train("fc", tmp_path, *flags, "--epochs", 3, "--resume")
    assert len(read(tmp_path / "run-3")) == 3 and len(read(tmp_path / "run")) == 2, "the one that is not ended"
    train("fc", tmp_path, "--name", "run-2", "--limit", 100, "--seed", 1, "--resume")
    assert len(read(tmp_path / "run-2")) == 2, "longer"
    assert json.loads((tmp_path / "run-2" / "config.json").read_text())["name"] == "run", "as it was called"
    assert sorted(run_numbers(tmp_path / "run")) == [1, 2, 3, 4, 5] and list((tmp_path / "run-4").iterdir()) == []


def test_runs_that_resume_leaves_alone_are_named(quick, tmp_path, capsys):
    flags = ("--name", "run", "--limit", 100)
    train("fc", tmp_path, *flags)
    train("fc", tmp_path, *flags, "--seed", 1)
    shutil.copytree(tmp_path / "run", tmp_path / "run-3")
    (tmp_path / "run-3" / "config.json").write_text("{")
    capsys.readouterr()
    train("fc", tmp_path, *flags, "--epochs", 3, "--resume")
    out = capsys.readouterr().out
    assert f"{tmp_path / 'run-2'} is left alone: --resume: seed is 1 in" in out
    assert f"{tmp_path / 'run-3'} is left alone: {tmp_path / 'run-3' / 'config.json'}: not JSON" in out
    assert [len(read(tmp_path / name)) for name in ("run", "run-2")] == [3, 2]
    with pytest.raises(UserError, match=r"run-3.config\.json: not JSON"):
        train("fc", tmp_path, *flags, "--epochs", 3, "--resume")


def test_a_folder_that_is_no_run_is_not_resumed(quick, tmp_path):
    """Nor one whose config.json is lost: with what settings its epochs were trained nobody knows."""
    (tmp_path / "run").mkdir()
    for name in ("samples.png", "partial-mine"):
        (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"run: has no config.json, so it cannot be resumed; .* --name"):
        train("fc", tmp_path, "--name", "run", "--resume")
    assert contents(tmp_path) == before


def test_paths_that_tensorflow_cannot_write_to_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train("fc", f"{tmp_path}/\udcff")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "argument --out: " in error and "is not in UTF-8" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run?", "run*", "a [1]"])
def test_names_that_are_patterns_are_refused(name, tmp_path, capsys):
    """TensorFlow deletes a run's old checkpoints by a pattern, which would be another run's as well."""
    for flag, value in (("--name", name), ("--out", tmp_path / name)):
        with pytest.raises(SystemExit) as stop:
            train("fc", tmp_path, flag, value)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"argument {flag}: " in error and "TensorFlow takes for patterns" in error
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_was_set_back_costs_nothing(quick, tmp_path, monkeypatch):
    train("fc", tmp_path, "--name", "whole", "--limit", 100, "--epochs", 3)
    train("fc", tmp_path, "--name", "run", "--limit", 100)
    day_before = time.time() - 86_400
    monkeypatch.setattr(time, "time", lambda: day_before)
    train("fc", tmp_path, "--name", "run", "--limit", 100, "--epochs", 3, "--resume")
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_names_that_end_in_a_number_are_names(tmp_path):
    for name, asked in (("lr-1", "lr-1"), ("trial-2", "trial"), ("trial-3", "trial-3"), ("trial-4", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": asked}))
    (tmp_path / "trial-5").mkdir()
    assert run_numbers(tmp_path / "lr") == []
    assert sorted(run_numbers(tmp_path / "trial")) == [2, 4, 5]
    assert make_folder(tmp_path / "trial", 3) == tmp_path / "trial-6", "none is taken that is there"


def test_a_file_in_tensorboards_place(quick, tmp_path):
    train("fc", tmp_path, "--name", "run")
    (tmp_path / "run" / "tensorboard").write_bytes(b"")
    with pytest.raises(UserError, match=r"tensorboard: cannot be written .*leave --tensorboard out"):
        train("fc", tmp_path, "--name", "run", "--resume", "--epochs", 3, "--tensorboard")


def test_a_run_that_is_being_trained_is_left_alone(quick, tmp_path):
    train("fc", tmp_path, "--name", "run")
    leftover = tmp_path / "run" / "partial-1-samples.png"
    leftover.write_bytes(b"half")
    with sole_writer(tmp_path / "run"):
        assert not leftover.exists(), "what a killed process had half written"
        before = contents(tmp_path / "run")
        with pytest.raises(UserError, match=r"run: another process is training this run; .* --name"):
            train("fc", tmp_path, "--name", "run", "--resume", "--epochs", 3)
        assert {path: path.read_bytes() for path in before} == before
    train("fc", tmp_path, "--name", "run", "--resume", "--epochs", 3)


def test_editing_a_constant_is_as_good_as_a_flag(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(vae_fc, "Z", 7)
    monkeypatch.setattr(vae_fc, "HIDDEN", (30,))
    monkeypatch.setattr(vae_fc, "LEARNING_RATE", "2e-3")  # quoted by mistake
    train("fc", tmp_path)
    config = json.loads((tmp_path / "fc_toy-digits_z7" / "config.json").read_text())
    assert config["z"] == 7 and config["hidden"] == [30] and config["learning_rate"] == 2e-3


def test_fewer_images_than_a_batch(quick, tmp_path, capsys, monkeypatch):
    shapes, calls = [], utils.training_calls

    def watched(*arguments):
        for batches, count in calls(*arguments):
            shapes.append(batches.shape)
            yield batches, count

    monkeypatch.setattr(utils, "training_calls", watched)
    metrics = train("fc", tmp_path, "--limit", 3)
    assert np.isfinite(metrics["test_loss"])
    assert "--batch-size 50: lowered to 3" in capsys.readouterr().out
    assert set(shapes) == {(1, 3, 28, 28, 1)}, "a call holds no copies of the images that it does not need"


def test_the_largest_seed(quick, tmp_path):
    assert np.isfinite(train("fc", tmp_path, "--limit", 60, "--seed", 2**31 - 1)["test_loss"])


@pytest.mark.parametrize(("script", "z"), [("fc", 32), ("conv", 64)])
def test_fewer_photographs_than_latents(script, z, quick, tmp_path, capsys):
    metrics = train(script, tmp_path, "--dataset", "toy-faces", "--limit", 3)
    assert np.isfinite(metrics["test_loss"]) and f"--z {z}: holds all that is in" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["fc", "conv"])
def test_a_folder_of_two_images(script, quick, image_folder, tmp_path):
    for path in sorted(image_folder.iterdir())[2:]:
        path.unlink()
    metrics = train(script, tmp_path, "--dataset", image_folder, "--image-size", 32, "--data-dir", tmp_path)
    assert np.isfinite(metrics["test_loss"])


RACE = """
import sys
from pathlib import Path
from vae import run_folder
print(*[run_folder.make_folder(Path(sys.argv[1]), 1) for _ in range(50)], sep="\\n")
"""


def test_runs_of_one_name_begun_at_once_get_a_folder_each(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path / "run")]
    racers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    made = [line for racer in racers for line in racer.communicate()[0].splitlines()]
    assert len(made) == len(set(made)) == 200 == len(list(tmp_path.iterdir()))


@pytest.mark.slow
def test_two_runs_of_one_name_begun_at_once(image_folder, tmp_path):
    flags = ["--dataset", image_folder, "--image-size", 32, "--batch-size", 10, "--z", 2, "--epochs", 2]
    flags += ["--data-dir", tmp_path, "--out", tmp_path / "out", "--name", "run"]
    with python_beside(ROOT / "vae_fc.py", *flags) as one, python_beside(ROOT / "vae_fc.py", *flags) as other:
        assert [process.wait() for process in (one, other)] == [0, 0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run", "run-2"}
    assert same_weights(tmp_path / "out" / "run", tmp_path / "out" / "run-2")


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
            monkeypatch.setattr(utils, "average_rate", lambda *_: 1.0)
        return run_epoch(run, train_call, evaluate_call, epoch)

    monkeypatch.setattr(utils, "run_epoch", run_away)
    with pytest.raises(NonFiniteError, match=r"^sigma became inf in epoch 2; .* holds epoch 1\. Try a smaller"):
        train("fc", tmp_path, "--dataset", "toy-faces", "--name", "run")
    assert len(read(tmp_path / "run")) == 1


# Small checkpoints, and averages that remember: at the default power they would be the newest weights
NARROW = "import sys, vae_fc; vae_fc.HIDDEN = (32, 32, 32); vae_fc.AVERAGE_POWER = 0.5; vae_fc.main(sys.argv[1:])"


def test_killed_run_resumes_to_the_same_weights(image_folder, no_pictures, tmp_path, monkeypatch):
    """kill -9 in the middle of a run of its own; then the rest, against a run never stopped."""
    monkeypatch.setattr(vae_fc, "HIDDEN", (32, 32, 32))
    monkeypatch.setattr(vae_fc, "AVERAGE_POWER", 0.5)
    flags = ["--dataset", image_folder, "--image-size", 32, "--batch-size", 10, "--z", 2, "--data-dir", tmp_path]
    flags += ["--out", tmp_path / "out", "--name"]
    table = tmp_path / "out" / "killed" / "metrics.csv"
    with python_beside("-c", NARROW, *flags, "killed", "--epochs", 5000) as process:
        wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 3, process)
        process.kill()
    done = len(read(table.parent))
    for name, resume in (("killed", ["--resume"]), ("whole", [])):
        vae_fc.main([*map(str, flags), name, "--epochs", str(done + 2), *resume])
    assert read(table.parent) == read(tmp_path / "out" / "whole")
    assert same_weights(table.parent, tmp_path / "out" / "whole")


def test_interrupt_keeps_the_checkpoint(image_folder, tmp_path):
    flags = ["--dataset", image_folder, "--image-size", 32, "--batch-size", 10, "--z", 2, "--data-dir", tmp_path]
    flags += ["--out", tmp_path, "--name", "run", "--epochs", 5000]
    table = tmp_path / "run" / "metrics.csv"
    with python_beside(ROOT / "vae_conv.py", *flags) as process:
        wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 2, process)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "--resume" in error and "Traceback" not in error
    epoch = int(re.search(r"interrupted: epoch (\d+) is kept in", error)[1])
    assert tf.train.latest_checkpoint(tmp_path / "run" / "checkpoint").endswith(f"-{epoch}")
    assert len(read(tmp_path / "run")) >= epoch > 0
    assert "tensorflow" not in (out + error).lower(), "no log of TensorFlow's own"


@pytest.mark.parametrize("way", ["raise", "raise_over_it"])
def test_an_interrupt_that_tensorflow_covers_is_one(way, quick, tmp_path, monkeypatch, capsys):
    """Ctrl-C between a device scope's two lines makes it raise a RuntimeError, about once in a hundred times."""

    def stop(*_):
        try:
            raise KeyboardInterrupt
        finally:
            if way == "raise_over_it":
                raise RuntimeError("Exiting device scope without proper scope nesting")

    train("fc", tmp_path, "--name", "run", "--epochs", 1)
    places = (utils, "train_epoch", ": epoch 1 is kept in "), (tf.train.Checkpoint, "restore", "\n")
    for patched, name, told in places:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(patched, name, stop)
            launch(lambda: train("fc", tmp_path, "--name", "run", "--resume", "--epochs", 2))
        output = capsys.readouterr()
        assert ended.value.code == 130 and output.err.startswith(f"\ninterrupted{told}")
        assert "cannot be read" not in output.out, "no damage is blamed for it"


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_kept_is_that_of_the_program(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):  # as git sets them for its hooks, which may run the tests
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def git(*arguments):
        run_folder.git(tmp_path, *"-c user.name=a -c user.email=a -c commit.gpgsign=false".split(), *arguments)

    program = tmp_path / "vae" / "run_folder.py"
    program.parent.mkdir()
    program.write_text("as published")
    monkeypatch.setattr(run_folder, "__file__", str(program))
    git("init")
    git("commit", "--allow-empty", "-m", "something else")
    assert run_folder.git_commit() is None, "the repository around it is one of something else"
    git("add", program)
    git("commit", "-m", "the program")
    assert re.fullmatch("[0-9a-f]{40}", run_folder.git_commit())
    program.write_text("changed")
    assert re.fullmatch("[0-9a-f]{40}-dirty", run_folder.git_commit())


def test_a_terminal_is_told_what_takes_so_long(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with loading():
        assert capsys.readouterr().out == "loading TensorFlow ..."
    assert capsys.readouterr().out == "\r\x1b[K", "and wiped"


@pytest.mark.parametrize("module", ["numpy", "keras"])
def test_interrupted_while_modules_are_loaded(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    result = run_script("vae_fc.py", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "\ninterrupted\n")


@pytest.mark.parametrize("module", ["numpy", "keras"])
@pytest.mark.parametrize("script", ["vae_conv.py", "evaluate.py"])
def test_a_package_that_is_not_installed_is_one_line_and_exit_2(script, module, tmp_path):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')")
    result = run_script(script, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    line = f"{ROOT / script}: error: No module named {module}; pip install -r requirements.txt\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", line)


def test_closed_streams_are_opened_into_nothing(tmp_path):
    """Otherwise the next file opened has the number of one of them, and what C++ code logs goes into it."""
    program = "import sys; from vae import terminal; terminal.open_closed_streams(); print('out'); print('error', file=sys.stderr); "
    program += f"file = open({str(tmp_path / 'file')!r}, 'w'); assert file.fileno() > 2; file.write('kept')"
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert (tmp_path / "file").read_text() == "kept"
    finished = subprocess.run(
        ["sh", "-c", 'exec "$0" "$1" --dataset nowhere >&-', sys.executable, ROOT / "vae_fc.py"], stderr=-1
    )
    assert finished.returncode == 2 and finished.stderr.count(b"\n") == 1 and b"--dataset nowhere: " in finished.stderr


BAD_FLAGS = {
    "--z": "0", "--epochs": "-1", "--batch-size": "0", "--learning-rate": "nan", "--likelihood": "poisson",
    "--binarize": "yes", "--beta": "-0.1", "--kl-warmup-epochs": "-1",
    "--decay-per-epoch": "1.5", "--seed": "-5", "--limit": "0", "--image-size": "63", "--name": "a/b",
}  # fmt: skip


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_bad_flag_is_refused_by_name(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        vae_fc.main([flag, BAD_FLAGS[flag]])
    assert stop.value.code == 2 and flag in capsys.readouterr().err


ABSURD = ("0", "-1", "-0", "1.5", "nan", "inf", "1e99", "", " ", "x", "/dev/null", "9" * 30, "9" * 400, "1\n2", "\0")
NUMBERS = {"z", "epochs", "batch-size", "learning-rate", "beta", "kl-warmup-epochs", "decay-per-epoch"}
NUMBERS |= {"seed", "limit"}
CHOSEN = {"likelihood", "binarize", "image-size", "strategy", "precision"}
FINE = {
    ("seed", "0"),
    ("seed", "-0"),
    ("learning-rate", "1.5"),
    ("decay-per-epoch", "0"),
    ("decay-per-epoch", "-0"),
} | {(flag, value) for flag in ("beta", "kl-warmup-epochs") for value in ("0", "-0", "1.5")}
FINE |= {
    (flag, "9" * n) for flag in ("epochs", "batch-size", "limit") for n in (30, 400)
}  # more than there is: as much as there is


@pytest.mark.parametrize("flag", sorted(NUMBERS | CHOSEN))
def test_absurd_values_are_refused_by_the_flags_name(flag, capsys):
    for value in ABSURD:
        if (flag, value) in FINE:
            parse_settings("fc", "", vars(vae_fc), [f"--{flag}={value}"])
            continue
        with pytest.raises(SystemExit) as stop:
            parse_settings("fc", "", vars(vae_fc), [f"--{flag}={value}"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"--{flag}" in error and error.count("\n") == 1, (flag, value)


@pytest.mark.parametrize("flag", ["dataset", "data-dir", "out", "name"])
@pytest.mark.parametrize("value", ["", "\0", "/dev/null", "/proc/nothing", "a/../../b", "\n", "x" * 300, "xx/" * 2000])
def test_absurd_paths_are_refused_by_the_flags_name_or_the_path(flag, value, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAE_DATA")
    monkeypatch.setattr(utils, "train", lambda encoder, decoder, data, settings: utils.open_run(settings, data))
    flags = {"epochs": "1", "limit": "5", "out": "out", "data-dir": "data"} | {flag: value}
    code = None
    try:
        launch(lambda: vae_fc.main([f"--{name}={text}" for name, text in flags.items()]))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err.strip()
    if code is None:  # an odd name, but one that a folder can have
        assert (flag, value) in {("data-dir", "\n"), ("out", "\n"), ("data-dir", "a/../../b"), ("out", "a/../../b")}
        return
    assert code == 2 and error.count("\n") == 0
    assert f"--{flag}" in error or (value.strip("\n\0") and value in error)


def test_contradicting_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        vae_fc.main(["--dataset", "cifar10", "--binarize", "dynamic"])
    assert stop.value.code == 2 and "--likelihood bernoulli" in capsys.readouterr().err


BAD_CONSTANTS = [
    *(("LEARNING_RATE", "fast"), ("STEPS_PER_CALL", 0), ("GRADIENT_CLIP", -1.0), ("LOG_STD_BOUND", 100.0)),
    *(("XLA", "no"), ("MIRROR", "False?"), ("TENSORBOARD", 2), ("BY_DATASET", {"mnist": {"Z": 2}})),
    ("BY_DATASET", vae_fc.BY_DATASET | {"toy-digits": {"EPOCH": 3}}),
    *((name, None) for name in "BINARIZE LIKELIHOOD PRECISION BATCH_SIZE SEED BETA OUT WARMUP_STEPS DATASET".split()),
]


@pytest.mark.parametrize(("name", "value"), BAD_CONSTANTS)
def test_bad_constant_is_refused_by_name(name, value, monkeypatch, capsys):
    monkeypatch.setattr(vae_fc, name, value)
    with pytest.raises(SystemExit) as stop:
        vae_fc.main([])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and name in error and error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--data-dir", "--out"])
def test_a_file_in_place_of_a_folder_is_one_line_and_exit_2(flag, quick, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        utils.launch(lambda: vae_fc.main([flag, str(tmp_path / "file")]))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and str(tmp_path / "file") in error


@pytest.mark.parametrize("flag", ["--data-dir", "--out"])
def test_a_folder_that_may_not_be_written_to_is_one_line_and_exit_2(flag, quick, tmp_path, capsys):
    folders = {"--data-dir": tmp_path / "data", "--out": tmp_path / "out"}
    for name, folder in folders.items():
        folder.mkdir()
        folder.chmod(0o555 if name == flag else 0o777)
    flags = itertools.chain.from_iterable(folders.items())
    with modes_heeded(), pytest.raises(SystemExit) as stop:
        utils.launch(lambda: vae_fc.main(list(map(str, flags))))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"error: {folders[flag]}" in error and "Permission denied; check the path and its permissions" in error


@pytest.mark.parametrize("locked", [".", "checkpoint"])
def test_a_run_folder_that_may_not_be_written_to(locked, out, capsys):
    before = contents(out)
    (out / "run" / locked).chmod(0o555)
    flags = f"--epochs 3 --batch-size 50 --name run --resume --out {out}".split()
    with modes_heeded(), pytest.raises(SystemExit) as stop:
        utils.launch(lambda: vae_fc.main(flags))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and str((out / "run" / locked).resolve()) in error, error
    assert "ermission denied" in error and "permissions" in error and "disk space" not in error
    if locked == ".":
        assert contents(out) == before
    (out / "run" / locked).chmod(0o755)
    train("fc", out, "--name", "run", "--resume", "--epochs", 3)


LAUNCHED = {  # what a command does: (its exit code, what it says)
    "raise MemoryError": (2, "error: not enough memory; a run with a smaller --batch-size"),
    "raise OSError(28, 'No space left on device')": (2, "No space left on device; free some disk space"),
    "raise OSError(27, 'File too large')": (2, "File too large; no file may grow so large here (see ulimit -f)"),
    "raise OSError(30, 'Read-only file system', 'data/cache')": (2, "data/cache: Read-only file system; check"),
    "raise terminal.UserError('a name like\\nthis')": (2, r"error: a name like\nthis"),
    "terminal.note('a name \\udcff')": (2, "nobody reads"),
    "raise terminal.NonFiniteError('the KL term became nan')": (3, "error: the KL term became nan"),
    "[terminal.note('x' * 9999) for _ in range(99)]": (2, "error: nobody reads the output any more; run it again"),
    "raise KeyError('a fault of ours')": (1, "Traceback"),
    "try: raise KeyboardInterrupt\n    finally: raise RuntimeError('TensorFlow')": (130, "\ninterrupted\n"),
}


@pytest.mark.parametrize("does", LAUNCHED)
def test_how_a_command_ends(does):
    program = f"import sys; from vae import terminal\ndef main():\n    {does}\nconsole.launch(main)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    plain["PYTHONIOENCODING"] = "utf-8:strict"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=plain, **pipes)
    process.stdout.close()
    error = process.stderr.read()
    code, words = LAUNCHED[does]
    assert process.wait() == code and words in error
    assert code == 1 or len(error.strip().splitlines()) == 1


def test_another_configuration_of_keras_is_not_heeded(tmp_path):
    """Written for other programs, it may ask for another backend, channels first or half precision."""
    asked = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(asked))
    code = "import utils, keras.config as c; print(c.backend(), c.image_data_format(), c.floatx())"
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.stdout.split() == ["tensorflow", "channels_last", "float32"], finished.stderr


def test_import_has_no_effect(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import vae_fc, vae_conv"
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert list(Path(tmp_path).iterdir()) == []
