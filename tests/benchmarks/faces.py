"""JPEG files as CelebA ships them, for the benchmarks: drawn faces of 178 x 218 pixels, as large as real ones."""

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vae.data import toy
from vae.data.celeba import ALIGNED

DRAWN = 500  # different faces; the others are the same with grain of their own


def write_faces(folder, count, distinct):
    """Lay out `count` faces as CelebA does, the first `distinct` as files, the others as hard links to those.

    folder: a data folder, where celeba/ does not exist yet. Nine of ten are training images, the others test images.
    """
    images = folder / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    faces = [Image.fromarray(face).resize(ALIGNED, Image.Resampling.BICUBIC) for face in toy.draw_faces(DRAWN, 0)[0]]
    rng = np.random.default_rng(0)
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        if number < distinct:
            face = np.asarray(faces[number % DRAWN], np.int16)
            grain = rng.integers(-8, 9, (*face.shape[:2], 1), np.int16)
            Image.fromarray((face + grain).clip(0, 255).astype(np.uint8)).save(images / name, quality=85)
        else:
            os.link(images / names[number % distinct], images / name)
    rows = [f"{name} {2 if number % 10 == 9 else 0}" for number, name in enumerate(names)]
    (images.parent / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    return [images / name for name in names]
