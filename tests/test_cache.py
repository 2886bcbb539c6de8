"""Caches in the data folder: built once, complete or not at all, and built again when they are outdated or damaged."""

import os
import time

import pytest
from sample_sets import caches, checksum, write_numbered

from vae.data import cache
from vae.data.registry import load_dataset
from vae.terminal import UserError


def fill(text):
    """Return a build function that writes a file."""
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


def test_another_signature_replaces_the_cache(tmp_path):
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


def test_a_read_only_data_folder_is_named(tmp_path, monkeypatch):
    """The error names the folder that the user knows."""

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
    """But not those that another process may still fill."""
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


def test_a_cache_has_the_permissions_of_any_new_folder(tmp_path):
    (tmp_path / "new").mkdir()
    folder = cache.open_cache(tmp_path, "name", 1, fill("whole"))
    assert folder.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_cache_without_a_file(tmp_path, capsys):
    folder = cache.open_cache(tmp_path, "name", 1, fill("whole"))
    (folder / "file").unlink()
    assert content(cache.open_cache(tmp_path, "name", 1, fill("again"))) == "again"
    assert "is damaged" in capsys.readouterr().out


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
def test_a_damaged_cache_is_built_again(tmp_path, damage, no_bars, capsys):
    write_numbered(tmp_path / "images", ["a/a.png", "b/b.png", "b/c.png"])
    before = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    (folder,) = (tmp_path / "cache").iterdir()
    name, change = CACHE_DAMAGE[damage]
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / name).write_bytes(change(content[name]))
    after = load_dataset(str(tmp_path / "images"), tmp_path, 32)
    out = capsys.readouterr().out
    assert out.endswith(f"\n{folder}: is damaged, so it is built again\n") and len(no_bars) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    assert after.sha256 == before.sha256 == checksum(after) and list((tmp_path / "cache").iterdir()) == [folder]
