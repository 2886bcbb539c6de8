"""More than one device or machine: TensorFlow's strategies, each replica's share of a batch, one keeper of the run.

Every replica has all the images, draws the whole batch's random numbers and trains on its own rows of it, and
gradients are summed before they are clipped: what one device computes, in another order of summation.
"""

import contextlib
import json
import os
import zlib

import numpy as np
import tensorflow as tf

from vae.run_folder import FREE_TO_CHANGE
from vae.terminal import UserError, note, reason, tensorflow_reason


@contextlib.contextmanager
def on_devices(name):
    """Work under the strategy of that name; there, a worker that is gone ends the others' with one line."""
    with open_strategy(name).scope(), lost_workers():
        yield


# What TensorFlow raises where another worker is missing; the last one also at faults of this one
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError)


def open_strategy(name):
    """The tf.distribute.Strategy of that name; to be asked for before any other work of TensorFlow's.

    "one": the device that TensorFlow prefers. "mirrored": all GPUs of this machine (all its logical CPUs where there
    is none). "multiworker": all machines of the environment variable TF_CONFIG, on each of which this program runs.
    "auto": the last where there is a TF_CONFIG, mirrored where there are several GPUs, else one.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = "multiworker" if os.environ.get("TF_CONFIG") else "mirrored" if len(gpus) > 1 else "one"
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        return join_cluster(os.environ.get("TF_CONFIG"))
    return tf.distribute.get_strategy()


def join_cluster(config):
    """The strategy of all workers, once they are all there; UserError if this one cannot be one of them."""
    check_cluster(config)
    note("waiting for the workers of TF_CONFIG")
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(f"TF_CONFIG: this worker cannot join ({reason(error)}); check its address and port") from None


def check_cluster(text):
    """UserError unless TF_CONFIG says which machines there are, and which of them this is."""
    example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text or "")
        cluster, index = config["cluster"], config["task"]["index"]
        lists = all(isinstance(addresses, list) for addresses in cluster.values())
        texts = lists and all(isinstance(address, str) for addresses in cluster.values() for address in addresses)
        one_chief = set(cluster) <= {"chief", "worker"} and len(cluster.get("chief", [])) < 2
        if not (texts and one_chief and type(index) is int and 0 <= index < len(cluster[config["task"]["type"]])):
            raise ValueError("no such task")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"--strategy multiworker: TF_CONFIG is {text!r}; it has to be like {example}") from None


def is_one_of_several():
    """Whether this is one worker of several, each a process of its own."""
    return tf.distribute.get_strategy().cluster_resolver is not None


def is_chief():
    """Whether this process keeps the run folder: of several machines, the first alone."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    cluster = resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or ("chief" not in cluster and resolver.task_id == 0)


def share_of_batch(size, context):
    """Rows of a batch of `size` for this replica, as many for each, and their weights in the batch's mean.

    Where replicas do not divide the batch, rows too many count 0.
    """
    count = -(-size // context.num_replicas_in_sync)
    rows = tf.cast(context.replica_id_in_sync_group, tf.int32) * count + tf.range(count)
    return tf.minimum(rows, size - 1), tf.where(rows < size, 1 / size, 0.0)


def from_chief(values):
    """Numbers or variables as the chief has them, a list of arrays; all workers have to ask for them."""
    strategy = tf.distribute.get_strategy()

    @tf.function
    def shared():
        context = tf.distribute.get_replica_context()
        first = tf.equal(context.replica_id_in_sync_group, 0)
        own = [tf.convert_to_tensor(value) for value in values]
        return [context.all_reduce("sum", tf.where(first, value, tf.zeros_like(value))) for value in own]

    return [strategy.experimental_local_results(value)[0].numpy() for value in strategy.run(shared)]


def agree(config):
    """UserError where this worker was started with other settings or images than the first one.

    Other packages or another form of this program get a line. Before any variable is made: their shapes may differ.
    """
    software = {name: config[name] for name in ("versions", "program_sha256")}
    settings = {name: value for name, value in config.items() if name not in FREE_TO_CHANGE - {"epochs"}}
    own = [np.int64(zlib.crc32(json.dumps(part, sort_keys=True).encode())) for part in (settings, software)]
    same_settings, same_software = (one == other for one, other in zip(from_chief(own), own, strict=True))
    if not same_settings:
        raise UserError(
            "--strategy multiworker: this worker's flags or images differ from the first one's; use the same"
        )
    if not same_software:
        note("this worker's packages, or its files of this program, are not the first one's: use the same")


def start_together(rows, variables):
    """Give every worker the variables of the one that keeps the run folder; returns `rows`, blank ones elsewhere."""
    if not is_one_of_several():
        return rows
    done, *values = from_chief([np.int64(len(rows)), *variables])
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return rows if is_chief() else [{}] * int(done)


@contextlib.contextmanager
def lost_workers():
    """A worker that is gone ends the run with one line."""
    try:
        yield
    except LOST as error:
        if not is_one_of_several():
            raise
        own = isinstance(error, tf.errors.InternalError)
        why = f"a worker is gone, or this one failed ({tensorflow_reason(error)})" if own else "a worker is gone"
        raise UserError(f"--strategy multiworker: {why}; start all of them again with --resume") from None
