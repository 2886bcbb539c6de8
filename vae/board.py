"""What --tensorboard writes: a run's numbers and pictures as event files, which TensorBoard shows."""

from pathlib import Path

import tensorflow as tf
from PIL import Image

from vae.run_folder import writing

Summary = tf.compat.v1.Summary


class Board:
    """Writes event files to the folder tensorboard/ of a run.

    tf.summary.scalar and tf.summary.image need the package tensorboard, which TensorFlow does not always install.
    These records are TensorFlow's own protocol buffers, which need no package until somebody looks at them.
    """

    def __init__(self, folder):
        self.folder = folder / "tensorboard"
        with self._writing():
            self.writer = tf.summary.create_file_writer(str(self.folder))

    def numbers(self, row):
        """Write a row of metrics.csv, without the columns that have no number.

        TensorBoard shows the numbers of a group side by side: train_loss is train/loss, seconds is run/seconds.
        """
        values = []
        for name, value in row.items():
            part, _, rest = name.partition("_")
            tag = f"{part}/{rest}" if part in ("train", "test") else f"run/{name}"
            if value is not None and name != "epoch":
                values.append(Summary.Value(tag=tag, simple_value=value))
        self._write(values, row["epoch"])

    def pictures(self, paths, epoch):
        """Write those of the PNG files that exist."""
        values = []
        for path in filter(Path.exists, paths):
            with Image.open(path) as image:
                width, height = image.size
            png = Summary.Image(width=width, height=height, encoded_image_string=path.read_bytes())
            values.append(Summary.Value(tag=path.stem, image=png))
        self._write(values, epoch)

    def _write(self, values, epoch):
        with self._writing(), self.writer.as_default():
            tf.summary.experimental.write_raw_pb(Summary(value=values).SerializeToString(), step=epoch)
            self.writer.flush()

    def _writing(self):
        return writing(self.folder, "or leave --tensorboard out")
