"""CIFAR-10: right values from both of its versions, packed or not, or one line that names the file."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import modes_heeded, publish, refusal
from sample_sets import (
    ARCHIVE,
    BATCH,
    BATCHES,
    PICKLED,
    TITLES,
    UNPACKED,
    assert_same,
    python2_batch,
    python3_batch,
    random_images,
    records,
    short,
    tree,
    write_batches,
    write_files,
    write_tar,
)

from vae.data import cifar10 as reader
from vae.data import files
from vae.data.registry import load_dataset
from vae.terminal import UserError

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def parts():
    """Return images and labels of five training files of 4 images and a test file of 3."""
    return [random_images(seed, 4 if seed < 5 else 3, 32, 32, 3) for seed in range(6)]


@pytest.fixture
def batches(parts, tmp_path):
    """Return {name: content} of the files with `parts`, and make the folder tmp_path/cifar10 for them."""
    (tmp_path / "cifar10").mkdir()
    return {name: records(*part) for name, part in zip(BATCHES, parts, strict=True)}


@pytest.fixture(params=["folder", "archive"])
def cifar10(request, tmp_path):
    """Return a function that writes batches to a folder or an archive and returns a loader and the path."""

    def put(batches):
        if request.param == "folder":
            write_files(tmp_path / "cifar10" / UNPACKED, batches)
            return lambda: load_dataset("cifar10", tmp_path), tmp_path / "cifar10" / UNPACKED
        write_tar(tmp_path / "cifar10" / ARCHIVE, batches)
        return lambda: load_dataset("cifar10", tmp_path), tmp_path / "cifar10" / ARCHIVE

    return put


# The binary version -------------------------------------------------------------------------------------------


def test_cifar10_is_what_the_files_hold(cifar10, batches, parts):
    shuffled = {name: batches[name] for name in sorted(batches, key=lambda name: name[::-1])}
    data = cifar10(shuffled)[0]()
    assert data.name == "cifar10" and data.image_shape == (32, 32, 3) and len(data.label_names) == 10
    np.testing.assert_array_equal(data.train, np.concatenate([images for images, _ in parts[:5]]))
    np.testing.assert_array_equal(data.train_labels, np.concatenate([labels for _, labels in parts[:5]]))
    np.testing.assert_array_equal(data.test, parts[5][0])
    np.testing.assert_array_equal(data.test_labels, parts[5][1])


def test_a_cifar10_record_byte_by_byte(cifar10, batches):
    """Label, then the red, green and blue planes, each row by row."""
    record = bytearray(3073)
    record[0] = 7
    for plane, value in enumerate((11, 22, 33)):
        record[1 + plane * 1024 + 5 * 32 + 9] = value  # row 5, column 9
    data = cifar10(batches | {"data_batch_2.bin": bytes(2 * 3073) + bytes(record) + bytes(3073)})[0]()
    assert data.train_labels[4 + 2] == 7 and data.label_names[7] == "horse"
    assert data.train[4 + 2, 5, 9].tolist() == [11, 22, 33]
    assert data.train[4:8].sum() == 66


BATCH_DAMAGE = {
    "empty": (lambda content: b"", "0 bytes are not a whole number of 3073-byte images"),
    "cut": (lambda content: content[:-1], "bytes are not a whole number"),
    "cut in the first image": (lambda content: content[:100], "100 bytes are not a whole number"),
    "one byte more": (lambda content: content + b"\0", "bytes are not a whole number"),
    "label 10": (lambda content: content[:3073] + b"\x0a" + content[3074:], "label 10 of image 1"),
    "CIFAR-100": (lambda content: b"".join(b"\1" + content[at : at + 3073] for at in range(0, 9219, 3073)), "bytes"),
    "pickled": (lambda content: pickle.dumps({b"data": content, b"labels": [1]}), "bytes are not a whole number"),
}


@pytest.mark.parametrize("name", [BATCHES[0], BATCHES[4], BATCHES[5]])
@pytest.mark.parametrize("damage", BATCH_DAMAGE)
def test_a_damaged_batch(cifar10, batches, name, damage):
    change, words = BATCH_DAMAGE[damage]
    load, path = cifar10(batches | {name: change(batches[name])})
    refusal(load, f"{path / name}: ", words, f"delete {path}, and the next run downloads the archive")


def test_a_batch_with_fewer_images_than_the_others(cifar10, batches):
    load, path = cifar10(batches | {"data_batch_3.bin": batches["data_batch_3.bin"][:3073]})
    refusal(load, f"{path}: [4, 4, 1, 4, 4] images in its five training files")


@pytest.mark.parametrize("name", [BATCHES[0], BATCHES[5]])
def test_a_missing_batch(cifar10, batches, name):
    del batches[name]
    load, path = cifar10(batches)
    refusal(load, f"{path}", name, "No such file" if path.is_dir() else "is not in it")


@pytest.mark.parametrize("name", [f"{UNPACKED}/{BATCHES[2]}", ARCHIVE])
def test_a_folder_in_place_of_a_batch_or_the_archive(batches, tmp_path, name):
    if name != ARCHIVE:
        write_files(tmp_path / "cifar10" / UNPACKED, batches)
        (tmp_path / "cifar10" / name).unlink()
    (tmp_path / "cifar10" / name).mkdir()
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{tmp_path / 'cifar10' / name}: cannot be read (Is a dir")


def test_a_batch_or_archive_without_read_permission(cifar10, batches, tmp_path):
    load, path = cifar10(batches)
    path = path / BATCHES[0] if path.is_dir() else path
    path.chmod(0)
    with modes_heeded():
        refusal(load, f"{path}: cannot be read (Permission denied)")


def test_a_note_about_another_number_of_images(cifar10, batches, monkeypatch, capsys):
    load, path = cifar10(batches)
    if path.is_file():
        publish(monkeypatch, path)
    load()
    line = f"{path}: 4 images in a training file and 3 in the test file, not 10,000\n"
    assert capsys.readouterr().out == line


def test_a_note_about_swapped_files(tmp_path, monkeypatch, capsys):
    """10,000 images a file cause no note, unless their labels are in another order."""
    images = np.zeros((10_000, 1, 1, 3), np.uint8)
    labels = [np.full(10_000, number, np.uint8) for number in range(6)]
    monkeypatch.setattr(reader, "read_batches", lambda source, way_out: [(images, part) for part in labels])
    monkeypatch.setattr(reader, "LABELS_SHA256", hashlib.sha256(b"".join(labels)).hexdigest())
    load_dataset("cifar10", tmp_path)
    assert capsys.readouterr().out == ""
    labels[-1] = labels[0]
    load_dataset("cifar10", tmp_path)
    path = tmp_path / "cifar10" / ARCHIVE
    assert capsys.readouterr().out == f"{path}: its labels are not CIFAR-10's; were its files swapped?\n"


# Archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"",
        lambda packed: b"<html>404</html>",
        lambda packed: packed[:7],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-4],
        lambda packed: packed[:5000] + bytes(100) + packed[5100:],  # only pixels change, so only the checksum can tell
        lambda packed: packed + b"garbage",
        lambda packed: gzip.decompress(packed),
        lambda packed: gzip.compress(b"not a tar" * 100),
        lambda packed: gzip.compress(gzip.decompress(packed)[:20_000]),
        lambda packed: gzip.compress(gzip.decompress(packed)[:500]),
    ],
)
def test_a_damaged_archive(batches, tmp_path, damage):
    path = tmp_path / "cifar10" / ARCHIVE
    write_tar(path, batches)
    path.write_bytes(damage(path.read_bytes()))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", f"delete {path}, and the next run downloads")


@pytest.mark.parametrize("pax", [False, True])
def test_a_member_of_negative_size(batches, tmp_path, pax):
    """It leads back in the archive, where a reader could go round forever."""
    first, back = tarfile.TarInfo("a"), tarfile.TarInfo("b")
    if pax:
        back.pax_headers = {"size": "-1536"}
    else:
        back.size = -512
    headers = [one.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) for one in (first, back)]
    path = tmp_path / "cifar10" / ARCHIVE
    path.write_bytes(gzip.compress(b"".join(headers) + bytes(10_240)))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", f"delete {path}, and the next run downloads")


def test_a_sparse_member_is_not_a_batch(batches, tmp_path):
    """Of a thousand images, all of them holes, which would be black."""
    path, size = tmp_path / "cifar10" / ARCHIVE, str(1000 * (1 + reader.PIXELS))
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in BATCHES:
            member = tarfile.TarInfo(name)
            member.pax_headers = {"GNU.sparse.map": f"{size},0", "GNU.sparse.size": size}
            tar.addfile(member)
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: ", "is not in it")


def test_the_unpacked_folder_is_preferred_to_the_archive(batches, tmp_path, capsys):
    write_files(tmp_path / "cifar10" / UNPACKED, batches)
    (tmp_path / "cifar10" / ARCHIVE).write_bytes(b"damaged")
    load_dataset("cifar10", tmp_path)
    assert ARCHIVE not in capsys.readouterr().out


def special(kind, name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_members_with_paths_elsewhere_do_nothing(batches, tmp_path):
    """Nothing is unpacked; files are found by their names, whatever their folders."""
    outside, path = tmp_path / "outside", tmp_path / "cifar10" / ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.addfile(special(tarfile.SYMTYPE, UNPACKED, str(outside)))
        tar.addfile(special(tarfile.SYMTYPE, "link/" + BATCHES[0], "/etc/passwd"))
        tar.addfile(special(tarfile.LNKTYPE, "link/" + BATCHES[1], "../../etc/passwd"))
        tar.addfile(special(tarfile.FIFOTYPE, BATCHES[2], ""))
        tar.addfile(special(tarfile.DIRTYPE, BATCHES[3], ""))
        for folder, name in zip((f"{outside}/", "../", "../../", "//", "", "a/../"), batches, strict=True):
            member = tarfile.TarInfo(folder + name)
            member.size = len(batches[name])
            tar.addfile(member, io.BytesIO(batches[name]))
    before = tree(tmp_path)
    assert load_dataset("cifar10", tmp_path).train.shape == (20, 32, 32, 3)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_not_a_batch(batches, tmp_path, kind):
    path = tmp_path / "cifar10" / ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name in BATCHES:
            tar.addfile(special(kind, name, "/etc/passwd"))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: cannot be read ({BATCHES[0]} is not in it")


def inflated(files, size):
    """Yield tar archives of the files with that many zeros in another member, or after the end."""
    member = tarfile.TarInfo("zeros")
    member.size = size
    with io.BytesIO() as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            batch = tarfile.TarInfo(name)
            batch.size = len(content)
            tar.addfile(batch, io.BytesIO(content))
        whole = packed.getvalue()
    yield member.tobuf() + bytes(size) + whole + bytes(1024)
    yield whole + bytes(size + 1024)


@pytest.mark.parametrize("place", range(2))
def test_an_archive_that_unpacks_to_too_many_bytes(place, batches, tmp_path, monkeypatch):
    path = tmp_path / "cifar10" / ARCHIVE
    content = list(inflated(batches, 512 * 60_000))[place]
    path.write_bytes(gzip.compress(content, 9))
    load_dataset("cifar10", tmp_path)
    monkeypatch.setattr(files, "MAX_BYTES_OF_SMALL_FILES", 10_000_000)
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: cannot be read (it unpacks to more than ", " bytes")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def test_pickles_in_the_binary_archive_are_not_read(batches, tmp_path):
    path, bomb = tmp_path / "cifar10" / ARCHIVE, pickle.dumps(Bomb(tmp_path / "unpickled"))
    write_tar(path, dict.fromkeys([Path(name).stem for name in BATCHES], bomb), "cifar-10-batches-py/")
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path}: cannot be read ({BATCHES[0]} is not in it")
    write_tar(path, dict.fromkeys(BATCHES, bomb))
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{path / BATCHES[0]}: ")
    assert not (tmp_path / "unpickled").exists()


def test_a_note_about_an_archive_that_differs_from_the_published_one(batches, tmp_path, capsys):
    write_tar(tmp_path / "cifar10" / ARCHIVE, batches)
    load_dataset("cifar10", tmp_path)
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{tmp_path / 'cifar10' / ARCHIVE}: not byte for byte the published file; used as it is"


# The Python version -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [python2_batch, python3_batch])
@pytest.mark.parametrize(
    "place",
    [
        *("cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"),
        *("cifar-10-python.tar.gz", "cifar10/cifar-10-batches-py.tar.gz"),
    ],
)
def test_the_python_version(tmp_path, writer, place):
    if place.endswith(".gz"):
        write_batches(tmp_path / "unpacked", writer)
        (tmp_path / place).parent.mkdir(exist_ok=True)
        with tarfile.open(tmp_path / place, "w:gz") as tar:
            tar.add(tmp_path / "unpacked", "cifar-10-batches-py")
    else:
        write_batches(tmp_path / place, writer)
    data = load_dataset("cifar10", tmp_path)
    train = np.concatenate([BATCH[name][0] for name in PICKLED[:5]])
    np.testing.assert_array_equal(data.train, train.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(data.train_labels, np.concatenate([BATCH[name][1] for name in PICKLED[:5]]))
    np.testing.assert_array_equal(data.test, BATCH["test_batch"][0].transpose(0, 2, 3, 1))
    assert np.array_equal(load_dataset("cifar10-grey", tmp_path).train, reader.to_grey(data.train))


class Program:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


GOOD = python2_batch(BATCH["test_batch"][0].reshape(3, -1), BATCH["test_batch"][1])
NINE = np.array([1, 2, 77], np.uint8)
HOSTILE = {  # what a batch is instead: (content, words of the message)
    "a program": (pickle.dumps(Program(os.mkdir, "made")), "asks for posix.mkdir"),
    "an old program": (b"cos\nsystem\n(S'mkdir made'\ntR.", "asks for os.system"),
    "eval": (pickle.dumps(Program(eval, "open('made', 'w')")), "asks for builtins.eval"),
    "a program among good data": (
        GOOD[:-2] + short(b"x") + b"cos\nmkdir\n" + short(b"made") + b"\x85Ru.",
        "asks for os",
    ),
    "NumPy's own functions": (b"cnumpy\nload\n" + short(b"made") + b"\x85R.", "asks for numpy.load"),
    "a name inside a known module": (b"cnumpy\nndarray.__class__\n.", "asks for numpy.ndarray.__class__"),
    "another batch": (python2_batch(*BATCH["test_batch"], TITLES[0]), "it calls itself training batch 1 of 5"),
    "a text that is many bytes": (
        b"\x80\x02(c_codecs\nencode\nq\x00X\xe8\x03\x00\x00"
        + 1000 * b"a"
        + b"q\x01X\x06\x00\x00\x00latin1q\x02"
        + 9 * b"h\x00h\x01h\x02\x86R"
        + b"l.",
        "the same text again and again",
    ),
    "a great many empty lists": (b"\x80\x02(" + b"]" * 2000 + b"l.", "more operations than images need"),
    "labels that are bytes": (
        pickle.dumps({"labels": b"1", "data": np.zeros((1, 3072), np.uint8)}, 2),
        "it lacks an integer label for",
    ),
    "lists in lists": (
        pickle.dumps({"labels": [[[1, 2]]], "data": np.zeros((1, 3072), np.uint8)}, 2),
        "it lacks an integer label for",
    ),
    "a huge memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "cannot be read"),
    "a set": (pickle.dumps({b"labels", b"data"}), "cannot be read"),
    "an empty file": (b"", "cannot be read"),
    "a web page": (b"<html>404</html>", "cannot be read"),
    "a list": (pickle.dumps([1, 2]), "cannot be read"),
    "no data": (pickle.dumps({"labels": [1]}), "data"),
    "data that is a list": (pickle.dumps({"labels": [1], "data": [1]}), "cannot be read"),
    "cut": (GOOD[: len(GOOD) // 2], "cannot be read"),
    "cut at its end": (GOOD[:-1], "cannot be read"),
    "floats": (python3_batch(np.zeros((3, 3072), np.float32), [1, 2, 3]), "not 3072 bytes"),
    "columns first": (python3_batch(np.asfortranarray(np.zeros((3, 3072), np.uint8)), [1, 2, 3]), "row by row"),
    "another size": (python3_batch(np.zeros((3, 784), np.uint8), [1, 2, 3]), "its pixels (3, 784) are not 3072"),
    "no images": (python3_batch(np.zeros((0, 3072), np.uint8), []), "cannot be read"),
    "a label too few": (
        python3_batch(np.zeros((3, 3072), np.uint8), [1, 2]),
        "it lacks an integer label for each of 3 images",
    ),
    "labels that are texts": (
        pickle.dumps({"labels": ["1"], "data": np.zeros((1, 3072), np.uint8)}, 2),
        "it lacks an integer label for",
    ),
    "a negative label": (python3_batch(np.zeros((1, 3072), np.uint8), [-1]), "label -1 of image 0 is not one of"),
    "a label beyond 9": (
        python3_batch(np.zeros((3, 3072), np.uint8), NINE),
        "label 77 of image 2 is not one of 0 to 9",
    ),
    "more bytes promised": (
        GOOD.replace(struct.pack("<i", 3) + b"M\x00\x0c", struct.pack("<i", 4) + b"M\x00\x0c"),
        "into shape (4,3072)",
    ),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_other_pickles_are_refused_and_not_run(tmp_path, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, words = HOSTILE[change]
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    write_batches(folder, changed={"test_batch": content})
    before = tree(tmp_path)
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{folder / 'test_batch'}: ", words)
    assert tree(tmp_path) == before, "nothing was run"


def test_a_missing_pickled_batch(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_batches(folder)
    (folder / "data_batch_3").unlink()
    refusal(lambda: load_dataset("cifar10", tmp_path), f"{folder / 'data_batch_3'}: cannot be read")


@pytest.mark.parametrize("cut", range(0, len(GOOD), len(GOOD) // 40))
def test_a_cut_pickle(cut):
    with pytest.raises(UserError), files.readable(Path("test_batch"), "replace it"):
        reader.read_pickle(GOOD[:cut], "test_batch")


# Grey ---------------------------------------------------------------------------------------------------------


def test_grey_is_bt601_luma_rounded():
    images = random_images(0, 2500, 4, 3, 3)[0]  # more than two of the blocks that are converted at once
    grey, exact = reader.to_grey(images), images.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert grey.shape == (2500, 4, 3, 1) and grey.dtype == np.uint8
    assert np.abs(grey[..., 0] - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("colour", "grey"),
    [
        *[((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)],
        *[((255, 255, 0), 226), ((0, 255, 255), 179), ((255, 0, 255), 105)],
        *[((value, value, value), value) for value in (0, 1, 127, 128, 254, 255)],
    ],
)
def test_grey_of_pure_colours(colour, grey):
    assert reader.to_grey(np.array(colour, np.uint8).reshape(1, 1, 1, 3)).item() == grey


def test_cifar10_grey_is_cifar10_in_grey(cifar10, batches, tmp_path):
    colour = cifar10(batches)[0]()
    grey = load_dataset("cifar10-grey", tmp_path)
    assert grey.name == "cifar10-grey" and grey.image_shape == (32, 32, 1) and grey.sha256 != colour.sha256
    converted = {part: reader.to_grey(getattr(colour, part)) for part in ("train", "test")}
    assert_same(grey, replace(colour, **converted))
