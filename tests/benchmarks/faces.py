"""JPEG files laid out as CelebA's, for the benchmarks: drawn faces of 178 x 218 pixels, about as large as real ones."""

import os

import common  # noqa: F401 (puts the project on the path)
import numpy as np
from PIL import Image

from vae.data import toy

SIZE = 178, 218  # width and height of CelebA's aligned images
DRAWN = 500  # different faces; the others are these with other noise


def write_faces(folder, count, distinct):
    """Write `count` faces into a data folder: the first `distinct` as files, the others as hard links to them.

    folder: a data folder without celeba/. Nine of ten are training images, the others test images. Returns the paths.
    """
    images = folder / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    faces = [Image.fromarray(face).resize(SIZE, Image.Resampling.BICUBIC) for face in toy.draw_faces(DRAWN, 0)[0]]
    rng = np.random.default_rng(0)
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        if number < distinct:
            face = np.asarray(faces[number % DRAWN], np.int16)
            noise = rng.integers(-8, 9, (*face.shape[:2], 1), np.int16)
            Image.fromarray((face + noise).clip(0, 255).astype(np.uint8)).save(images / name, quality=85)
        else:
            os.link(images / names[number % distinct], images / name)
    rows = [f"{name} {2 if number % 10 == 9 else 0}" for number, name in enumerate(names)]
    (images.parent / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    return [images / name for name in names]
