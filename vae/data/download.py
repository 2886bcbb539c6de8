"""Published files: downloaded with keras.utils.get_file, verified, and put in place only when they are complete."""

import contextlib
import errno
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from keras.utils import get_file

from vae.data.cache import checksum, partial_folder
from vae.terminal import UserError, clear_line, name_file, note, one_line, reason

TIMEOUT_SECONDS = 30  # of silence, after which a server counts as stalled
NETWORK_ERRORS = URLError, ConnectionError, TimeoutError, ssl.SSLError  # among OSErrors, which disks raise as well
LOST_ROUTES = errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH  # in OSErrors of no kind of their own


@dataclass(frozen=True)
class Published:
    """URLs of a file, best mirror first, and its hex digest by `algorithm`, md5 or sha256."""

    urls: tuple[str, ...]
    algorithm: str
    checksum: str


MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
PUBLISHED = {
    **{name: Published(tuple(url + name for url in MNIST_MIRRORS), "md5", md5) for name, md5 in MNIST_MD5.items()},
    "cifar-10-binary.tar.gz": Published(
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        "sha256",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "img_align_celeba.zip": Published(  # the original archive under another name
        ("https://s3-us-west-1.amazonaws.com/udacity-dlnfd/datasets/celeba.zip",),
        "md5",
        "00d2c5bc6d35e252742224ab0c1e8fcb",
    ),
}

UNPACKED = {  # MD5 of published files as they are on a disk without their archive
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
    "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
}


def note_if_changed(path):
    """Print a note if a file differs from the file published under its name."""
    name = path.name.replace(".idx", "-idx")  # Kaggle's spelling
    published = PUBLISHED.get(name) or Published((), "md5", UNPACKED.get(name, ""))
    with contextlib.suppress(OSError):  # about which its reader has a message
        if published.checksum and path.is_file() and checksum(path, published.algorithm) != published.checksum:
            note(one_line(f"{path}: not byte for byte the published file; used as it is"))


def ensure_published(path, toy):
    """Download a published file if it is missing, else print a note if it differs from the published one."""
    if path.exists():
        note_if_changed(path)
    else:
        download(path, toy)


def download(path, toy):
    """Download the published file of that name to `path`, or leave `path` as it was.

    Raises UserError, which recommends the toy set `toy`, if no mirror delivers the file; OSError if the disk fails.
    """
    published = PUBLISHED[path.name]
    for url in published.urls:
        failure = fetch(url, published, path)
        if not failure:
            return
        note(one_line(f"{url} failed: {failure}"))
    raise UserError(
        f"{path.absolute().parent.name}/{path.name}: could not be downloaded ({failure}); "
        f"put the file at {path}, or try --dataset {toy}, which needs no network"
    )


def fetch(url, published, path):
    """Try one mirror; returns None if the file is at `path`, else why the mirror failed."""
    previous = socket.getdefaulttimeout()
    # A new folder for every try: get_file would reuse what a failed try left. Beside the target, so that the move stays
    # on one disk and is atomic. Absolute, because get_file expands a leading "~".
    with partial_folder(path.parent.absolute()) as folder:
        try:
            socket.setdefaulttimeout(TIMEOUT_SECONDS)  # get_file has no option for it
            with bar_on_terminals_only(url):
                expected = {"file_hash": published.checksum, "hash_algorithm": published.algorithm}
                complete = get_file(path.name, url, cache_dir=folder, cache_subdir="", **expected)
        except Exception as error:
            cause = error.__context__ if type(error) is Exception else error  # get_file wraps URLErrors
            network = isinstance(cause, NETWORK_ERRORS) or getattr(cause, "errno", None) in LOST_ROUTES
            if isinstance(cause, OSError) and not network:  # a full disk, for example
                name_file(cause, path)
                raise
            return reason(cause)
        finally:
            socket.setdefaulttimeout(previous)
        Path(complete).replace(path)
    return None


@contextlib.contextmanager
def bar_on_terminals_only(url):
    """Let get_file print the URL and a progress bar; print only the URL where a bar would flood a log."""
    if sys.stdout.isatty():
        try:
            yield
        finally:
            clear_line()  # an unfinished bar has not ended its line
    else:
        note(f"Downloading data from {url}")  # as get_file does
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
