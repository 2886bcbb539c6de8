"""Hundreds of damaged inputs: each is read as before, or refused in one line that names the file.

Twelve layouts are written as small, good sets; then one of their files at a time is cut, changed or blocked. Both tests
print their counts. The slow one damages thousands of files at random:

    python -m pytest -m slow -n 0 tests/test_damage.py
"""

import io
import os
import shutil
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sample_sets as samples
from PIL import Image
from sample_sets import ARCHIVE, BATCHES, UNPACKED, random_images, records, tree, write_tar

from vae.data.registry import load_dataset
from vae.terminal import UserError

pytestmark = pytest.mark.usefixtures("no_network", "no_bars")

RANDOM_DAMAGES = 300  # of each layout
UNGUARDED = (".jpg", "ubyte", ".bin", "_batch", *(f"data_batch_{number}" for number in range(1, 6)))
GARBAGE = b"<html>404 Not Found</html>\n"


@dataclass(frozen=True)
class Layout:
    """A good data set as {path: content} in a data folder, and which of its files reveal damage."""

    dataset: str
    files: dict
    checked: tuple = ()  # endings of files whose every bit a checksum guards
    binary: tuple = ()  # endings of files with a header that says what they are


def read_tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def celeba_files(tmp_path, kaggle=False):
    folder = tmp_path / "celeba"
    samples.write_images(folder, samples.FACES)
    (folder / "list_eval_partition.txt").write_text(samples.partition_text())
    (folder / "list_attr_celeba.txt").write_text(samples.attributes_text())
    if kaggle:
        samples.kaggle(folder)
    return read_tree(tmp_path)


def packed_celeba(files):
    texts = {name: content for name, content in files.items() if name.endswith(".txt")}
    members = {name.split("/", 1)[1]: content for name, content in files.items() if name.endswith(".jpg")}
    return texts | {"celeba/img_align_celeba.zip": samples.archive(members)}


def image_bytes(number, form):
    random = np.random.default_rng(number)
    pixels = np.repeat(np.repeat(random.integers(0, 256, (6, 6, 3), np.uint8), 4, 0), 4, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def all_layouts(tmp_path):
    """Return {name: layout}."""
    made = {}
    for name, write in {
        "mnist, gzipped": lambda folder: samples.write_idx(folder / "mnist", samples.DIGITS),
        "mnist, unpacked": lambda folder: samples.write_idx(folder / "MNIST" / "raw", samples.DIGITS, pack=False),
        "mnist of Keras": lambda folder: np.savez_compressed(folder / "mnist.npz", **samples.arrays()),
        "cifar10, Python version": lambda folder: samples.write_batches(folder / "cifar-10-batches-py"),
        "celeba": lambda folder: celeba_files(folder),
        "celeba of Kaggle": lambda folder: celeba_files(folder, kaggle=True),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder)
        made[name] = read_tree(folder)
    parts = [random_images(seed, 4 if seed < 5 else 3, 32, 32, 3) for seed in range(6)]
    batches = {name: records(*part) for name, part in zip(BATCHES, parts, strict=True)}
    (tmp_path / "tar").mkdir()
    write_tar(tmp_path / "tar" / ARCHIVE, batches)
    cifar_archive = {f"cifar10/{ARCHIVE}": (tmp_path / "tar" / ARCHIVE).read_bytes()}
    pickled = {Path(path).name: content for path, content in made["cifar10, Python version"].items()}
    write_tar(tmp_path / "tar" / "python", pickled, "cifar-10-batches-py/")
    python_archive = {"cifar-10-python.tar.gz": (tmp_path / "tar" / "python").read_bytes()}
    raw = {Path(path).name: content for path, content in made["mnist, unpacked"].items()}
    pngs = {f"images/{kind}/{n}.png": image_bytes(n, "PNG") for kind in ("a", "b") for n in range(8)}
    return {
        "mnist, gzipped": Layout("mnist", made["mnist, gzipped"], (".gz",)),
        "mnist, unpacked": Layout("mnist", made["mnist, unpacked"], (), ("ubyte",)),
        "mnist of Keras": Layout("mnist", made["mnist of Keras"], (".npz",)),
        "cifar10, binary": Layout("cifar10", {f"cifar10/{UNPACKED}/{n}": c for n, c in batches.items()}),
        "cifar10, archive": Layout("cifar10", cifar_archive, (".gz",)),
        "cifar10, Python version": Layout("cifar10", made["cifar10, Python version"], (), ("_batch", *"12345")),
        "cifar10, Python archive": Layout("cifar10", python_archive, (".gz",)),
        "letters": Layout("letters", {f"letters/{path}": c for path, c in raw.items()}, (), ("ubyte",)),
        "celeba": Layout("celeba", made["celeba"], (), (".jpg",)),
        "celeba, archive": Layout("celeba", packed_celeba(made["celeba"]), (".zip",)),
        "celeba of Kaggle": Layout("celeba", made["celeba of Kaggle"], (), (".jpg",)),
        "a folder of images": Layout("images", pngs, (".png",)),
    }


def damages(layout, path, content):
    """Yield names of damages and what replaces the content: bytes, or a function of the path; always the same ones."""
    random = np.random.default_rng(zlib.crc32(path.encode()))
    yield "emptied", b""
    yield "a web page", GARBAGE
    yield "a folder", lambda place: place.mkdir()
    yield "a link to nowhere", lambda place: place.symlink_to("nowhere")
    yield "a link to itself", lambda place: place.symlink_to(place.name)
    yield "a pipe", os.mkfifo
    for share in (0.25, 0.5, 0.75):
        yield f"cut at {share:.0%}", content[: int(len(content) * share)]
    yield "cut by a byte", content[:-1]
    yield "without its first byte", content[1:]
    if not path.endswith(".bin"):  # which may hold nothing but black aeroplanes
        yield "zeros", bytes(len(content))
    if path.endswith(layout.checked):
        for _ in range(12):
            place, bit = int(random.integers(len(content))), int(random.integers(8))
            yield f"bit {bit} of byte {place} changed", flipped(content, place, bit)
    if path.endswith(layout.checked + layout.binary):
        for place in range(0, min(8, len(content)), 2):
            yield f"byte {place} changed", flipped(content, place, int(random.integers(8)))


def mutated(random, content, text):
    """Return the content with a piece, often of its first 200 bytes or a line, changed, removed, doubled, ..."""
    if text and random.random() < 0.5:
        lines = content.splitlines(keepends=True)
        start = sum(map(len, lines[: (number := int(random.integers(len(lines))))]))
        stop = start + len(lines[number])
    else:
        start = int(random.integers(min(len(content), random.choice([200, len(content)]))))
        stop = start + int(random.integers(1, 65))
    before, piece, after = content[:start], content[start:stop], content[stop:]
    noise = random.bytes(len(piece))
    choices = [before + noise + after, before + bytes(len(piece)) + after, before + noise + piece + after]
    choices += [before, before + after, before + piece + piece + after, after + before]
    return choices[random.integers(len(choices))]


def flipped(content, place, bit):
    return content[:place] + bytes((content[place] ^ (1 << bit),)) + content[place + 1 :]


def put(folder, files):
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def dataset_argument(folder, layout):
    return str(folder / layout.dataset) if layout.dataset in ("images", "letters") else layout.dataset


def load(folder, layout):
    """Return the arrays of the data set."""
    size = 32 if layout.dataset in ("celeba", "images") else None
    data = load_dataset(dataset_argument(folder, layout), folder, size)
    return [np.array(part) for part in (data.train, data.test, data.train_labels, data.test_labels)]


def outside_of_cache(folder):
    return {path: content for path, content in tree(folder).items() if "cache" not in path.parts}


def names(path, text):
    """Whether the text names the file, or begins with the folder of the set."""
    folders = [folder for folder in Path(path).parents if folder.name not in ("", "mnist", "celeba", "cifar10")]
    return f"/{path}" in text or any(f"/{folder}: " in text for folder in folders)


def outcome(folder, layout, good, path, capsys, usual, unguarded=()):
    """Return what happens with a damaged set: "refused", "read as it was", "remarked on"; fails at anything else.

    usual: lines about the whole set, which is a small one, that count for nothing. unguarded: endings of files whose
    pixels may be others in silence, since nothing in them could tell.
    """
    before = outside_of_cache(folder)
    capsys.readouterr()
    try:
        found = load(folder, layout)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(error).isprintable()
        if "no network" in str(error):
            return "taken as missing"
        assert names(path, str(error)), error
        return "refused"
    except OSError as error:  # of which the scripts' launcher makes a line with the file's name
        assert names(path, str(error.filename)), error
        return "refused"
    finally:
        assert outside_of_cache(folder) == before, "nothing in the data folder but its cache has changed"
    if all(map(np.array_equal, found, good)):
        return "read as it was"
    remarks = set(capsys.readouterr().out.splitlines()) - usual
    if names(path, "\n".join(remarks)):
        return "remarked on"
    assert path.endswith(unguarded), "other data than before, and not a word about it"
    return "other pixels"


def good_sets(tmp_path, capsys):
    """Yield for each layout its name, itself, a folder for it, the arrays of the good set, and the lines about it."""
    (tmp_path / "made").mkdir()
    for name, layout in all_layouts(tmp_path / "made").items():
        folder = tmp_path / "good" / name
        put(folder, layout.files)
        capsys.readouterr()
        good = load(folder, layout)
        shutil.rmtree(folder)
        yield name, layout, folder, good, set(capsys.readouterr().out.splitlines())


def test_damaged_files_are_refused_or_read_as_they_were(tmp_path, capsys):
    counts = Counter()
    for name, layout, folder, good, usual in good_sets(tmp_path, capsys):
        paths = sorted(layout.files)
        texts = [path for path in paths if path.endswith((".txt", ".csv"))]
        for path in dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1], *texts]):
            for damage, instead in damages(layout, path, layout.files[path]):
                put(folder, {other: content for other, content in layout.files.items() if other != path})
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                instead(folder / path) if callable(instead) else (folder / path).write_bytes(instead)
                try:
                    counts[outcome(folder, layout, good, path, capsys, usual)] += 1
                except Exception as error:
                    raise AssertionError(f"{name}, {path}: {damage}") from error
                shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{counts.total()} damaged inputs: {dict(counts)}")
    assert counts.total() >= 200 and counts["refused"] > 150


@pytest.mark.slow
def test_files_damaged_at_random_are_refused_or_read_as_they_were(tmp_path, capsys):
    counts, random = Counter(), np.random.default_rng(0)
    for name, layout, folder, good, usual in good_sets(tmp_path, capsys):
        paths = sorted(layout.files)
        texts = [path for path in paths if path.endswith((".txt", ".csv"))]
        for number in range(RANDOM_DAMAGES):
            path = str(random.choice(texts if texts and number % 2 else paths))
            instead = mutated(random, layout.files[path], path in texts)
            put(folder, layout.files | {path: instead})
            try:
                counts[outcome(folder, layout, good, path, capsys, usual, UNGUARDED)] += 1
            except Exception as error:
                raise AssertionError(f"{name}, {path}: {instead!r}") from error
            shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{counts.total()} inputs damaged at random: {dict(counts)}")
