"""Pictures, pixel by pixel."""

import matplotlib.axes
import numpy as np
import pytest
from PIL import Image

from vae import pictures
from vae.measures import discriminant_axes


def numbered_images(count, channels, height=3, width=4):
    """Images whose every pixel is their number."""
    numbers = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(numbers, (count, height, width, channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_has_images_in_reading_order_between_white_lines(channels):
    grid = pictures.image_grid(numbered_images(5, channels), columns=3, padding=2)
    assert grid.shape == (2 * (3 + 2) + 2, 3 * (4 + 2) + 2, channels)
    expected = np.full(grid.shape[:2], 255)
    for number, (top, left) in enumerate([(2, 2), (2, 8), (2, 14), (7, 2), (7, 8)], 1):
        expected[top : top + 3, left : left + 4] = number
    for channel in range(channels):
        assert np.array_equal(grid[..., channel], expected)


def test_grid_keeps_colours_and_orientation():
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3), np.uint8)
    assert np.array_equal(pictures.image_grid(image, 1, padding=1)[1:-1, 1:-1], image[0])


def test_grid_rounds_and_clips_but_never_stretches():
    image = np.array([-0.5, 0.0, 0.25, 0.5, 1.0, 1.7], np.float32).reshape(1, 1, 6, 1)
    assert pictures.image_grid(image, 1, padding=0).ravel().tolist() == [0, 0, 64, 128, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_grid_is_enlarged_by_a_whole_factor_below_its_caption(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, channels), np.uint8)
    pictures.save_grid(tmp_path / "grid.png", images, 2, "A caption")
    page = np.asarray(Image.open(tmp_path / "grid.png"))
    whole = np.broadcast_to(pictures.image_grid(images, 2), (62, 62, 3))
    top, left = 30, 4
    assert np.array_equal(page[top : top + 124 : 2, left : left + 124 : 2], whole)
    assert np.array_equal(page[top + 1 : top + 124 : 2, left + 1 : left + 124 : 2], whole)
    assert page[:top].min() < 100 and page[:top, -1].min() == 255, "the caption is there, and whole"


def test_labels_stand_left_of_their_rows(tmp_path):
    black = np.zeros((4, 60, 60, 1), np.uint8)
    pictures.save_grid(tmp_path / "grid.png", black, 2, "", ("original", "reconstruction"))
    page = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    left = page.shape[1] - (2 * 62 + 2)
    for row in range(2):
        band = page[30 + 62 * row : 30 + 62 * (row + 1), : left - 2]
        ink = np.argwhere(band < 128)
        assert len(ink) and ink[:, 1].min() > 2, "there, and not cut off"
        assert abs(ink[:, 0].mean() - 31) < 5, "beside the middle of its row"


def test_rows_of_originals_and_reconstructions_alternate():
    above, below = numbered_images(5, 1) / 255, (numbered_images(5, 1) + 100) / 255
    order = 255 * pictures.interleave(above, below, columns=2)[:, 0, 0, 0]
    assert np.rint(order).tolist() == [1, 2, 101, 102, 3, 4, 103, 104, 5, 255, 105, 255], "5 above 105, beside white"


def test_quantiles_divide_the_normal_distribution_evenly():
    assert np.allclose(pictures.gaussian_quantiles(3), [-0.96742157, 0, 0.96742157])


def test_manifold_goes_right_and_up():
    codes = pictures.manifold_codes(3).reshape(3, 3, 2)
    assert np.all(np.diff(codes[..., 0], axis=1) > 0) and np.all(np.diff(codes[..., 1], axis=0) < 0)


ROW = {f"{split}_{term}": 1.0 for split in ("train", "test") for term in ("loss", "recon", "kl")}


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_curves_are_drawn(tmp_path, epochs):
    rows = [{"epoch": epoch, **ROW, "train_loss": 5.0 / epoch} for epoch in range(1, epochs + 1)]
    pictures.save_losses(tmp_path / "losses.png", rows, "title")
    assert_drawn(tmp_path / "losses.png")


def test_curves_leave_out_no_more_than_a_first_fall():
    fall, slope = np.array([[900.0], [500]]), np.linspace(120, 100, 20)[:, None]
    assert pictures.limits_of(slope) == (99, 121)
    assert pictures.limits_of(-slope) == (-121, -99)
    low, high = pictures.limits_of(np.concatenate([fall, slope]))
    assert low == 99 and high == 121, "an eighth is left out"
    low, high = pictures.limits_of(np.concatenate([[[150.0]], slope]))
    assert low < 100 and high > 150, "nothing"
    assert pictures.limits_of(np.ones((1, 2))) == (0, 2)


GREY, COLOUR = np.full((50, 6, 6, 1), 20, np.uint8), np.full((50, 6, 4, 3), 0.5)


@pytest.mark.parametrize("z", [1, 2, 9])
def test_maps_are_drawn_by_class_by_attribute_and_of_images_without_labels(tmp_path, z):
    random = np.random.default_rng(0)
    means = random.standard_normal((50, z))
    title = "cost_$5_to_$10, $_$"  # formulas to Matplotlib, if one does not take care, and the second is a wrong one
    pictures.save_latent(tmp_path / "class.png", means, random.integers(0, 10, 50), tuple("0123456789"), title, GREY)
    names = ("Smiling", "$Eyeglasses$", "$_$")
    pictures.save_latent(tmp_path / "attribute.png", means, random.integers(0, 2, (50, 3)), names, "title", COLOUR)
    pictures.save_latent(tmp_path / "plain.png", means, None, (), "title", COLOUR)
    for name in ("class", "attribute", "plain"):
        assert_drawn(tmp_path / f"{name}.png")


@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
@pytest.mark.parametrize("labels", [None, [0, 0, 0], [0, 1, 1], [[0, 1], [1, 1], [0, 0]]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_maps_of_too_little(tmp_path, labels, count):
    labels = None if labels is None else np.array(labels)[:count]
    pictures.save_latent(tmp_path / "map.png", np.zeros((count, 5)), labels, ("a", "b"), "title", COLOUR)
    assert_drawn(tmp_path / "map.png")


def test_a_map_shows_classes_apart_only_if_images_that_it_was_not_fitted_to_are():
    random = np.random.default_rng(0)
    means, classes = random.standard_normal((200, 100)), np.arange(200) // 2 % 2
    axes = discriminant_axes(means[::2], classes[::2])
    rows, plane, names = pictures.map_plane(means, classes)
    assert rows.tolist() == list(range(1, 200, 2))

    def gap(places, own):
        return places[own == 1, 0].mean() - places[own == 0, 0].mean()

    assert gap(means[::2] @ axes, classes[::2]) > 1.5 and abs(gap(plane, classes[rows])) < 0.5
    means[:, 7] += 5 * classes
    assert gap(pictures.map_plane(means, classes)[1], classes[rows]) > 4
    assert names[0].startswith("discriminant") and names[1].startswith("first principal")


def test_images_on_a_map_are_apart_and_at_their_places(tmp_path, monkeypatch):
    placed = []
    monkeypatch.setattr(
        pictures, "add_thumbnail", lambda ax, image, place, side, colour: placed.append((place, side, image))
    )
    random = np.random.default_rng(0)
    means, classes = random.standard_normal((300, 2)).astype(np.float32), random.integers(0, 3, 300)
    images = np.arange(300, dtype=np.float32).reshape(300, 1, 1, 1) / 300 * np.ones((1, 2, 2, 3), np.float32)
    pictures.save_latent(tmp_path / "map.png", means, classes, ("a", "b", "c"), "title", images)
    assert 15 < len(placed) < 100
    for number, (place, side, image) in enumerate(placed):
        [row] = np.flatnonzero((means == place).all(axis=1))
        assert image[0, 0, 0] == round(255 * row / 300)
        assert all(np.abs(place - other).max() > side for other, _, _ in placed[:number])


def test_white_on_black_becomes_ink_on_paper():
    digits, photographs = np.zeros((2, 4, 4, 1), np.uint8), np.full((2, 4, 4, 1), 100, np.uint8)
    digits[:, 1] = 250
    assert np.array_equal(pictures.on_paper(digits), 255 - digits)
    assert np.array_equal(pictures.on_paper(photographs), photographs)
    assert np.array_equal(pictures.on_paper(np.zeros((2, 4, 4, 3), np.uint8)), np.zeros((2, 4, 4, 3)))


def test_a_users_style_changes_nothing(tmp_path):
    rows = [{"epoch": epoch, **ROW} for epoch in (1, 2)]
    pictures.save_losses(tmp_path / "plain.png", rows, "a_title")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "font.size": 30}):
        pictures.save_losses(tmp_path / "styled.png", rows, "a_title")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
@pytest.mark.parametrize("names", [("_cats", "日本", "Käse", "😀"), tuple(map(str, range(3000)))])
def test_maps_of_odd_and_of_many_classes(tmp_path, names, monkeypatch):
    shown, legend = [], matplotlib.axes.Axes.legend
    monkeypatch.setattr(matplotlib.axes.Axes, "legend", lambda ax, **how: shown.append(legend(ax, **how)) or shown[-1])
    means, labels = np.random.default_rng(0).standard_normal((300, 2)), np.arange(300) % len(names)
    images = np.zeros((300, 4, 4, 1), np.uint8)
    pictures.save_latent(tmp_path / "map.png", means, labels, names, "日本", images)
    assert_drawn(tmp_path / "map.png")
    texts = [text.get_text() for one in shown for text in one.get_texts()]
    assert texts == ([" _cats", r"\u65e5\u672c", "Käse", "😀"] if len(names) == 4 else []), "what the font has, and all"


@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "names", [[f"Corn_(maize)___Northern_Leaf_{n}" for n in range(75)], ["W" * 120, "i" * 120], ["日" * 40, "月" * 40]]
)
def test_long_names_and_titles_are_neither_cut_off_nor_in_the_way(tmp_path, names, monkeypatch):
    axes, legend = [], matplotlib.axes.Axes.legend
    monkeypatch.setattr(matplotlib.axes.Axes, "legend", lambda ax, **how: axes.append(ax) or legend(ax, **how))
    means, labels = np.random.default_rng(0).standard_normal((300, 2)), np.arange(300) % len(names)
    images = np.zeros((300, 4, 4, 1), np.uint8)
    pictures.save_latent(tmp_path / "map.png", means, labels, names, f"conv_{'W' * 100}_z2, epoch 1: test set", images)
    assert_drawn(tmp_path / "map.png")
    assert axes[0].get_position().width * axes[0].figure.get_figwidth() > 5, "inches of map"
    assert axes[0].figure.get_figwidth() < 18


def test_grids_tell_names_of_all_letters_apart():
    images = np.zeros((2, 8, 8, 1), np.uint8)
    captions = ("日本", "花鳥", "Привет", "Собака", "plain")
    pages = [pictures.grid_page(images, 1, caption, (caption,), (caption,)) for caption in captions]
    assert len({page.tobytes() for page in pages}) == len(captions)
    rows = [np.asarray(pictures.grid_page(images, 1, "same", (label, "x"))).tobytes() for label in captions]
    assert len(set(rows)) == len(captions)


def test_long_captions_have_lines_and_long_names_lose_their_middle():
    images = np.zeros((4, 60, 60, 1), np.uint8)
    short, long = (pictures.grid_page(images, 4, caption) for caption in ("A caption", "A caption of words " * 10))
    assert long.width == short.width == 4 * 62 + 2 + 4 and long.height > short.height + 3 * 18
    assert np.asarray(long)[:100, -3:].min() == 255
    assert pictures.shortened("x" * 40) == "x" * 40
    assert pictures.shortened("a" * 30 + "b" * 30) == "a" * 20 + "…" + "b" * 19


def assert_drawn(path):
    """A picture of many colours whose edge nothing touches."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 255
