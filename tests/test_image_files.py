"""CelebA and folders of images that the tests write: right pixels on the right side of the split, kept in a cache."""

import hashlib
import io
import os
import re
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal
from PIL import EpsImagePlugin, Image

from vae.data import cache, folders, image_files
from vae.data.datasets import load_dataset
from vae.data.download import UNPACKED
from vae.terminal import UserError

COUNT = 12
NAMES = [f"{number:06}.jpg" for number in range(1, COUNT + 1)]
COLOURS = np.array([(20 * number, 255 - 20 * number, 83 * number % 256) for number in range(COUNT)], np.uint8)
ATTRIBUTES = "Bald Smiling Young".split()
VALUES = np.array([[number % 2, number // 2 % 2, number // 4 % 2] for number in range(COUNT)], np.uint8)
TRAIN, UNUSED, TEST = (7, 0, 1, 11, 5, 2), (3, 8), (9, 4, 10, 6)  # numbers of faces, in the partition file's order


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(autouse=True)
def lists_of_nobody(monkeypatch):
    """CelebA's lists count as any others do, so no line says that those of these tests are other ones."""
    known = {name: checksum for name, checksum in UNPACKED.items() if "list_" not in name}
    monkeypatch.setattr("data.download.UNPACKED", known)


@pytest.fixture(autouse=True)
def labels_of_bars(monkeypatch):
    """No progress bars, for which Keras would have to load; returns the list of their labels."""
    labels = []

    def progress(items, total, label):
        labels.append(label)
        return items

    monkeypatch.setattr(image_files, "progress", progress)
    return labels


@pytest.fixture
def decode_no_more(monkeypatch):
    """decode_no_more() makes all further decoding fail."""

    def fail(*_):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(image_files, "read_image", fail)


def caches(data_dir):
    """Names of everything in the cache, without the hashes of content and place."""
    return sorted(re.sub("-[0-9a-f]{8}(?=-)", "", path.name[:-17]) for path in (data_dir / "cache").iterdir())


def checksum(data):
    return hashlib.sha256(data.train.tobytes() + data.test.tobytes()).hexdigest()


# CelebA -------------------------------------------------------------------------------------------------------


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0, **options)
    return file.getvalue()


def face(number):
    """One colour inside the part that is used, the opposite one around it."""
    pixels = np.empty((218, 178, 3), np.uint8)
    pixels[:] = COLOURS[number] + 128
    pixels[35:183, 15:163] = COLOURS[number]
    return jpeg(pixels)


FACES = {name: face(number) for number, name in enumerate(NAMES)}


def partition_text():
    rows = [(number, split) for split, numbers in enumerate((TRAIN, UNUSED, TEST)) for number in numbers]
    return "".join(f"{NAMES[number]} {split}\n" for number, split in rows)


def attributes_text():
    values = (" ".join("1" if value else "-1" for value in row) for row in VALUES)
    rows = (f"{name}  {row}" for name, row in zip(NAMES, values, strict=True))
    return "\n".join([str(COUNT), " ".join(ATTRIBUTES) + " ", *rows]) + "\n"


def write_images(folder, images, prefix=None):
    """Images {name: content} unpacked, or with a prefix in an archive, among what macOS adds."""
    if prefix is None:
        (folder / "img_align_celeba").mkdir(parents=True)
        for name, content in images.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
        return folder / "img_align_celeba"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.writestr("__MACOSX/" + prefix + "._000001.jpg", b"junk")
        for name, content in reversed(images.items()):
            archive.writestr(prefix + name, content)
        archive.writestr("__MACOSX/" + prefix + "000002.jpg", b"junk")
        archive.writestr("readme.txt", b"junk")
        archive.writestr("folder.jpg/", b"")
    return folder / "img_align_celeba.zip"


@pytest.fixture
def celeba(tmp_path):
    """tmp_path/celeba with twelve faces, their attributes and their partition."""
    folder = tmp_path / "celeba"
    write_images(folder, FACES)
    (folder / "list_eval_partition.txt").write_text(partition_text())
    (folder / "list_attr_celeba.txt").write_text(attributes_text())
    return folder


@pytest.fixture(params=["folder", "archive"])
def hold(request, tmp_path):
    """hold(images) puts them into tmp_path/celeba, unpacked or in an archive; returns the path of either."""
    return lambda images: write_images(tmp_path / "celeba", images, None if request.param == "folder" else "")


def load_celeba(celeba, size=32, limit=None):
    return load_dataset("celeba", celeba.parent, size, limit)


def numbers(images):
    """Numbers of the faces in these images."""
    means = images.mean(axis=(1, 2))
    return tuple(np.abs(means[:, None] - COLOURS).sum(axis=2).argmin(axis=1).tolist())


def by_crc(names):
    """Training and test names by the rule that stands in for a partition."""
    test = [name for name in names if zlib.crc32(name.encode()) % 10 == 0]
    return [name for name in names if name not in test], test


@pytest.mark.parametrize("size", [32, 64, 128])
def test_faces_are_cropped_to_the_central_148_pixels(celeba, size):
    data = load_celeba(celeba, size)
    assert data.name == "celeba" and data.image_shape == (size, size, 3)
    assert data.train.dtype == data.test.dtype == np.uint8
    for images, chosen in ((data.train, TRAIN), (data.test, TEST)):
        expected = COLOURS[list(chosen)].astype(int)[:, None, None]
        assert np.abs(images - expected).max() <= 4  # a column of the rest would make it over 20


def one_face(celeba, pixels, size):
    """What becomes of one face."""
    (celeba / "img_align_celeba" / NAMES[TRAIN[0]]).write_bytes(jpeg(pixels))
    return load_celeba(celeba, size).train[0].astype(float)


@pytest.mark.parametrize("size", [32, 64])
def test_where_a_pixel_of_a_face_goes(celeba, size):
    rows, columns = np.mgrid[:218, :178]
    found = one_face(celeba, np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8), size)
    centres = (np.arange(size) + 0.5) * 148 / size - 0.5
    inner = slice(2, -2)  # at the edge, where there is no pixel beyond, the resampling is one-sided
    assert np.abs(found[:, :, 0] - (35 + centres)[:, None])[inner, inner].max() < 1.6
    assert np.abs(found[:, :, 1] - (15 + centres)[None, :])[inner, inner].max() < 1.6


@pytest.mark.parametrize("size", [32, 64])
def test_faces_are_antialiased(celeba, size):
    checkerboard = np.indices((218, 178)).sum(axis=0)[..., None] % 2 * 255
    found = one_face(celeba, np.repeat(checkerboard, 3, axis=2).astype(np.uint8), size)
    assert abs(found.mean() - 127.5) < 2 and found.std() < 4


def test_order_and_attributes_follow_the_partition(celeba):
    data = load_celeba(celeba)
    assert (numbers(data.train), numbers(data.test)) == (TRAIN, TEST)
    assert data.label_names == tuple(ATTRIBUTES)
    for labels, chosen in ((data.train_labels, TRAIN), (data.test_labels, TEST)):
        np.testing.assert_array_equal(labels, VALUES[list(chosen)])
        assert labels.dtype == np.uint8
    assert data.sha256 == checksum(data)


@pytest.mark.parametrize("prefix", ["", "img_align_celeba/", "celeba/img_align_celeba/"])
def test_an_archive_gives_the_same(celeba, tmp_path, prefix):
    unpacked = load_celeba(celeba)
    write_images(tmp_path / "zip" / "celeba", FACES, prefix)
    for name in ("list_eval_partition.txt", "list_attr_celeba.txt"):
        (tmp_path / "zip" / "celeba" / name).write_text((celeba / name).read_text())
    packed = load_celeba(tmp_path / "zip" / "celeba")
    for part in ("train", "test", "train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(packed, part), getattr(unpacked, part))
    assert packed.sha256 == unpacked.sha256
    assert {path.name for path in (tmp_path / "zip").iterdir()} == {"celeba", "cache"}, "nothing was unpacked"


def test_windows_line_ends(celeba):
    before = load_celeba(celeba)
    for path in celeba.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    after = load_celeba(celeba)
    assert after.sha256 == before.sha256 and after.label_names == before.label_names
    np.testing.assert_array_equal(after.train_labels, before.train_labels)


def test_grey_faces_are_faces(celeba):
    found = one_face(celeba, np.full((218, 178), 99, np.uint8), 32)
    assert (found == 99).all()


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_limit_of_celeba(celeba, limit):
    data = load_celeba(celeba, limit=limit)
    assert (numbers(data.train), numbers(data.test)) == (TRAIN[:limit], TEST[:limit])
    np.testing.assert_array_equal(data.test_labels, VALUES[list(TEST[:limit])])


# CelebA: what is missing ----------------------------------------------------------------------------------------


def test_a_missing_archive_is_downloaded(tmp_path, no_network):
    refusal(lambda: load_celeba(tmp_path / "celeba"), "no network")
    assert no_network == [(tmp_path / "celeba" / "img_align_celeba.zip", "toy-faces")]


def test_missing_attributes(celeba, capsys):
    path = celeba / "list_attr_celeba.txt"
    path.unlink()
    data = load_celeba(celeba)
    assert data.train_labels is None and data.test_labels is None and data.label_names == ()
    assert capsys.readouterr().out.startswith(f"{path}: not there, so no attributes are shown; see ")
    path.write_text(attributes_text())
    np.testing.assert_array_equal(load_celeba(celeba).train_labels, VALUES[list(TRAIN)])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "{}: not there; "),
        ("", "{}: no training images (partition 0 or 2); "),
        ("".join(f"{name} 0\n" for name in NAMES), "{}: no test images (partition 0 or 2); "),
        ("".join(f"{name} 2\n" for name in NAMES), "{}: no training images (partition 0 or 2); "),
    ],
)
def test_without_a_usable_partition(celeba, capsys, text, line):
    path = celeba / "list_eval_partition.txt"
    path.unlink() if text is None else path.write_text(text)
    data = load_celeba(celeba)
    train, test = ([NAMES.index(name) for name in names] for names in by_crc(NAMES))
    assert test and (numbers(data.train), numbers(data.test)) == (tuple(train), tuple(test))
    np.testing.assert_array_equal(data.test_labels, VALUES[test])
    rule = "test images are instead the tenth whose name has a CRC-32 divisible by 10"
    few = "" if text is not None else f"{celeba / 'img_align_celeba'}: 12 of CelebA's 202,599 images\n"
    assert capsys.readouterr().out == line.format(path) + rule + "\n" + few


def test_lists_that_are_not_the_published_ones(celeba, capsys, monkeypatch):
    monkeypatch.setattr("data.download.UNPACKED", UNPACKED)
    load_celeba(celeba)
    paths = [celeba / f"list_{name}.txt" for name in ("attr_celeba", "eval_partition")]
    expected = [f"{path}: not byte for byte the published file; used as it is" for path in paths]
    assert capsys.readouterr().out.splitlines() == expected
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}
    monkeypatch.setattr("data.download.UNPACKED", UNPACKED | digests)
    load_celeba(celeba)
    assert capsys.readouterr().out == ""


def test_absent_faces(celeba, capsys):
    for number in (TRAIN[0], TEST[1]):
        (celeba / "img_align_celeba" / NAMES[number]).unlink()
    data = load_celeba(celeba)
    assert (numbers(data.train), numbers(data.test)) == (TRAIN[1:], (TEST[0], *TEST[2:]))
    line = "lacks 2 of the 12 images in list_eval_partition.txt; the others are used\n"
    assert capsys.readouterr().out == f"{celeba / 'img_align_celeba'}: {line}"


def test_an_own_split_leaves_no_side_empty(celeba):
    (celeba / "list_eval_partition.txt").unlink()
    for name in by_crc(NAMES)[1]:
        (celeba / "img_align_celeba" / name).unlink()
    data = load_celeba(celeba)
    assert len(data.test) == 1 and len(data.train) == len(by_crc(NAMES)[0]) - 1


# CelebA: what is damaged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", ["000001.jpg 3", "000001.jpg -1", "000001.jpg", "000001.jpg 0 0", "", "a face.jpg 0", "000001.jpg,0"]
)
def test_a_bad_row_of_the_partition(celeba, row):
    path = celeba / "list_eval_partition.txt"
    rows = partition_text().splitlines()
    path.write_text("\n".join([*rows[:4], row, *rows[5:]]))
    refusal(lambda: load_celeba(celeba), f"{path}: row 5 is not a name and 0, 1 or 2; replace or remove the file")


ATTRIBUTES_DAMAGE = {
    "": "its first row is not the number of its rows, 0",
    "12": "its first row is not the number of its rows, 0",
    attributes_text().replace("12\n", "13\n", 1): "its first row is not the number of its rows, 12",
    attributes_text().replace("12\n", "", 1): "its first row is not the number of its rows, 11",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3] + "  2"): "row 6 is no name and 3 values 1 or -1",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3] + "  0"): "row 6 is no name and 3 values 1 or -1",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3]): "row 6 is no name and 3 values 1 or -1",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3] + "  1 1"): "row 6 is no name and 3 values 1 or -1",
    attributes_text().replace("Bald ", ""): "row 3 is no name and 2 values 1 or -1",
    attributes_text().replace(NAMES[2], "other.jpg"): f"has no row for {NAMES[2]}",
}


@pytest.mark.parametrize("text", ATTRIBUTES_DAMAGE, ids=range(len(ATTRIBUTES_DAMAGE)))
def test_damaged_attributes(celeba, text, labels_of_bars):
    path = celeba / "list_attr_celeba.txt"
    path.write_text(text)
    refusal(lambda: load_celeba(celeba), f"{path}: {ATTRIBUTES_DAMAGE[text]}; replace or remove it")
    assert not labels_of_bars, "found before minutes of decoding"
    assert caches(celeba.parent) == []


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_text_file_without_an_end(celeba, name):
    (celeba / name).unlink()
    (celeba / name).symlink_to("/dev/zero")
    refusal(lambda: load_celeba(celeba), f"{celeba / name}: cannot be read (a pipe or a device", "replace it")


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
@pytest.mark.parametrize(("content", "why"), [(None, "Is a directory"), (b"12\n\xff\xfe", "invalid start byte")])
def test_a_text_file_that_is_none(celeba, name, content, why):
    path = celeba / name
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read (", why, "replace it")


DAMAGED_FACES = {
    "truncated": (FACES[NAMES[0]][:-2000], "truncated"),
    "cut in its header": (FACES[NAMES[0]][:40], "cannot be read"),
    "empty": (b"", "no PNG, JPEG, BMP"),
    "text": (b"Too many requests\n", "no PNG, JPEG, BMP"),
    "too small": (jpeg(np.zeros((100, 100, 3), np.uint8)), "100x100 pixels, not 178x218"),
    "lying": (jpeg(np.zeros((178, 218, 3), np.uint8)), "218x178 pixels, not 178x218"),
}


@pytest.mark.parametrize("damage", DAMAGED_FACES)
def test_a_damaged_face(hold, damage):
    content, words = DAMAGED_FACES[damage]
    source = hold(FACES | {NAMES[4]: content})
    celeba = source.parent
    refusal(lambda: load_celeba(celeba), f"{source / NAMES[4]}: cannot be read (", words, "repair or remove it")
    assert caches(celeba.parent) == [], "no half-made folder"


def test_a_progressive_face_is_as_good_as_any(celeba):
    before = load_celeba(celeba).train
    pixels = np.asarray(Image.open(io.BytesIO(FACES[NAMES[TRAIN[0]]])))
    (celeba / "img_align_celeba" / NAMES[TRAIN[0]]).write_bytes(jpeg(pixels, progressive=True))
    np.testing.assert_allclose(load_celeba(celeba).train.astype(int), before, atol=2)


def test_after_a_fault_nobody_decodes_the_rest(monkeypatch):
    monkeypatch.setattr(image_files, "BLOCK", 2)
    monkeypatch.setattr(image_files, "AHEAD", 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    decoded = []

    def decode(name):
        decoded.append(name)
        if name == 1:
            raise UserError("damaged")
        time.sleep(0.02)

    with pytest.raises(UserError, match="damaged"):
        list(image_files.decoded_blocks(range(1000), decode))
    assert len(decoded) < 100, "not all of the 200 that were asked for"


def test_a_damaged_face_that_is_not_needed(celeba):
    (celeba / "img_align_celeba" / NAMES[UNUSED[0]]).write_bytes(b"")
    assert len(load_celeba(celeba).train) == len(TRAIN)


@pytest.mark.parametrize("images", [{}, {NAMES[0]: FACES[NAMES[0]]}])
def test_too_few_faces(hold, images):
    source = hold(images)
    refusal(lambda: load_celeba(source.parent), f"{source}: holds {len(images)} .jpg images; put them there, or")


def test_a_folder_in_place_of_a_face(celeba):
    path = celeba / "img_align_celeba" / NAMES[4]
    path.unlink()
    path.mkdir()
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read (", "Is a directory")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"<html>404</html>",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-5],
        lambda content: content[:-30] + b"\xff" * 30,
        lambda content: content.replace(b"readme", b"r\xc3adme").replace(b"\x14\0\0\0", b"\x14\0\0\x08"),  # not UTF-8
        lambda content: content.replace(b"PK\1\2\x14\x03\x14", b"PK\1\2\x14\x03\x99"),  # a version to come
    ],
)
def test_a_damaged_zip_archive(tmp_path, damage):
    path = write_images(tmp_path / "celeba", FACES, "")
    path.write_bytes(damage(path.read_bytes()))
    refusal(lambda: load_celeba(path.parent), f"{path}: cannot be read (", "delete it, and the next run downloads it")


def test_a_damaged_face_in_an_archive_is_found_by_its_checksum(tmp_path):
    """One wrong byte in a JPEG often leaves a picture, only a wrong one."""
    path = write_images(tmp_path / "celeba", FACES, "")
    content = bytearray(path.read_bytes())
    content[content.index(FACES[NAMES[4]]) + len(FACES[NAMES[4]]) - 300] ^= 1
    path.write_bytes(content)
    refusal(lambda: load_celeba(path.parent), f"{path / NAMES[4]}: cannot be read (Bad CRC-32")


def test_two_faces_of_one_name_in_an_archive(tmp_path):
    path = write_images(tmp_path / "celeba", FACES, "")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../elsewhere/" + NAMES[3], FACES[NAMES[4]])
    refusal(lambda: load_celeba(path.parent), f"{path}: cannot be read (two files {NAMES[3]} in it)")


def test_members_that_are_no_faces_are_left_out(tmp_path, capsys):
    """Too large to be one, or a link; and wherever a path leads, nothing is unpacked."""
    (tmp_path / "data").mkdir()
    path = write_images(tmp_path / "data" / "celeba", dict(list(FACES.items())[:9]), "")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAMES[9], bytes(10_000_000))
        archive.writestr("../../outside/" + NAMES[10], FACES[NAMES[10]])
        archive.writestr("/" + NAMES[11], FACES[NAMES[11]])
    (path.parent / "list_eval_partition.txt").write_text(partition_text())
    data = load_celeba(path.parent)
    assert len(data.train) + len(data.test) == len(TRAIN) + len(TEST) - 1
    assert f"{path}: lacks 1 of the 12 images" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_link_in_an_archive_is_no_face(tmp_path):
    path = write_images(tmp_path / "celeba", FACES, "")
    link = zipfile.ZipInfo(NAMES[0][:-4] + "0.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refusal(lambda: load_celeba(path.parent), f"{path / link.filename}: cannot be read (no PNG, JPEG")


# The cache ------------------------------------------------------------------------------------------------------


def test_images_are_decoded_once_and_mapped_into_memory(celeba, decode_no_more, labels_of_bars):
    first = load_celeba(celeba)
    assert labels_of_bars == ["decoding 10 images of celeba (once; kept in the data folder)"]
    decode_no_more()
    second = load_celeba(celeba)
    assert len(labels_of_bars) == 1 and caches(celeba.parent) == ["celeba-32"]
    for data in (first, second):
        assert isinstance(data.train, np.memmap) and isinstance(data.test, np.memmap)
        assert not data.train.flags.writeable
    for part in ("train", "test", "train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
    assert (first.sha256, first.label_names) == (second.sha256, second.label_names)


def test_more_images_than_a_block(celeba, monkeypatch, labels_of_bars):
    whole = load_celeba(celeba, 32)
    monkeypatch.setattr(image_files, "BLOCK", 3)
    monkeypatch.setattr(image_files, "CACHE_FORMAT", "another")
    blocks = load_celeba(celeba, 32)
    assert len(labels_of_bars) == 2
    np.testing.assert_array_equal(whole.train, blocks.train)
    np.testing.assert_array_equal(whole.test, blocks.test)
    assert blocks.sha256 == whole.sha256 == checksum(blocks)


def same_time(path, content):
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def same_size(path, content):
    before = path.stat()
    path.write_bytes(content + b"\n" * (before.st_size - len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("replace", [same_time, same_size])
def test_a_changed_face_is_noticed(celeba, replace):
    path, other = celeba / "img_align_celeba" / NAMES[TRAIN[0]], FACES[NAMES[TRAIN[1]]]
    path.write_bytes(path.read_bytes() + bytes(5000))
    load_celeba(celeba)
    replace(path, other)
    assert numbers(load_celeba(celeba).train) == (TRAIN[1], *TRAIN[1:])
    assert caches(celeba.parent) == ["celeba-32"], "what has become outdated is removed"


@pytest.mark.parametrize("change", [lambda names: names[::-1], lambda names: names[1:]])
def test_a_changed_partition_is_noticed(celeba, change):
    load_celeba(celeba)
    path = celeba / "list_eval_partition.txt"
    same_size(path, "\n".join(change(partition_text().splitlines())).encode())
    assert numbers(load_celeba(celeba).train) == tuple(change(TRAIN))


def test_a_changed_archive_is_noticed(tmp_path):
    """Also when the other face has the same number of bytes."""
    one, other = (FACES[name].ljust(20_000, b"\0") for name in NAMES[:2])
    path = write_images(tmp_path / "celeba", FACES | {NAMES[0]: one}, "")
    before = load_celeba(path.parent)
    write_images(path.parent, FACES | {NAMES[0]: other}, "")
    assert len(one) == len(other)
    assert load_celeba(path.parent).sha256 != before.sha256


def test_a_failure_leaves_the_earlier_cache(celeba, decode_no_more):
    before = load_celeba(celeba)
    path = celeba / "img_align_celeba" / NAMES[TRAIN[0]]
    whole, state = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-2000])
    refusal(lambda: load_celeba(celeba), path)
    assert caches(celeba.parent) == ["celeba-32"]
    path.write_bytes(whole)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    decode_no_more()
    assert load_celeba(celeba).sha256 == before.sha256


def test_sizes_and_limits_have_caches_of_their_own(celeba, decode_no_more):
    wanted = [(32, None), (64, None), (32, 2), (32, 3)]
    for size, limit in wanted:
        load_celeba(celeba, size, limit)
    assert caches(celeba.parent) == ["celeba-32", "celeba-32-first-2", "celeba-32-first-3", "celeba-64"]
    decode_no_more()
    for size, limit in wanted:
        assert load_celeba(celeba, size, limit).train.shape == (limit or len(TRAIN), size, size, 3)


def fill(text):
    """A build that writes a file."""
    return lambda folder: (folder / "file").write_text(text)


def fail(folder):
    raise AssertionError("built again")


def content(folder):
    return (folder / "file").read_text()


def test_a_cache_is_built_once(tmp_path):
    folder = cache.open_cache(tmp_path / "new", "name", {"a": [1, 2]}, fill("first"))
    assert folder.parent == tmp_path / "new" / "cache" and caches(tmp_path / "new") == ["name"]
    assert cache.open_cache(tmp_path / "new", "name", {"a": [1, 2]}, fail) == folder
    assert content(folder) == "first"


def test_another_signature_builds_anew_and_removes_what_is_outdated(tmp_path):
    others = [cache.open_cache(tmp_path, name, 1, fill(name)) for name in ("name-64", "name-64-first-5", "na", "name")]
    (tmp_path / "cache" / "name-mine").mkdir()
    folder = cache.open_cache(tmp_path, "name", 2, fill("second"))
    assert content(folder) == "second" and not others[-1].exists()
    assert all(other.exists() for other in others[:-1]) and (tmp_path / "cache" / "name-mine").exists()


@pytest.mark.parametrize("error", [UserError, OSError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing_new(tmp_path, error):
    def build(folder):
        fill("half")(folder)
        raise error("stopped")

    earlier = cache.open_cache(tmp_path, "name", 1, fill("earlier"))
    with pytest.raises(error, match="stopped"):
        cache.open_cache(tmp_path, "name", 2, build)
    assert list((tmp_path / "cache").iterdir()) == [earlier] and content(earlier) == "earlier"


def test_a_data_folder_that_may_only_be_read(tmp_path, monkeypatch):
    """The folder that is named is one that its user knows."""

    make = cache.Path.mkdir

    def mkdir(path, **options):
        if path.name.startswith("partial-"):
            raise PermissionError(13, "Permission denied", str(path))
        make(path, **options)

    monkeypatch.setattr(cache.Path, "mkdir", mkdir)
    with pytest.raises(PermissionError) as caught:
        cache.open_cache(tmp_path, "name", 1, fill("whole"))
    assert caught.value.filename == str(tmp_path / "cache")


@pytest.mark.parametrize(("folder_age", "file_age", "kept"), [(7200, 7200, False), (0, 0, True), (7200, 60, True)])
def test_abandoned_folders_are_removed(tmp_path, folder_age, file_age, kept):
    """Not so those that another process may still be filling."""
    partial = tmp_path / "cache" / "partial-0123456789abcdef"
    partial.mkdir(parents=True)
    fill("half")(partial)
    for path, age in ((partial / "file", file_age), (partial, folder_age)):
        os.utime(path, (time.time() - age,) * 2)
    cache.open_cache(tmp_path, "name", 1, fill("whole"))
    assert partial.exists() == kept


def test_a_stray_file_does_no_harm(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "partial-0123456789abcdef").touch()
    mine = tmp_path / "cache" / "partial-renovation"
    mine.mkdir()
    os.utime(mine, (0, 0))
    assert content(cache.open_cache(tmp_path, "name", 1, fill("whole"))) == "whole" and mine.exists()


def test_a_build_that_another_process_finishes_first_is_used(tmp_path):
    def build(folder):
        fill("slow")(folder)
        cache.open_cache(tmp_path, "name", 1, fill("fast"))

    assert content(cache.open_cache(tmp_path, "name", 1, build)) == "fast"
    assert caches(tmp_path) == ["name"]


def test_others_may_read_a_cache_as_they_may_any_new_folder(tmp_path):
    (tmp_path / "new").mkdir()
    folder = cache.open_cache(tmp_path, "name", 1, fill("whole"))
    assert folder.stat().st_mode == (tmp_path / "new").stat().st_mode


# A folder of images: pixels -------------------------------------------------------------------------------------


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)


def solid(colour, mode="RGB", size=(40, 40)):
    return Image.new(mode, size, colour)


def load_one(tmp_path, image, name="a.png", size=32, **options):
    """What becomes of an image in a folder, which needs two."""
    for other in ("", "copy of "):
        save(tmp_path / "images" / (other + name), image, **options)
    data = load_dataset(str(tmp_path / "images"), tmp_path / "data", size)
    assert data.train.shape == data.test.shape == (1, size, size, 3) and data.train.dtype == np.uint8
    np.testing.assert_array_equal(data.train, data.test)
    return data.train[0].astype(int)


def palette_image(**info):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.info.update(info)
    return image


def deep(value, kind=np.uint16):
    return Image.fromarray(np.full((40, 40), value, kind))


def transparent(image, level):
    image.info["transparency"] = level
    return image


MODES = {  # (image, name, what becomes of it, by how much it may differ)
    "1, white": (solid(1, "1"), "a.png", (255, 255, 255), 0),
    "1, black": (solid(0, "1"), "a.png", (0, 0, 0), 0),
    "L": (solid(99, "L"), "a.png", (99, 99, 99), 0),
    "L, JPEG": (solid(99, "L"), "a.jpg", (99, 99, 99), 1),
    "LA, opaque": (solid((99, 255), "LA"), "a.png", (99, 99, 99), 0),
    "LA, transparent": (solid((99, 0), "LA"), "a.png", (255, 255, 255), 0),
    "LA, half": (solid((99, 128), "LA"), "a.png", (177, 177, 177), 1),
    "P": (palette_image(), "a.png", (200, 100, 50), 0),
    "P, GIF": (palette_image(), "a.gif", (200, 100, 50), 0),
    "P, transparent": (palette_image(transparency=1), "a.png", (255, 255, 255), 0),
    "P, transparent elsewhere": (palette_image(transparency=0), "a.png", (200, 100, 50), 0),
    "P, transparent, GIF": (palette_image(transparency=1), "a.gif", (255, 255, 255), 0),
    "P, half": (palette_image(transparency=b"\0\x80"), "a.png", (227, 177, 152), 1),
    "RGB": (solid((200, 100, 50)), "a.png", (200, 100, 50), 0),
    "RGB, JPEG": (solid((200, 100, 50)), "a.JPEG", (200, 100, 50), 3),
    "RGB, BMP": (solid((200, 100, 50)), "a.bmp", (200, 100, 50), 0),
    "RGB, PPM": (solid((200, 100, 50)), "a.ppm", (200, 100, 50), 0),
    "RGB, TIFF": (solid((200, 100, 50)), "a.TIF", (200, 100, 50), 0),
    "RGBA, opaque": (solid((200, 100, 50, 255), "RGBA"), "a.png", (200, 100, 50), 0),
    "RGBA, transparent": (solid((200, 100, 50, 0), "RGBA"), "a.png", (255, 255, 255), 0),
    "RGBA, half": (solid((200, 100, 50, 128), "RGBA"), "a.png", (227, 177, 152), 1),
    "CMYK": (solid((0, 255, 255, 0), "CMYK"), "a.tif", (255, 0, 0), 0),
    "CMYK, JPEG": (solid((0, 255, 255, 0), "CMYK"), "a.jpg", (255, 0, 0), 3),
    "I;16, white": (deep(65_535), "a.png", (255, 255, 255), 0),
    "I;16, grey": (deep(40_000), "a.png", (156, 156, 156), 1),
    "I;16, dark": (deep(300), "a.png", (1, 1, 1), 0),
    "I;16, TIFF": (deep(40_000), "a.tif", (156, 156, 156), 1),
    "I;16, transparent": (transparent(deep(300), 300), "a.png", (255, 255, 255), 0),
    "I;16, transparent elsewhere": (transparent(deep(40_000), 300), "a.png", (156, 156, 156), 1),
    "I": (deep(40_000, np.int32), "a.tif", (156, 156, 156), 1),
    "I, beyond white": (deep(100_000, np.int32), "a.tif", (255, 255, 255), 0),
    "I, below black": (deep(-7, np.int32), "a.tif", (0, 0, 0), 0),
}


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode(tmp_path, mode):
    image, name, colour, tolerance = MODES[mode]
    found = load_one(tmp_path, image, name, **{"transparency": image.info["transparency"]} if image.info else {})
    assert np.abs(found - colour).max() <= tolerance


def test_deep_tiffs_in_which_0_is_white(tmp_path):
    """As some radiographs and scans have it."""
    stored = np.hstack([np.full((40, 20), level, np.uint16) for level in (0, 65_535 // 5)])
    found = load_one(tmp_path, Image.fromarray(stored), "a.tif", tiffinfo={262: 0})
    np.testing.assert_allclose(found[:, [0, -1]], np.broadcast_to([[[255], [204]]], (32, 2, 3)), atol=1)


def test_deep_tiffs_of_12_bits_in_which_0_is_white_are_remarked_on(tmp_path, capsys):
    load_one(tmp_path, deep(4095), "a.tif", tiffinfo={262: 0})
    assert "a.tif: its 16-bit pixels use 12 bits or fewer, which makes them almost white" in capsys.readouterr().out


DEEP = {"16 bits": (40_000, np.uint16, 155), "in 32": (40_000, np.int32, 155), "8 bits": (99, np.uint8, 99)}


@pytest.mark.parametrize("kind", DEEP)
def test_faces_of_other_modes(kind, celeba):
    """Which CelebA has not, but somebody's own set in its layout may."""
    value, dtype, grey = DEEP[kind]
    Image.fromarray(np.full((218, 178), value, dtype)).save(celeba / "img_align_celeba" / NAMES[TRAIN[0]], "TIFF")
    assert (load_celeba(celeba).train[0] == grey).all()


def test_faces_of_floating_point_pixels_are_refused(celeba):
    path = celeba / "img_align_celeba" / NAMES[TRAIN[0]]
    Image.fromarray(np.full((218, 178), 0.5, np.float32)).save(path, "TIFF")
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read (", "floating-point")


def test_floating_point_images_are_refused(tmp_path):
    """Their white may be 1, 255 or anything: better no images than black ones."""
    path = tmp_path / "images" / "a.tif"
    refusal(lambda: load_one(tmp_path, deep(0.5, np.float32), "a.tif"), f"{path}: cannot be read (", "floating-point")


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [solid((0, 0, 250)), solid((250, 0, 0))]
    assert (load_one(tmp_path, solid((0, 250, 0)), "a.gif", save_all=True, append_images=frames) == (0, 250, 0)).all()


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def stripes(colours, width, height, axis):
    """Stripes of these colours, side by side (axis 1) or one above the other (0)."""
    line = np.repeat(np.array(colours, np.uint8), width, axis=0)
    return np.stack([line] * height, axis=1 - axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("width", [8, 40, 101])
def test_the_central_square_is_cut_out(tmp_path, axis, width):
    """Of what lies beside it there is no more than the resampling of its very edge brings along."""
    found = load_one(tmp_path, stripes((RED, GREEN, BLUE), width, width, axis))
    edge = 6 if width < 32 else 2
    assert (np.take(found, range(edge, 32 - edge), axis) == GREEN).all()
    assert np.abs(found - GREEN).max() < 100


@pytest.mark.parametrize("axis", [0, 1])
def test_a_square_that_has_the_size_already_is_kept_to_the_pixel(tmp_path, axis):
    found = load_one(tmp_path, stripes((RED, GREEN, BLUE, RED), 16, 32, axis))
    np.testing.assert_array_equal(found, stripes((GREEN, BLUE), 16, 32, axis))


def test_images_are_antialiased(tmp_path):
    checkerboard = np.indices((330, 330)).sum(axis=0) % 2 * 255
    found = load_one(tmp_path, checkerboard.astype(np.uint8))
    assert abs(found.mean() - 127.5) < 1 and found.std() < 2


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 500), (500, 1), (3000, 2)])
def test_tiny_images_are_enlarged(tmp_path, shape):
    assert (load_one(tmp_path, solid(RED, size=shape), size=64) == RED).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize(
    ("orientation", "axis", "red_first"),
    [
        (1, 1, True),
        (2, 1, False),
        (3, 1, False),
        (4, 1, True),
        (5, 0, True),
        (6, 0, True),
        (7, 0, False),
        (8, 0, False),
    ],
)
def test_photographs_are_turned_upright(tmp_path, name, orientation, axis, red_first):
    """Stored with red on the left; in Exif, 6 says that what is stored as the left is the top."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = load_one(
        tmp_path, np.hstack([np.full((40, 20, 3), colour, np.uint8) for colour in (RED, BLUE)]), name, exif=exif
    )
    first, last = np.take(found, range(12), axis), np.take(found, range(20, 32), axis)
    for half, colour in ((first, RED if red_first else BLUE), (last, BLUE if red_first else RED)):
        assert np.abs(half - colour).max() < 40, "JPEG blurs colours"


SHORT, RATIONAL, ASCII, SIGNED_RATIONAL = 3, 5, 2, 10  # types of values in Exif data
ODD_TAGS = {
    "a description that is a fraction": (270, RATIONAL, struct.pack("<II", 1, 2)),
    "a maker that is a fraction": (271, RATIONAL, struct.pack("<II", 1, 2)),
    "a negative resolution": (282, SIGNED_RATIONAL, struct.pack("<ii", -72, 1)),
    "a position that is a text": (531, ASCII, b"centred\0"),
}


def exif_with(tag, kind, value):
    """Exif data with an orientation of 6 and another tag, whose value of 8 bytes is of that type."""
    count = 8 if kind == ASCII else 1
    entries = struct.pack("<HHIHH", 0x0112, SHORT, 1, 6, 0), struct.pack("<HHII", tag, kind, count, 8 + 2 + 24 + 4)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4) + value


@pytest.mark.parametrize("tag", ODD_TAGS)
def test_odd_exif_data_costs_no_photograph(tmp_path, tag):
    stored = np.hstack([np.full((40, 20, 3), colour, np.uint8) for colour in (RED, BLUE)])
    found = load_one(tmp_path, stored, "a.jpg", exif=exif_with(*ODD_TAGS[tag]))
    assert np.abs(found[:12] - RED).max() < 40 and np.abs(found[20:] - BLUE).max() < 40, "upright"


# A folder of images: files --------------------------------------------------------------------------------------


def colour_of(number):
    return (number % 16 * 16, number // 16 % 16 * 16, 100)


def write_numbered(folder, names):
    """Images by which to tell their numbers."""
    for number, name in enumerate(names):
        save(folder / name, solid(colour_of(number), size=(8, 8)))


def split_of(folder, data_dir, **options):
    """Numbers of the training and the test images."""
    data = load_dataset(str(folder), data_dir, 32, **options)
    return [
        [row[0] // 16 + row[1] // 16 * 16 for row in images[:, 0, 0].tolist()] for images in (data.train, data.test)
    ]


def test_a_folder_without_labels(tmp_path):
    write_numbered(tmp_path / "images", ["a.png", "b.png", "c.png"])
    data = load_dataset(str(tmp_path / "images"), tmp_path)
    assert data.name == "images" and data.image_shape == (64, 64, 3)
    assert data.train_labels is None and data.test_labels is None and data.label_names == ()
    assert data.sha256 == checksum(data) and isinstance(data.train, np.memmap)


def test_names_alone_decide_the_split(tmp_path):
    names = [f"{number:03}.png" for number in range(200)]
    write_numbered(tmp_path / "images", names[:120])
    expected = [[names.index(name) for name in side] for side in by_crc(names)]
    train, test = split_of(tmp_path / "images", tmp_path)
    assert (train, test) == tuple([number for number in side if number < 120] for side in expected)
    assert 5 <= len(test) <= 20
    write_numbered(tmp_path / "images", names)
    assert split_of(tmp_path / "images", tmp_path) == expected
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert split_of(tmp_path / "elsewhere", tmp_path) == expected


def names_on_one_side(test):
    names = (f"{number}.png" for number in range(200))
    return [name for name in names if (zlib.crc32(name.encode()) % 10 == 0) == test][:5]


@pytest.mark.parametrize("test", [False, True])
def test_neither_side_is_empty(tmp_path, test):
    write_numbered(tmp_path / "images", sorted(names_on_one_side(test)))
    train, test = split_of(tmp_path / "images", tmp_path)
    assert len(test) == 1 and len(train) == 4 and sorted(train + test) == [0, 1, 2, 3, 4]
    assert split_of(tmp_path / "images", tmp_path) == [train, test]


def test_what_counts_as_an_image(tmp_path):
    folder, names = tmp_path / "images", ["a.PNG", "b/c.png", "b/d/e.png", "b/d/f.jpg.png", "g h.png"]
    write_numbered(folder, names)
    for junk in (".hidden.png", ".thumbnails/a.png", "b/.cache/c/d.png", "._a.png", "notes.txt", "png", "a.png.part"):
        (folder / junk).parent.mkdir(parents=True, exist_ok=True)
        (folder / junk).write_bytes(b"no image")
    train, test = split_of(folder, tmp_path)
    assert sorted(train + test) == [0, 1, 2, 3, 4]


def test_a_folder_below_a_hidden_one(tmp_path):
    write_numbered(tmp_path / ".hidden" / "images", ["a.png", "b.png"])
    assert split_of(tmp_path / ".hidden" / "images", tmp_path)


@pytest.mark.parametrize("names", [[], ["a.png"]])
def test_too_few_images(tmp_path, names):
    (tmp_path / "images").mkdir()
    write_numbered(tmp_path / "images", names)
    path = tmp_path / "images"
    refusal(lambda: split_of(path, tmp_path), f"--dataset {path}: {len(names)} images", "two or more")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a.png").touch()
    refusal(lambda: split_of(tmp_path / "a.png", tmp_path), f"--dataset {tmp_path / 'a.png'}: no folder of that name")


def encoded(kind, **options):
    file = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(random).save(file, kind, **options)
    return file.getvalue()


DAMAGED = {
    "empty.png": b"",
    "text.jpg": b"Too many requests\n",
    "header.png": encoded("PNG")[:20],
    "truncated.png": encoded("PNG")[:-500],
    "damaged.png": encoded("PNG").replace(b"IDAT", b"IDAT\x99"),
    "truncated.jpg": encoded("JPEG")[:-500],
    "no width.bmp": encoded("BMP")[:18] + bytes(4) + encoded("BMP")[22:],
    "truncated.gif": encoded("GIF")[:-500],
    "truncated.tif": encoded("TIFF")[:-500],
    "truncated.bmp": encoded("BMP")[:-500],
    "truncated.ppm": encoded("PPM")[:-500],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image(tmp_path, name):
    folder = tmp_path / "images"
    write_numbered(folder, ["below/a.png", "below/z.png"])
    (folder / "below" / name).write_bytes(DAMAGED[name])
    path = folder / "below" / name
    refusal(lambda: split_of(folder, tmp_path), f"{path}: cannot be read (", "repair or remove it")
    assert not (tmp_path / "cache").exists() or caches(tmp_path) == []


def test_libtiffs_own_lines_are_kept_off_the_terminal(tmp_path, capfd):
    """They name no file."""
    content = bytearray(encoded("TIFF", compression="tiff_deflate"))
    content[len(content) // 2] ^= 255
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "images" / "c.tif").write_bytes(content)
    refusal(lambda: split_of(tmp_path / "images", tmp_path), tmp_path / "images" / "c.tif", "cannot be read (")
    assert capfd.readouterr().err == ""


def test_a_folder_in_place_of_an_image(tmp_path):
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "images" / "c.png").mkdir()
    refusal(lambda: split_of(tmp_path / "images", tmp_path), tmp_path / "images" / "c.png", "Is a directory")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        *((SyntaxError, "not a TIFF file"), (TypeError, "'str' object"), (ValueError, "two\nlines"), (KeyError, "")),
        (AttributeError, "'IFDRational' object has no attribute 'encode'"),
    ],
)
def test_damage_that_shows_late(tmp_path, monkeypatch, error, text):
    """Pillow's reader of Exif data raises whatever it may, and only when it is asked for the orientation."""

    def fail(image):
        raise error(text)

    monkeypatch.setattr(Image.Image, "getexif", fail)
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    refusal(lambda: split_of(tmp_path / "images", tmp_path), tmp_path / "images", "cannot be read (")


def test_linked_folders_are_folders_and_loops_end(tmp_path):
    write_numbered(tmp_path / "elsewhere", ["a.png", "b.png"])
    write_numbered(tmp_path / "images" / "here", ["c.png"])
    (tmp_path / "images" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "here" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "alias").symlink_to(tmp_path / "images" / "here")
    found = folders.images_in(tmp_path / "images")
    assert [path.relative_to(tmp_path / "images").as_posix() for path in found] == [
        "here/c.png",
        "there/a.png",
        "there/b.png",
    ]


def test_a_locked_folder_is_named(tmp_path, monkeypatch, capsys):
    """Left out in silence, its images would be missed, and its class. A disk has some that its user cannot open."""
    write_numbered(tmp_path / "images", ["cats/a.png", "dogs/b.png", "dogs/c.png", ".hidden/d.png"])
    scan = os.scandir

    def scandir(path):
        if Path(path).name in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    folder, locked = tmp_path / "images", {"cats", ".hidden"}
    assert [path.name for path in folders.images_in(folder)] == ["b.png", "c.png"]
    assert capsys.readouterr().out == f"{folder / 'cats'}: cannot be read (Permission denied), so it is left out\n"
    locked = {"images"}
    refusal(lambda: load_dataset(str(folder), tmp_path, 32), f"{folder}: cannot be read (Permission denied)")


def test_what_pillow_warns_of_is_a_line_with_the_files_name(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(image_files.Image, "MAX_IMAGE_PIXELS", 50)  # what has more may be a bomb
    write_numbered(tmp_path / "images", ["0\n.png", *(f"{number:02}.png" for number in range(11))])
    train, test = split_of(tmp_path / "images", tmp_path)
    assert sorted(train + test) == list(range(12)), "all are used"
    out, error = capfd.readouterr()
    lines = out.splitlines()
    assert error == "" and len(lines) == 11 and lines[0].startswith(f"{tmp_path / 'images'}/0\\n.png: Image size (64 ")
    assert all(line.endswith("; used all the same") for line in lines[:10])
    assert lines[10] == "... and such remarks on 2 more files"


def test_names_in_any_script(tmp_path):
    write_numbered(tmp_path / "Bilder für später", ["café.png", "日本.png", "😀.png", "a\nb.png"])
    train, test = split_of(tmp_path / "Bilder für später", tmp_path)
    assert sorted(train + test) == [0, 1, 2, 3] and test
    assert caches(tmp_path) == ["Bilder_für_später-32"]


def test_folders_of_one_name_have_two_caches(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_numbered(tmp_path / place / "train", ["a.png", "b.png"])
        split_of(tmp_path / place / "train", tmp_path)
    assert caches(tmp_path) == ["train-32", "train-32"]


def test_names_that_are_not_utf8(tmp_path):
    try:
        write_numbered(tmp_path / "images", [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"\xff.png")])
    except OSError:
        pytest.skip("this file system has no such names")
    train, test = split_of(tmp_path / "images", tmp_path)
    assert sorted(train + test) == [0, 1]


@pytest.mark.parametrize(
    ("folder", "title"),
    [
        *[("my images", "my_images"), ("a (2024)!", "a_2024"), ("été", "été"), ("v1.2-b", "v1.2-b")],
        *[("-rf", "rf"), ("..a", "a"), ("!?", "images"), ("a\nb", "a_b"), ("'; drop", "drop")],
    ],
)
def test_the_name_of_a_folder_makes_a_sane_run_name(tmp_path, folder, title):
    write_numbered(tmp_path / folder, ["a.png", "b.png"])
    assert load_dataset(str(tmp_path / folder), tmp_path, 32).name == title


def test_the_folder_here(tmp_path, monkeypatch):
    write_numbered(tmp_path / "photos", ["a.png", "b.png"])
    monkeypatch.chdir(tmp_path / "photos")
    assert load_dataset(".", tmp_path, 32).name == "photos"
    assert load_dataset("../photos/", tmp_path, 32).name == "photos"


def test_what_a_run_draws_into_the_folder_of_its_images_is_none_of_them(tmp_path):
    folder = tmp_path / "images"
    write_numbered(folder, ["a.png", "b.png", "results/c.png", "config/d.png"])
    (folder / "config" / "config.json").touch()
    before = load_dataset(str(folder), tmp_path, 32)
    (folder / "results" / "fc_images_z64").mkdir(parents=True)
    (folder / "results" / "fc_images_z64" / "metrics.csv").touch()
    (folder / "results" / "fc_images_z64" / "config.json").touch()
    write_numbered(folder / "results", ["fc_images_z64/samples.png", "fc_images_z64/tensorboard/a.png", "summary.png"])
    after = load_dataset(str(folder), tmp_path, 32)
    assert after.sha256 == before.sha256 and len(after.train) + len(after.test) == 4


def test_a_pipe_is_no_image(tmp_path):
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    os.mkfifo(tmp_path / "images" / "c.png")
    data = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    assert len(data.train) + len(data.test) == 2


def test_a_program_for_a_printer_is_not_run(tmp_path, monkeypatch):
    """Pillow would have Ghostscript draw it, whatever the file's name."""
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "images" / "c.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("drawn"))
    refusal(lambda: load_dataset(str(tmp_path / "images"), tmp_path, 32), "c.png", "no PNG, JPEG, BMP")


def test_every_changed_bit_of_a_png_is_found_or_harmless(tmp_path):
    path, pixels = tmp_path / "a.png", np.random.default_rng(0).integers(0, 4, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    good, refused = path.read_bytes(), 0
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(image_files.read_image(lambda: path, path, np.asarray), pixels)
        except UserError:
            refused += 1
    assert refused > 7 * len(good)


def test_a_limit_above_the_number_of_images_is_none(tmp_path, decode_no_more):
    write_numbered(tmp_path / "images", ["a.png", "b.png", "c.png"])
    whole = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    decode_no_more()
    assert load_dataset(str(tmp_path / "images"), tmp_path, 32, limit=10**300).sha256 == whole.sha256


CACHE_DAMAGE = {  # the damaged file, and its bytes from those of the good one
    "cut": ("images.npy", lambda good: good[:-1]),
    "empty": ("images.npy", lambda good: b""),
    "a pixel": ("images.npy", lambda good: good[:-1] + bytes((good[-1] ^ 1,))),
    "signed pixels": ("images.npy", lambda good: good.replace(b"|u1", b"|i1")),
    "another header": ("images.npy", lambda good: good.replace(b"'descr'", b"'descr\"")),
    "no facts": ("about.json", lambda good: b""),
    "other facts": ("about.json", lambda good: b"{}"),
    "a list of facts": ("about.json", lambda good: b"[]"),
    "deep facts": ("about.json", lambda good: b"[" * 100_000),
    "no labels": ("labels.npy", lambda good: good[:20]),
    "a label": ("labels.npy", lambda good: good[:-4] + bytes((good[-4] ^ 1, *good[-3:]))),
    "no checksums": (cache.CHECKSUMS, lambda good: b""),
    "no entry": (cache.CHECKSUMS, lambda good: b"{}"),
    "a list of checksums": (cache.CHECKSUMS, lambda good: b"[]"),
    "deep checksums": (cache.CHECKSUMS, lambda good: b"[" * 100_000),
}


@pytest.mark.parametrize("damage", CACHE_DAMAGE)
def test_a_damaged_cache_is_made_anew(tmp_path, damage, labels_of_bars, capsys):
    write_numbered(tmp_path / "images", ["a/a.png", "b/b.png", "b/c.png"])
    before = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    (folder,) = (tmp_path / "cache").iterdir()
    name, change = CACHE_DAMAGE[damage]
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / name).write_bytes(change(content[name]))
    after = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    out = capsys.readouterr().out
    assert out.endswith(f"\n{folder}: was damaged, so it is made anew\n") and len(labels_of_bars) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    assert after.sha256 == before.sha256 == checksum(after) and list((tmp_path / "cache").iterdir()) == [folder]


def test_a_cache_without_a_file(tmp_path, capsys):
    folder = cache.open_cache(tmp_path, "name", 1, fill("whole"))
    (folder / "file").unlink()
    assert content(cache.open_cache(tmp_path, "name", 1, fill("again"))) == "again"
    assert "was damaged" in capsys.readouterr().out


def test_limit_of_a_folder(tmp_path, decode_no_more):
    write_numbered(tmp_path / "images", [f"{number:03}.png" for number in range(60)])
    train, test = split_of(tmp_path / "images", tmp_path)
    assert len(test) > 2
    few = split_of(tmp_path / "images", tmp_path, limit=2)
    assert [len(part) for part in few] == [2, 2] and few != [train[:2], test[:2]], "spread, not the first ones"
    assert all(set(part) < set(whole) and part == sorted(part) for part, whole in zip(few, (train, test), strict=True))
    assert [len(part) for part in split_of(tmp_path / "images", tmp_path, limit=50)] == [50, len(test)]
    assert caches(tmp_path) == ["images-32", "images-32-first-2", "images-32-first-50"]
    decode_no_more()
    assert split_of(tmp_path / "images", tmp_path) == [train, test]
    assert split_of(tmp_path / "images", tmp_path, limit=2) == few


def test_a_changed_folder_is_noticed(tmp_path, decode_no_more):
    folder = tmp_path / "images"
    write_numbered(folder, ["a.png", "b.png", "c.png"])
    before = load_dataset(str(folder), tmp_path, 32).sha256
    save(folder / "b.png", solid((1, 2, 3)))
    changed = load_dataset(str(folder), tmp_path, 32).sha256
    (folder / "c.png").unlink()
    fewer = load_dataset(str(folder), tmp_path, 32).sha256
    assert len({before, changed, fewer}) == 3 and caches(tmp_path) == ["images-32"]
    decode_no_more()
    assert load_dataset(str(folder), tmp_path, 32).sha256 == fewer
