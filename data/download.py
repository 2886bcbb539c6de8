"""Published files: fetched with keras.utils.get_file, held to their checksums, and put in place only when whole."""

import contextlib
import errno
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.error import ContentTooShortError, HTTPError, URLError

from console import UserError, note, one_line, wipe_line
from data.cache import partial_folder

TIMEOUT_SECONDS = 30  # of silence, after which a server counts as stalled


@dataclass(frozen=True)
class Published:
    """Where a file is published, best mirror first, and the hex digest that `algorithm` (md5, sha256) gives for it."""

    urls: tuple[str, ...]
    algorithm: str
    checksum: str


def _mnist(name, md5):
    mirrors = "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"
    return Published(tuple(mirror + name for mirror in mirrors), "md5", md5)


_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
PUBLISHED = {name: _mnist(name, md5) for name, md5 in _MNIST_MD5.items()} | {
    "cifar-10-binary.tar.gz": Published(
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        "sha256",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "img_align_celeba.zip": Published(  # the original zip; only its name differs on this server
        ("https://s3-us-west-1.amazonaws.com/udacity-dlnfd/datasets/celeba.zip",),
        "md5",
        "00d2c5bc6d35e252742224ab0c1e8fcb",
    ),
}


def download(path: Path, toy: str) -> None:
    """Fetch the published file of that name to `path`, whole and checked, or leave `path` as it was.

    Raises UserError, which names the toy set `toy` as the way out, if no mirror delivers. Errors of the disk pass
    through as OSError.
    """
    published = PUBLISHED[path.name]
    for url in published.urls:
        reason = _fetch(url, published, path)
        if not reason:
            return
        note(one_line(f"{url} failed: {reason}"))
    raise UserError(
        f"{path.absolute().parent.name}/{path.name}: could not be downloaded ({reason}); "
        f"put the file at {path}, or try --dataset {toy}, which needs no network"
    )


def _fetch(url, published, path):
    """Try one mirror. Returns None once the file is at `path`, else why the mirror failed."""
    from keras.utils import get_file  # here, because Keras takes seconds to import and most runs download nothing

    # A new folder for every try: get_file would pick up what a failed one left. Beside the target, so that the move
    # stays on one disk and is atomic. Absolute, because get_file takes a leading "~" for the home folder.
    with partial_folder(path.parent.absolute()) as folder:
        try:
            with _socket_timeout(TIMEOUT_SECONDS), _bar_on_terminals_only(url):
                checksum = {"file_hash": published.checksum, "hash_algorithm": published.algorithm}
                whole = get_file(path.name, url, cache_dir=folder, cache_subdir="", **checksum)
        except Exception as error:
            reason = _network_reason(error)
            if not reason:
                raise
            return " ".join(reason.split())
        Path(whole).replace(path)
    return None


@contextlib.contextmanager
def _socket_timeout(seconds):
    """Sockets opened meanwhile give up after `seconds` of silence: get_file has no option for it."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


@contextlib.contextmanager
def _bar_on_terminals_only(url):
    """Let get_file name the URL and draw its bar; where that would flood a log, only name the URL."""
    if not sys.stdout.isatty():
        note(f"Downloading data from {url}")  # get_file's own words
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        return
    try:
        yield
    finally:
        wipe_line()  # a bar that stopped halfway, or of unknown length, did not end its line


def _network_reason(error):
    """Why a server or the network failed, in a few words; None if they are not to blame (full disk, a bug)."""
    if type(error) is ValueError:  # so get_file reports it
        return "wrong checksum"
    cause = error.__context__ if type(error) is Exception else error  # get_file hides a URLError in a bare Exception
    if isinstance(cause, HTTPError):
        return f"the server answered {cause.code} {cause.reason}"
    if isinstance(cause, (ContentTooShortError, IncompleteRead)):
        return "the connection was cut"
    unreached = isinstance(cause, URLError)
    cause = cause.reason if unreached else cause
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT_SECONDS} seconds"
    network = ConnectionError, ssl.SSLError, HTTPException
    lost_route = getattr(cause, "errno", None) in (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH)
    if unreached or lost_route or isinstance(cause, network):
        return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return None
