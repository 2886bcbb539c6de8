"""Folders of images: which files count, which are training and which are test images, what the classes are."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal
from PIL import Image
from sample_sets import by_crc, caches, checksum, numbers_in, save, solid, split_of, write_numbered

from vae.data import folders
from vae.data.registry import load_dataset

pytestmark = pytest.mark.usefixtures("no_bars")


def arranged(folder, limit=None):
    names = [path.relative_to(folder).as_posix() for path in folders.images_in(folder)]
    return folders.arrange(folder, names).at_most(limit)


def named(parts, kinds=("cat", "dog"), count=3):
    return [f"{part}/{kind}/{number}.png" for part in parts for kind in kinds for number in range(count)]


# Files --------------------------------------------------------------------------------------------------------


def test_a_folder_without_labels(tmp_path):
    write_numbered(tmp_path / "images", ["a.png", "b.png", "c.png"])
    data = load_dataset(str(tmp_path / "images"), tmp_path)
    assert data.name == "images" and data.image_shape == (64, 64, 3)
    assert data.train_labels is None and data.test_labels is None and data.label_names == ()
    assert data.sha256 == checksum(data) and isinstance(data.train, np.memmap)


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
    refusal(lambda: split_of(path, tmp_path), f"--dataset {path}: contains {len(names)} images", "two or more")


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "a.png").touch()
    refusal(
        lambda: split_of(tmp_path / "a.png", tmp_path), f"--dataset {tmp_path / 'a.png'}: is a file; name its folder"
    )


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


def test_a_link_to_a_folder_around_another_is_named(tmp_path, capsys):
    """It is read after the folder inside it; two links to each other would be read forever."""
    write_numbered(tmp_path / "pool", ["a.png", "holdout/b.png"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "test").symlink_to(tmp_path / "pool" / "holdout")
    (tmp_path / "images" / "train").symlink_to(tmp_path / "pool")
    assert [path.name for path in folders.images_in(tmp_path / "images")] == ["b.png"]
    line = f"{tmp_path / 'images' / 'train'}: left out, since {tmp_path / 'pool'} is in or around a folder"
    assert line in capsys.readouterr().out


def test_a_locked_folder_is_named(tmp_path, monkeypatch, capsys):
    """Disks have folders that their user cannot open; a note tells which images are missing."""
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


def test_names_in_any_script(tmp_path):
    write_numbered(tmp_path / "Bilder für später", ["café.png", "日本.png", "😀.png", "a\nb.png"])
    train, test = split_of(tmp_path / "Bilder für später", tmp_path)
    assert sorted(train + test) == [0, 1, 2, 3] and test
    assert caches(tmp_path) == ["Bilder_für_später-32"]


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
def test_a_folder_gives_a_plain_name(tmp_path, folder, title):
    write_numbered(tmp_path / folder, ["a.png", "b.png"])
    assert load_dataset(str(tmp_path / folder), tmp_path, 32).name == title


@pytest.mark.parametrize("letter", ["a", "日"])
def test_a_folder_of_a_very_long_name(tmp_path, letter):
    """A name has 255 bytes at most, and that of a cache also has a size, a limit and two hashes."""
    folder = tmp_path / (letter * (240 // len(letter.encode())))
    write_numbered(folder, named(["train", "test"]))
    data = load_dataset(str(folder), tmp_path, 32, 2)
    assert len(data.train) == 2 and len(data.name.encode()) <= 100 and set(data.name) == {letter}


def test_relative_paths(tmp_path, monkeypatch):
    write_numbered(tmp_path / "photos", ["a.png", "b.png"])
    monkeypatch.chdir(tmp_path / "photos")
    assert load_dataset(".", tmp_path, 32).name == "photos"
    assert load_dataset("../photos/", tmp_path, 32).name == "photos"


def test_pictures_of_runs_are_left_out(tmp_path):
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


def test_a_pipe_is_not_an_image(tmp_path, capsys):
    path = tmp_path / "images" / "c.png"
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    os.mkfifo(path)
    train, test = split_of(tmp_path / "images", tmp_path)
    assert len(train) + len(test) == 2
    assert f"{path}: left out, since it is a pipe or a device" in capsys.readouterr().out


def test_images_that_are_not_read_are_counted(tmp_path, capsys):
    write_numbered(tmp_path, ["a.png", "b.JPG", "c.jfif"])
    for name in ("d.heic", "e.HEIC", "f.avif", "notes.txt", ".hidden.heic.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(folders.images_in(tmp_path)) == 3
    assert capsys.readouterr().out == f"{tmp_path}: 1 .avif and 2 .heic are left out; convert them to .png or .jpg\n"


def test_empty_files_are_found_before_decoding(tmp_path):
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    for name in ("x.png", "y.png", "z.png"):
        (tmp_path / "images" / name).touch()
    first = tmp_path / "images" / "x.png"
    refusal(
        lambda: load_dataset(str(tmp_path / "images"), tmp_path, 32),
        f"{first}: cannot be read (it is empty, and so are 2",
    )


def test_empty_files_that_are_not_used_do_no_harm(tmp_path):
    write_numbered(tmp_path / "images", named(("train", "val", "test")))
    (tmp_path / "images/val/cat/0.png").write_bytes(b"")
    data = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    assert (len(data.train), len(data.test)) == (6, 6)
    left_out = set(arranged(tmp_path / "images").train) - set(arranged(tmp_path / "images", 2).train)
    (tmp_path / "images" / min(left_out)).write_bytes(b"")
    assert len(load_dataset(str(tmp_path / "images"), tmp_path, 32, limit=2).train) == 2


def test_folders_of_a_network_disk_are_left_out(tmp_path):
    write_numbered(tmp_path, ["a.png", "@eaDir/a.png/thumbnail.png"])
    assert [path.name for path in folders.images_in(tmp_path)] == ["a.png"]


# Splits -------------------------------------------------------------------------------------------------------


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


def test_a_limit_always_takes_the_same_images():
    """In every version of the program, or runs with --limit could not be compared."""
    names = [f"{number:02}.png" for number in range(40)]
    assert folders.spread(names, 4) == ["02.png", "03.png", "16.png", "28.png"]
    assert folders.split_by_name(names)[1] == ["12.png", "38.png", "39.png"]


def test_a_limit_above_the_number_of_images_has_no_effect(tmp_path, decode_no_more):
    write_numbered(tmp_path / "images", ["a.png", "b.png", "c.png"])
    whole = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    decode_no_more()
    assert load_dataset(str(tmp_path / "images"), tmp_path, 32, limit=10**300).sha256 == whole.sha256


@pytest.mark.parametrize("above", ["", "archive/pets/"])
@pytest.mark.parametrize(
    ("parts", "training", "testing"),
    [
        (("train", "test"), "train", "test"),
        (("train", "val"), "train", "val"),
        (("Training", "validation", "Testing"), "Training", "Testing"),
        (("seg_train", "seg_test"), "seg_train", "seg_test"),
        (("train2017", "val2017"), "train2017", "val2017"),
        (("train_set", "test_set"), "train_set", "test_set"),
    ],
)
def test_a_published_split_is_used(tmp_path, capsys, above, parts, training, testing):
    write_numbered(tmp_path / above, named(parts))
    found = arranged(tmp_path)
    assert found.train == [f"{above}{name}" for name in named((training,))]
    assert found.test == [f"{above}{name}" for name in named((testing,))]
    assert found.classes == ["cat", "dog"] and found.labels() == [0, 0, 0, 1, 1, 1] * 2
    out = capsys.readouterr().out
    assert f"{tmp_path}: {training}/ is for training and {testing}/ for testing" in out
    assert ("; 6 other images are left out" in out) == (len(parts) == 3)
    assert f"{tmp_path}: 2 classes, cat, dog\n" in out


@pytest.mark.parametrize(
    ("train", "test", "others"),
    [
        ("training_set/training_set", "test_set/test_set", ()),
        ("training/training", "validation/validation", ()),
        ("seg_train/seg_train", "seg_test/seg_test", ("seg_pred/seg_pred/1.png",)),
    ],
)
def test_a_published_split_that_is_packed_twice(tmp_path, capsys, train, test, others):
    """Kaggle has "Cat and Dog", "10 Monkey Species" and Intel's scenes this way."""
    write_numbered(tmp_path, [*named((train, test)), *others])
    found = arranged(tmp_path)
    assert (found.train, found.test) == (named((train,)), named((test,)))
    assert found.classes == ["cat", "dog"] and found.labels() == [0, 0, 0, 1, 1, 1] * 2
    assert ("; 1 other images are left out" in capsys.readouterr().out) == bool(others)


def test_test_images_that_are_also_training_images_are_counted(tmp_path, capsys):
    write_numbered(tmp_path / "images", named(("train", "test")))
    (tmp_path / "images/test/cat/9.png").write_bytes((tmp_path / "images/train/dog/1.png").read_bytes())
    for _ in range(2):  # decoded, and from the cache
        load_dataset(str(tmp_path / "images"), tmp_path, 32)
        assert ": 1 of 7 test images are also training images, to the pixel" in capsys.readouterr().out


# Classes ------------------------------------------------------------------------------------------------------


def test_a_class_named_like_its_part_of_the_split(tmp_path):
    write_numbered(tmp_path, named(("train", "test"), kinds=("train", "plane")))
    assert arranged(tmp_path).classes == ["plane", "train"]


@pytest.mark.parametrize(
    "kinds", [("cat", "test"), ("testament", "trainspotting"), ("train", "plane"), ("val", "test"), ("train", "pred")]
)
def test_classes_named_like_parts_of_a_split(tmp_path, kinds):
    write_numbered(tmp_path, [f"{kind}/{number}.png" for kind in kinds for number in range(9)])
    found = arranged(tmp_path)
    assert found.classes == sorted(kinds) and len(found.train) + len(found.test) == 18


def test_classes_below_other_folders_and_images_outside_of_all(tmp_path, capsys):
    write_numbered(tmp_path, named(["kaggle/PetImages"]))
    assert arranged(tmp_path).classes == ["cat", "dog"]
    write_numbered(tmp_path, ["kaggle/PetImages/sample.png"])
    capsys.readouterr()
    assert arranged(tmp_path).classes == []
    line = f"{tmp_path}: no classes, since 1 images like kaggle/PetImages/sample.png are in no class folder\n"
    assert capsys.readouterr().out == line


def test_a_limit_takes_from_all_classes(tmp_path):
    write_numbered(tmp_path, named(["pets"], count=200))
    whole, few = arranged(tmp_path), arranged(tmp_path, 40)
    assert len(few.train) == 40 and set(few.train) < set(whole.train) and few.train == sorted(few.train)
    for part in (few.train, few.test):
        assert 0.25 < np.mean([few.class_of[name] == "cat" for name in part]) < 0.75
    assert len(few.labels()) == len(few.train) + len(few.test)


def test_no_classes_if_test_images_are_in_none(tmp_path, capsys):
    """Tiny ImageNet as published: its test images are unlabelled, in a folder called images."""
    write_numbered(
        tmp_path, named(["train"]) + [f"{part}/images/{number}.png" for part in ("test", "val") for number in range(3)]
    )
    found = arranged(tmp_path)
    assert found.classes == [] and len(found.test) == 3
    assert "no classes, since no test image is in a class" in capsys.readouterr().out


def test_labels_and_pixels_stay_together(tmp_path):
    """Through the cache and with a published split."""
    names = named(("train", "test"), kinds=("x", "y", "z"))
    write_numbered(tmp_path / "images", names)
    data = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    numbers = {part: numbers_in(images) for part, images in (("train", data.train), ("test", data.test))}
    for part, labels in (("train", data.train_labels), ("test", data.test_labels)):
        paths = [names[number] for number in numbers[part]]
        assert [path.split("/")[0] for path in paths] == [part] * 9
        assert [data.label_names[label] for label in labels] == [path.split("/")[1] for path in paths]


def write_classes(folder, classes, count=30):
    names = [f"{name}/{number:02}.png" for name in classes for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / name)
    return names


def test_folders_by_class_are_labels(tmp_path):
    classes = ["cat", "dog", "Émile & $x$"]
    written = write_classes(tmp_path / "pets", classes)
    names = sorted(written)
    data = load_dataset(str(tmp_path / "pets"), tmp_path, 32)
    assert data.label_names == ("cat", "dog", "Émile _ _x_")
    for images, labels, side in zip(
        (data.train, data.test), (data.train_labels, data.test_labels), folders.split_by_name(names), strict=True
    ):
        assert [data.label_names[label][:3] for label in labels] == [name[:3] for name in side]
        assert len(images) == len(labels) > 0
    again = load_dataset(str(tmp_path / "pets"), tmp_path, 32, limit=5)
    assert len(again.train_labels) == 5
    for images, files in ((data.train, data.train_names), (again.test, again.test_names)):
        assert [written[number] for number in images[:, 0, 0, 0]] == list(files), "each by its name"
    assert again.name_of("test", 0) == again.test_names[0]


@pytest.mark.parametrize("others", [["loose.png"], []])
def test_no_labels_unless_two_classes_contain_every_image(tmp_path, others):
    write_classes(tmp_path / "pets", ["cat", "dog"] if others else ["cat"])
    for name in others:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pets" / name)
    assert load_dataset(str(tmp_path / "pets"), tmp_path, 32).train_labels is None


# The cache ----------------------------------------------------------------------------------------------------


def test_folders_of_one_name_have_two_caches(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_numbered(tmp_path / place / "train", ["a.png", "b.png"])
        split_of(tmp_path / place / "train", tmp_path)
    assert caches(tmp_path) == ["train-32", "train-32"]


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
