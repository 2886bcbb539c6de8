"""explorer.html: a page, in one file, in which a browser computes the networks of a run."""

import json
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex

from vae.explorer.networks import Block, Unsupported, export
from vae.measures import discriminant_axes, evenly_spaced
from vae.pictures import ATTRIBUTE_COLOURS, CHANGED_ATTRIBUTES, class_colours, map_attributes, picture_rows
from vae.pixels import chosen_pixels, to_pixels
from vae.run_folder import replace_with
from vae.terminal import note

HERE = Path(__file__).parent
POINTS = 2_000  # test images at most in the plane
STARTS = 12  # test images to start from
IMAGES, CODES = 500, 2_000  # typical inputs by which the networks are rounded
CODE_SPREAD = 1.2  # of drawn codes by which the decoder is rounded: people look a little further out than N(0, I)
UNITS = 10  # sliders
LEAST_INK = 0.2  # of white: darker pixels are not part of a digit


def write_explorer(folder, vae, data, means, rows, binarize, seed):
    """Write explorer.html into a run folder; the arguments are those of pictures.draw_run.

    If a network has something that the page cannot compute, there is no page, and a line says why.
    """
    path, block, z = folder / "explorer.html", Block(), means.shape[1]
    try:
        networks = exported(vae, data, means, block)
    except Unsupported as error:
        path.unlink(missing_ok=True)  # it may be there from an earlier epoch
        note(f"{path}: is left out, as {error}")
        return
    about = f"Computed in this page, with rounded weights, from the networks of the run: {data.name}, z = {z}"
    content = {
        "title": f"{folder.name}, epoch {rows[-1]['epoch']}",
        "about": f"{about}, test loss {rows[-1]['test_loss']:,.2f} nats per image",
        "z": z,
        "likelihood": vae.likelihood,
        "image_shape": data.image_shape,
        **networks,
        **latent_plane(data, means, block),
        "units": units(means) if z > 2 else [],  # the plane has both
        "attributes": attributes(data, means, block),
        "starts": starts(vae, data, means, binarize, seed, block),
        "drawing": digit_place(data.test) if vae.likelihood == "bernoulli" and data.image_shape[2] == 1 else None,
        "block": block.text(),
    }
    replace_with(path, lambda partial: partial.write_text(page(content), encoding="utf-8"))


def page(content):
    """The text of the page: the files of this folder, and the run's content, in which nothing can be markup."""
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for name in ("style.css", "networks.js", "explorer.js"):
        text = text.replace(f"/* {name} */", (HERE / name).read_text(encoding="utf-8"))
    return text.replace("/* run */", json.dumps(content).replace("<", "\\u003c"))


def exported(vae, data, means, block):
    """Both networks; the inputs by which they are rounded are training images, and codes of both kinds."""
    rng = np.random.default_rng(0)
    images = data.train[evenly_spaced(len(data.train), IMAGES)]
    drawn = CODE_SPREAD * rng.standard_normal((CODES // 2, means.shape[1]))
    codes = np.concatenate([drawn, means[evenly_spaced(len(means), CODES // 2)]]).astype(np.float32)
    return {
        "encoder": export(vae.encoder, to_pixels(images), block),
        "decoder": export(vae.decoder, codes, block),
    }


def latent_plane(data, means, block):
    """The plane: the test images' places in it, how codes move with a place, and colourings of the places.

    With two units it is their own. With more, it is the plane in which labels lie furthest apart, or, without labels,
    that of the two units that vary most. Moving in it moves a code as linear regression on the place says, which leads
    to codes like those of the test images.
    """
    z, names, shown = means.shape[1], ("across: z1", "up: z2"), np.arange(len(means))
    if z <= 2:
        axes = np.eye(z, 2)
    elif data.test_labels is not None:
        axes = discriminant_axes(means[::2], classes_of(data)[::2])
        shown = shown[1::2] if len(means) > 1 else shown  # any labels seem apart where they were fitted
        names = ("across: first discriminant axis of the labels", "up: second axis")
    else:
        busiest = np.argsort(means.var(axis=0))[::-1][:2]
        axes = np.eye(z)[:, busiest]
        names = tuple(f"{way}: unit {unit}" for way, unit in zip(("across", "up"), busiest, strict=True))
    covariance = np.atleast_2d(np.cov(means.T.astype(np.float64), ddof=0))
    along = covariance @ axes  # (z, 2), of units with places
    moves = along @ np.linalg.pinv(axes.T @ along) if z > 2 else axes
    rows = shown[evenly_spaced(len(shown), POINTS)]
    return {
        "axes": block.add(axes),
        "moves": block.add(moves),
        "axis_names": names,
        "points": block.add(means[rows] @ axes),
        "colourings": colourings(data, rows, block),
    }


def classes_of(data):
    """The classes (N,) of the test images: their own, or one for each combination of the attributes with sliders."""
    if data.test_labels.ndim == 1:
        return data.test_labels
    chosen = [data.label_names.index(name) for name in map_attributes(data.label_names)[:2]]
    return data.test_labels[:, chosen] @ (2 ** np.arange(len(chosen)))


def colourings(data, rows, block):
    """Ways to colour the test images in `rows`: by class, by each of a few attributes, or all alike."""

    def colouring(name, names, colours, values):
        categories = [{"name": name, "colour": to_hex(c)} for name, c in zip(names, colours, strict=True)]
        return {"name": name, "categories": categories, "values": block.add(values, np.uint16)}

    labels = data.test_labels
    if labels is None:
        return [colouring("test images", ["test images"], class_colours(1), np.zeros(len(rows)))]
    if labels.ndim == 1:
        count = len(data.label_names)
        return [colouring("classes", data.label_names, class_colours(count), labels[rows])]
    answers = ("without", "with")
    return [
        colouring(name.replace("_", " "), answers, ATTRIBUTE_COLOURS, labels[rows, data.label_names.index(name)])
        for name in map_attributes(data.label_names)
    ]


def units(means):
    """The units that vary most, with the range of nearly all codes: a slider each."""
    low, high = np.percentile(means, [1, 99], axis=0)
    busiest = np.argsort(means.var(axis=0))[::-1][:UNITS]
    return [{"unit": int(unit), "low": float(low[unit]), "high": float(high[unit])} for unit in busiest]


def attributes(data, means, block):
    """A slider for each of a few attributes: the code between the mean codes without it and with it, and half the way.

    At -1 a code lies as far along this way as the mean without the attribute, at 1 as far as the mean with it.
    """
    found = []
    for name in CHANGED_ATTRIBUTES:
        present = data.test_labels[:, data.label_names.index(name)] == 1 if name in data.attributes else np.zeros(1)
        if 0 < present.mean() < 1:
            without, with_it = means[~present].mean(axis=0), means[present].mean(axis=0)
            direction, centre = (with_it - without) / 2, (with_it + without) / 2
            found.append({"name": name, "direction": block.add(direction), "centre": block.add(centre)})
    return found


def starts(vae, data, means, binarize, seed, block):
    """A few test images as the encoder sees them, with a name each; the page begins with the one it decodes best."""
    rows = picture_rows(data, STARTS)
    pixels = chosen_pixels(data.test, binarize, seed, rows)
    error = np.square(vae.pixel_means(means[rows]) - pixels).mean(axis=(1, 2, 3))
    names = [f"test image {row + 1}" for row in rows]
    if data.test_labels is not None and data.test_labels.ndim == 1:
        names = [f"{name}: {data.label_names[data.test_labels[row]]}" for name, row in zip(names, rows, strict=True)]
    first = int(np.argmin(error))
    return {"names": names, "pixels": block.add(np.rint(255 * pixels), np.uint8), "first": first}


def digit_place(images):
    """The usual place of a digit in images (N, H, W, 1): the mean of its larger side, pixels, and its centre of mass.

    The centre is (x, y), in pixels from the corner; digits of MNIST are centred by their mass.
    """
    ink = images[..., 0] > 255 * LEAST_INK
    ink = ink[ink.any(axis=(1, 2))]
    if not len(ink):
        return None
    sides = [ink.any(axis=other).sum(axis=1) for other in (1, 2)]  # (N,) each; digits have no gaps across
    mass = images[..., 0].mean(axis=0)
    centre = [mass.sum(axis=other) @ (np.arange(mass.shape[1 - other]) + 0.5) / mass.sum() for other in (0, 1)]
    return {"size": float(np.maximum(*sides).mean()), "centre": centre}
