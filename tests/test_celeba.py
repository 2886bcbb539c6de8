"""CelebA: right faces and attributes on the right side of the split, decoded once, or one line that names the file."""

import hashlib
import io
import os
import zipfile

import numpy as np
import pytest
from conftest import refusal
from PIL import Image
from sample_sets import (
    ATTRIBUTES,
    COLOURS,
    FACES,
    NAMES,
    TEST,
    TRAIN,
    UNUSED,
    VALUES,
    archive,
    attributes_text,
    by_crc,
    caches,
    checksum,
    jpeg,
    kaggle,
    partition_text,
    write_images,
)

from vae.data import images as decoder
from vae.data.download import UNPACKED
from vae.data.registry import load_dataset

pytestmark = pytest.mark.usefixtures("no_network", "no_bars")


@pytest.fixture(autouse=True)
def any_lists(monkeypatch):
    """Print no notes that the lists of these tests differ from the published ones."""
    known = {name: checksum for name, checksum in UNPACKED.items() if "list_" not in name}
    monkeypatch.setattr("vae.data.download.UNPACKED", known)


@pytest.fixture
def celeba(tmp_path):
    """Write twelve faces, their attributes and their partition to tmp_path/celeba; returns the folder."""
    folder = tmp_path / "celeba"
    write_images(folder, FACES)
    (folder / "list_eval_partition.txt").write_text(partition_text())
    (folder / "list_attr_celeba.txt").write_text(attributes_text())
    return folder


@pytest.fixture(params=["folder", "archive"])
def hold(request, tmp_path):
    """Return a function that writes images to tmp_path/celeba, as a folder or an archive, and returns its path."""
    return lambda images: write_images(tmp_path / "celeba", images, None if request.param == "folder" else "")


def load_celeba(celeba, size=32, limit=None):
    return load_dataset("celeba", celeba.parent, size, limit)


def numbers(images):
    """Return the numbers of the faces in these images."""
    means = images.mean(axis=(1, 2))
    return tuple(np.abs(means[:, None] - COLOURS).sum(axis=2).argmin(axis=1).tolist())


# Faces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
def test_faces_are_cropped_to_the_central_148_pixels(celeba, size):
    data = load_celeba(celeba, size)
    assert data.name == "celeba" and data.image_shape == (size, size, 3)
    assert data.train.dtype == data.test.dtype == np.uint8
    for images, chosen in ((data.train, TRAIN), (data.test, TEST)):
        expected = COLOURS[list(chosen)].astype(int)[:, None, None]
        assert np.abs(images - expected).max() <= 4  # a column of the rest would make it more than 20


def one_face(celeba, pixels, size):
    """Return what is read of one face."""
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


DEEP = {"16 bits": (40_000, np.uint16, 155), "in 32": (40_000, np.int32, 155), "8 bits": (99, np.uint8, 99)}


@pytest.mark.parametrize("kind", DEEP)
def test_faces_of_other_modes(kind, celeba):
    """CelebA has none, but another set in its layout may."""
    value, dtype, grey = DEEP[kind]
    Image.fromarray(np.full((218, 178), value, dtype)).save(celeba / "img_align_celeba" / NAMES[TRAIN[0]], "TIFF")
    assert (load_celeba(celeba).train[0] == grey).all()


def test_faces_of_floating_point_pixels_are_refused(celeba):
    path = celeba / "img_align_celeba" / NAMES[TRAIN[0]]
    Image.fromarray(np.full((218, 178), 0.5, np.float32)).save(path, "TIFF")
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read (", "floating-point")


def test_a_progressive_face_is_as_good_as_any(celeba):
    before = load_celeba(celeba).train
    pixels = np.asarray(Image.open(io.BytesIO(FACES[NAMES[TRAIN[0]]])))
    (celeba / "img_align_celeba" / NAMES[TRAIN[0]]).write_bytes(jpeg(pixels, progressive=True))
    np.testing.assert_allclose(load_celeba(celeba).train.astype(int), before, atol=2)


# What is missing ----------------------------------------------------------------------------------------------


def test_a_missing_archive_is_downloaded(tmp_path, no_network):
    refusal(lambda: load_celeba(tmp_path / "celeba"), "no network")
    assert no_network == [(tmp_path / "celeba" / "img_align_celeba.zip", "toy-faces")]


def test_missing_attributes(celeba, capsys):
    path = celeba / "list_attr_celeba.txt"
    path.unlink()
    data = load_celeba(celeba)
    assert data.train_labels is None and data.test_labels is None and data.label_names == ()
    assert capsys.readouterr().out.startswith(f"{path}: not found, so no attributes are shown; see ")
    path.write_text(attributes_text())
    np.testing.assert_array_equal(load_celeba(celeba).train_labels, VALUES[list(TRAIN)])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "{}: not found; "),
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
    rule = "instead, the test images are the tenth whose name has a CRC-32 divisible by 10"
    few = "" if text is not None else f"{celeba / 'img_align_celeba'}: 12 of CelebA's 202,599 images\n"
    assert capsys.readouterr().out == line.format(path) + rule + "\n" + few


def test_lists_that_differ_from_the_published_ones(celeba, capsys, monkeypatch):
    monkeypatch.setattr("vae.data.download.UNPACKED", UNPACKED)
    load_celeba(celeba)
    paths = [celeba / f"list_{name}.txt" for name in ("attr_celeba", "eval_partition")]
    expected = [f"{path}: not byte for byte the published file; used as it is" for path in paths]
    assert capsys.readouterr().out.splitlines() == expected
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}
    monkeypatch.setattr("vae.data.download.UNPACKED", UNPACKED | digests)
    load_celeba(celeba)
    assert capsys.readouterr().out == ""


def test_absent_faces(celeba, capsys):
    for number in (TRAIN[0], TEST[1]):
        (celeba / "img_align_celeba" / NAMES[number]).unlink()
    data = load_celeba(celeba)
    assert (numbers(data.train), numbers(data.test)) == (TRAIN[1:], (TEST[0], *TEST[2:]))
    line = "lacks 2 of the 12 images in list_eval_partition.txt; the others are used\n"
    assert capsys.readouterr().out == f"{celeba / 'img_align_celeba'}: {line}"


def test_our_own_split_leaves_no_side_empty(celeba):
    (celeba / "list_eval_partition.txt").unlink()
    for name in by_crc(NAMES)[1]:
        (celeba / "img_align_celeba" / name).unlink()
    data = load_celeba(celeba)
    assert len(data.test) == 1 and len(data.train) == len(by_crc(NAMES)[0]) - 1


# What is damaged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", ["000001.jpg 3", "000001.jpg -1", "000001.jpg", "000001.jpg 0 0", "", "a face.jpg 0", "000001.jpg,0"]
)
def test_a_bad_row_of_the_partition(celeba, row):
    path = celeba / "list_eval_partition.txt"
    rows = partition_text().splitlines()
    path.write_text("\n".join([*rows[:4], row, *rows[5:]]))
    words = "row 5 is not a name and 1 of the values 0, 1, 2); replace or remove the file"
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read ({words}")


ATTRIBUTES_DAMAGE = {
    "": "its first row is not the number of its rows, 0",
    "12": "its first row is not the number of its rows, 0",
    attributes_text().replace("12\n", "13\n", 1): "its first row is not the number of its rows, 12",
    attributes_text().replace("12\n", "", 1): "its first row is not the number of its rows, 11",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3] + "  2"): "row 6 is not a name and 3 of the values -1, 1",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3] + "  0"): "row 6 is not a name and 3 of the values -1, 1",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3]): "row 6 is not a name and 3 of the values -1, 1",
    attributes_text().replace(NAMES[3] + "  1", NAMES[3] + "  1 1"): "row 6 is not a name and 3 of the values -1, 1",
    attributes_text().replace("Bald ", ""): "row 3 is not a name and 2 of the values -1, 1",
    attributes_text().replace(NAMES[2], "other.jpg"): f"has no row for {NAMES[2]}",
}


@pytest.mark.parametrize("text", ATTRIBUTES_DAMAGE, ids=range(len(ATTRIBUTES_DAMAGE)))
def test_damaged_attributes(celeba, text, no_bars):
    path = celeba / "list_attr_celeba.txt"
    path.write_text(text)
    refusal(lambda: load_celeba(celeba), f"{path}: ", ATTRIBUTES_DAMAGE[text], "; replace or remove the file")
    assert not no_bars, "found before minutes of decoding"
    assert caches(celeba.parent) == []


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_list_that_never_ends(celeba, name):
    (celeba / name).unlink()
    (celeba / name).symlink_to("/dev/zero")
    refusal(lambda: load_celeba(celeba), f"{celeba / name}: cannot be read (a pipe or a device", "replace or remove")


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
@pytest.mark.parametrize(("content", "why"), [(None, "Is a directory"), (b"12\n\xff\xfe", "invalid start byte")])
def test_a_list_that_is_not_text(celeba, name, content, why):
    path = celeba / name
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read (", why, "replace or remove the file")


DAMAGED_FACES = {
    "truncated": (FACES[NAMES[0]][:-2000], "truncated"),
    "cut in its header": (FACES[NAMES[0]][:40], "cannot be read"),
    "empty": (b"", "not a PNG, JPEG, BMP"),
    "text": (b"Too many requests\n", "not a PNG, JPEG, BMP"),
    "too small": (jpeg(np.zeros((100, 100, 3), np.uint8)), "100x100 pixels, not 178x218"),
    "lying": (jpeg(np.zeros((178, 218, 3), np.uint8)), "218x178 pixels, not 178x218"),
}


@pytest.mark.parametrize("damage", DAMAGED_FACES)
def test_a_damaged_face(hold, damage):
    content, words = DAMAGED_FACES[damage]
    source = hold(FACES | {NAMES[4]: content})
    celeba = source.parent
    refusal(lambda: load_celeba(celeba), f"{source / NAMES[4]}: cannot be read (", words, "repair or remove it")
    assert caches(celeba.parent) == [], "no unfinished folder"


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
    """A JPEG with one wrong byte often decodes to another picture."""
    path = write_images(tmp_path / "celeba", FACES, "")
    content = bytearray(path.read_bytes())
    content[content.index(FACES[NAMES[4]]) + len(FACES[NAMES[4]]) - 300] ^= 1
    path.write_bytes(content)
    refusal(lambda: load_celeba(path.parent), f"{path / NAMES[4]}: cannot be read (Bad CRC-32")


def test_two_faces_of_one_name_in_an_archive(tmp_path):
    path = write_images(tmp_path / "celeba", FACES, "")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../elsewhere/" + NAMES[3], FACES[NAMES[4]])
    refusal(lambda: load_celeba(path.parent), f"{path}: cannot be read (it contains two files {NAMES[3]})")


def test_members_that_are_not_faces_are_left_out(tmp_path, capsys):
    """Too large to be one, not a photograph, or macOS' own; and whatever their paths, nothing is unpacked."""
    (tmp_path / "data").mkdir()
    path = write_images(tmp_path / "data" / "celeba", dict(list(FACES.items())[:9]), "")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAMES[9], bytes(10_000_000))
        archive.writestr(NAMES[9] + "/notes.txt", b"junk")
        archive.writestr("__MACOSX/" + NAMES[9], FACES[NAMES[9]])
        archive.writestr("../../outside/" + NAMES[10], FACES[NAMES[10]])
        archive.writestr("/" + NAMES[11], FACES[NAMES[11]])
    (path.parent / "list_eval_partition.txt").write_text(partition_text())
    data = load_celeba(path.parent)
    assert len(data.train) + len(data.test) == len(TRAIN) + len(TEST) - 1
    assert f"{path}: lacks 1 of the 12 images" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_link_in_an_archive_is_not_a_face(tmp_path):
    path = write_images(tmp_path / "celeba", FACES, "")
    link = zipfile.ZipInfo(NAMES[0][:-4] + "0.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refusal(lambda: load_celeba(path.parent), f"{path / link.filename}: cannot be read (not a PNG, JPEG")


# Other layouts ------------------------------------------------------------------------------------------------


def test_the_folders_of_celebas_authors(celeba):
    """Img/, Anno/ and Eval/, with a file of macOS, and an empty folder beside the archive."""
    before = load_celeba(celeba)
    content = {path.name: path.read_bytes() for path in (celeba / "img_align_celeba").glob("*.jpg")}
    for place in ("Img", "Anno", "Eval"):
        (celeba / place).mkdir()
    (celeba / "Img" / "img_align_celeba.zip").write_bytes(archive(content | {"._000001.jpg": b"macOS"}))
    (celeba / "list_attr_celeba.txt").rename(celeba / "Anno" / "list_attr_celeba.txt")
    (celeba / "list_eval_partition.txt").rename(celeba / "Eval" / "list_eval_partition.txt")
    for path in (celeba / "img_align_celeba").iterdir():
        path.unlink()
    after = load_celeba(celeba)
    assert after.sha256 == before.sha256 and np.array_equal(after.train_labels, before.train_labels)
    (celeba / "Img" / "img_align_celeba.zip").unlink()
    (celeba / "Img" / "img_align_celeba").mkdir()
    for name, photograph in content.items():
        (celeba / "Img" / "img_align_celeba" / name).write_bytes(photograph)
    assert load_celeba(celeba).sha256 == before.sha256, "unpacked there"


def test_the_layout_of_kaggle(celeba):
    before = load_celeba(celeba)
    kaggle(celeba)
    after = load_celeba(celeba)
    assert after.sha256 == before.sha256 and after.label_names == before.label_names
    for part in ("train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(after, part), getattr(before, part))


TABLE_DAMAGE = {  # (file, its text from a good one, words of the message)
    "no titles": ("attr_celeba", lambda text: text.split("\n", 1)[1], "first row is not image_id and names"),
    "empty": ("attr_celeba", lambda text: "", "first row is not image_id and names"),
    "a value too few": (
        "attr_celeba",
        lambda text: text.replace("000002.jpg,1,", "000002.jpg,"),
        "row 3 is not a name and 3",
    ),
    "value 2": (
        "attr_celeba",
        lambda text: text.replace("000002.jpg,1,", "000002.jpg,2,"),
        "row 3 is not a name and 3",
    ),
    "a row twice": ("attr_celeba", lambda text: text + "000002.jpg,1,1,1\n", "row 14 lists 000002.jpg again"),
    "a row missing": ("attr_celeba", lambda text: text.replace("000002.jpg", "0.jpg"), "has no row for 000002.jpg"),
    "part 3": ("eval_partition", lambda text: text.replace("000001.jpg,0", "000001.jpg,3"), "row 3 is not a name and"),
    "a face twice": ("eval_partition", lambda text: text + "000001.jpg,2\n", "row 14 lists 000001.jpg again"),
}


@pytest.mark.parametrize("damage", TABLE_DAMAGE)
def test_damaged_tables(celeba, damage):
    kaggle(celeba)
    name, change, words = TABLE_DAMAGE[damage]
    path = celeba / f"list_{name}.csv"
    path.write_text(change(path.read_text()))
    refusal(lambda: load_celeba(celeba), f"{path}: ", words, "replace or remove")


def test_a_partition_table_without_titles(celeba):
    kaggle(celeba)
    expected = load_celeba(celeba)
    path = celeba / "list_eval_partition.csv"
    path.write_text(path.read_text().partition("\n")[2])
    data = load_celeba(celeba)
    np.testing.assert_array_equal(data.train, expected.train)
    np.testing.assert_array_equal(data.test, expected.test)


def test_a_face_twice_in_the_published_lists(celeba):
    path = celeba / "list_eval_partition.txt"
    path.write_text(partition_text() + "000001.jpg 2\n")
    refusal(lambda: load_celeba(celeba), f"{path}: cannot be read (row 13 lists 000001.jpg again")


# The cache ----------------------------------------------------------------------------------------------------


def test_images_are_decoded_once_and_mapped_into_memory(celeba, decode_no_more, no_bars):
    first = load_celeba(celeba)
    assert no_bars == ["decoding 10 images of celeba (once; kept in the data folder)"]
    decode_no_more()
    second = load_celeba(celeba)
    assert len(no_bars) == 1 and caches(celeba.parent) == ["celeba-32"]
    for data in (first, second):
        assert isinstance(data.train, np.memmap) and isinstance(data.test, np.memmap)
        assert not data.train.flags.writeable
    for part in ("train", "test", "train_labels", "test_labels"):
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
    assert (first.sha256, first.label_names) == (second.sha256, second.label_names)


def test_more_images_than_a_block(celeba, monkeypatch, no_bars):
    whole = load_celeba(celeba, 32)
    monkeypatch.setattr(decoder, "BLOCK", 3)
    monkeypatch.setattr(decoder, "CACHE_FORMAT", "another")
    blocks = load_celeba(celeba, 32)
    assert len(no_bars) == 2
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
    assert caches(celeba.parent) == ["celeba-32"], "the outdated cache is removed"


@pytest.mark.parametrize("change", [lambda names: names[::-1], lambda names: names[1:]])
def test_a_changed_partition_is_noticed(celeba, change):
    load_celeba(celeba)
    path = celeba / "list_eval_partition.txt"
    same_size(path, "\n".join(change(partition_text().splitlines())).encode())
    assert numbers(load_celeba(celeba).train) == tuple(change(TRAIN))


def test_a_changed_archive_is_noticed(tmp_path):
    """Even if the other face has the same number of bytes."""
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


def test_each_size_and_limit_has_its_own_cache(celeba, decode_no_more):
    wanted = [(32, None), (64, None), (32, 2), (32, 3)]
    for size, limit in wanted:
        load_celeba(celeba, size, limit)
    assert caches(celeba.parent) == ["celeba-32", "celeba-32-first-2", "celeba-32-first-3", "celeba-64"]
    decode_no_more()
    for size, limit in wanted:
        assert load_celeba(celeba, size, limit).train.shape == (limit or len(TRAIN), size, size, 3)
