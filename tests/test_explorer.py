"""explorer.html in a real browser: what it computes, what a user's hands do to it, and that names are text in it."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCRIPTS, use_few_images

import utils
from vae import keras, layers
from vae.elbo import Vae
from vae.explorer.networks import rounded_for, step_sizes
from vae.explorer.page import write_explorer
from vae.pixels import to_pixels

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NASTY = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>")
ROWS = [{"epoch": 3, "test_loss": 123.45}]
pytestmark = pytest.mark.usefixtures("small_sets")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not path:
        pytest.skip(f"pages are tested in a browser, and none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as api:
        running = api.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser):
    """Return a function that opens a page, with window.vae; at the end, it must have said and requested nothing."""
    pages, said, requested = [], [], []

    def open_page(path, width=1000, height=900, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        for event in ("console", "pageerror", "dialog"):
            page.on(event, lambda what: said.append(str(getattr(what, "text", what))))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function("window.vae")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not said and len(requested) == len(pages), (said, requested)


@pytest.fixture(scope="module")
def data(data_dir):
    """The toy sets, of a few hundred images."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_images(patch, data_dir)
        return {name: utils.load_dataset(name, data_dir) for name in ("toy-digits", "toy-faces")}


def untrained(script, data, z, gaussian):
    """A Vae of a script's networks, whose outputs vary as those of trained ones; and the posterior means (N, z)."""
    keras.utils.set_random_seed(1)
    networks = [build(data.image_shape, z, gaussian) for build in (script.build_encoder, script.build_decoder)]
    random = np.random.default_rng(1)
    for network in networks:
        for layer in network.layers:
            if layer.weights:
                kernel, bias = layer.get_weights()
                spread = np.sqrt(2 / np.prod(kernel.shape[:-1]))
                layer.set_weights([random.normal(0, spread, kernel.shape), random.normal(0, 0.1, bias.shape)])
    if gaussian:  # pixels of a usual range
        last = [layer for layer in networks[1].layers if layer.weights and layer.output.shape[-1] in (3, 12288)]
        deviation = networks[1](random.normal(size=(20, z))).numpy().std()
        for layer in last:
            kernel, bias = layer.get_weights()
            layer.set_weights([0.15 / deviation * kernel, 0.5 * (layer.name == "linear_pixels") + 0 * bias])
    vae = Vae(*networks, tf.Variable(0.0), "gaussian" if gaussian else "bernoulli")
    return vae, vae.posterior(to_pixels(data.test))[0].numpy()


def write(folder, vae, data, means):
    folder.mkdir(exist_ok=True)
    write_explorer(folder, vae, data, means, ROWS, "none", 0)
    return folder / "explorer.html"


def numbers(page, call, argument):
    return np.array(page.evaluate(f"argument => Array.from({call}(argument))", argument))


def drawn(page, canvas):
    """The red of a canvas of 28 x 28 pixels, in [0, 1]."""
    page.evaluate("window.copy = new OffscreenCanvas(28, 28).getContext('2d', {willReadFrequently: true})")
    page.evaluate(f"copy.drawImage(document.getElementById('{canvas}'), 0, 0)")
    return np.array(page.evaluate("Array.from(copy.getImageData(0, 0, 28, 28).data)")).reshape(28, 28, 4)[..., 0] / 255


CASES = {  # case: (script, data set, z)
    "dense digits": ("fc", "toy-digits", 2),
    "dense faces": ("fc", "toy-faces", 5),
    "convolutional digits": ("conv", "toy-digits", 20),
    "convolutional faces": ("conv", "toy-faces", 64),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_computes_what_keras_computes(case, opened, data, tmp_path):
    script, name, z = CASES[case]
    vae, means = untrained(SCRIPTS[script], data[name], z, name == "toy-faces")
    page = opened(write(tmp_path / "run", vae, data[name], means))
    codes = np.concatenate([np.random.default_rng(3).standard_normal((4, z)), means[:4]]).astype(np.float32)
    wanted = vae.pixel_means(codes).numpy()
    found = numbers(page, "window.vae.decode", codes.tolist()).reshape(wanted.shape)
    assert np.abs(found - wanted).max() < 0.03 and np.abs(found - wanted).mean() < 0.004
    assert wanted.std(axis=0).mean() > 0.01, "or all codes would give the same image"
    x = to_pixels(data[name].test[:4]).numpy()
    posterior = vae.encoder(x).numpy()
    coded = numbers(page, "window.vae.encode", x.ravel().tolist()).reshape(posterior.shape)
    error = coded - posterior
    assert np.sqrt(np.square(error).mean()) < 0.1 * posterior.std()


def test_the_plane_decodes_under_the_pointer_and_a_line_becomes_a_strip(opened, data, tmp_path):
    vae, means = untrained(SCRIPTS["fc"], data["toy-digits"], 2, False)
    page = opened(write(tmp_path / "run", vae, data["toy-digits"], means))
    box = page.locator("#plane").bounding_box()

    def at(x, y):
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def code():
        page.wait_for_timeout(100)
        return [float(number) for number in re.findall(r"-?\d+\.\d+", page.locator("#code").inner_text())]

    kept = code()
    page.mouse.move(*at(0.25, 0.25))
    first = code()
    np.testing.assert_allclose(drawn(page, "decoded"), vae.pixel_means(np.float32([first]))[0, ..., 0], atol=0.03)
    page.mouse.move(*at(0.75, 0.5))
    second = code()
    assert second[0] > first[0] and second[1] < first[1] and page.locator("#strip canvas").count() == 0
    page.mouse.move(box["x"] + box["width"] + 50, box["y"])
    assert code() == kept, "only a click keeps a place"
    page.mouse.move(*at(0.25, 0.25))
    page.mouse.down()
    page.mouse.move(*at(0.5, 0.4))
    page.mouse.move(*at(0.75, 0.5))
    page.mouse.up()
    assert code() == second and page.locator("#strip canvas").count() == 10
    page.locator("#plane").press("ArrowLeft")
    assert code()[0] < second[0]
    page.locator("#plane").press("Enter")
    for _ in range(5):
        page.locator("#plane").press("ArrowUp")
    page.locator("#plane").press("Enter")
    assert code()[1] > second[1] and page.locator("#strip canvas").count() == 10
    page.locator("#plane").press("Enter")
    for _ in range(80):
        page.locator("#plane").press("ArrowUp")
    inside = page.evaluate("[view.bottom, view.bottom + view.span]")
    assert inside[0] <= code()[1] <= inside[1] + 0.01, "the edge of the plane stops the code"
    page.locator("#plane").press("Escape")
    assert page.evaluate("state.line") is None and page.locator("#strip canvas").count() == 0


def test_a_drawing_is_encoded_as_a_test_image(opened, data, tmp_path):
    """Wherever and however small it is drawn, the encoder gets it at the usual place and size."""
    vae, means = untrained(SCRIPTS["fc"], data["toy-digits"], 2, False)
    page = opened(write(tmp_path / "run", vae, data["toy-digits"], means), has_touch=True)
    page.locator("#pad").scroll_into_view_if_needed()
    box, seen = page.locator("#pad").bounding_box(), []
    for left, top, size in ((0.1, 0.1, 0.3), (0.5, 0.4, 0.45)):
        page.locator("#clear").click()
        corners = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]
        points = [(box["x"] + (left + size * x) * box["width"], box["y"] + (top + size * y) * box["height"])
                  for x, y in corners]  # fmt: skip
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=4)
        page.mouse.up()
        page.wait_for_timeout(100)
        seen.append(drawn(page, "original"))
        rows, columns = np.nonzero(seen[-1] > 0.2)
        ink = data["toy-digits"].test[..., 0] > 51
        sides = np.maximum(ink.any(axis=1).sum(axis=1), ink.any(axis=2).sum(axis=1))
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - sides.mean()) < 2.5
        assert abs(rows.mean() - 13.5) < 2 and abs(columns.mean() - 13.5) < 2
        assert 0.04 < (seen[-1] > 0.5).mean() < 0.35, "with strokes as wide as usual"
    code = [float(number) for number in re.findall(r"-?\d+\.\d+", page.locator("#code").inner_text())]
    np.testing.assert_allclose(code, numbers(page, "meanOf", seen[-1].ravel().tolist()), atol=0.01)


def test_sliders_move_units_and_attributes(opened, data, tmp_path):
    vae, means = untrained(SCRIPTS["conv"], data["toy-faces"], 16, True)
    page = opened(write(tmp_path / "run", vae, data["toy-faces"], means))
    assert page.locator("#units input").count() == 10
    assert page.locator("#attributes label").all_inner_texts()[0].startswith("Smiling")
    page.locator("#starts button").nth(3).click()
    before = page.evaluate("[...state.code]")
    unit = int(re.search(r"\d+", page.locator("#units label").first.inner_text())[0])
    page.locator("#units input").first.fill("0.5")
    after = np.array(page.evaluate("[...state.code]"))
    changed = np.flatnonzero(np.abs(after - before) > 1e-6)
    assert list(changed) == [unit] and abs(after[unit] - 0.5) < 0.2  # the nearest step of the slider
    page.locator("#attributes input").first.press("Home")
    smiling = data["toy-faces"].test_labels[:, data["toy-faces"].label_names.index("Smiling")] == 1
    ends = means[~smiling].mean(axis=0), means[smiling].mean(axis=0)
    half, centre = (ends[1] - ends[0]) / 2, (ends[1] + ends[0]) / 2
    along = (np.array(page.evaluate("[...state.code]")) - centre) @ half / (half @ half)
    assert along == pytest.approx(-3, abs=0.05), "three times as far as the mean of those who do not smile"
    page.locator("#sample").click()
    assert page.locator("#started").is_hidden()


def test_moving_in_the_plane_of_many_units_ends_where_the_pointer_is(opened, data, tmp_path):
    vae, means = untrained(SCRIPTS["fc"], data["toy-digits"], 7, False)
    page = opened(write(tmp_path / "run", vae, data["toy-digits"], means))
    place = page.evaluate("project(moved(state.code, [0.3, -0.2]))")
    np.testing.assert_allclose(place, [0.3, -0.2], atol=1e-4)


def test_names_are_text_and_never_markup(opened, data, tmp_path):
    digits = replace(data["toy-digits"], name=NASTY[1], label_names=(*NASTY, *"23456789"))
    vae, means = untrained(SCRIPTS["fc"], digits, 2, False)
    folder = tmp_path / NASTY[0].replace("/", "")
    page = opened(write(folder, vae, digits, means))
    assert page.locator("#legend li").all_inner_texts()[:2] == list(NASTY)
    assert page.locator("h1").inner_text() == f"{folder.name}, epoch 3"
    assert NASTY[1] in page.locator("#about").inner_text()
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(scheme, opened, data, tmp_path):
    digits = replace(data["toy-digits"], label_names=tuple(f"a class with a long name, number {k}" for k in range(10)))
    vae, means = untrained(SCRIPTS["fc"], digits, 2, False)
    page = opened(write(tmp_path / ("run" * 30), vae, digits, means), 360, 640, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 380) == (scheme == "light")


def test_images_without_labels_and_a_single_unit(opened, data, tmp_path):
    faces = replace(data["toy-faces"], train_labels=None, test_labels=None, label_names=())
    for z in (1, 3):
        vae, means = untrained(SCRIPTS["fc"], faces, z, True)
        page = opened(write(tmp_path / "run", vae, faces, means))
        assert page.locator("#legend li").all_inner_texts() == ["test images"]
        assert ("unit" in page.locator("#across").inner_text()) == (z == 3)


@pytest.mark.parametrize("change", [layers.Softmax(), layers.Dense(8, "gelu")])
def test_networks_that_it_cannot_compute_get_a_line_instead(change, data, tmp_path, capsys):
    vae, means = untrained(SCRIPTS["fc"], data["toy-digits"], 2, False)
    path = write(tmp_path / "run", vae, data["toy-digits"], means)
    latent = keras.Input((2,))
    hidden = layers.Dense(784)(change(layers.Dense(8)(latent)))
    own = replace(vae, decoder=keras.Model(latent, layers.Reshape((28, 28, 1))(hidden), name="decoder"))
    write(tmp_path / "run", own, data["toy-digits"], means)
    assert not path.exists(), "it would be that of other networks"
    printed = capsys.readouterr().out
    assert f"{path}: is left out, as layer {change.name}" in printed and printed.count("\n") == 1


def test_rounding_spares_the_outputs():
    """With inputs that depend on each other, errors of weights cancel; whole steps stay as they are."""
    random = np.random.default_rng(0)
    inputs = (random.normal(size=(2000, 5)) @ random.normal(size=(5, 60))).astype(np.float32)
    kernel, bias = random.normal(size=(60, 8)).astype(np.float32), np.zeros(8, np.float32)
    scale, varies = np.full(8, 0.5, np.float32), np.ones((60, 1), bool)
    steps, new_bias = rounded_for(kernel, varies, bias, inputs, scale)
    error = inputs @ (steps * scale) + new_bias - inputs @ kernel
    nearest = inputs @ (np.rint(kernel / scale) * scale) - inputs @ kernel
    assert np.square(error).mean() < 0.1 * np.square(nearest).mean()
    same, _ = rounded_for(steps * scale, varies, bias, inputs, scale)
    np.testing.assert_array_equal(same, steps)
    assert np.abs(kernel / step_sizes(kernel)).max() == pytest.approx(127)
