"""Dataset: training and test images with their labels, as every reader returns them."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from vae.terminal import UserError


@dataclass(frozen=True)
class Dataset:
    """Images uint8 (N, H, W, C), possibly memory-mapped; labels: classes (N,), 0/1 attributes (N, A), or None.

    names: the file of each image, relative to the folder of the set; () where images share a file.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    label_names: tuple
    sha256: str = ""  # of the training pixels followed by the test pixels
    train_names: tuple = ()
    test_names: tuple = ()

    def __post_init__(self):
        """Raise UserError for other images, such as floats: they would be divided by 255 as well."""
        for images in (self.train, self.test):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
                kind = f"{images.dtype} {list(images.shape)}"
                raise UserError(f"{self.name}: images are {kind}; they have to be uint8 (N, H, W, 1 or 3)")

    @property
    def image_shape(self):
        """(H, W, C)."""
        return tuple(self.train.shape[1:])

    @property
    def attributes(self):
        """Names of the attributes; () if the labels are classes or if there are none."""
        return self.label_names if self.train_labels is not None and self.train_labels.ndim == 2 else ()

    def label_matrix(self, split, wanted=True):
        """Return the labels of "train" or "test" as float32 (N, L): one-hot classes or attributes.

        The matrix is (N, 0) if they are not wanted. Raises UserError if they are wanted and there are none.
        """
        count, labels = len(getattr(self, split)), getattr(self, f"{split}_labels")
        if not wanted:
            return np.zeros((count, 0), np.float32)
        if labels is None:
            raise UserError(f"{self.name}: has no labels, and these networks take them; use a set with labels")
        if labels.ndim == 2:
            return labels.astype(np.float32)
        return np.eye(len(self.label_names), dtype=np.float32)[labels]

    def name_of(self, split, row):
        """What to call an image of "train" or "test": its file, or its number, which counts from 1."""
        names = getattr(self, f"{split}_names")
        return names[row] if names else f"{split} image {row + 1}"

    def first(self, limit):
        """Return the data set with at most the first `limit` training and test images; all of them for None."""
        parts = [split + kind for split in ("train", "test") for kind in ("", "_labels", "_names")]
        return replace(self, **{part: getattr(self, part)[:limit] for part in parts})

    def with_checksum(self):
        """Return the data set with the SHA-256 of its pixels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.train))
        digest.update(np.ascontiguousarray(self.test))
        return replace(self, sha256=digest.hexdigest())
