"""Toy digits and toy faces: always the same, however many are drawn, and showing what their labels say."""

import numpy as np
import pytest

from vae.data import toy

COUNT, SEED = 300, 5
BARE = dict.fromkeys(set(toy.FACE_ATTRIBUTES) - set(toy.HAIR), False)  # no attribute but the hair's colour


@pytest.fixture(scope="module")
def digits():
    return toy.draw_digits(COUNT, SEED)


@pytest.fixture(scope="module")
def faces():
    return toy.draw_faces(COUNT, SEED)


def column(faces, name):
    return faces[1][:, toy.FACE_ATTRIBUTES.index(name)] == 1


def face(index, changes):
    """Draw face `index` with some attributes changed; returns int (64, 64, 3)."""
    has = toy._attributes(toy._stream(SEED, toy.ATTRIBUTES, index))
    looks = toy._looks(has, toy._stream(SEED, toy.LOOKS, index))
    return toy._draw_face(has | changes, looks).astype(int)


@pytest.mark.parametrize("draw, shape", [(toy.draw_digits, (28, 28, 1)), (toy.draw_faces, (64, 64, 3))])
def test_shapes_and_types(draw, shape):
    images, labels = draw(3, 0)
    assert images.shape == (3, *shape)
    assert labels.shape == ((3,) if draw is toy.draw_digits else (3, len(toy.FACE_ATTRIBUTES)))
    assert images.dtype == labels.dtype == np.uint8


@pytest.mark.parametrize("draw", [toy.draw_digits, toy.draw_faces])
def test_none_at_all(draw):
    assert [len(part) for part in draw(0, 0)] == [0, 0]


@pytest.mark.parametrize("draw, drawn", [(toy.draw_digits, "digits"), (toy.draw_faces, "faces")])
def test_a_shorter_drawing_is_the_start_of_a_longer_one(draw, drawn, request):
    for short, long in zip(draw(17, SEED), request.getfixturevalue(drawn), strict=True):
        np.testing.assert_array_equal(short, long[:17])


@pytest.mark.parametrize("draw, drawn", [(toy.draw_digits, "digits"), (toy.draw_faces, "faces")])
def test_another_seed_draws_other_pictures(draw, drawn, request):
    images, labels = request.getfixturevalue(drawn)
    others, other_labels = draw(17, SEED + 1)
    assert (others != images[:17]).any(axis=(1, 2, 3)).all()
    assert (other_labels != labels[:17]).any()


@pytest.mark.parametrize("drawn", ["digits", "faces"])
def test_no_picture_twice(drawn, request):
    images = request.getfixturevalue(drawn)[0].reshape(COUNT, -1)
    assert len(np.unique(images, axis=0)) == COUNT


def test_every_ten_digits_are_0_to_9(digits):
    tens = digits[1].reshape(-1, 10)
    np.testing.assert_array_equal(np.sort(tens, axis=1), np.tile(np.arange(10), (len(tens), 1)))
    assert len(np.unique(tens, axis=0)) > 1


def test_digits_are_white_on_black_inside_a_black_border(digits):
    images = digits[0]
    assert (images.max(axis=(1, 2, 3)) == 255).all()
    assert images[:, 2:-2, 2:-2].sum() == images.sum()
    ink = images.mean(axis=(1, 2, 3)) / 255
    assert ink.min() > 0.03 and ink.max() < 0.35
    assert 0.08 < ink.mean() < 0.18  # MNIST: 0.13


def test_digits_balance_on_the_middle(digits):
    mass = digits[0][..., 0] / digits[0].sum(axis=(1, 2, 3))[:, None, None]
    for axis in (1, 2):
        centre = mass.sum(axis=axis) @ (np.arange(28) + 0.5)
        np.testing.assert_allclose(centre, 14, atol=0.3)


def test_digits_of_a_class_resemble_each_other(digits):
    """Digits are nearer to the mean of their own class than to the others far more often than by chance."""
    images, labels = digits[0].reshape(COUNT, -1).astype(float), digits[1]
    half = COUNT // 2
    means = np.stack([images[:half][labels[:half] == digit].mean(axis=0) for digit in range(10)])
    distances = ((images[half:, None] - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == labels[half:]).mean() > 0.6


def test_attributes_are_as_frequent_as_meant(faces):
    assert set(np.unique(faces[1])) == {0, 1}
    rates = dict(toy.RATES, Bald=0.05, Mustache=0.1)  # among men only
    for name in set(rates) - {"Bangs"}:
        deviation = (rates[name] * (1 - rates[name]) / COUNT) ** 0.5
        assert abs(column(faces, name).mean() - rates[name]) < 4 * deviation, name
    assert column(faces, "Bangs").any()


def test_attributes_agree_with_each_other(faces):
    bald, hat, male = (column(faces, name) for name in ("Bald", "Wearing_Hat", "Male"))
    hair = sum(column(faces, name).astype(int) for name in toy.HAIR)
    assert hair.max() == 1 and not hair[bald].any()
    assert male[bald | column(faces, "Mustache")].all()
    assert not (bald & hat).any()
    assert not (column(faces, "Bangs") & (bald | hat)).any()


@pytest.mark.parametrize("name", [name for name in toy.FACE_ATTRIBUTES if name in BARE])
def test_each_attribute_can_be_seen(name):
    for index in range(10):
        changed = np.abs(face(index, BARE | {name: True}) - face(index, BARE)).max(axis=2)
        assert (changed > 25).sum() >= 8, index


def test_glasses_darken_the_surroundings_of_the_eyes_alone():
    for index in range(10):
        without, with_glasses = (face(index, {"Eyeglasses": wears}) for wears in (False, True))
        rows, columns = np.nonzero((without != with_glasses).any(axis=2))
        assert rows.min() > 16 and rows.max() < 48 and columns.min() > 6 and columns.max() < 58
        assert with_glasses[rows, columns].mean() < without[rows, columns].mean()


def test_smiles_change_the_lower_half_alone():
    for index in range(10):
        rows = np.nonzero((face(index, {"Smiling": True}) != face(index, {"Smiling": False})).any(axis=(1, 2)))[0]
        assert rows.min() > 32


def test_fair_hair_is_lighter_than_black(faces):
    """Without a hat, the crown is nearly all hair; compares its mean over the three channels."""
    crown = faces[0][:, 16:20, 28:36].mean(axis=(1, 2, 3))
    bare_head = ~column(faces, "Wearing_Hat")
    means = {name: crown[column(faces, name) & bare_head].mean() for name in toy.HAIR}
    assert means["Black_Hair"] + 15 < means["Brown_Hair"] < means["Blond_Hair"] - 30
    assert means["Gray_Hair"] > means["Brown_Hair"] + 30


def test_nothing_but_background_along_the_upper_edge(faces):
    top = faces[0][:, 0].astype(int)
    assert np.abs(top - np.median(top, axis=1, keepdims=True)).max() <= 3
