"""Draw the pictures in results/gallery/ from the runs that tests/reference.py keeps.

    python tests/reference.py toy-digits toy-faces mnist-z2 mnist-z10 mnist-z20 --out RUNS
    python tests/gallery.py RUNS

Pictures of the toy sets show originals beside model output, those of real data sets model output only.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image, ImageDraw  # noqa: E402

from vae import np, pictures  # noqa: E402
from vae.finished_run import load_run  # noqa: E402
from vae.pixels import rows_of, to_pixels  # noqa: E402

GALLERY = ROOT / "results" / "gallery"
COPIES = {  # picture of the gallery: picture of a run
    "toy_faces_reconstructions.png": "toy-faces-seed0/conv_toy-faces_z64/reconstructions.png",
    "mnist_samples.png": "mnist-z10-seed0/fc_mnist_z10/samples.png",
}
FILM = "toy-digits-seed0/fc_toy-digits_z2/training.gif"
FILM_STEP = 3  # of its frames: a third of them is enough for a page, and a third of its bytes
DIGITS = "mnist-z2-seed0/fc_mnist_z2"  # the run in latent.png and in the strip
FACES, SMILES = 4, 2  # columns of faces in the strip, and faces that get a smile
SMILE = 2.0  # of the difference between the mean codes of smiling and other faces
UNLIKE = ("Smiling", "Mouth_Slightly_Open", "Mustache", "Wearing_Hat")  # what faces that get a smile do not have


def posterior_means(run, images):
    """Posterior means (N, z) of uint8 images (N, H, W, C)."""
    batches = [images[rows] for rows in rows_of(len(images))]
    return np.concatenate([run.vae.posterior(to_pixels(batch))[0].numpy() for batch in batches])


def draw_digits(folders, path, count=13):
    """Toy test digits above their reconstructions from codes of several lengths."""
    runs = [load_run(folder) for folder in folders]
    images = runs[0].data.test[:count]
    rows = [to_pixels(images), *(run.decode(posterior_means(run, images)) for run in runs)]
    labels = ("original", *(f"z = {run.config.z}" for run in runs))
    caption = "toy digits of the test set, and what is left of them in codes of 2, 10 and 20 numbers"
    pictures.save_grid(path, np.concatenate(rows), count, caption, labels)


def draw_latent(run, path):
    """Where the test images lie, with images that are decoded from there: the originals may not be published."""
    data, means = run.data, posterior_means(run, run.data.test)
    title = f"{data.name}: codes of the test images, and what the decoder makes of some of them"
    pictures.save_latent(path, means, data.test_labels, data.label_names, title, run.decode(means))


def copy_film(source, path):
    """A film of fewer frames, which stay longer; the last one is that of the source."""
    with Image.open(source) as film:
        chosen = [*range(0, film.n_frames - 1, FILM_STEP), film.n_frames - 1]
        frames, durations = [], []
        for number in chosen:
            film.seek(number)
            frames.append(film.convert("L"))
            durations.append(film.info["duration"] * (1 if number == chosen[-1] else FILM_STEP))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def draw_strip(digits, faces, path):
    """Three panels side by side: a plane of digits, faces above their reconstructions, faces that get a smile."""
    plane = tile(digits.decode(pictures.manifold_codes(9)), 9)
    people = faces.data.test[np.linspace(0, len(faces.data.test) - 1, 2 * FACES).astype(int)]
    pairs = tile(pictures.interleave(to_pixels(people), faces.decode(posterior_means(faces, people)), FACES), FACES)
    smiles = tile(smiling_pairs(faces), 2).resize((264, 264), Image.Resampling.BICUBIC)
    panels = [(plane, "a plane of digits"), (pairs, "toy faces above reconstructions"), (smiles, "a smile added")]
    gap, top = 20, 24
    height = max(panel.height for panel, _ in panels) + top
    strip = Image.new("RGB", (sum(panel.width + gap for panel, _ in panels) - gap, height), "white")
    draw, left = ImageDraw.Draw(strip), 0
    for panel, title in panels:
        draw.text((left + 2, 2), title, (pictures.INK,) * 3, pictures.font_of(14))
        strip.paste(panel, (left, top))
        left += panel.width + gap
    strip.save(path, optimize=True)


def tile(images, columns):
    """A grid of images (N, H, W, C) in [0, 1] as a PIL image."""
    return Image.fromarray(pictures.image_grid(images, columns).squeeze()).convert("RGB")


def smiling_pairs(run):
    """Decoded faces of the test set that do not smile, each beside itself with a smile.

    Shows those whose mouths change most: in the middle third of the width, below the nose.
    """
    present = run.data.train_labels[:, run.data.label_names.index("Smiling")] == 1
    means = posterior_means(run, run.data.train)
    direction = SMILE * (means[present].mean(axis=0) - means[~present].mean(axis=0))
    unlike = [run.data.label_names.index(name) for name in UNLIKE]
    serious = posterior_means(run, run.data.test[run.data.test_labels[:, unlike].sum(axis=1) == 0])
    pairs = np.stack([run.decode(serious), run.decode(serious + direction)], axis=1)  # (N, 2, H, W, C)
    height, width = run.data.image_shape[:2]
    mouths = pairs[:, :, 5 * height // 8 : 7 * height // 8, width // 3 : 2 * width // 3]
    change = np.square(mouths[:, 1] - mouths[:, 0]).mean(axis=(1, 2, 3))
    return pairs[np.argsort(-change)[:SMILES]].reshape(-1, *run.data.image_shape)


def main(argv=None):
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder that was given to tests/reference.py --out")
    runs = parser.parse_args(argv).runs
    for z in (10, 20):
        if not (runs / f"fc_toy-digits_z{z}").exists():
            flags = ["--z", str(z), "--out", str(runs)]
            subprocess.run([sys.executable, str(ROOT / "vae_fc.py"), *flags], check=True)
    for name, source in COPIES.items():
        shutil.copy(runs / source, GALLERY / name)
    copy_film(runs / FILM, GALLERY / "toy_digits_film.gif")
    lengths = [runs / name for name in ("toy-digits-seed0/fc_toy-digits_z2", "fc_toy-digits_z10", "fc_toy-digits_z20")]
    draw_digits(lengths, GALLERY / "digits_2_10_20.png")
    digits, faces = load_run(runs / DIGITS), load_run((runs / COPIES["toy_faces_reconstructions.png"]).parent)
    draw_latent(digits, GALLERY / "mnist_latent.png")
    draw_strip(digits, faces, GALLERY / "strip.png")


if __name__ == "__main__":
    main()
