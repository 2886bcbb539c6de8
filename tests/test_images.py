"""Images of every kind as square RGB pixels: right values, or one line that names the file."""

import io
import struct
import time

import numpy as np
import pytest
from conftest import refusal
from PIL import EpsImagePlugin, Image
from sample_sets import caches, save, solid, split_of, write_numbered

from vae.data import folders
from vae.data import images as decoder
from vae.data.registry import load_dataset
from vae.terminal import UserError

pytestmark = pytest.mark.usefixtures("no_bars")


def load_one(tmp_path, image, name="a.png", size=32, **options):
    """Return what is read of an image; a folder needs two, so it is saved twice."""
    for other in ("", "copy of "):
        save(tmp_path / "images" / (other + name), image, **options)
    data = load_dataset(str(tmp_path / "images"), tmp_path / "data", size)
    assert data.train.shape == data.test.shape == (1, size, size, 3) and data.train.dtype == np.uint8
    np.testing.assert_array_equal(data.train, data.test)
    return data.train[0].astype(int)


def test_after_an_error_the_rest_is_not_decoded(tmp_path, monkeypatch):
    """Nor after Ctrl-C: a large photograph takes seconds."""
    monkeypatch.setattr(decoder.os, "cpu_count", lambda: 2)
    decoded = []

    def decode(number):
        decoded.append(number)
        if number == 1:
            raise UserError("damaged")
        time.sleep(0.02)

    with pytest.raises(UserError, match="damaged"):
        decoder.write_images(tmp_path / "images.npy", range(1000), decode, "decoding", 900)
    assert len(decoded) < 100, "not the whole block"


# Colours ------------------------------------------------------------------------------------------------------


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


MODES = {  # (image, file name, expected colour, tolerance)
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
    """Some radiographs and scans are stored this way."""
    stored = np.hstack([np.full((40, 20), level, np.uint16) for level in (0, 65_535 // 5)])
    found = load_one(tmp_path, Image.fromarray(stored), "a.tif", tiffinfo={262: 0})
    np.testing.assert_allclose(found[:, [0, -1]], np.broadcast_to([[[255], [204]]], (32, 2, 3)), atol=1)


def test_a_note_about_tiffs_of_12_bits_in_which_0_is_white(tmp_path, capsys):
    load_one(tmp_path, deep(4095), "a.tif", tiffinfo={262: 0})
    assert "a.tif: its 16-bit pixels use 12 bits or fewer, which makes them almost white" in capsys.readouterr().out


def test_a_note_about_16_bit_pixels_that_use_12(tmp_path, capsys):
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    for name, white in (("dark", 4095), ("bright", 65_535)):
        Image.fromarray(np.full((8, 8), white, np.uint16)).save(tmp_path / "images" / f"{name}.png")
    load_dataset(str(tmp_path / "images"), tmp_path, 32)
    out = capsys.readouterr().out
    assert f"{tmp_path / 'images' / 'dark.png'}: its 16-bit pixels use 12 bits or fewer" in out and "bright" not in out


def test_a_note_about_pixels_beyond_black_and_white(tmp_path, capsys):
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    for name, value in (("below", -7), ("above", 100_000), ("within", 40_000)):
        Image.fromarray(np.full((8, 8), value, np.int32)).save(tmp_path / "images" / f"{name}.tif")
    load_dataset(str(tmp_path / "images"), tmp_path, 32)
    out = capsys.readouterr().out
    for name, told in (("below", True), ("above", True), ("within", False)):
        assert (f"{name}.tif: its pixels below 0 become black, those above 65,535 white" in out) == told


def test_floating_point_images_are_refused(tmp_path):
    """Their white may be 1, 255 or anything else."""
    path = tmp_path / "images" / "a.tif"
    refusal(lambda: load_one(tmp_path, deep(0.5, np.float32), "a.tif"), f"{path}: cannot be read (", "floating-point")


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    frames = [solid((0, 0, 250)), solid((250, 0, 0))]
    assert (load_one(tmp_path, solid((0, 250, 0)), "a.gif", save_all=True, append_images=frames) == (0, 250, 0)).all()


# Shapes -------------------------------------------------------------------------------------------------------


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def stripes(colours, width, height, axis):
    """Return stripes of these colours, side by side (axis 1) or one above the other (axis 0)."""
    line = np.repeat(np.array(colours, np.uint8), width, axis=0)
    return np.stack([line] * height, axis=1 - axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("width", [8, 40, 101])
def test_the_central_square_is_cut_out(tmp_path, axis, width):
    """Only the resampling at its edge may bring in some of the neighbouring colours."""
    found = load_one(tmp_path, stripes((RED, GREEN, BLUE), width, width, axis))
    edge = 6 if width < 32 else 2
    assert (np.take(found, range(edge, 32 - edge), axis) == GREEN).all()
    assert np.abs(found - GREEN).max() < 100


@pytest.mark.parametrize("axis", [0, 1])
def test_a_square_of_the_right_size_is_unchanged(tmp_path, axis):
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
    """Stored with red on the left; an Exif orientation of 6 says that the stored left is the top."""
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
    """Return Exif data with an orientation of 6 and another tag with a value of 8 bytes of that type."""
    count = 8 if kind == ASCII else 1
    entries = struct.pack("<HHIHH", 0x0112, SHORT, 1, 6, 0), struct.pack("<HHII", tag, kind, count, 8 + 2 + 24 + 4)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4) + value


@pytest.mark.parametrize("tag", ODD_TAGS)
def test_odd_exif_data_does_no_harm(tmp_path, tag):
    stored = np.hstack([np.full((40, 20, 3), colour, np.uint8) for colour in (RED, BLUE)])
    found = load_one(tmp_path, stored, "a.jpg", exif=exif_with(*ODD_TAGS[tag]))
    assert np.abs(found[:12] - RED).max() < 40 and np.abs(found[20:] - BLUE).max() < 40, "upright"


# Damage -------------------------------------------------------------------------------------------------------


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


def test_libtiffs_messages_are_not_shown(tmp_path, capfd):
    """They do not name the file."""
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
def test_damage_that_shows_only_in_the_exif_data(tmp_path, monkeypatch, error, text):
    """Pillow's reader of Exif data raises anything, and only when it is asked for the orientation."""

    def fail(image):
        raise error(text)

    monkeypatch.setattr(Image.Image, "getexif", fail)
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    refusal(lambda: split_of(tmp_path / "images", tmp_path), tmp_path / "images", "cannot be read (")


def test_pillows_warnings_become_lines_that_name_the_file(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow warns of larger images
    write_numbered(tmp_path / "images", ["0\n.png", *(f"{number:02}.png" for number in range(11))])
    train, test = split_of(tmp_path / "images", tmp_path)
    assert sorted(train + test) == list(range(12)), "all are used"
    out, error = capfd.readouterr()
    lines = out.splitlines()
    assert error == "" and len(lines) == 11 and lines[0].startswith(f"{tmp_path / 'images'}/0\\n.png: Image size (64 ")
    assert all(line.endswith("; used anyway") for line in lines[:10])
    assert lines[10] == "... and similar warnings about 2 more files"


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow would let Ghostscript draw it, whatever the name of the file."""
    write_numbered(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "images" / "c.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("drawn"))
    refusal(lambda: load_dataset(str(tmp_path / "images"), tmp_path, 32), "c.png", "not a PNG, JPEG, BMP")


def test_every_changed_bit_of_a_png_is_found_or_harmless(tmp_path):
    path, pixels = tmp_path / "a.png", np.random.default_rng(0).integers(0, 4, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    good, refused = path.read_bytes(), 0
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(decoder.read_image(lambda: path, path, np.asarray), pixels)
        except UserError:
            refused += 1
    assert refused > 7 * len(good)


def test_an_image_that_does_not_fit_in_memory_is_named(tmp_path, monkeypatch):
    write_numbered(tmp_path / "images", ["a.png", "b.png"])

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(folders, "centre_square", fail)
    path = tmp_path / "images" / "a.png"
    refusal(lambda: load_dataset(str(tmp_path / "images"), tmp_path, 32), f"{path}: needs more memory than there is")
