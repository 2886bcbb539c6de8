"""training.gif: which epochs it shows, and how large it becomes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from vae import film


def test_a_film_of_any_length_goes_evenly_from_the_first_epoch_to_the_last():
    assert film.epochs_of(0) == [0] and film.epochs_of(3) == [0, 1, 2, 3]
    assert film.epochs_of(41) == [*range(0, 41, 2), 41]
    for last in [*range(1, 500), 5000, 100_000]:
        epochs = film.epochs_of(last)
        assert epochs[0] == 0 and epochs[-1] == last and min(last + 1, 20) <= len(epochs) <= film.MOST_FRAMES
        assert len({*np.diff(epochs[:-1])}) <= 1


def test_a_longer_film_needs_only_frames_that_a_shorter_run_has_kept():
    """Whenever that was stopped: a frame is kept if its epoch is a multiple of the stride that a film had then."""
    for last in [*range(1, 500), 5000]:
        assert all(epoch % film.stride_of(epoch) == 0 for epoch in film.epochs_of(last)[:-1])


def pages_of_noise(count, mode, size):
    random, channels = np.random.default_rng(0), {"L": 1, "RGB": 3}[mode]
    pixels = random.integers(0, 256, (count, *size, channels), np.uint8)
    return [film.page(Image.fromarray(frame.squeeze()), f"epoch {epoch}") for epoch, frame in enumerate(pixels)]


def decoded(gif):
    return [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(gif)))]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_film_that_would_be_too_large_has_fewer_frames(mode, monkeypatch):
    pages = pages_of_noise(9, mode, (60, 80))
    whole = film.small_gif(pages)
    assert len(decoded(whole)) == 9
    monkeypatch.setattr(film, "MOST_BYTES", len(whole) - 1)
    fewer = film.small_gif(pages)
    assert len(fewer) < len(whole)
    expected = [np.asarray(pages[number].convert("RGB"), int) for number in (0, 2, 4, 6, 8)]
    assert np.abs(np.subtract(decoded(fewer), expected)).mean() < 20, "the first and the last are among them"


def test_even_noise_in_the_largest_images_fits():
    side = film.MOST_PIXELS // 130 * 130 + 2
    assert len(film.small_gif(pages_of_noise(2, "RGB", (side, side)))) < film.MOST_BYTES / 5
