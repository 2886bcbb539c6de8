"""What --tensorboard shows: a run's numbers and pictures as TensorFlow's event files, beside the files of every run."""

import contextlib

import numpy as np
import tensorflow as tf
from PIL import Image

from vae.terminal import UserError, reason

SCALAR, BLOBS = 1, 3  # classes of data in TensorBoard's summary.proto


class Board:
    """Writes to a run's folder tensorboard/. Needs no TensorBoard, which is needed to look only.

    tf.summary.scalar and tf.summary.image are TensorBoard's, so their records are made here, for tf.summary.write.
    """

    def __init__(self, folder):
        self.folder = folder / "tensorboard"
        with self._errors():
            self.writer = tf.summary.create_file_writer(str(self.folder))

    def numbers(self, row):
        """A row of metrics.csv, in the groups train, test and run; columns without a number are left out."""
        names = [name for name, value in row.items() if value is not None and name != "epoch"]
        self._write({group(name): np.float32(row[name]) for name in names}, row["epoch"], "scalars", SCALAR)

    def pictures(self, paths, epoch):
        """The PNG files that are there."""
        found = {path.stem: picture_record(path) for path in paths if path.exists()}
        self._write(found, epoch, "images", BLOBS)

    def _write(self, records, epoch, plugin, data_class):
        name = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=name, data_class=data_class)
        with self._errors():
            with self.writer.as_default(step=epoch):
                for tag, record in records.items():
                    tf.summary.write(tag, record, metadata=metadata)
            self.writer.flush()

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except tf.errors.OpError as error:
            way_out = "free some disk space, or leave --tensorboard out"
            raise UserError(f"{self.folder}: cannot be written ({reason(error)}); {way_out}") from None


def group(name):
    """train_loss -> train/loss, seconds -> run/seconds: TensorBoard shows a group side by side."""
    part, _, rest = name.partition("_")
    return f"{part}/{rest}" if part in ("train", "test") else f"run/{name}"


def picture_record(path):
    """An image as TensorBoard keeps it: width, height and the PNG's bytes, as strings."""
    with Image.open(path) as image:
        width, height = image.size
    return tf.constant([str(width), str(height), path.read_bytes()])
