"""Several devices or machines give the losses of one; a lost worker ends the run, and --resume completes it.

The devices are logical CPUs, the machines processes on 127.0.0.1.
"""

import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, run_python, wait_for

import utils
import vae_fc
from vae import distributed
from vae.terminal import UserError

ON_LOGICAL_DEVICES = """
import sys
import utils
import tensorflow as tf
cpu, count = tf.config.list_physical_devices("CPU")[0], int(sys.argv[1])
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
import vae_conv, vae_fc
exec(sys.argv[3])
{"fc": vae_fc, "conv": vae_conv}[sys.argv[2]].main(sys.argv[4:])
"""
# In such a short run learning rates would be almost 0, and the average would be the newest weights
SHORT = "; ".join(f"vae_{script}.WARMUP_STEPS = 1; vae_{script}.AVERAGE_POWER = 0.5" for script in ("fc", "conv"))
NARROW = f"{SHORT}; vae_fc.HIDDEN = (32, 32, 32); utils.draw_pictures = lambda run, means: None"
AS_COMMAND = f"import vae_conv, vae_fc, utils; {SHORT}; utils.launch(vae_{{}}.main)"


@pytest.fixture
def flags(image_folder, tmp_path):
    """Flags of a short run: batches of 25 images, which neither two nor three devices divide."""
    small = ["--image-size", 32, "--batch-size", 25, "--z", 3, "--epochs", 3]
    return [*map(str, ["--dataset", image_folder, *small, "--data-dir", tmp_path, "--out", tmp_path / "out"])]


def on_devices(count, script, flags, before=SHORT):
    """Run a script on `count` devices of one process, which executes the code `before` first."""
    command = [sys.executable, "-c", ON_LOGICAL_DEVICES, str(count), script, before, *flags, "--strategy", "mirrored"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=170)


@contextlib.contextmanager
def start_workers(count, script, flags, own=((), (), ())):
    """Start workers as on `count` machines, one process each, and kill them at the end. own: more flags for each."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    workers = []
    for index in range(count):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-c", AS_COMMAND.format(script), *flags, *own[index]]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        workers.append(subprocess.Popen(command, env=os.environ | {"TF_CONFIG": json.dumps(config)}, **streams))
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def run_workers(*arguments):
    """Run workers to their end; returns their exit codes and what they wrote to stderr."""
    with start_workers(*arguments) as workers:
        return finish(workers)


def finish(workers):
    """Wait for workers; returns their exit codes and what they wrote to stderr."""
    errors = [worker.communicate(timeout=170)[1] for worker in workers]
    return [worker.returncode for worker in workers], errors


def losses(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [[float(row[name]) for name in ("train_loss", "test_loss", "sigma")] for row in csv.DictReader(file)]


def check_same(one, other):
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-5)


@pytest.mark.parametrize(("size", "replicas"), [(8, 2), (25, 3), (25, 4), (2, 4), (128, 1)])
def test_shares_of_a_batch_are_the_batch(size, replicas):
    total = np.zeros(size)
    for number in range(replicas):
        context = SimpleNamespace(num_replicas_in_sync=replicas, replica_id_in_sync_group=number)
        rows, weights = distributed.share_of_batch(size, context)
        np.add.at(total, rows.numpy(), weights.numpy())
    np.testing.assert_allclose(total, 1 / size, rtol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        *(None, "", "{", "[]", "{}", '{"cluster": {}}', '{"cluster": {"worker": []}, "task": {"type": "worker"}}'),
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", 5]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": false}}',
    ],
)
def test_a_bad_cluster_is_refused(config):
    with pytest.raises(UserError, match=r"TF_CONFIG is .* has to be like .*\"worker\""):
        distributed.check_cluster(config)


def test_a_bad_cluster_gives_one_line_and_exit_2(flags, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(SystemExit) as stop:
        utils.launch(lambda: vae_fc.main(flags))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "TF_CONFIG" in error


@pytest.mark.parametrize("cluster", [None, {}, {"worker": []}, {"chief": ["a:1"]}])
def test_a_cluster_without_workers_is_one_machine(cluster, flags, monkeypatch):
    """As clouds leave TF_CONFIG in notebooks and on single machines."""
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster} if cluster is not None else {}))
    monkeypatch.setattr(utils, "train", lambda *_: distributed.is_one_of_several())
    assert vae_fc.main(flags) is False


def test_two_devices_give_the_losses_of_one(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "draw_pictures", lambda run, means: None)
    for name, value in (("HIDDEN", (32, 32, 32)), ("WARMUP_STEPS", 1), ("AVERAGE_POWER", 0.5)):
        monkeypatch.setattr(vae_fc, name, value)
    vae_fc.main([*flags, "--name", "one"])
    on_devices(2, "fc", [*flags, "--name", "two"], NARROW)
    check_same(tmp_path / "out" / "one", tmp_path / "out" / "two")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["fc", "conv"])
def test_devices_and_workers_give_the_losses_of_one_device(script, flags, tmp_path):
    run_python("-c", AS_COMMAND.format(script), *flags, "--name", "one", cwd=ROOT, check=True)
    for count in (1, 2, 4):
        on_devices(count, script, [*flags, "--name", f"devices{count}"])
    for count in (1, 2, 3):
        assert set(run_workers(count, script, [*flags, "--name", f"workers{count}"])[0]) == {0}
    runs = {path.name for path in (tmp_path / "out").iterdir()}
    assert runs == {"one", *(f"devices{n}" for n in (1, 2, 4)), *(f"workers{n}" for n in (1, 2, 3))}, "one folder a run"
    for name in runs - {"one"}:
        check_same(tmp_path / "out" / "one", tmp_path / "out" / name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_run_and_resuming_completes_it(lost, flags, tmp_path):
    endless = [*flags, "--name", "lost", "--epochs", "100000"]
    table = tmp_path / "out" / "lost" / "metrics.csv"
    with start_workers(2, "fc", endless) as workers:
        wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 3, workers[0])
        workers[lost].kill()
        codes, errors = finish(workers)
    assert codes[1 - lost] == 2
    assert errors[1 - lost].count("\n") == 1 and "start all of them again with --resume" in errors[1 - lost]
    done = len(losses(table.parent))
    ends = [*flags, "--epochs", str(done + 2)]
    assert run_workers(2, "fc", [*ends, "--name", "lost", "--resume"])[0] == [0, 0]
    run_python("-c", AS_COMMAND.format("fc"), *ends, "--name", "one", cwd=ROOT, check=True)
    check_same(table.parent, tmp_path / "out" / "one")


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--seed", "--z"])
def test_a_worker_with_other_flags_is_refused(flag, flags):
    codes, errors = run_workers(2, "fc", flags, [[flag, "1"], [flag, "2"]])
    assert codes == [2, 2] and any("differ from the first one's" in error for error in errors)
    assert all(error.count("\n") == 1 for error in errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("without", [0, 1])
def test_a_worker_without_the_images_ends_the_others_with_a_line(without, flags):
    own = [["--dataset", "nowhere"] if index == without else [] for index in range(2)]
    check_ends(without, "no folder of that name", *run_workers(2, "fc", flags, own))


@pytest.mark.slow
def test_a_first_worker_that_may_not_resume_ends_the_others_with_a_line(flags):
    run_python("-c", AS_COMMAND.format("fc"), *flags, "--name", "run", cwd=ROOT, check=True)
    other = [*flags, "--name", "run", "--resume", "--learning-rate", "0.5"]
    check_ends(0, " (asked for: 0.5)\n", *run_workers(2, "fc", other))


def check_ends(failing, words, codes, errors):
    """Check that both workers ended with exit code 2: one for its own reason, the other, in one line, because of it."""
    assert codes == [2, 2] and "Traceback" not in "".join(errors), errors
    assert words in errors[failing]
    other = errors[1 - failing]
    assert (
        other.count("\n") == 1 and "a worker is gone" in other and "; start all of them again with --resume\n" in other
    )


@pytest.mark.parametrize("other, line", [("program_sha256", "files of this program"), ("versions", "packages")])
def test_a_worker_with_other_software_gets_a_line(other, line, monkeypatch, capsys):
    config, sums = {"z": 2, "epochs": 1, "versions": {"numpy": "2.0"}, "program_sha256": "a" * 64}, []
    monkeypatch.setattr(distributed, "from_chief", lambda own: sums.append(own) or sums[0])
    distributed.agree(config)
    assert capsys.readouterr().out == ""
    distributed.agree(config | {other: None})
    assert line in capsys.readouterr().out
