"""Decoding CelebA into the cache, beside bare Pillow on all cores and TensorFlow's own decoder, in turns.

    python tests/benchmarks/decoding.py

Bare Pillow decodes, crops and resizes in as many processes as there are cores, and keeps nothing. tf.data reads,
decodes (decode_jpeg), crops and resizes with antialiasing, and keeps nothing either. Ours lists and checks the files,
decodes, hashes and writes the cache. What counts is the ratio of neighbours.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from faces import write_faces
from PIL import Image

from vae.data import celeba

SIZE = 64


def bare_pillow(path):
    """One face, and nothing kept of it."""
    with Image.open(path) as image:
        np.asarray(image.crop(celeba.FACE).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def ours(data_dir):
    """The whole of what a run does before it trains."""
    shutil.rmtree(data_dir / "cache", ignore_errors=True)
    celeba.load_celeba(data_dir, SIZE, None)


def tensorflow_pipeline(paths):
    """A tf.data pipeline over the files, to be gone through once."""
    import tensorflow as tf  # here, so that Pillow's processes do not load it

    left, top, right, bottom = celeba.FACE

    def decode(path):
        face = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[top:bottom, left:right]
        return tf.image.resize(face, (SIZE, SIZE), tf.image.ResizeMethod.BICUBIC, antialias=True)

    return tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).map(decode, tf.data.AUTOTUNE).batch(512)


def seconds_of(work):
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder, count, repeats):
    """Let all decode in turn; print faces a second of each, and our ratio to it: median, least and greatest."""
    paths = write_faces(folder, count, count)
    print(f"{count:,} faces, {sum(path.stat().st_size for path in paths) / count:,.0f} bytes each on average")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pipeline = tensorflow_pipeline(paths)
        work = {
            "ours": lambda: ours(folder),
            f"Pillow, {cores} processes": lambda: pool.map(bare_pillow, paths, chunksize=64),
            "tf.data": lambda: [batch for batch in pipeline if False],
        }
        turns = [[seconds_of(do) for do in work.values()] for _ in range(repeats + 1)][1:]  # the first reads the disk
    seconds = dict(zip(work, np.transpose(turns), strict=True))
    for who, times in seconds.items():
        ratios = times / seconds["ours"]
        spread = f"  ours is {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) times as fast"
        print(f"  {who:<20} {count / np.median(times):>7,.0f} faces/s" + ("" if who == "ours" else spread))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), arguments.faces, arguments.repeats)
