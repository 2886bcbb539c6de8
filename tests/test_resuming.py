"""Runs that stop and continue: bit for bit, after kills, Ctrl-C and damage, and only under the same settings."""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    ROOT,
    SCRIPTS,
    contents,
    modes_heeded,
    networks,
    python_beside,
    read,
    same_weights,
    step_by_step,
    train,
    wait_for,
)
from PIL import Image, ImageSequence
from test_damage import mutated

import utils
import vae_conv
import vae_fc
from vae import pictures, resuming, run_folder, steps
from vae.precision import lacks_instructions
from vae.run_folder import replace_with, run_numbers
from vae.terminal import UserError, launch

RANDOM_DAMAGES = 150


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
    assert same_film(tmp_path / "parts", tmp_path / "whole")


def same_film(one, other):
    return (one / "training.gif").read_bytes() == (other / "training.gif").read_bytes()


def test_a_run_in_bfloat16_resumes_exactly_and_saves_float32(
    image_folder, small_sets, no_pictures, tmp_path, monkeypatch, capsys
):
    """Compiled, with the linear path and the U-net."""
    small = ("--image-size", 32, "--batch-size", 18, "--z", 4, "--data-dir", tmp_path)
    flags = ("--dataset", image_folder, *small, "--learning-rate", 2e-3, "--precision", "bf16")
    monkeypatch.setattr(vae_conv, "AVERAGE_POWER", 0.5)
    monkeypatch.setattr(vae_conv, "WARMUP_STEPS", 0)
    train("conv", tmp_path, *flags, "--name", "parts", "--epochs", 1)
    assert ("--precision bf16: slow here" in capsys.readouterr().out) == (lacks_instructions() and not steps.GPUS)
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
    assert same_film(table.parent, tmp_path / "out" / "whole")


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


def test_what_a_run_was_trained_with_stays_in_its_config(quick, tmp_path, monkeypatch, capsys):
    """By the epoch from which on it was; a line says so wherever a run goes on with another form of the program."""
    told = []
    for epochs, program in ((2, "a"), (3, "a"), (3, "b"), (4, "b"), (5, "b"), (6, "a")):
        monkeypatch.setattr(run_folder, "program_sha256", lambda _, program=program: program)
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
    build = steps.build_train_call

    def stopped(*_):
        raise KeyboardInterrupt

    for epochs, program, train_call in ((1, "a", stopped), (1, "b", stopped), (1, "c", build), (2, "d", stopped)):
        monkeypatch.setattr(run_folder, "program_sha256", lambda _, program=program: program)
        monkeypatch.setattr(steps, "build_train_call", train_call)
        with contextlib.suppress(KeyboardInterrupt):
            train("fc", tmp_path, "--resume", "--epochs", epochs)
        assert ("was trained before this program was edited" in capsys.readouterr().out) == (program == "d")
    monkeypatch.setattr(steps, "build_train_call", build)
    monkeypatch.setattr(run_folder, "program_sha256", lambda _: "c")
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


def test_resume_refuses_another_setting_and_changes_nothing(out):
    before = (out / "run" / "config.json").read_bytes()
    rate, given = vae_fc.LEARNING_RATE["digits"], (("--learning-rate", "0.5"), ("--epochs", 1))
    for flags, words in zip(given, (f"learning_rate {rate} (asked for: 0.5)", "epochs 2 (asked for: 1)"), strict=True):
        assert refused(out, "--name", "run", *flags) == [f"{out / 'run'}  epoch 2 of 2, {words}"]
    assert (out / "run" / "config.json").read_bytes() == before


def refused(out, *flags):
    """The runs that --resume lists where it refuses."""
    with pytest.raises(UserError, match=r"there is no run of these settings; .* leave out --resume") as stop:
        train("fc", out, "--resume", *flags)
    return stop.value.listed


def add_run(out, name, **settings):
    """A copy of the folder's run with other settings in its config.json; its name is that of its folder."""
    folder = shutil.copytree(out / "run", out / name)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": None} | settings))
    return folder


def test_resume_with_other_settings_lists_the_runs_and_what_differs_in_each(out, capsys):
    """Those of the script and the data set, also of other names. The one in which least differs comes first."""
    runs = {
        "fc_toy-digits_z2": {"seed": 1, "epochs": 9},
        "fc_toy-digits_z2-2": {"beta": 0.5, "limit": 10},
        "z5": {"z": 5},
    }
    for number, (name, settings) in enumerate(runs.items()):
        os.utime(add_run(out, name, **settings) / "config.json", times=(0, 3e9 + number))
    add_run(out, "conv", script="conv")
    add_run(out, "faces", dataset="toy-faces", pixels_sha256="")
    before = contents(out)
    with pytest.raises(SystemExit) as stop:
        launch(lambda: train("fc", out, "--resume", "--kl-warmup-epochs", 1))
    error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "--resume: there is no run of these settings; " in error[0]
    warm = "kl_warmup_epochs 0.0 (asked for: 1.0)"
    listed = {
        "run": f"epoch 2 of 2, {warm}",
        "z5": f"epoch 2 of 2, {warm}, z 5 (asked for: 2)",
        "fc_toy-digits_z2": f"epoch 2 of 9, {warm}, seed 1 (asked for: 0)",
        "fc_toy-digits_z2-2": f"epoch 2 of 2, beta 0.5 (asked for: 1.0), {warm}, limit 10 (asked for: none)",
    }
    width = len(str(out / "fc_toy-digits_z2-2"))
    assert error[1:] == [f"  {out / name!s:{width}}  {text}" for name, text in listed.items()]
    assert contents(out) == before


def test_resume_finds_a_run_of_another_name(out):
    for number in range(12):
        add_run(out, f"other{number}", z=3)
    listed = refused(out)
    assert listed[0].startswith(f"{out / 'run'} ") and len(listed) == resuming.MOST_LISTED
    assert listed[0].endswith("  epoch 2 of 2, these settings: --name run resumes it")


def test_a_finished_run_with_nothing_to_train_says_so(out, capsys):
    train("fc", out, "--name", "run", "--resume")
    shown = capsys.readouterr().out
    assert "all 2 epochs were trained already (--epochs 4 makes the run longer): test loss" in shown
    assert "trained in" not in shown


def test_a_run_that_does_not_say_what_differs_from_the_defaults_resumes(out):
    path = out / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["changes"]
    path.write_text(json.dumps(config))
    train("fc", out, "--name", "run", "--resume", "--epochs", 3)
    assert json.loads(path.read_text())["changes"]["epochs"] == 3


def test_resume_names_a_setting_that_earlier_versions_had_not(out):
    path = out / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["precision"]
    path.write_text(json.dumps(config))
    assert refused(out, "--name", "run") == [f"{out / 'run'}  epoch 2 of 2, begun by a version without precision"]


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
        assert re.search(r"ckpt-2: cannot be read .*; continuing from the one before", capsys.readouterr().out)
        assert same_weights(out / "run", out / "whole") and read(out / "run") == read(out / "whole")


def test_a_lost_or_damaged_frame_costs_only_itself(out):
    shutil.copytree(out / "run", out / "whole")
    frames = out / "run" / "checkpoint" / "film"
    (frames / "0.png").unlink()
    (frames / "1.png").write_bytes((frames / "1.png").read_bytes()[:-100])
    Image.new("RGB", (5, 5)).save(frames / "2.png")
    for name in ("whole", "run"):
        train("fc", out, "--name", name, "--resume", "--epochs", 4)
    shown, whole = (
        [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(Image.open(out / name / "training.gif"))]
        for name in ("run", "whole")
    )
    assert len(whole) == 5 and shown == whole[3:]
    shutil.rmtree(frames)
    train("fc", out, "--name", "run", "--resume", "--epochs", 4)


@pytest.mark.parametrize("name", ["config.json", "metrics.csv"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"\0" * 9, b'"' * 300_000])
def test_a_run_folder_full_of_garbage(name, content, out):
    (out / "run" / name).write_bytes(content)
    with pytest.raises(UserError) as stop:
        train("fc", out, "--name", "run", "--resume", "--epochs", 3)
    assert str(out / "run" / name) in f"{stop.value}{stop.value.listed}"


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
    """python -m pytest -m slow -n 0 tests/test_resuming.py prints its counts."""
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
            said = [str(error), *error.listed]
            assert str(run) in said[-1] and len(str(error).splitlines()) == 1 and contents(run) == before
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

    monkeypatch.setattr(run_folder, "replace_with", stop)
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
    assert f"{tmp_path / 'run-2'} is left alone: seed 1 (asked for: 0)\n" in capsys.readouterr().out
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
    assert f"{tmp_path / 'run-2'} is left alone: seed 1 (asked for: 0)\n" in out
    assert f"{tmp_path / 'run-3'} is left alone: {tmp_path / 'run-3' / 'config.json'}: not JSON" in out
    assert [len(read(tmp_path / name)) for name in ("run", "run-2")] == [3, 2]
    for name in ("run", "run-2"):
        (tmp_path / name / "config.json").write_text("")
    with pytest.raises(UserError) as stop:
        train("fc", tmp_path, *flags, "--epochs", 3, "--resume")
    assert len(stop.value.listed) == 3 and all("config.json: not JSON" in line for line in stop.value.listed)


def test_a_run_that_cannot_be_read_is_left_alone(quick, tmp_path, capsys):
    flags = ("--name", "run", "--limit", 100)
    train("fc", tmp_path, *flags)
    train("fc", tmp_path, *flags)
    table = tmp_path / "run-2" / "metrics.csv"
    table.chmod(0)
    capsys.readouterr()
    with modes_heeded():
        train("fc", tmp_path, *flags, "--epochs", 3, "--resume")
    assert f"{tmp_path / 'run-2'} is left alone: {table}: cannot be read (Permission denied)" in capsys.readouterr().out
    table.chmod(0o644)
    assert [len(read(tmp_path / name)) for name in ("run", "run-2")] == [3, 2]


def test_a_folder_that_is_no_run_is_not_resumed(quick, tmp_path):
    """Nor one whose config.json is lost: with what settings its epochs were trained nobody knows."""
    (tmp_path / "run").mkdir()
    for name in ("samples.png", "partial-mine"):
        (tmp_path / "run" / name).write_text("mine")
    before = contents(tmp_path)
    assert refused(tmp_path, "--name", "run") == [f"{tmp_path / 'run'}  it has no config.json"]
    assert contents(tmp_path) == before


def test_a_clock_that_was_set_back_costs_nothing(quick, tmp_path, monkeypatch):
    train("fc", tmp_path, "--name", "whole", "--limit", 100, "--epochs", 3)
    train("fc", tmp_path, "--name", "run", "--limit", 100)
    day_before = time.time() - 86_400
    monkeypatch.setattr(time, "time", lambda: day_before)
    train("fc", tmp_path, "--name", "run", "--limit", 100, "--epochs", 3, "--resume")
    assert same_weights(tmp_path / "run", tmp_path / "whole")


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
