"""Downloads from a server on this machine: files arrive complete, and failures leave one line and no files."""

import contextlib
import errno
import hashlib
import io
import os
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import keras
import pytest
from conftest import refusal

from vae.data import download
from vae.data.download import Published
from vae.terminal import UserError

NAME = "train-images-idx3-ubyte.gz"
CONTENT = bytes(range(256)) * 300  # many of the blocks in which urlretrieve reads


class Handler(BaseHTTPRequestHandler):
    """Answers a path such as /good or /cut by the method of that name, and any other path with 404."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        kind = urlsplit(self.path).path.strip("/")
        self.server.asked.append(kind)
        answer = getattr(self, "answer_" + kind.replace("-", "_"), None)
        answer() if answer else self.send_error(404)

    def start(self, **headers):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_good(self):
        self.start(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT)

    def answer_wrong(self):
        self.start(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT[::-1])

    def answer_unmeasured(self):
        self.start()
        self.wfile.write(CONTENT)

    def answer_cut(self):
        self.start(Content_Length=2 * len(CONTENT))
        self.wfile.write(CONTENT)

    def answer_cut_chunk(self):
        self.start(Transfer_Encoding="chunked")
        self.wfile.write(b"10000\r\nfar fewer bytes")

    def answer_stalled(self):
        self.start(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT[:100])
        self.server.over.wait(10)

    def answer_silent(self):
        self.server.over.wait(10)

    def answer_dropped(self):
        pass

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler):
    """Run a server on this machine; its list `asked` has the kinds of requests."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads, running.over, running.asked = True, threading.Event(), []
        running.handle_error = lambda *_: None
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(Handler) as running:
        yield running


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "other.gz").write_bytes(b"untouched")
    yield folder / NAME
    assert (folder / "other.gz").read_bytes() == b"untouched"
    assert {file.name for file in folder.iterdir()} <= {"other.gz", NAME}, "something was left behind"


@pytest.fixture
def publish(monkeypatch, server):
    """Return a function that sets the mirrors of the file: publish("cut", "good"); at "closed" no server listens."""
    unused = socket.socket()  # keeps its port from others, and nobody listens
    unused.bind(("127.0.0.1", 0))
    closed_port = unused.getsockname()[1]

    def put(*kinds, algorithm="md5"):
        ports = [closed_port if kind == "closed" else server.server_port for kind in kinds]
        urls = tuple(f"http://127.0.0.1:{port}/{kind}" for port, kind in zip(ports, kinds, strict=True))
        checksum = hashlib.new(algorithm, CONTENT).hexdigest()
        monkeypatch.setattr(download, "PUBLISHED", {NAME: Published(urls, algorithm, checksum)})

    yield put
    unused.close()


def failure(target):
    """Return the one-line message of a failing download."""
    with pytest.raises(UserError) as caught:
        download.download(target, "toy-digits")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"mnist/{NAME}: could not be downloaded (")
    assert message.endswith(f"; put the file at {target}, or try --dataset toy-digits, which needs no network")
    assert not target.exists()
    return message


@pytest.mark.parametrize("proxy", ["http:/proxy:3128", "http://.proxy:3128"])
def test_a_mistyped_proxy_is_not_called_a_wrong_checksum(publish, target, monkeypatch, proxy):
    publish("good")
    monkeypatch.setenv("no_proxy", "")  # which counts, and not an upper-case one
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setattr("urllib.request._opener", None)  # which knows the proxies of before
    assert "hash" not in failure(target)


@pytest.mark.parametrize("kind", ["good", "unmeasured"])
@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_good_file_arrives_whole(publish, target, capfd, kind, algorithm):
    publish(kind, algorithm=algorithm)
    download.download(target, "toy-digits")
    assert target.read_bytes() == CONTENT
    url = download.PUBLISHED[NAME].urls[0]
    assert capfd.readouterr().out == f"Downloading data from {url}\n"


def test_parent_folders_are_made(publish, tmp_path, monkeypatch):
    publish("good")
    monkeypatch.chdir(tmp_path)
    path = download.Path("~not-home", "mnist", NAME)  # relative, and with a "~" that get_file would expand
    download.download(path, "toy-digits")
    assert (tmp_path / "~not-home" / "mnist" / NAME).read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong", "Incomplete or corrupted file detected. The md5 file hash does not match"),
        ("cut", "retrieval incomplete: got only 76800 out of 153600 bytes"),
        ("cut-chunk", "IncompleteRead("),
        ("dropped", "Remote end closed connection without response"),
        ("missing", "HTTP Error 404: Not Found"),
        ("stalled", "timed out"),
        ("silent", "timed out"),
        ("closed", "Connection refused"),
    ],
)
def test_a_failing_server(publish, target, monkeypatch, capfd, kind, reason):
    if kind in ("stalled", "silent"):
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    publish(kind)
    assert reason in failure(target)
    url = download.PUBLISHED[NAME].urls[0]
    first, second = capfd.readouterr().out.splitlines()
    assert first == f"Downloading data from {url}" and second.startswith(f"{url} failed: ") and reason in second
    assert socket.getdefaulttimeout() is None


def test_an_unknown_host(target, monkeypatch):
    def lookup(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(download, "PUBLISHED", {NAME: Published(("https://mirror.invalid/",), "md5", "0" * 32)})
    assert "Temporary failure in name resolution" in failure(target)


@pytest.mark.parametrize("bad", ["wrong", "cut", "missing", "closed"])
def test_the_second_mirror_steps_in(publish, target, capfd, bad):
    publish(bad, "good")
    download.download(target, "toy-digits")
    assert target.read_bytes() == CONTENT
    first, second = download.PUBLISHED[NAME].urls
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith(first) and lines[1].startswith(f"{first} failed: ") and lines[2].endswith(second)
    assert len(lines) == 3


def test_mirrors_are_not_asked_in_vain(publish, target, server):
    publish("good", "missing")
    download.download(target, "toy-digits")
    assert server.asked == ["good"]


def test_the_reason_is_that_of_the_last_mirror(publish, target):
    publish("missing", "wrong")
    assert "file hash does not match" in failure(target)


def test_a_failure_leaves_the_old_file(publish, target):
    publish("wrong")
    target.write_bytes(b"old")
    with pytest.raises(UserError):
        download.download(target, "toy-digits")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(("hours", "kept"), [(0, True), (2, False)])
def test_folders_of_killed_downloads_do_no_harm_and_do_not_stay(publish, tmp_path, hours, kept):
    """Unless they are so new that another process may be filling them."""
    publish("good")
    left = tmp_path / "partial-0123456789abcdef"
    left.mkdir()
    (left / NAME).write_bytes(CONTENT[:99])
    for path in (left / NAME, left):
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    download.download(tmp_path / NAME, "toy-digits")
    assert (tmp_path / NAME).read_bytes() == CONTENT and left.exists() == kept


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("stage", ["writing", "moving"])
def test_errors_of_the_disk_are_not_blamed_on_the_network(publish, target, monkeypatch, code, stage):
    def fail(*_):
        raise OSError(code, os.strerror(code), "some file")

    publish("good", "good")
    if stage == "writing":
        monkeypatch.setattr(keras.utils.Progbar, "update", fail)  # runs between two blocks, as write() does
    else:
        monkeypatch.setattr(download.Path, "replace", fail)
    with pytest.raises(OSError) as caught:
        download.download(target, "toy-digits")
    assert caught.value.errno == code and not target.exists()


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH])
def test_a_route_that_is_lost_is_the_networks_fault(publish, target, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    publish("good", "good")
    monkeypatch.setattr(keras.utils.Progbar, "update", fail)
    refusal(lambda: download.download(target, "toy-digits"), "could not be downloaded", os.strerror(code), "toy-digits")
    assert not target.exists()


def test_ctrl_c_leaves_nothing(publish, target, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    publish("good", "good")
    monkeypatch.setattr(keras.utils.Progbar, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download.download(target, "toy-digits")
    assert not target.exists()
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("kind", ["good", "cut"])
def test_a_terminal_gets_the_bar(publish, target, monkeypatch, kind):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    publish(kind, "good")
    download.download(target, "toy-digits")
    text = terminal.getvalue()
    assert "━" in text and text.count("Downloading data from") == (1 if kind == "good" else 2)
    if kind == "cut":  # the note begins a line of its own, not behind the bar
        assert "\r\x1b[K" + download.PUBLISHED[NAME].urls[0] + " failed: <urlopen error retrieval incomplete: " in text


def test_the_table_of_published_files():
    assert len(download.PUBLISHED) == 6
    for name, published in download.PUBLISHED.items():
        digits = {"md5": 32, "sha256": 64}[published.algorithm]
        assert re.fullmatch(rf"[0-9a-f]{{{digits}}}", published.checksum), name
        assert published.urls and all(url.startswith("https://") for url in published.urls), name
    assert all(len(published.urls) == 2 for name, published in download.PUBLISHED.items() if "ubyte" in name)
