"""A folder of images as it lies on a disk: what is trained on and tested on, what the classes are, and what is said."""

import numpy as np
import pytest
from conftest import refusal
from PIL import Image

from vae.data import folders, image_files
from vae.data.datasets import load_dataset


def write(folder, names):
    """Images that differ from each other, by their paths."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = (number % 256, number // 256, 99)
        Image.new("RGB", (8, 8), colour).save(folder / name, "PNG")


def arranged(folder, limit=None):
    names = [path.relative_to(folder).as_posix() for path in folders.images_in(folder)]
    return folders.arrange(folder, names).at_most(limit)


def named(parts, kinds=("cat", "dog"), count=3):
    return [f"{part}/{kind}/{number}.png" for part in parts for kind in kinds for number in range(count)]


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
def test_the_parts_of_a_published_split_are_used_as_such(tmp_path, capsys, above, parts, training, testing):
    write(tmp_path / above, named(parts))
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
def test_parts_of_a_split_that_are_packed_twice(tmp_path, capsys, train, test, others):
    """As Kaggle has "Cat and Dog", "10 Monkey Species" and Intel's scenes."""
    write(tmp_path, [*named((train, test)), *others])
    found = arranged(tmp_path)
    assert (found.train, found.test) == (named((train,)), named((test,)))
    assert found.classes == ["cat", "dog"] and found.labels() == [0, 0, 0, 1, 1, 1] * 2
    assert ("; 1 other images are left out" in capsys.readouterr().out) == bool(others)


def test_a_class_that_is_called_as_its_part_is_a_class(tmp_path):
    write(tmp_path, named(("train", "test"), kinds=("train", "plane")))
    assert arranged(tmp_path).classes == ["plane", "train"]


@pytest.mark.parametrize(
    "kinds", [("cat", "test"), ("testament", "trainspotting"), ("train", "plane"), ("val", "test"), ("train", "pred")]
)
def test_classes_that_are_called_like_parts_of_a_split_are_classes(tmp_path, kinds):
    write(tmp_path, [f"{kind}/{number}.png" for kind in kinds for number in range(9)])
    found = arranged(tmp_path)
    assert found.classes == sorted(kinds) and len(found.train) + len(found.test) == 18


def test_classes_below_other_folders_and_images_outside_of_all(tmp_path, capsys):
    write(tmp_path, named(["kaggle/PetImages"]))
    assert arranged(tmp_path).classes == ["cat", "dog"]
    write(tmp_path, ["kaggle/PetImages/sample.png"])
    capsys.readouterr()
    assert arranged(tmp_path).classes == []
    line = f"{tmp_path}: no classes, since 1 images like kaggle/PetImages/sample.png lie in no folder of one\n"
    assert capsys.readouterr().out == line


def test_a_limit_takes_from_all_classes(tmp_path):
    write(tmp_path, named(["pets"], count=200))
    whole, few = arranged(tmp_path), arranged(tmp_path, 40)
    assert len(few.train) == 40 and set(few.train) < set(whole.train) and few.train == sorted(few.train)
    for part in (few.train, few.test):
        assert 0.25 < np.mean([few.class_of[name] == "cat" for name in part]) < 0.75
    assert len(few.labels()) == len(few.train) + len(few.test)


def test_images_that_are_not_read_are_counted(tmp_path, capsys):
    write(tmp_path, ["a.png", "b.JPG", "c.jfif"])
    for name in ("d.heic", "e.HEIC", "f.avif", "notes.txt", ".hidden.heic.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(folders.images_in(tmp_path)) == 3
    assert capsys.readouterr().out == f"{tmp_path}: 1 .avif and 2 .heic are left out; convert them to .png or .jpg\n"


def test_empty_files_are_found_before_the_others_are_decoded(tmp_path):
    write(tmp_path / "images", ["a.png", "b.png"])
    for name in ("x.png", "y.png", "z.png"):
        (tmp_path / "images" / name).touch()
    first = tmp_path / "images" / "x.png"
    refusal(
        lambda: load_dataset(str(tmp_path / "images"), tmp_path, 32),
        f"{first}: cannot be read (it is empty, and so are 2",
    )


def test_empty_files_that_are_left_out_do_no_harm(tmp_path):
    write(tmp_path / "images", named(("train", "val", "test")))
    (tmp_path / "images/val/cat/0.png").write_bytes(b"")
    data = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    assert (len(data.train), len(data.test)) == (6, 6)
    left_out = set(arranged(tmp_path / "images").train) - set(arranged(tmp_path / "images", 2).train)
    (tmp_path / "images" / min(left_out)).write_bytes(b"")
    assert len(load_dataset(str(tmp_path / "images"), tmp_path, 32, limit=2).train) == 2


def test_a_network_disks_own_folders_are_none_of_the_users(tmp_path):
    write(tmp_path, ["a.png", "@eaDir/a.png/thumbnail.png"])
    assert [path.name for path in folders.images_in(tmp_path)] == ["a.png"]


def test_test_images_in_none_of_the_classes_leave_no_classes(tmp_path, capsys):
    """Tiny ImageNet as published: its test images are unlabelled, in a folder called images."""
    write(
        tmp_path, named(["train"]) + [f"{part}/images/{number}.png" for part in ("test", "val") for number in range(3)]
    )
    found = arranged(tmp_path)
    assert found.classes == [] and len(found.test) == 3
    assert "no classes after all, since no test image is of a class" in capsys.readouterr().out


def test_a_linked_folder_around_another_is_named(tmp_path, capsys):
    """Walked after the one inside it, it is left out, or two that lead to each other would be walked for ever."""
    write(tmp_path / "pool", ["a.png", "holdout/b.png"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "test").symlink_to(tmp_path / "pool" / "holdout")
    (tmp_path / "images" / "train").symlink_to(tmp_path / "pool")
    assert [path.name for path in folders.images_in(tmp_path / "images")] == ["b.png"]
    line = f"{tmp_path / 'images' / 'train'}: left out, since {tmp_path / 'pool'} lies in or around a folder"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("letter", ["a", "日"])
def test_a_folder_of_a_very_long_name(tmp_path, letter):
    """255 bytes are the most that a name can have, and a cache's has a size, a limit and two hashes too."""
    folder = tmp_path / (letter * (240 // len(letter.encode())))
    write(folder, named(["train", "test"]))
    data = load_dataset(str(folder), tmp_path, 32, 2)
    assert len(data.train) == 2 and len(data.name.encode()) <= 100 and set(data.name) == {letter}


def test_labels_and_pixels_stay_together(tmp_path):
    """Through the cache, and with a split of their own."""
    names = named(("train", "test"), kinds=("x", "y", "z"))
    write(tmp_path / "images", names)
    data = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    numbers = {part: images[:, 0, 0, 0].tolist() for part, images in (("train", data.train), ("test", data.test))}
    for part, labels in (("train", data.train_labels), ("test", data.test_labels)):
        paths = [names[number] for number in numbers[part]]
        assert [path.split("/")[0] for path in paths] == [part] * 9
        assert [data.label_names[label] for label in labels] == [path.split("/")[1] for path in paths]


def test_test_images_that_are_training_images_too_are_counted(tmp_path, capsys):
    write(tmp_path / "images", named(("train", "test")))
    (tmp_path / "images/test/cat/9.png").write_bytes((tmp_path / "images/train/dog/1.png").read_bytes())
    for _ in range(2):  # decoded, and from the cache
        load_dataset(str(tmp_path / "images"), tmp_path, 32)
        assert ": 1 of 7 test images are also training images, to the pixel" in capsys.readouterr().out


def test_16_bit_pixels_that_use_12_are_remarked_on(tmp_path, capsys):
    write(tmp_path / "images", ["a.png", "b.png"])
    for name, white in (("dark", 4095), ("bright", 65_535)):
        Image.fromarray(np.full((8, 8), white, np.uint16)).save(tmp_path / "images" / f"{name}.png")
    load_dataset(str(tmp_path / "images"), tmp_path, 32)
    out = capsys.readouterr().out
    assert f"{tmp_path / 'images' / 'dark.png'}: its 16-bit pixels use 12 bits or fewer" in out and "bright" not in out


def test_pixels_beyond_black_and_white_are_remarked_on(tmp_path, capsys):
    write(tmp_path / "images", ["a.png", "b.png"])
    for name, value in (("below", -7), ("above", 100_000), ("within", 40_000)):
        Image.fromarray(np.full((8, 8), value, np.int32)).save(tmp_path / "images" / f"{name}.tif")
    load_dataset(str(tmp_path / "images"), tmp_path, 32)
    out = capsys.readouterr().out
    for name, told in (("below", True), ("above", True), ("within", False)):
        assert (f"{name}.tif: its pixels below 0 are made black, those above 65,535 white" in out) == told


def test_an_image_that_memory_cannot_hold_is_named(tmp_path, monkeypatch):
    write(tmp_path / "images", ["a.png", "b.png"])

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(image_files, "centre_square", fail)
    path = tmp_path / "images" / "a.png"
    refusal(lambda: load_dataset(str(tmp_path / "images"), tmp_path, 32), f"{path}: takes more memory than there is")
