"""What --tensorboard writes: a run's numbers and pictures as event files, which TensorBoard shows."""

import contextlib

import tensorflow as tf
from PIL import Image

from vae.terminal import UserError, tensorflow_reason

Summary = tf.compat.v1.Summary


class Board:
    """Writes event files to the folder tensorboard/ of a run.

    tf.summary.scalar and tf.summary.image need the package tensorboard, which TensorFlow does not always install.
    These records are TensorFlow's own protocol buffers, which need no package until somebody looks at them.
    """

    def __init__(self, folder):
        self.folder = folder / "tensorboard"
        with self._clear_errors():
            self.writer = tf.summary.create_file_writer(str(self.folder))

    def numbers(self, row):
        """Write a row of metrics.csv, without the columns that have no number."""
        numbers = {group(name): value for name, value in row.items() if value is not None and name != "epoch"}
        self._write([Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()], row["epoch"])

    def pictures(self, paths, epoch):
        """Write those of the PNG files that exist."""
        self._write([Summary.Value(tag=path.stem, image=png(path)) for path in paths if path.exists()], epoch)

    def _write(self, values, epoch):
        with self._clear_errors(), self.writer.as_default():
            tf.summary.experimental.write_raw_pb(Summary(value=values).SerializeToString(), step=epoch)
            self.writer.flush()

    @contextlib.contextmanager
    def _clear_errors(self):
        try:
            yield
        except tf.errors.OpError as error:
            fix = "free some disk space, or leave --tensorboard out"
            raise UserError(f"{self.folder}: cannot be written ({tensorflow_reason(error)}); {fix}") from None


def group(name):
    """train_loss -> train/loss, seconds -> run/seconds: TensorBoard shows the numbers of a group side by side."""
    part, _, rest = name.partition("_")
    return f"{part}/{rest}" if part in ("train", "test") else f"run/{name}"


def png(path):
    """A PNG file as TensorBoard's image."""
    with Image.open(path) as image:
        width, height = image.size
    return Summary.Image(width=width, height=height, encoded_image_string=path.read_bytes())
