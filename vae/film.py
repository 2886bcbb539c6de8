"""The film of a run, training.gif: the decoded plane, or test images above their reconstructions, epoch by epoch."""

import io
from itertools import count

import numpy as np
from PIL import Image, ImageDraw

from vae.pictures import INK, PADDING, PAPER, decoded_plane, font_of, image_grid, interleave, picture_rows
from vae.pixels import chosen_pixels
from vae.run_folder import replace_with

MOST_FRAMES = 40
MOST_BYTES = 2_000_000
MOST_PIXELS = 362  # a side of a frame: 12 x 12 digits
BAND = 22  # pixels above the images, for the caption
GREYS = 63  # steps from black to white: half the bytes of 255 steps, and nobody sees it
PALETTE_PAGES = 4  # pages of a film from which its colours are taken, besides the last
FRAME_MS, LAST_FRAME_MS = 120, 2500  # how long a frame stays


def stride_of(last):
    """Epochs from one frame to the next in a film up to epoch `last`: a power of 2, as small as MOST_FRAMES allows."""
    return next(2**k for k in count() if -(-last // 2**k) < MOST_FRAMES)


def epochs_of(last):
    """The epochs that a film up to epoch `last` shows: from 0, in strides, and the last one.

    Strides are powers of 2. So a film of more epochs needs no frame that a film of fewer epochs has passed over.
    """
    return [*range(0, last, stride_of(last)), last]


class Film:
    """Keeps frames while a run trains, and makes a film of them at its end.

    Frames are PNG files in checkpoint/film/ of the run folder. A resumed run finds them there, and its film is that of
    a run that never stopped. A frame that is lost or damaged is left out.
    """

    def __init__(self, folder, vae, data, binarize, seed):
        """Prepare a film of a Vae.  data: a Dataset. binarize, seed: the run's settings."""
        self.path, self.frames, self.vae = folder / "training.gif", folder / "checkpoint" / "film", vae
        self.labels = data.label_matrix("test", vae.takes_labels)
        self.columns = max(1, MOST_PIXELS // (max(data.image_shape[:2]) + PADDING))
        self.is_plane = vae.decoder.inputs[0].shape[-1] == 2
        if not self.is_plane:
            shown = picture_rows(data, self.columns * max(1, self.columns // 2))
            self.columns = min(self.columns, len(shown))
            self.originals, self.labels = chosen_pixels(data.test, binarize, seed, shown), self.labels[shown]
        self.frames.mkdir(parents=True, exist_ok=True)

    def keep(self, epoch, last):
        """Keep a frame of what the model has learnt up to an epoch, if a film of the run, or of a longer one, shows it.

        last: the last epoch of the run.
        """
        if epoch % stride_of(epoch) == 0 or epoch == last:
            frame = Image.fromarray(image_grid(self._images(), self.columns).squeeze())
            replace_with(self.frames / f"{epoch}.png", lambda partial: frame.save(partial, "PNG", compress_level=1))

    def _images(self):
        """What a frame shows, (N, H, W, C)."""
        if self.is_plane:
            return decoded_plane(self.vae, self.labels, self.columns)
        means, _ = self.vae.posterior(self.originals, self.labels)
        return interleave(self.originals, self.vae.pixel_means(means, self.labels).numpy(), self.columns)

    def save(self, last):
        """Make the film up to epoch `last` from the frames that there are; the others are deleted."""
        kept = {self.frames / f"{epoch}.png": f"epoch {epoch}" for epoch in epochs_of(last)}
        for path in {*self.frames.glob("*.png")} - {*kept}:
            path.unlink()
        frames = {caption: frame for path, caption in kept.items() if (frame := read_frame(path))}
        if frames:
            *_, newest = frames.values()
            form = newest.mode, newest.size  # another one is that of a damaged file
            pages = [page(frame, name) for name, frame in frames.items() if (frame.mode, frame.size) == form]
            film = small_gif(pages)
            replace_with(self.path, lambda partial: partial.write_bytes(film))


def read_frame(path):
    """A frame as a PIL image in grey or RGB. None if it is missing or damaged."""
    try:
        with Image.open(path) as frame:
            return frame.convert("L" if frame.mode == "L" else "RGB")
    except Exception:  # whatever Pillow and zlib raise at damaged files
        return None


def page(frame, caption):
    """A frame below its caption."""
    paper, ink = (PAPER, INK) if frame.mode == "L" else ((PAPER,) * 3, (INK,) * 3)
    whole = Image.new(frame.mode, (frame.width, frame.height + BAND), paper)
    whole.paste(frame, (0, BAND))
    ImageDraw.Draw(whole).text((PADDING, BAND // 2), caption, ink, font_of(13), anchor="lm")
    return whole


def small_gif(pages):
    """The bytes of a GIF of at most MOST_BYTES that repeats these pages. If it would be larger, it has fewer pages."""
    pages = with_one_palette(pages)
    while True:
        durations, file = [FRAME_MS] * (len(pages) - 1) + [LAST_FRAME_MS], io.BytesIO()
        pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0)
        if file.tell() <= MOST_BYTES or len(pages) < 3:
            return file.getvalue()
        pages = [*pages[:-1:2], pages[-1]]


def with_one_palette(pages):
    """Pages in a few levels of grey, or in the 256 colours that suit them best. Several palettes would flicker."""
    if pages[0].mode == "L":
        return [one.point([round(round(level * GREYS / 255) * 255 / GREYS) for level in range(256)]) for one in pages]
    chosen = pages[:: -(-len(pages) // PALETTE_PAGES)] + pages[-1:]
    palette = Image.fromarray(np.concatenate(list(map(np.asarray, chosen)))).quantize(256)
    return [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pages]
