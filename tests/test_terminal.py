"""How a command starts and ends: quietly, with one clear line and an exit code."""

import ast
import json
import os
import subprocess
import sys

import pytest
from conftest import (
    ROOT,
    run_script,
)

from vae import terminal
from vae.startup import loading_packages


def test_a_terminal_is_told_what_takes_so_long(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with loading_packages():
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


def test_an_old_python_is_told_what_is_needed(monkeypatch, capsys):
    """Before anything is imported, by files that it can read up to there."""
    for path in ("vae_fc.py", "vae_conv.py", "evaluate.py", "utils.py", "vae/__init__.py", "vae/startup.py"):
        ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(SystemExit) as stop, loading_packages():
        raise AssertionError("imported")
    assert stop.value.code == 2
    assert "error: Python 3.10 to 3.13 is needed, and this is 3.8; make" in capsys.readouterr().err


def test_a_python_that_is_too_new_for_tensorflow_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit) as stop, loading_packages():
        raise ModuleNotFoundError("No module named 'tensorflow'")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "No module named 'tensorflow'; pip install -r requirements.txt, but" in error
    assert "Python 3.10 to 3.13 is needed, and this is 3.14\n" in error


def test_closed_streams_are_opened_into_nothing(tmp_path):
    """Otherwise the next file opened has the number of one of them, and what C++ code logs goes into it."""
    program = "import sys, startup; startup.open_closed_streams(); print('out'); print('error', file=sys.stderr); "
    program += f"file = open({str(tmp_path / 'file')!r}, 'w'); assert file.fileno() > 2; file.write('kept')"
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program]
    assert subprocess.run(command, cwd=ROOT / "vae").returncode == 0
    assert (tmp_path / "file").read_text() == "kept"
    finished = subprocess.run(
        ["sh", "-c", 'exec "$0" "$1" --dataset nowhere >&-', sys.executable, ROOT / "vae_fc.py"], stderr=-1
    )
    assert finished.returncode == 2 and finished.stderr.count(b"\n") == 1 and b"--dataset nowhere: " in finished.stderr


ENDS = [  # what a command raises, its exit code, and what it says
    (MemoryError(), 2, "error: not enough memory; a run with a smaller --batch-size"),
    (OSError(28, "No space left on device"), 2, "No space left on device; free some disk space"),
    (OSError(27, "File too large"), 2, "File too large; no file may grow so large here (see ulimit -f)"),
    (OSError(30, "Read-only file system", "data/cache"), 2, "data/cache: Read-only file system; check"),
    (terminal.UserError("a name like\nthis"), 2, r"error: a name like\nthis"),
    (terminal.NonFiniteError("the KL term became nan"), 3, "error: the KL term became nan"),
    (KeyboardInterrupt(), 130, "\ninterrupted\n"),
]


@pytest.mark.parametrize(("error", "code", "words"), ENDS)
def test_how_a_command_ends(error, code, words, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        terminal.launch(main)
    shown = capsys.readouterr().err
    assert stop.value.code == code and words in shown and len(shown.strip().splitlines()) == 1


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(KeyError):
        terminal.launch(lambda: {}["a fault of ours"])


def test_an_interrupt_below_another_error_is_one(capsys):
    def main():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("TensorFlow")

    with pytest.raises(SystemExit) as stop:
        terminal.launch(main)
    assert stop.value.code == 130 and capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize("lines", [["a name \udcff"], ["x" * 9999] * 99])
def test_the_output_is_closed_before_the_end(lines, monkeypatch, capsys):
    """As in `python vae_fc.py | head`. The first line cannot be shown as it is, either."""
    reader, writer = os.pipe()
    os.close(reader)
    broken, stdout = os.fdopen(writer, "w", encoding="utf-8", errors="strict"), os.dup(1)
    monkeypatch.setattr(sys, "stdout", broken)
    try:
        with pytest.raises(SystemExit) as stop:
            terminal.launch(lambda: [terminal.note(line) for line in lines])
    finally:
        os.dup2(stdout, 1)  # launch leads it into nothing
        os.dup2(stdout, writer)  # or what the stream still holds could not be written when it is closed
        os.close(stdout)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "error: the output was closed before the end; run it again" in error
    assert len(error.strip().splitlines()) == 1


def test_import_has_no_effect_and_heeds_no_configuration_of_keras(tmp_path):
    """Written for other programs, it may ask for another backend, channels first or half precision."""
    for name in ("keras", "empty"):
        (tmp_path / name).mkdir()
    asked = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(asked))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os, vae_fc, vae_conv, keras.config as c; "
    code += "print(c.backend(), c.image_data_format(), c.floatx(), os.environ.get('KERAS_MAX_EPOCHS'))"
    asked = {"KERAS_HOME": str(tmp_path / "keras"), "KERAS_BACKEND": "jax", "KERAS_MAX_EPOCHS": "1"}
    environment = os.environ | asked
    options = {"cwd": tmp_path / "empty", "env": environment, "capture_output": True, "text": True}
    finished = subprocess.run([sys.executable, "-c", code], **options)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == "tensorflow channels_last float32 None\n"
    assert list((tmp_path / "empty").iterdir()) == []
