"""Run folders: never overwritten, one writer at a time, names, and what config.json says of the program."""

import itertools
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, contents, modes_heeded, python_beside, same_weights, train

import utils
import vae_fc
from vae import run_folder
from vae.run_folder import make_folder, run_numbers, sole_writer
from vae.terminal import UserError


def test_finished_runs_stay(quick, tmp_path):
    train("fc", tmp_path, "--epochs", 1)
    before = contents(tmp_path / "fc_toy-digits_z2")
    train("fc", tmp_path, "--epochs", 1)
    train("fc", tmp_path, "--epochs", 1, "--seed", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"fc_toy-digits_z2{end}" for end in ("", "-2", "-3")]
    assert before == {path: path.read_bytes() for path in before}
    assert same_weights(tmp_path / "fc_toy-digits_z2", tmp_path / "fc_toy-digits_z2-2"), "the same seed, the same run"
    assert not same_weights(tmp_path / "fc_toy-digits_z2", tmp_path / "fc_toy-digits_z2-3")


def test_names_that_end_in_a_number_are_names(tmp_path):
    for name, asked in (("lr-1", "lr-1"), ("trial-2", "trial"), ("trial-3", "trial-3"), ("trial-4", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": asked}))
    (tmp_path / "trial-5").mkdir()
    assert run_numbers(tmp_path / "lr") == []
    assert run_numbers(tmp_path / "trial") == [5, 4, 2]
    assert make_folder(tmp_path / "trial", 3) == tmp_path / "trial-6", "none is taken that is there"


def test_runs_of_one_name_begun_at_once_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: make_folder(tmp_path / "run", 1), range(200)))
    assert len(made) == len(set(made)) == 200 == len(list(tmp_path.iterdir()))


@pytest.mark.slow
def test_two_runs_of_one_name_begun_at_once(image_folder, tmp_path):
    flags = ["--dataset", image_folder, "--image-size", 32, "--batch-size", 10, "--z", 2, "--epochs", 2]
    flags += ["--data-dir", tmp_path, "--out", tmp_path / "out", "--name", "run"]
    with python_beside(ROOT / "vae_fc.py", *flags) as one, python_beside(ROOT / "vae_fc.py", *flags) as other:
        assert [process.wait() for process in (one, other)] == [0, 0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run", "run-2"}
    assert same_weights(tmp_path / "out" / "run", tmp_path / "out" / "run-2")


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


def test_the_program_is_all_of_its_files(tmp_path, monkeypatch):
    sums = [run_folder.program_sha256("fc")]
    for name in ("vae_fc.py", "vae_conv.py", "utils.py", "vae/elbo.py", "vae/data/toy.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(run_folder, "ROOT", tmp_path)
    (tmp_path / "vae" / ".#elbo.py").symlink_to("an editor's lock")
    for name in ("vae_conv.py", "vae_fc.py", "utils.py", "vae/elbo.py", "vae/data/toy.py"):
        (tmp_path / name).write_text("edited")
        sums.append(run_folder.program_sha256("fc"))
    assert len(set(sums)) == 6, "each edit counts, but for one of another script"


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_kept_is_that_of_the_program(tmp_path, monkeypatch):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean["GIT_CONFIG_GLOBAL"] = os.devnull
    for name in ("GIT_DIR", "GIT_INDEX_FILE"):  # as git sets them for its hooks, which may run a training
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))

    def git(*arguments):
        options = "-c user.name=a -c user.email=a -c commit.gpgsign=false".split()
        subprocess.run(["git", "-C", tmp_path, *options, *arguments], check=True, capture_output=True, env=clean)

    program = tmp_path / "vaes" / "utils.py"
    program.parent.mkdir()
    program.write_text("as published")
    monkeypatch.setattr(run_folder, "ROOT", program.parent)
    git("init")
    git("commit", "--allow-empty", "-m", "something else")
    assert run_folder.git_commit() is None, "the repository around it is one of something else"
    git("add", program)
    git("commit", "-m", "the program")
    assert re.fullmatch("[0-9a-f]{40}", run_folder.git_commit())
    program.write_text("changed")
    assert re.fullmatch("[0-9a-f]{40}-dirty", run_folder.git_commit())


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


def test_a_file_in_tensorboards_place(quick, tmp_path):
    train("fc", tmp_path, "--name", "run")
    (tmp_path / "run" / "tensorboard").write_bytes(b"")
    with pytest.raises(UserError, match=r"tensorboard: cannot be written .*leave --tensorboard out"):
        train("fc", tmp_path, "--name", "run", "--resume", "--epochs", 3, "--tensorboard")


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
