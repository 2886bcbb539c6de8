"""evaluate.py through its command line, on small runs: every key, every picture, numbers that agree, bad folders."""

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_script, step_by_step, use_few_images
from PIL import Image

import evaluate
import utils
import vae_conv
import vae_fc
from vae import (
    classifier,
    duration,
    elbo,
    evaluation,
    evaluation_pictures,
    features,
    likelihood,
    measures,
    pictures,
    pixels,
    steps,
)
from vae.data import toy
from vae.data.dataset import Dataset
from vae.evaluation_table import print_tables
from vae.finished_run import Config, FinishedRun, Metrics, load_half, load_run
from vae.ppca import fit_ppca
from vae.terminal import NonFiniteError, UserError

KEYS = {
    *"loss recon kl kl_per_unit active_units bits_per_dim".split(),
    *"nll loss_of_nll_images nll_samples nll_images nll_standard_error".split(),
    *"psnr psnr_of_mean_mse ssim pca_psnr_of_mean_mse ppca_bits_per_dim frechet novelty attributes".split(),
    *"dataset script z likelihood binarize epoch training_seed seed pixels_sha256 test_images seconds".split(),
    *"inputs_sha256 pictures".split(),
}
PICTURES = {*"traversals.png interpolation.png pairs.png neighbours.png mixture.png".split()}


@pytest.fixture
def quick(monkeypatch, small_sets):
    """Small runs without their own pictures, and a classifier that takes a second."""
    monkeypatch.setattr(utils, "draw_pictures", lambda run, means: None)
    monkeypatch.setattr(vae_fc, "XLA", False)  # what evaluate.py goes by
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    monkeypatch.setattr(classifier, "FILTERS", (4, 4, 4))
    monkeypatch.setattr(features, "SAMPLES", 100)


def train(script, out, *flags):
    with step_by_step():
        script.main([*"--epochs 1 --batch-size 50".split(), "--out", str(out), *map(str, flags)])


def evaluated(folder):
    return json.loads((folder / "evaluation.json").read_text())


def check_consistent(numbers):
    """What must hold between the numbers of any run."""
    assert set(numbers) == KEYS
    assert numbers["loss"] == pytest.approx(numbers["recon"] + numbers["kl"])
    assert numbers["kl_per_unit"] == sorted(numbers["kl_per_unit"], reverse=True)
    assert len(numbers["kl_per_unit"]) == numbers["z"]
    assert sum(numbers["kl_per_unit"]) == pytest.approx(numbers["kl"], rel=1e-4)
    assert len(numbers["pixels_sha256"]) == 64
    assert numbers["nll"] < numbers["loss_of_nll_images"] + 0.01 * abs(numbers["loss"]), "from a few samples"
    if numbers["nll_images"] == numbers["test_images"]:
        assert numbers["loss_of_nll_images"] == pytest.approx(numbers["loss"])
    assert -1 <= numbers["ssim"] <= 1 and numbers["psnr"] > 0
    views = ("samples", "mixture_samples", "reconstructions", "training")
    assert all(numbers["frechet"][view] >= 0 for view in views)
    assert numbers["frechet"]["samples_images"] == numbers["frechet"]["mixture_samples_images"] == features.SAMPLES
    assert 0 <= numbers["frechet"]["classifier_accuracy"] <= 1
    assert 0 <= numbers["novelty"]["share_nearer_than_held_out"] <= 1


def test_digits(quick, tmp_path, monkeypatch, capsys):
    """Compiled, as users have it."""
    monkeypatch.setattr(vae_fc, "XLA", True)  # what evaluate.py goes by
    vae_fc.main(f"--epochs 1 --batch-size 50 --binarize dynamic --seed 5 --out {tmp_path}".split())
    folder = tmp_path / "fc_toy-digits_z2"
    evaluate.main([str(folder), "--nll-samples", "60", "--seed", "5"])
    numbers, metrics = evaluated(folder), json.loads((folder / "metrics.json").read_text())
    check_consistent(numbers)
    assert numbers["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6), "the run's own test, repeated"
    assert numbers["psnr"] == pytest.approx(metrics["test_psnr"], rel=1e-5)
    assert numbers["active_units"] == metrics["active_units"]
    assert numbers["psnr_of_mean_mse"] == pytest.approx(metrics["test_psnr_of_mean_mse"], rel=1e-5)
    run = load_run(folder)
    x = pixels.evaluation_pixels(run.data.test, "dynamic", 5, 0)
    means = run.vae.posterior(x)[0]
    assert numbers["active_units"] == np.sum(np.var(means, axis=0) > 0.01)
    assert numbers["ssim"] == pytest.approx(tf.image.ssim(x, run.vae.pixel_means(means), 1.0).numpy().mean(), rel=1e-4)
    assert numbers["pca_psnr_of_mean_mse"] == pytest.approx(pca_psnr(run.data.train, x.numpy(), 2), abs=0.01)
    assert (numbers["nll_samples"], numbers["nll_images"]) == (60, 60)
    assert set(numbers["pictures"]) == PICTURES
    assert numbers["bits_per_dim"] is numbers["ppca_bits_per_dim"] is numbers["attributes"] is None
    printed = capsys.readouterr().out
    for name in PICTURES:
        Image.open(folder / name).verify()
        assert str(folder / name) in printed
    assert f"{numbers['loss']:,.2f}" in printed and f"{numbers['nll']:,.2f}" in printed


def pca_psnr(train, x, count):
    """PSNR of the mean squared error of images projected onto `count` principal components, by NumPy alone."""
    train, x = (part.reshape(len(part), -1).astype(np.float64) for part in (train / 255, x))
    mean = train.mean(axis=0)
    components = np.linalg.svd(train - mean, full_matrices=False)[2][:count]
    projected = np.clip(mean + (x - mean) @ components.T @ components, 0, 1)
    return -10 * np.log10(np.mean((projected - x) ** 2))


def test_faces_beside_each_other(quick, tmp_path, capsys):
    flags = ("--dataset", "toy-faces", "--z", 5)
    train(vae_fc, tmp_path, *flags)
    train(vae_conv, tmp_path, *flags)
    folders = [tmp_path / "fc_toy-faces_z5", tmp_path / "conv_toy-faces_z5"]
    options = ["--nll-samples", "20", "--nll-images", "30", "--out", str(tmp_path / "results")]
    evaluate.main([*map(str, folders), *options])
    for folder in folders:
        numbers = evaluated(folder)
        check_consistent(numbers)
        assert numbers["nll_images"] == 30
        assert abs(numbers["bits_per_dim"] - numbers["ppca_bits_per_dim"]) < 0.05, "so early, it is pPCA still"
        assert numbers["bits_per_dim"] == pytest.approx(likelihood.bits_per_dim(numbers["loss"], 64 * 64 * 3), abs=0.01)
        check_attributes(numbers["attributes"])
        assert {path.name for path in folder.glob("*.png")} == PICTURES | {"attributes.png"}
    printed = capsys.readouterr().out
    for folder in folders:
        assert f"\n{folder.name}  " in printed
        assert f"{folder.name}: NLL is of 30 test images, whose loss is -" in printed
    assert "different images" not in printed
    summary = Image.open(tmp_path / "results" / "summary.png")
    assert summary.height > 3 * 64 and summary.width > 10 * 64


def check_attributes(table):
    for answers in table.values():
        for answer in ("presence", "absence"):
            recall = answers[answer]
            assert set(recall) == {"originals", "reconstructions", "pca", "mean_image", "retention"}
            if recall["originals"]:
                assert recall["retention"] == pytest.approx(recall["reconstructions"] / recall["originals"])
        both = [answers[answer]["mean_image"] for answer in ("presence", "absence")]
        assert None in both or sorted(both) == [0, 1], "one face has one answer for all"


KERAS_ALONE = """
import keras, numpy as np
encoder, decoder = (keras.models.load_model(name + ".keras") for name in ("encoder", "decoder"))
images = np.load("images.npy")
mean, log_std = np.split(encoder(images), 2, axis=-1)
noise = np.random.default_rng(0).standard_normal((5, mean.shape[1])).astype(np.float32)
np.savez("found.npz", mean=mean, log_std=log_std, decoded=decoder(mean), samples=decoder(noise))
"""


def check_in_keras_alone(encoder, decoder, folder):
    """The two networks kept in a folder, in a process that cannot reach this project's files."""
    images = np.random.default_rng(1).random((3, *encoder.input_shape[1:]), np.float32)
    np.save(folder / "images.npy", images)
    subprocess.run([sys.executable, "-I", "-c", KERAS_ALONE], cwd=folder, capture_output=True, text=True, check=True)
    found = np.load(folder / "found.npz")
    mean, log_std = np.split(encoder(images), 2, axis=-1)
    noise = np.random.default_rng(0).standard_normal((5, mean.shape[1])).astype(np.float32)
    expected = {"mean": mean, "log_std": log_std, "decoded": decoder(mean), "samples": decoder(noise)}
    assert expected["samples"].shape == (5, *images.shape[1:])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=name)


def test_keras_alone_encodes_decodes_and_samples(finished_run, tmp_path):
    networks = [keras.models.load_model(finished_run / f"{name}.keras") for name in ("encoder", "decoder")]
    for name in ("encoder", "decoder"):
        shutil.copy(finished_run / f"{name}.keras", tmp_path)
    check_in_keras_alone(*networks, tmp_path)


def test_keras_alone_encodes_decodes_and_samples_photographs(tmp_path):
    """The convolutional networks with their linear path, of an odd size, as they are saved: copies of those trained."""
    encoder, decoder = (build((20, 20, 3), 4, True) for build in (vae_conv.build_encoder, vae_conv.build_decoder))
    random = np.random.default_rng(2)
    for network in (encoder, decoder):  # parts of which start at 0
        network.set_weights([random.normal(0, 0.05, weight.shape) for weight in network.get_weights()])
    saved = elbo.Vae(encoder, decoder, tf.Variable(0.0), "gaussian").copy()
    for name in ("encoder", "decoder"):
        getattr(saved, name).save(tmp_path / f"{name}.keras")
    check_in_keras_alone(encoder, decoder, tmp_path)


def test_the_binarised_test_set_is_one_for_all(small_sets, finished_run, data_dir):
    """Codes are those of the very pixels that nll and SSIM are about, under XLA too, where random numbers differ."""
    vae, test = load_run(finished_run).vae, utils.load_dataset("toy-digits", data_dir).test
    call = steps.build_evaluate_call(vae, 3, xla=True)
    _, _, error, means, _ = steps.evaluate_images(call, test, np.zeros((len(test), 0), np.float32), "dynamic", 3)
    x = pixels.evaluation_pixels(test, "dynamic", 3, 0)
    np.testing.assert_allclose(means, vae.posterior(x)[0], atol=1e-4)
    np.testing.assert_allclose(error, np.square(vae.pixel_means(means) - x).mean(axis=(1, 2, 3)), atol=1e-5)


def test_pictured_test_images_are_those_of_the_loss(monkeypatch):
    """Drawn again by themselves, their binarised pixels would be others than those that were encoded."""
    monkeypatch.setattr(pixels, "EVALUATION_BATCH", 8)
    images = np.full((20, 4, 4, 1), 128, np.uint8)
    seen = np.concatenate([pixels.evaluation_pixels(images, "dynamic", 3, batch) for batch in range(3)])
    rows = np.array([1, 7, 8, 19])
    np.testing.assert_array_equal(pixels.chosen_pixels(images, "dynamic", 3, rows), seen[rows])
    assert not np.array_equal(seen[1], seen[7])


def test_the_likelihood_of_some_images_is_that_of_evenly_spaced_ones(quick, tmp_path):
    train(vae_fc, tmp_path)
    folder = tmp_path / "fc_toy-digits_z2"
    run = load_run(folder)
    x = tf.constant(pixels.to_pixels(run.data.test))
    codes = [part.numpy() for part in run.vae.posterior(x)]
    losses = np.arange(len(x)) ** 2.0
    call = likelihood.build_importance_call(run.vae, 0, run.config.xla)
    found = evaluation.likelihood_numbers(run, call, codes, losses, 0, samples=5, count=3)
    chosen = [0, (len(x) - 1) // 2, len(x) - 1]
    near = [part[chosen] for part in codes]
    x, labels = tf.gather(x, chosen), tf.zeros((3, 0))
    by_hand = likelihood.importance_weighted_nll(call, x, labels, near, 5, 0, likelihood.STEPS)
    assert found["nll_images"] == 3 and found["nll"] == pytest.approx(by_hand.mean(), rel=1e-6)
    assert found["loss_of_nll_images"] == pytest.approx(losses[chosen].mean())


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A run whose decoder shows codes as they are, 12 numbers as an image of 2x2 pixels in colour."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (count, 2, 2, 3), np.uint8) for count in (60, 30)]
    labels = [np.arange(2 * count).reshape(count, 2) % 2 for count in (60, 30)]
    labels = [np.where(np.arange(len(part))[:, None] % 3 == 0, 1 - part, part) for part in labels]
    data = Dataset("planted", *images, *labels, ("Smiling", "Eyeglasses"), "x")
    monkeypatch.setattr(features, "SAMPLES", 40)
    config = Config(
        **{"script": "fc", "dataset": "planted", "data_dir": "", "image_size": None, "limit": None},
        **{"pixels_sha256": "x", "z": 12, "xla": False, "seed": 0, "likelihood": "gaussian", "binarize": "none"},
    )
    vae = SimpleNamespace(pixel_means=lambda codes, labels: tf.constant(as_images(codes)), takes_labels=False)
    return FinishedRun(tmp_path, config, Metrics(1, 0.0, 1.0), data, vae)


def as_images(codes):
    return np.reshape(codes, (-1, 2, 2, 3))


def test_what_the_pictures_show(planted, grids, grid_pages):
    random = np.random.default_rng(1)
    means, loss = random.random((30, 12)), random.permutation(30)
    test = planted.data.test / 255
    evaluation_pictures.draw_pairs(planted, means, loss)
    order = np.argsort(loss)
    for page, chosen in zip(grid_pages, (order[:10], order[::-1][:10]), strict=True):
        pairs = np.stack([test[chosen], as_images(means)[chosen]], axis=1)
        np.testing.assert_allclose(page[0].reshape(pairs.shape), pairs, rtol=1e-6)
        assert page[3] == [f"test image {row + 1}\n{loss[row]:,.1f} nats" for row in chosen]

    neighbours, samples = random.integers(0, 60, 40), features.sample_codes(12, 0)
    evaluation_pictures.draw_neighbours(planted, samples, neighbours)
    shown = pictures.interleave(as_images(samples[:20]), planted.data.train[neighbours[:20]] / 255, 10)
    np.testing.assert_allclose(grids["neighbours.png"], shown, rtol=1e-6)

    evaluation_pictures.draw_traversals(planted, means, np.arange(12.0))
    codes = grids["traversals.png"].reshape(10, 11, 12)
    for row, unit in enumerate(range(11, 1, -1)):
        expected = np.tile(means[0], (11, 1))
        expected[:, unit] = np.linspace(np.percentile(means[:, unit], 1), np.percentile(means[:, unit], 99), 11)
        np.testing.assert_allclose(codes[row], expected, rtol=1e-5, err_msg="the unit of the largest KL first")

    evaluation_pictures.draw_interpolation(planted, means)
    line = grids["interpolation.png"].reshape(-1, 11, 2, 2, 3)[0]
    left, right = pictures.picture_rows(planted.data, 16)[:2]
    np.testing.assert_allclose(line[[0, 10]], test[[left, right]], rtol=1e-6)
    np.testing.assert_allclose(
        line[[1, 5, 9]], as_images([means[left], means[[left, right]].mean(0), means[right]]), rtol=1e-5
    )


def test_attributes_are_added_to_those_without_and_taken_away_from_others(planted, grids, grid_pages):
    rows, labels = np.arange(60), planted.data.train_labels
    train_means = np.zeros((60, 12))
    train_means[:, 0], train_means[:, 1] = 3.0 * labels[:, 0], 5.0 * labels[:, 1]
    means = np.random.default_rng(2).random((30, 12))
    evaluation_pictures.draw_attributes(planted, means, train_means, rows)
    shown = grids["attributes.png"].reshape(2, 2, 2, 10, 12)
    for at in (0, 1):
        step = 1.5 * (train_means[labels[:, at] == 1].mean(0) - train_means[labels[:, at] == 0].mean(0))
        for value, sign in ((0, 1), (1, -1)):
            own = np.flatnonzero(planted.data.test_labels[:, at] == value)
            people = means[own[np.linspace(0, len(own) - 1, 10).astype(int)]]
            np.testing.assert_allclose(shown[at, value], [people, people + sign * step], rtol=1e-5)
    heads = grid_pages[0][3]
    assert heads == "decoded,+ smiling,decoded,- smiling,decoded,+ eyeglasses,decoded,- eyeglasses".split(",")


def test_few_people_with_an_attribute_leave_the_rest_of_their_row_white(planted, grids):
    labels = np.zeros((30, 2), int)
    labels[7, 0] = 1
    run = replace(planted, data=replace(planted.data, test_labels=labels))
    evaluation_pictures.draw_attributes(run, np.zeros((30, 12)), np.zeros((60, 12)), np.arange(60))
    shown = grids["attributes.png"].reshape(-1, 10, 12)
    assert len(shown) == 8 and not shown[2:4, 0].any() and (shown[2:4, 1:] == 1).all() and (shown[6:] == 1).all()


def test_views_are_of_what_they_are_called(planted):
    ppca = fit_ppca(planted.data.train, 3)
    means, mixture = np.random.default_rng(2).random((2, 30, 12))
    samples = features.sample_codes(12, 0)

    def describe(images):
        return (np.asarray(images).reshape(len(images), -1),) * 2

    chosen, training = np.arange(0, 30, 3), np.arange(0, 60, 2)
    seen = features.describe_views(planted, describe, means, chosen, training, samples, mixture, ppca)
    flat = planted.data.test[chosen].reshape(10, -1) / 255
    expected = {"originals": flat, "reconstructions": means[chosen], "mixture_samples": mixture}
    expected |= {"samples": samples, "training": planted.data.train[training].reshape(30, -1) / 255}
    expected |= {"mean_image": ppca.decode_bias[None], "pca": measures.pca_reconstruction(ppca, flat)}
    assert set(seen) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(seen[name][0], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_distances_are_those_of_the_views_that_they_are_called_after(planted):
    logits = np.where(planted.data.test_labels == 1, 1.0, -1.0)
    planned = np.random.default_rng(3).standard_normal((30, 4))
    moved = {"originals": 0, "samples": 1, "mixture_samples": 2, "reconstructions": 3}
    views = {name: [planned + shift, logits] for name, shift in moved.items()}
    views["training"] = [planned + 4, logits]
    found = features.frechet(views, planted.data.test_labels)
    for name, shift in moved.items() - {("originals", 0)}:
        assert found[name] == pytest.approx(4 * shift**2)
    assert found["training"] == pytest.approx(4 * 16) and found["classifier_accuracy"] == 1


def test_copies_differ_from_new_images_and_their_sources_are_found():
    random = np.random.default_rng(4)
    training, held_out, new = random.standard_normal((3, 200, 5))
    copied = random.integers(0, 200, 150)
    views = {"training": training, "originals": held_out, "reconstructions": new, "samples": training[copied] + 1e-3}
    found, neighbours = features.novelty({name: [values, None] for name, values in views.items()})
    assert found["c_t"] < -10 and abs(found["c_t_of_reconstructions"]) < 3
    assert found["share_nearer_than_held_out"] > 0.99 and np.array_equal(neighbours, copied)


def test_shares_of_attributes_are_of_those_who_have_them():
    """Of ten people, four smile; two smiles are lost, and one is seen where there is none."""
    labels = np.repeat([[1], [0]], [4, 6], axis=0)
    lost = labels.copy()
    lost[[0, 1, 9]] = [[0], [0], [1]]
    seen = {"originals": labels, "reconstructions": lost, "pca": np.zeros((10, 1)), "mean_image": np.ones((1, 1))}
    views = {name: [None, answers - 0.5] for name, answers in seen.items()}
    found = features.attributes(views, labels, ("Smiling",))["Smiling"]
    assert found["presence"] == {"originals": 1, "reconstructions": 0.5, "pca": 0, "mean_image": 1, "retention": 0.5}
    assert found["absence"]["reconstructions"] == found["absence"]["retention"] == pytest.approx(5 / 6)
    assert (found["absence"]["pca"], found["absence"]["mean_image"]) == (1, 0)


@pytest.mark.parametrize(
    ("script", "side", "size"), [(vae_fc, 28, (500, 5500)), (vae_conv, 32, (100, 1600)), (vae_conv, 64, (100, 400))]
)
def test_how_many_samples_and_images_the_likelihood_takes(planted, script, side, size):
    """The networks decide, whatever the script is called: about as much work for each, unless flags say otherwise."""
    data = replace(planted.data, test=np.zeros((10_000, 2, 2, 3), np.uint8))
    decoder = script.build_decoder((side, side, 1 if side == 28 else 3), 10, side > 28)
    run = replace(planted, data=data, vae=SimpleNamespace(decoder=decoder))
    assert evaluation.likelihood_size(run) == size
    assert evaluation.likelihood_size(run, 5000, 20_000) == (5000, 10_000)


def test_operations_are_those_of_products():
    image = keras.Input((9, 9, 3))
    maps = keras.layers.Conv2D(5, 4, 2, "same")(image)  # 5x5 places
    maps = keras.layers.Conv2DTranspose(7, 4, 2, "same")(maps)  # from 5x5 places
    network = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(maps)))
    products = 25 * 16 * 3 * 5 + 25 * 16 * 5 * 7 + 700 * 2
    assert duration.operations(network) == pytest.approx(2 * products, abs=1)
    assert duration.operations(keras.Sequential([image, network])) == pytest.approx(2 * products, abs=2)


@pytest.mark.parametrize(("z", "count"), [(12, 10), (250, 8)])
def test_a_mixture_has_fewer_gaussians_where_codes_have_many_units(z, count, monkeypatch):
    asked, fitted = [], measures.fit_mixture(np.random.default_rng(0).random((50, z)), 2, 0, steps=1)
    monkeypatch.setattr(measures, "fit_mixture", lambda codes, count, seed: asked.append(count) or fitted)
    assert features.mixture_codes(*np.zeros((2, 10_000, z), np.float32), 0).shape == (features.SAMPLES, z)
    assert asked == [count]


@pytest.mark.parametrize("bad", ["loss", "likelihood"])
def test_a_non_finite_number_ends_the_evaluation(bad, quick, finished_run, tmp_path, monkeypatch):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    numbers = np.ones(60)
    numbers[17] = np.nan
    if bad == "loss":
        exact = steps.evaluate_images
        monkeypatch.setattr(evaluation, "evaluate_images", lambda *those: [numbers, *exact(*those)[1:]])
    else:
        monkeypatch.setattr(likelihood, "importance_weighted_nll", lambda *_: numbers)
    with pytest.raises(NonFiniteError, match=f"the {bad} of test image 18 is not finite"), step_by_step():
        evaluate.main([str(folder)])
    assert not (folder / "evaluation.json").exists()


@pytest.mark.parametrize(("seed", "loss", "remarked"), [(0, 100.0, False), (0, 101.0, True), (1, 101.0, False)])
def test_a_loss_that_differs_from_the_training_is_pointed_out(planted, seed, loss, remarked, capsys):
    run = replace(planted, metrics=replace(planted.metrics, test_loss=100.05))
    evaluation.remark_on_loss(run, loss, seed)
    assert ("was 100.05 at the end of training; was the program edited since?" in capsys.readouterr().out) == remarked


def test_one_image(quick, tmp_path):
    """No spread of one test image, no pairs, no covariance: what cannot be said is null, and the rest is there."""
    train(vae_fc, tmp_path, "--limit", 1)
    folder = tmp_path / "fc_toy-digits_z2"
    with step_by_step():
        evaluate.main([str(folder), str(folder), "--nll-samples", "5"])
    numbers = evaluated(folder)
    assert numbers["frechet"] is numbers["nll_standard_error"] is None and math.isfinite(numbers["nll"])


def test_threshold_leaves_no_grey(quick, tmp_path):
    train(vae_fc, tmp_path, "--binarize", "threshold")
    run = load_run(tmp_path / "fc_toy-digits_z2")
    assert set(np.unique(run.data.train)) == {0, 255}
    assert run.data.sha256 != run.config.pixels_sha256, "a classifier of its own, not the grey images'"
    np.testing.assert_array_equal(
        pixels.evaluation_pixels(run.data.test, "threshold", 0, 0), run.data.test.astype(np.float32) / 255
    )


def test_images_without_labels(quick, tmp_path, image_folder, capsys):
    train(vae_fc, tmp_path, "--dataset", image_folder, "--image-size", 32, "--z", 3)
    folder = tmp_path / "fc_my_images_z3"
    with step_by_step():
        evaluate.main([str(folder), "--nll-samples", "5"])
    numbers = evaluated(folder)
    assert numbers["frechet"] is numbers["attributes"] is None
    assert numbers["novelty"]["features"] == "pca"
    assert {path.name for path in folder.glob("*.png")} == PICTURES
    assert math.isfinite(numbers["bits_per_dim"]) and "no labels" in capsys.readouterr().out


def conditional_networks(image_shape, z, label_count):
    """A small encoder and decoder that both take labels as their second input, beside pPCA's linear path."""
    size, label = math.prod(image_shape), keras.Input((label_count,))
    image, latent = keras.Input(image_shape), keras.Input((z,))
    flat = keras.layers.Flatten()(image)
    hidden = keras.layers.Dense(16, "silu")(keras.layers.Concatenate()([flat, label]))
    mean, log_std = keras.layers.Dense(z, name="linear_mean")(flat), keras.layers.Dense(z, name="log_std")(hidden)
    mean = keras.layers.Add()([mean, keras.layers.Dense(z)(hidden)])
    encoder = keras.Model([image, label], keras.layers.Concatenate()([mean, log_std]))
    hidden = keras.layers.Dense(16, "silu")(keras.layers.Concatenate()([latent, label]))
    linear_pixels = keras.layers.Dense(size, name="linear_pixels")(latent)
    pixels = keras.layers.Add()([linear_pixels, keras.layers.Dense(size)(hidden)])
    return encoder, keras.Model([latent, label], keras.layers.Reshape(image_shape)(pixels))


@pytest.mark.parametrize("dataset", ["toy-digits", "toy-faces"])
def test_conditional_networks_get_the_labels_of_their_images(dataset, quick, tmp_path):
    flags = f"--dataset {dataset} --z 3 --epochs 1 --batch-size 50 --seed 5 --name run --out {tmp_path}".split()
    settings = utils.parse_settings(vars(vae_fc), flags)
    data = utils.load_data(settings)
    label_count = len(data.label_names)
    with step_by_step():
        metrics = utils.train(*conditional_networks(data.image_shape, 3, label_count), data, settings)
        evaluate.main([str(tmp_path / "run"), "--nll-samples", "20", "--seed", "5"])
    numbers = evaluated(tmp_path / "run")
    check_consistent(numbers)
    assert numbers["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
    assert numbers["psnr"] == pytest.approx(metrics["test_psnr"], rel=1e-5)
    evaluation_pictures.draw_summary(tmp_path / "summary.png", [load_run(tmp_path / "run")], ["run"], 5)
    _, decoder = conditional_networks(data.image_shape, 3, label_count + 1)
    decoder.save(tmp_path / "run" / "decoder.keras")
    with pytest.raises(UserError, match=r"decoder\.keras: has shapes"):
        evaluate.main([str(tmp_path / "run")])


def test_what_the_pictures_of_a_conditional_vae_show(planted, grids, grid_pages):
    """With a decoder that shows the labels, whatever the code is."""

    def pixel_means(codes, labels):
        assert len(codes) == len(labels)
        return tf.constant(as_images(np.tile(labels, 6)))

    run = replace(planted, vae=SimpleNamespace(pixel_means=pixel_means, takes_labels=True))
    labels, means, loss = run.data.test_labels, np.zeros((30, 12), np.float32), np.arange(30)
    evaluation_pictures.draw_pairs(run, means, loss)
    evaluation_pictures.draw_traversals(run, means, np.arange(12.0))
    evaluation_pictures.draw_interpolation(run, means)
    evaluation_pictures.draw_attributes(run, means, np.zeros((60, 12), np.float32), np.arange(60))
    evaluation_pictures.draw_mixture(run, np.zeros((25, 12)))
    evaluation_pictures.draw_neighbours(run, np.zeros((25, 12)), np.arange(25))
    shown = {name: images.reshape(len(images), 6, 2)[:, 0] for name, images in grids.items()}
    decoded = grid_pages[0][0].reshape(10, 2, 6, 2)[:, 1, 0]
    np.testing.assert_array_equal(decoded, labels[:10], err_msg="of the smallest loss")
    np.testing.assert_array_equal(shown["traversals.png"], np.tile(labels[0], (110, 1)))
    chosen = pictures.picture_rows(run.data, 16)
    line = shown["interpolation.png"].reshape(-1, 11, 2)[0]
    np.testing.assert_allclose(line[1:10], np.linspace(labels[chosen[0]], labels[chosen[1]], 9), rtol=1e-6)
    smiles = shown["attributes.png"].reshape(8, 10, 2)[:4, :, 0]
    np.testing.assert_array_equal(smiles, np.repeat([0, 0, 1, 1], 10).reshape(4, 10), err_msg="labels stay")
    samples = pictures.sample_labels(labels.astype(np.float32), 25)
    np.testing.assert_array_equal(shown["mixture.png"], samples)
    np.testing.assert_array_equal(shown["neighbours.png"][:10], samples[:10])
    ppca = fit_ppca(run.data.train, 3)
    rows, codes = np.arange(30), (means, means[:25])
    describe = lambda x: (np.reshape(x, (len(x), -1)),) * 2  # noqa: E731
    seen = features.describe_views(run, describe, means, rows, rows, *codes, ppca)
    np.testing.assert_array_equal(seen["reconstructions"][0][:, :2], labels)
    np.testing.assert_array_equal(seen["mixture_samples"][0][:, :2], samples)


def test_a_run_is_evaluated_once_until_something_changes(quick, tmp_path, monkeypatch, capsys):
    train(vae_fc, tmp_path)
    folder, counted = tmp_path / "fc_toy-digits_z2", []
    anew = evaluation.evaluate_anew
    monkeypatch.setattr(evaluation, "evaluate_anew", lambda *those: counted.append(1) or anew(*those))

    def times(*flags):
        counted.clear()
        with step_by_step():
            [content] = evaluate.main([str(folder), "--nll-samples", "5", *flags])
        assert content == evaluated(folder)
        return len(counted)

    assert times() == 1
    first = evaluated(folder)
    capsys.readouterr()
    assert times() == 0
    printed = capsys.readouterr().out
    assert "was evaluated before" in printed and f"{first['nll']:,.2f}" in printed and "traversals.png" in printed
    (folder / "mixture.png").unlink()
    assert times() == 1 and evaluated(folder) | {"seconds": 0} == first | {"seconds": 0}, "the same numbers again"
    assert times("--seed", "1") == 1 and times("--seed", "1") == 0 and times("--nll-images", "9", "--seed", "1") == 1
    edit(folder / "metrics.json", cost=0)
    assert times("--nll-images", "9", "--seed", "1") == 1
    (folder / "evaluation.json").write_text("{")
    assert times("--nll-images", "9", "--seed", "1") == 1
    train(vae_fc, tmp_path, "--resume", "--epochs", 2)
    assert "evaluation.json and its pictures there are of an earlier epoch: python evaluate" in capsys.readouterr().out


def test_nothing_of_an_earlier_evaluation_stays_beside_a_new_one(quick, finished_run, tmp_path, monkeypatch):
    """Not even where drawing fails, which costs no number."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    for name in ("attributes.png", "mixture.png", "evaluation.json"):
        (folder / name).write_text("of earlier")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation_pictures, "draw_mixture", fail)
    with step_by_step(), pytest.raises(OSError, match="No space"):
        evaluate.main([str(folder), "--nll-samples", "2"])
    assert evaluated(folder)["epoch"] == 1
    assert not (folder / "attributes.png").exists() and not (folder / "mixture.png").exists()


NUMBERS = {
    **{"loss": 7, "recon": 8, "kl": 9, "active_units": 10, "nll": 11, "nll_standard_error": 0.5},
    **{"bits_per_dim": 12, "ppca_bits_per_dim": 13, "psnr_of_mean_mse": 14, "pca_psnr_of_mean_mse": 15, "ssim": 16},
    **{"frechet": {"samples": 1, "mixture_samples": 2, "reconstructions": 3, "training": 4}},
    **{"novelty": {"c_t": 5, "c_t_of_reconstructions": 6}, "attributes": None, "test_images": 9, "nll_images": 9},
    **{"nll_samples": 5},
    **{"pixels_sha256": "a"},
}


def test_what_is_no_run_is_skipped_and_what_cannot_be_evaluated_is_left_out(
    quick, finished_run, tmp_path, monkeypatch, capsys
):
    """As `evaluate.py results/*` meets it; paths are printed as they were given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gallery").mkdir()
    (tmp_path / "README.md").touch()
    for name in ("bad", "damaged", "good", "unfinished"):
        shutil.copytree(finished_run, tmp_path / name)
    (tmp_path / "unfinished" / "metrics.json").unlink()
    paths = sorted(path.name for path in tmp_path.iterdir())
    everything = evaluation.evaluate_anew

    def evaluate_anew(run, *flags):
        if run.folder.name == "bad":
            raise NonFiniteError(f"{run.folder}: the second")
        return everything(run, *flags)

    monkeypatch.setattr(evaluation, "evaluate_anew", evaluate_anew)
    (tmp_path / "damaged" / "encoder.keras").write_text("")
    with pytest.raises(NonFiniteError, match="2 of 3 runs were left out"), step_by_step():
        evaluate.main([*paths, "good", "--nll-samples", "2"])
    out = capsys.readouterr().out
    assert "skipped: README.md: is not a folder" in out and "skipped: gallery: holds no run" in out
    assert "skipped: unfinished: has not finished" in out and str(tmp_path) not in out
    assert "left out: bad: the second" in out and "left out: damaged/encoder.keras: cannot be read" in out
    assert len(re.findall(r"(?m)^good +\d", out)) == 2 and f"\n  {'good'}/pairs.png" in out
    shutil.rmtree(tmp_path / "bad")
    shutil.rmtree(tmp_path / "damaged")
    paths = sorted(path.name for path in tmp_path.iterdir())
    with step_by_step():
        assert len(evaluate.main([*paths, "--nll-samples", "2"])) == 1, "the others are no mistake"
    with pytest.raises(UserError, match="results/typo: no such folder"):
        evaluate.main(["results/typo", "good"])
    with pytest.raises(UserError, match="3 paths, no run"):
        evaluate.main(["gallery", "README.md", "unfinished"])


def test_an_interrupted_evaluation_shows_the_runs_before(quick, finished_run, tmp_path, monkeypatch, capsys):
    folders = [shutil.copytree(finished_run, tmp_path / name / "run") for name in ("old", "new")]

    def evaluate_run(run, *_):
        if run.folder == folders[1]:
            raise KeyboardInterrupt
        return dict.fromkeys(KEYS) | NUMBERS

    monkeypatch.setattr(evaluation, "evaluate_run", evaluate_run)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(list(map(str, folders)))
    out = capsys.readouterr().out
    assert re.search(r"(?m)^run +7.00 +8.00", out)


def test_each_number_stands_under_its_heading(capsys):
    print_tables({Path("one"): NUMBERS, Path("two"): NUMBERS | {"pixels_sha256": "b"}})
    out = capsys.readouterr().out
    blocks = [[line.split() for line in block.splitlines()] for block in out.strip().split("\n\n")[:2]]
    found = {}
    for headings, *rows in blocks:
        assert [row[0] for row in rows] == ["one", "two"] and rows[0][1:] == rows[1][1:]
        found |= zip(headings[1:], map(float, rows[0][1:]), strict=True)
    assert found == {
        **{"loss": 7, "recon": 8, "KL": 9, "active": 10, "NLL": 11, "+-": 0.5, "bits/dim": 12, "(pPCA)": 13},
        **{"PSNR": 14, "(PCA)": 15, "SSIM": 16, "Frechet": 1, "(mixture)": 2, "(recon.)": 3, "(train)": 4},
        **{"C_T": 5, "(blurred)": 6},
    }
    assert "These runs are of different images, so their Frechet distances and C_T cannot be compared" in out


@pytest.mark.parametrize("count", [1, 2, 6, 20])
def test_tables_fit_a_hundred_columns(count, tmp_path, capsys):
    """Whatever the runs are called, whatever they were trained with and however large their numbers are."""
    large = dict.fromkeys(("loss", "recon", "nll", "nll_standard_error", "bits_per_dim"), -1e30)
    large |= {"active_units": 10_000, "frechet": dict.fromkeys(NUMBERS["frechet"], 1e30), "nll_images": 3}
    found = {}
    for number in range(count):
        folder = tmp_path / (f"conv_my-cats_z64-{number}" if number % 3 == 2 else f"{'x' * 90}{number}{'y' * 100}")
        folder.mkdir()
        write(folder / "config.json", json.dumps({"changes": {"beta": 4.0, "hidden": [500] * 30}}))
        found[folder] = NUMBERS | {"loss_of_nll_images": -1e30} | (large if number % 2 else {})
    print_tables(found)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for number, folder in enumerate(found, 1):
        assert folder.name in re.sub(r"\n  ", "", out), "in full below the tables"
        if count > 2:
            assert len(re.findall(rf"(?m)^ *{number} .*\d$", out)) >= 2, "look-alikes are told apart by numbers"
    assert re.search(r"trained with beta 4.0, hidden\s+500-500", out)


def write(path, content):
    path.write_text(content)


def edit(path, **changes):
    write(path, json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {  # what is done to a run folder: what the message must name
    "no folder": (lambda run: shutil.rmtree(run), "no such folder; name that of a finished run"),
    "unfinished": (
        lambda run: [(run / name).unlink() for name in ("metrics.json", "encoder.keras", "decoder.keras")],
        "no metrics.json in it",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "holds no run: no config.json in it"),
    "config is no JSON": (lambda run: write(run / "config.json", "{"), "config.json: cannot be read"),
    "config has no end": (lambda run: write(run / "config.json", "[" * 100_000), "config.json: cannot be read"),
    "config is a list": (lambda run: write(run / "config.json", "[]"), "config.json: lacks script"),
    "config is a number": (lambda run: write(run / "config.json", "5"), "config.json: lacks script"),
    "config lacks a key": (lambda run: write(run / "config.json", '{"z": 2}'), "config.json: lacks script"),
    "z is no number": (lambda run: edit(run / "config.json", z=None), "config.json: z is None"),
    "unknown pixels": (lambda run: edit(run / "config.json", likelihood="x"), "config.json: likelihood is 'x'"),
    "no sigma": (
        lambda run: (edit(run / "config.json", likelihood="gaussian"), edit(run / "metrics.json", sigma=0.0)),
        "metrics.json: sigma is 0.0",
    ),
    "a file": (lambda run: (shutil.rmtree(run), write(run, "")), "is not a folder"),
    "no encoder": (lambda run: (run / "encoder.keras").unlink(), "encoder.keras: cannot be read"),
    "damaged decoder": (lambda run: write(run / "decoder.keras", "no zip"), "decoder.keras: cannot be read"),
    "a program": (
        lambda run: keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Lambda(lambda x: x)]).save(
            run / "encoder.keras"
        ),
        "encoder.keras: cannot be read",
    ),
    "swapped": (
        lambda run: shutil.copy(run / "decoder.keras", run / "encoder.keras"),
        "encoder.keras: has shapes",
    ),
}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, data_dir):
    """A run of a few digits, for tests that damage copies of it."""
    with pytest.MonkeyPatch.context() as patch:
        use_few_images(patch, data_dir)
        patch.setattr(vae_fc, "HIDDEN", (16,))
        patch.setattr(vae_fc, "XLA", False)
        patch.setattr(utils, "draw_pictures", lambda run, means: None)
        out = tmp_path_factory.mktemp("runs")
        train(vae_fc, out)
    return out / "fc_toy-digits_z2"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_refused_in_one_line(damage, small_sets, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    act, named = DAMAGES[damage]
    act(run)
    with pytest.raises(UserError) as stop:
        evaluate.main([str(run)])
    assert named in str(stop.value) and "\n" not in str(stop.value)
    assert not (run / "evaluation.json").exists()


def test_a_run_that_is_trained_further_meanwhile(small_sets, finished_run, tmp_path, monkeypatch):
    """Its networks are of another epoch than its metrics.json was a moment before."""
    folder = shutil.copytree(finished_run, tmp_path / "run")

    def overtaken(*arguments):
        edit(folder / "metrics.json", epoch=99)
        return load_half(*arguments)

    monkeypatch.setattr("vae.finished_run.load_half", overtaken)
    with pytest.raises(UserError, match="was trained further while it was being read; evaluate it again"):
        evaluate.main([str(folder)])


def test_images_smaller_than_the_window_of_ssim(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_DATA", str(tmp_path))
    random = np.random.default_rng(0)
    for split, count in (("train", 200), ("t10k", 40)):
        images, labels = random.integers(0, 256, (count, 8, 8), np.uint8), random.integers(0, 10, count, np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = tmp_path / "small" / f"{split}-{kind}-idx{array.ndim}-ubyte"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(header + array.tobytes())
    train(vae_fc, tmp_path, "--dataset", tmp_path / "small", "--z", 2)
    with step_by_step():
        evaluate.main([str(tmp_path / "fc_small_z2"), "--nll-samples", "2"])
    check_consistent(evaluated(tmp_path / "fc_small_z2"))


def test_other_images_are_refused(small_sets, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "TOY_SETS", {"toy-digits": (*toy.TOY_SETS["toy-digits"][:1], 200, 40, "0123456789")})
    monkeypatch.setenv("VAE_DATA", str(tmp_path))
    with pytest.raises(UserError, match="other images"):
        evaluate.main([str(finished_run)])


@pytest.mark.parametrize("flag", ["--nll-samples", "--nll-images", "--seed", "--data-dir", "--out", "RUN"])
def test_silly_flags(flag, tmp_path, capsys):
    paths = flag in ("--data-dir", "--out", "RUN")
    fine = {"0"} if flag == "--seed" else {"9" * 30} if flag == "--nll-images" else set()  # the last: as many as are
    for value in ("", "\0") if paths else {"0", "-1", "1.5", "nan", "1e99", "", "x", "/dev/null", "9" * 30} - fine:
        with pytest.raises(SystemExit) as stop:
            evaluate.main([value] if flag == "RUN" else [str(tmp_path), f"{flag}={value}"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and flag in error and error.count("\n") == 1, value


@pytest.mark.parametrize("place", ["/dev/null", "/proc/nothing"])
def test_what_is_no_run(place):
    with pytest.raises(UserError, match=place):
        evaluate.main([place])


def test_nothing_to_evaluate(capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([])
    assert stop.value.code == 2 and "RUN" in capsys.readouterr().err


def test_a_link_to_itself_is_no_run(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match="is not a folder"):
        evaluate.main([str(tmp_path / "run")])


def test_a_classifier_that_cannot_be_kept_is_used_once(tmp_path, monkeypatch, capsys):
    """The data lie on a disk that may only be read; here, where tests may be run by root, there is no folder at all."""
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    (tmp_path / "file").touch()
    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2
    data = Dataset("dark", images, images, labels, labels, ("a", "b"), "x")
    features, _ = classifier.load_classifier(data, tmp_path / "file")(images / 255)
    assert features.shape == (20, classifier.FEATURES)
    assert "file: the classifier cannot be kept there (Not a directory)" in capsys.readouterr().out


def test_sets_of_one_name_keep_a_classifier_each(tmp_path, monkeypatch):
    """Say, two folders called train. Letters, whose labels are numbers, are not mirrored; named classes are."""
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    labels, mirrored, batches = np.arange(20) % 2, [], classifier.shuffled_batches
    monkeypatch.setattr(classifier, "shuffled_batches", lambda *those: mirrored.append(those[2]) or batches(*those))
    for names, sha256 in ((("cat", "dog"), "1" * 64), (tuple(map(str, range(27))), "2" * 64)):
        images = np.zeros((20, 8, 8, 1), np.uint8)
        classifier.load_classifier(Dataset("train", images, images, labels, labels, names, sha256), tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2 and mirrored == [True, False]


def test_a_classifier_sees_images_or_their_mirror_images_and_no_more_than_it_has_time_for():
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 6, 1), np.uint8)
    batches = classifier.shuffled_batches(images, np.arange(300), True)
    seen = [next(batches) for _ in range(6)]  # two epochs
    for batch, rows in seen:
        same, turned = ((batch == other).all(axis=(1, 2, 3)) for other in (images[rows], images[rows, :, ::-1]))
        assert np.all(same ^ turned) and 0.2 < same.mean() < 0.8
    for epoch in (seen[:3], seen[3:]):
        assert np.array_equal(np.sort(np.concatenate([rows for _, rows in epoch])), np.arange(300))
    sizes = {8: 790, 28: 790, 64: 382}  # ten epochs of small images, five of 64x64
    for side, expected in sizes.items():
        many = np.broadcast_to(np.uint8(0), (10_000, side, side, 1))
        assert classifier.training_steps(Dataset("many", many, many, None, None, ())) == expected


def test_from_the_shell(tmp_path):
    finished = run_script("evaluate.py", tmp_path / "nothing", cwd=ROOT)
    assert finished.returncode == 2 and finished.stdout == ""
    assert finished.stderr.count("\n") == 1 and "no such folder" in finished.stderr


def test_classifier_finds_planted_labels(tmp_path):
    """A bright upper half, and a bright lower half that one image in twelve has: both answers are recognised."""
    random = np.random.default_rng(0)
    labels = (random.random((700, 2)) < [0.5, 0.08]).astype(np.uint8)
    images = random.integers(0, 100, (700, 16, 16, 1), np.uint8)
    images[:, :8] += 100 * labels[:, 0, None, None, None]
    images[:, 8:] += 100 * labels[:, 1, None, None, None]
    data = Dataset("halves", images[:600], images[600:], labels[:600], labels[600:], ("up", "low"), "x")
    describe = classifier.load_classifier(data, tmp_path)
    features, logits = describe(data.test / 255)
    assert features.shape == (100, classifier.FEATURES)
    presence, absence = measures.recalls(logits.numpy() > 0, data.test_labels)
    assert min(*presence, *absence) > 0.9
    np.testing.assert_array_equal(describe(data.test / 255)[0], features, "an image has the same features every time")
    again = classifier.load_classifier(data, tmp_path)
    np.testing.assert_array_equal(again(data.test / 255)[1], logits)
