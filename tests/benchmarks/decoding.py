"""Faces a second that are decoded into the cache, beside Pillow alone on all cores and beside TensorFlow's decoder.

    python tests/benchmarks/decoding.py

Ours lists and checks the files, decodes, crops, resizes, hashes and writes the cache. Pillow (in one process per core)
and tf.data only read, decode, crop and resize. All take turns; what counts is the ratio within a turn.
"""

import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from common import argument_parser, seconds_of, spread, tf
from faces import write_faces
from PIL import Image

from utils import load_dataset

SIDE = 64
CROP = 15, 35, 163, 183  # left, top, right and bottom of the central 148 x 148 pixels


def decode_with_pillow(path):
    """Decode one face and drop it."""
    with Image.open(path) as image:
        np.asarray(image.crop(CROP).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def decode_into_cache(data_dir):
    """What a run does before it trains."""
    shutil.rmtree(data_dir / "cache", ignore_errors=True)
    load_dataset("celeba", data_dir, SIDE)


def tensorflow_pipeline(paths):
    """A tf.data pipeline that decodes the files."""
    left, top, right, bottom = CROP

    def decode(path):
        face = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[top:bottom, left:right]
        return tf.image.resize(face, (SIDE, SIDE), tf.image.ResizeMethod.BICUBIC, antialias=True)

    return tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).map(decode, tf.data.AUTOTUNE).batch(512)


def measure(folder, count, repeats):
    """Let all decode in turns; print faces a second of each, and how many times as fast ours is."""
    paths = write_faces(folder, count, count)
    print(f"{count:,} faces, {sum(path.stat().st_size for path in paths) / count:,.0f} bytes each on average")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pipeline = tensorflow_pipeline(paths)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        work = {
            "ours": lambda: decode_into_cache(folder),
            f"Pillow, {cores} processes": lambda: pool.map(decode_with_pillow, paths, chunksize=64),
            "tf.data": lambda: [batch for batch in pipeline if False],
        }
        turns = [[seconds_of(task) for task in work.values()] for _ in range(repeats + 1)][1:]  # the first fills caches
    seconds = dict(zip(work, np.transpose(turns), strict=True))
    for name, times in seconds.items():
        ratio = "" if name == "ours" else f"  ours is {spread(times / seconds['ours'])} times as fast"
        print(f"  {name:<20} {count / np.median(times):>7,.0f} faces/s{ratio}")


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("--faces", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), arguments.faces, arguments.repeats)
