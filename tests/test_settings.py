"""Constants and flags: what they may be, and one clear line for what they may not be."""

import json
import re
import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from conftest import train

import evaluate
import utils
import vae_conv
import vae_fc
from vae import resuming
from vae.settings import CONSTANTS, parse_settings
from vae.terminal import launch


def test_editing_a_constant_is_as_good_as_a_flag(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(vae_fc, "Z", 7)
    monkeypatch.setattr(vae_fc, "HIDDEN", (30,))
    monkeypatch.setattr(vae_fc, "LEARNING_RATE", "2e-3")  # quoted by mistake
    train("fc", tmp_path)
    config = json.loads((tmp_path / "fc_toy-digits_z7" / "config.json").read_text())
    assert config["z"] == 7 and config["hidden"] == [30] and config["learning_rate"] == 2e-3


def test_the_caller_s_settings_stay(quick, tmp_path):
    """A script that trains twice from one Settings gets two like runs."""
    flags = ["--dataset", "toy-digits", "--batch-size", "100000", "--epochs", "1", "--out", str(tmp_path)]
    settings = parse_settings(vars(vae_fc), flags)
    before = settings.to_config()
    data = utils.load_dataset(settings.dataset, settings.data_dir, settings.image_size, settings.limit)
    networks = [build(data.image_shape, settings.z, False) for build in (vae_fc.build_encoder, vae_fc.build_decoder)]
    utils.train(*networks, data, settings)
    assert settings.to_config() == before
    with pytest.raises(FrozenInstanceError):
        settings.z = 5


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
            parse_settings(vars(vae_fc), [f"--{flag}={value}"])
            continue
        with pytest.raises(SystemExit) as stop:
            parse_settings(vars(vae_fc), [f"--{flag}={value}"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"--{flag}" in error and error.count("\n") == 1, (flag, value)


@pytest.mark.parametrize("flag", ["dataset", "data-dir", "out", "name"])
@pytest.mark.parametrize("value", ["", "\0", "/dev/null", "/proc/nothing", "a/../../b", "\n", "x" * 300, "xx/" * 2000])
def test_absurd_paths_are_refused_by_the_flags_name_or_the_path(flag, value, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAE_DATA")
    monkeypatch.setattr(utils, "train", lambda encoder, decoder, data, settings: resuming.open_run(settings, data))
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


MISTYPED = {  # flag: what was meant; spelt as the script's others, by other programs, or almost
    **{"--lr": "--learning-rate", "--epoch": "--epochs", "--latent-dim": "--z", "--batchsize": "--batch-size"},
    **{"--batch_size": "--batch-size", "--beta1": "--beta", "-z": "--z", "--weight-decay": "--decay-per-epoch"},
    **{"--EPOCHS": "--epochs", "epochs=5": "--epochs", "mnist": "--dataset mnist"},
}


@pytest.mark.parametrize("flag", MISTYPED)
def test_a_mistyped_flag_gets_the_right_one(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        vae_fc.main([flag, "5"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.endswith(f"did you mean {MISTYPED[flag]}?\n") and error.count("\n") == 1


def test_a_mistyped_flag_of_evaluate_gets_a_flag_of_evaluate(capsys):
    for flag, words in (("--nll-sample", "; did you mean --nll-samples?"), ("--lr", "no such flag; see --help")):
        with pytest.raises(SystemExit) as stop:
            evaluate.main(["run", flag, "5"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"{flag}: " in error and words in error


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_help_shows_every_default_and_everyday_flags_first(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        script.main(["--help"])
    listed = capsys.readouterr().out.split("\neveryday:\n")[1]
    flags = re.findall(r"(?m)^  (--[\w-]+)", listed)
    assert flags[:4] == ["--dataset", "--z", "--epochs", "--resume"]
    assert all("(default: " in " ".join(text.split()) for text in re.split(r"(?m)^  --", listed)[1:])
    assert max(map(len, listed.splitlines())) <= 80


def test_contradicting_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        vae_fc.main(["--dataset", "cifar10", "--binarize", "dynamic"])
    assert stop.value.code == 2 and "--likelihood bernoulli" in capsys.readouterr().err


BAD_CONSTANTS = [
    *(("LEARNING_RATE", "fast"), ("STEPS_PER_CALL", 0), ("GRADIENT_CLIP", -1.0), ("LOG_STD_BOUND", 100.0)),
    *(("XLA", "no"), ("MIRROR", "False?"), ("TENSORBOARD", 2), ("Z", {"mnist": 2}), ("Z", {"mnits": 2, "digits": 3})),
    *(("EPOCHS", {"toy-digits": 0}), ("EPOCHS", {"digits": 3, "celeba": "many"}), ("EPOCHS", {"digits": None})),
    *(("HIDDEN", 256), ("HIDDEN", (256, -1)), ("HIDDEN", (0.5,)), ("HIDDEN", {"mnist": (5,)}), ("ACTIVATION", "silly")),
    *(("ACTIVATION", 3), ("K", {1, 2}), ("K", print)),
    *((name, None) for name in "BINARIZE LIKELIHOOD PRECISION BATCH_SIZE SEED BETA OUT WARMUP_STEPS DATASET".split()),
]


@pytest.mark.parametrize(("name", "value"), BAD_CONSTANTS)
def test_bad_constant_is_refused_by_name(name, value, monkeypatch, capsys):
    monkeypatch.setattr(vae_fc, name, value, raising=False)
    with pytest.raises(SystemExit) as stop:
        vae_fc.main([])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and name in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["z", "Epochs", "hidden"])
def test_a_constant_in_small_letters_is_not_ignored(name, monkeypatch, capsys):
    monkeypatch.setattr(vae_fc, name, 10, raising=False)
    with pytest.raises(SystemExit) as stop:
        vae_fc.main([])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"{name}: constants are written in capitals, {name.upper()}" in error
    assert error.count("\n") == 1


def test_a_missing_constant_is_named(monkeypatch, capsys):
    monkeypatch.delattr(vae_fc, "GRADIENT_CLIP")
    with pytest.raises(SystemExit) as stop:
        vae_fc.main([])
    assert stop.value.code == 2 and "GRADIENT_CLIP: is missing" in capsys.readouterr().err


def z_of(constant, dataset, monkeypatch):
    monkeypatch.setattr(vae_fc, "Z", constant)
    return parse_settings(vars(vae_fc), ["--dataset", str(dataset)]).z


def test_a_constant_is_one_value_or_a_dict_by_data_set_or_kind(tmp_path, monkeypatch):
    digits = tmp_path / "mine"
    digits.mkdir()
    (digits / "train-images-idx3-ubyte").write_bytes(b"")
    assert [z_of(7, name, monkeypatch) for name in ("mnist", "celeba", tmp_path)] == [7, 7, 7]
    constant = {"digits": 1, "mnist": 2, "photographs": 3, "folder": 4, "cifar10": 5}
    names = ("toy-digits", "mnist", digits, "toy-faces", "cifar10", "cifar10-grey", "celeba", tmp_path)
    assert [z_of(constant, name, monkeypatch) for name in names] == [1, 2, 1, 3, 5, 3, 3, 4]
    assert parse_settings(vars(vae_fc), ["--z", "9"]).z == 9, "a flag beats both"


def test_the_same_constant_has_the_same_form_in_both_scripts():
    """A value in one and a dict in the other would have to be looked up twice."""
    for name in CONSTANTS:
        one, other = (getattr(script, name.upper()) for script in (vae_fc, vae_conv))
        assert isinstance(one, dict) == isinstance(other, dict), name


def test_a_script_s_own_constants_go_into_its_config(monkeypatch):
    monkeypatch.setattr(vae_fc, "K", 5, raising=False)
    settings = parse_settings(vars(vae_fc), [])
    assert settings.networks["k"] == 5 and settings.to_config()["k"] == 5


def test_a_run_is_named_after_its_script():
    constants = vars(vae_fc) | {"__file__": "elsewhere/vae_mine.py"}
    assert parse_settings(constants, []).script == "mine"


def test_the_environment_names_the_data_folder_and_a_flag_beats_it(monkeypatch):
    monkeypatch.setenv("VAE_DATA", "elsewhere")
    assert parse_settings(vars(vae_fc), []).data_dir == "elsewhere"
    assert parse_settings(vars(vae_fc), ["--data-dir", "here"]).data_dir == "here"
    monkeypatch.delenv("VAE_DATA")
    assert parse_settings(vars(vae_fc), []).data_dir == vae_fc.DATA_DIR


# What differs from the defaults ---------------------------------------------------------------------------------


def changes_of(constants, *flags):
    return parse_settings(constants, ["--dataset", "mnist", *flags]).to_config()["changes"]


@pytest.fixture
def committed(tmp_path):
    """The constants of vae_fc.py as a script that git knows."""
    path = tmp_path / "vae_mine.py"
    path.write_text(Path(vae_fc.__file__).read_text())
    for command in ("init", "add vae_mine.py", "-c user.name=me -c user.email=me@here commit -m mine"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    return vars(vae_fc) | {"__file__": str(path)}


def test_changes_are_flags_and_edited_constants_other_than_the_defaults(committed):
    assert changes_of(committed, "--name", "run", "--out", "here", "--data-dir", "there") == {}
    usual = str(vae_fc.EPOCHS["digits"])
    assert changes_of(committed, "--epochs", usual, "--z", "3", "--limit", "9") == {"z": 3, "limit": 9}
    edited = committed | {"BETA": 0.5, "EPOCHS": {"mnist": 3, "digits": 4}, "HIDDEN": (32,), "K": 7}
    assert changes_of(edited) == {"beta": 0.5, "epochs": 3, "hidden": (32,), "k": 7}
    assert changes_of(edited, "--epochs", usual, "--beta", "1") == {"hidden": (32,), "k": 7}


def test_without_git_the_constants_are_the_defaults(committed, tmp_path):
    unknown = committed | {"__file__": str(tmp_path / "vae_other.py"), "BETA": 0.5}
    assert changes_of(unknown) == {} and changes_of(unknown, "--beta", "1") == {"beta": 1.0}


def test_a_run_says_and_keeps_what_differs_from_the_defaults(quick, tmp_path, capsys):
    train("fc", tmp_path, "--seed", 3, "--name", "run")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("changed: "))
    assert "seed = 3 (0)" in line and "hidden = 32 (500-500-500)" in line and "limit" not in line
    changes = json.loads((tmp_path / "run" / "config.json").read_text())["changes"]
    assert changes.items() >= {"epochs": 2, "batch_size": 50, "seed": 3, "hidden": [32]}.items()
