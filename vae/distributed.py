"""Training on several devices or machines: TensorFlow's strategies, each replica's share of a batch, one run folder.

Every replica has all images, draws the random numbers of the whole batch and trains on its own rows of it. Gradients
are summed before they are clipped. So the result is that of one device, up to the order of summation.
"""

import contextlib
import json
import os
import zlib

import numpy as np
import tensorflow as tf

from vae.resuming import FREE_TO_CHANGE
from vae.terminal import UserError, note, reason

# What TensorFlow raises when another worker is missing; InternalError can also be a fault of this one
LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError)


@contextlib.contextmanager
def on_devices(name):
    """Work under the strategy of that name. UserError if another worker is lost meanwhile."""
    with open_strategy(name).scope():
        try:
            yield
        except LOST_WORKER as error:
            if not is_one_of_several():
                raise
            why = f"a worker is gone, or this one failed ({reason(error)})"
            raise UserError(f"--strategy multiworker: {why}; start all of them again with --resume") from None


def open_strategy(name):
    """Return the tf.distribute.Strategy of that name. TensorFlow must not have done any other work before.

    "one": TensorFlow's default device. "mirrored": all GPUs of this machine, or all logical CPUs if it has none.
    "multiworker": all machines listed in the environment variable TF_CONFIG; the program runs on each of them.
    "auto": multiworker if TF_CONFIG lists workers, else mirrored if there are several GPUs, else one.
    """
    gpus, config = tf.config.list_physical_devices("GPU"), os.environ.get("TF_CONFIG")
    if name == "auto":
        name = "multiworker" if config and lists_workers(config) else "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    check_cluster(config)
    note("waiting for the workers of TF_CONFIG")
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(f"TF_CONFIG: this worker cannot join ({reason(error)}); check its address and port") from None


def lists_workers(text):
    """Whether TF_CONFIG lists any workers: clouds set it on single machines too. True where it cannot be read."""
    try:
        return bool((json.loads(text).get("cluster") or {}).get("worker"))
    except (ValueError, AttributeError, RecursionError):
        return True  # for check_cluster to name


def check_cluster(text):
    """Raise UserError unless TF_CONFIG lists the machines and says which of them this one is."""
    example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text or "")
        cluster, task = config["cluster"], config["task"]
        tf.train.ClusterSpec(cluster).task_address(task["type"], task["index"])
        one_chief = set(cluster) <= {"chief", "worker"} and len(cluster.get("chief", [])) < 2
        if not one_chief or type(task["index"]) is not int:
            raise ValueError("TensorFlow would fail later, without naming TF_CONFIG")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"--strategy multiworker: TF_CONFIG is {text!r}; it has to be like {example}") from None


def is_one_of_several():
    """Whether this process is one worker of several."""
    return tf.distribute.get_strategy().cluster_resolver is not None


def is_chief():
    """Whether this process keeps the run folder. Of several workers, only the first does."""
    return tf.distribute.get_strategy().extended.should_checkpoint


def share_of_batch(size, context):
    """Rows of a batch that this replica trains on, and their weights in the mean over the batch, (n,) each.

    All replicas get the same number of rows. If that is more than the batch has, the surplus rows have weight 0.
    """
    count = -(-size // context.num_replicas_in_sync)
    rows = tf.cast(context.replica_id_in_sync_group, tf.int32) * count + tf.range(count)
    return tf.minimum(rows, size - 1), tf.where(rows < size, 1 / size, 0.0)


def from_chief(values):
    """Return the chief's values of numbers or variables, as arrays. All workers have to call this."""
    strategy = tf.distribute.get_strategy()

    @tf.function
    def broadcast():
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(context.replica_id_in_sync_group, 0)
        own = [tf.convert_to_tensor(value) for value in values]
        return [context.all_reduce("sum", tf.where(is_first, value, tf.zeros_like(value))) for value in own]

    return [strategy.experimental_local_results(value)[0].numpy() for value in strategy.run(broadcast)]


def agree(config):
    """Raise UserError if this worker has other settings or images than the first one; note other software.

    Call it before any variable is created, because the shapes of the variables depend on the settings.
    """
    settings = {name: value for name, value in config.items() if name not in FREE_TO_CHANGE - {"epochs"}}
    software = config["versions"], config["program_sha256"]
    sums = [np.int64(zlib.crc32(json.dumps(part, sort_keys=True).encode())) for part in (settings, software)]
    same_settings, same_software = np.equal(from_chief(sums), sums)
    if not same_settings:
        fault = "this worker's flags or images differ from the first one's"
        raise UserError(f"--strategy multiworker: {fault}; use the same")
    if not same_software:
        note("this worker's packages, or its files of this program, are not the first one's: use the same")


def start_together(rows, variables):
    """Give all workers the chief's variables. Returns the chief's `rows` there, as many empty ones elsewhere."""
    if not is_one_of_several():
        return rows
    done, *values = from_chief([np.int64(len(rows)), *variables])
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return rows if is_chief() else [{}] * int(done)
