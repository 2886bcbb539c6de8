"""evaluate.py through its command line, on small runs: every key, every picture, numbers that agree, bad folders."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_script, step_by_step
from PIL import Image

import classifier
import elbo
import evaluate
import measures
import pixels
import utils
import vae_conv
import vae_fc
from console import UserError
from data import datasets

# isort: split
import keras
import tensorflow as tf

KEYS = {
    *"loss recon kl kl_per_unit active_units nll nll_samples nll_images nll_standard_error bits_per_dim".split(),
    *"psnr psnr_of_mean_mse ssim pca_psnr_of_mean_mse ppca_bits_per_dim frechet novelty attributes".split(),
    *"dataset script z likelihood binarize epoch training_seed seed test_images seconds".split(),
}
PICTURES = {*"traversals.png interpolation.png pairs.png neighbours.png mixture.png".split()}


@pytest.fixture
def quick(monkeypatch, small_sets):
    """Small runs without their own pictures, and a classifier that takes a second."""
    monkeypatch.setattr(utils, "draw_pictures", lambda run, means: None)
    monkeypatch.setattr(vae_fc, "XLA", False)  # what evaluate.py goes by
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    monkeypatch.setattr(classifier, "FILTERS", (4, 4, 4))
    monkeypatch.setattr(evaluate, "SAMPLES", 100)


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
    assert numbers["nll"] < numbers["loss"] + 3 * numbers["nll_standard_error"]
    assert -1 <= numbers["ssim"] <= 1 and numbers["psnr"] > 0
    views = ("samples", "mixture_samples", "reconstructions", "training")
    assert all(numbers["frechet"][view] >= 0 for view in views)
    assert numbers["frechet"]["samples_images"] == numbers["frechet"]["mixture_samples_images"] == evaluate.SAMPLES
    assert 0 <= numbers["frechet"]["classifier_accuracy"] <= 1
    assert 0 <= numbers["novelty"]["share_nearer_than_held_out"] <= 1


def test_digits(quick, tmp_path, capsys):
    train(vae_fc, tmp_path, "--binarize", "dynamic", "--seed", 5)
    folder = tmp_path / "fc_toy-digits_z2"
    evaluate.main([str(folder), "--nll-samples", "60", "--seed", "5"])
    numbers, metrics = evaluated(folder), json.loads((folder / "metrics.json").read_text())
    check_consistent(numbers)
    assert numbers["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6), "the run's own test, repeated"
    assert numbers["psnr"] == pytest.approx(metrics["test_psnr"], rel=1e-5)
    assert numbers["active_units"] == metrics["active_units"]
    assert (numbers["nll_samples"], numbers["nll_images"]) == (60, 60)
    assert numbers["bits_per_dim"] is numbers["ppca_bits_per_dim"] is numbers["attributes"] is None
    printed = capsys.readouterr().out
    for name in PICTURES:
        Image.open(folder / name).verify()
        assert str(folder / name) in printed
    assert f"{numbers['loss']:,.2f}" in printed and f"{numbers['nll']:,.2f}" in printed


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
        assert abs(numbers["bits_per_dim"] - numbers["ppca_bits_per_dim"]) < 1
        check_attributes(numbers["attributes"])
        assert {path.name for path in folder.glob("*.png")} == PICTURES | {"attributes.png"}
    printed = capsys.readouterr().out
    assert all(f"\n{folder.name}  " in printed for folder in folders)
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
images = np.zeros((3, 28, 28, 1), np.float32)
mean, log_std = np.split(encoder.predict(images, verbose=0), 2, axis=-1)
decoded = keras.ops.sigmoid(decoder.predict(mean, verbose=0))
samples = keras.ops.sigmoid(decoder.predict(np.random.default_rng(0).standard_normal((5, mean.shape[1])), verbose=0))
print(mean.shape, log_std.shape, decoded.shape, samples.shape, float(keras.ops.min(samples)) >= 0)
"""


def test_keras_alone_encodes_decodes_and_samples(finished_run, tmp_path):
    """Outside of this project: none of its files is within reach."""
    for name in ("encoder", "decoder"):
        shutil.copy(finished_run / f"{name}.keras", tmp_path)
    command = [sys.executable, "-I", "-c", KERAS_ALONE]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[-2] == "(3, 2) (3, 2) (3, 28, 28, 1) (5, 28, 28, 1) True"


def test_the_binarised_test_set_is_one_for_all(small_sets, finished_run, tmp_path, monkeypatch):
    """Codes are those of the very pixels that nll and SSIM are about, under XLA too, where random numbers differ."""
    data = utils.load_dataset("toy-digits", evaluate.os.environ["VAE_DATA"])
    chosen = evaluate.argparse.Namespace(seed=3, binarize="dynamic", xla=True, z=2)
    networks = [evaluate.load_network(finished_run / f"{name}.keras", "") for name in ("encoder", "decoder")]
    vae = elbo.Vae(*networks, tf.Variable(0.0), "bernoulli")
    _, _, error, means, _ = utils.evaluate_images(utils.build_evaluate_call(vae, chosen), data.test, chosen)
    x = pixels.evaluation_pixels(data.test, chosen, 0)
    np.testing.assert_allclose(means, vae.posterior(x)[0], atol=1e-4)
    np.testing.assert_allclose(error, np.square(vae.pixel_means(means) - x).mean(axis=(1, 2, 3)), atol=1e-5)


def test_pictured_test_images_are_those_of_the_loss(monkeypatch):
    """Drawn again by themselves, their binarised pixels would be others than those that were encoded."""
    monkeypatch.setattr(pixels, "EVALUATION_BATCH", 8)
    images = np.full((20, 4, 4, 1), 128, np.uint8)
    chosen = evaluate.argparse.Namespace(seed=3, binarize="dynamic")
    seen = np.concatenate([pixels.evaluation_pixels(images, chosen, batch) for batch in range(3)])
    np.testing.assert_array_equal(pixels.chosen_pixels(images, chosen, np.array([1, 7, 8, 19])), seen[[1, 7, 8, 19]])
    assert not np.array_equal(seen[1], seen[7])


def test_the_likelihood_of_some_images_is_that_of_evenly_spaced_ones(quick, tmp_path):
    train(vae_fc, tmp_path)
    folder = tmp_path / "fc_toy-digits_z2"
    run = evaluate.load_run(folder, evaluate.parse_evaluation("", [str(folder)]))
    x = tf.constant(pixels.to_pixels(run.data.test))
    codes = [part.numpy() for part in run.vae.posterior(x)]
    options = evaluate.parse_evaluation("", [str(folder), "--nll-images", "3", "--nll-samples", "5"])
    found = evaluate.likelihood_numbers(run, codes, options)
    chosen = [0, (len(x) - 1) // 2, len(x) - 1]
    near = [part[chosen] for part in codes]
    call = measures.build_importance_call(run.vae, run.settings)
    by_hand = measures.importance_weighted_nll(call, tf.gather(x, chosen), near, 5, 0, evaluate.NLL_STEPS)
    assert found["nll_images"] == 3 and found["nll"] == pytest.approx(by_hand.mean(), rel=1e-6)


def test_one_image(quick, tmp_path):
    """No spread of one test image, no pairs, no covariance: what cannot be said is null, and the rest is there."""
    vae_fc.main(["--epochs", "1", "--limit", "1", "--out", str(tmp_path)])
    folder = tmp_path / "fc_toy-digits_z2"
    evaluate.main([str(folder), str(folder), "--nll-samples", "5"])
    numbers = evaluated(folder)
    assert numbers["frechet"] is numbers["nll_standard_error"] is None and math.isfinite(numbers["nll"])


def test_threshold_leaves_no_grey(quick, tmp_path):
    train(vae_fc, tmp_path, "--binarize", "threshold")
    options = evaluate.parse_evaluation("", [str(tmp_path / "fc_toy-digits_z2")])
    run = evaluate.load_run(tmp_path / "fc_toy-digits_z2", options)
    assert set(np.unique(run.data.train)) == {0, 255}
    assert run.data.sha256 != run.settings.pixels_sha256, "a classifier of its own, not the grey images'"
    np.testing.assert_array_equal(
        pixels.evaluation_pixels(run.data.test, run.settings, 0), run.data.test.astype(np.float32) / 255
    )


def test_images_without_labels(quick, tmp_path, image_folder, capsys):
    train(vae_fc, tmp_path, "--dataset", image_folder, "--image-size", 32, "--z", 3)
    folder = tmp_path / "fc_my_images_z3"
    evaluate.main([str(folder), "--nll-samples", "5"])
    numbers = evaluated(folder)
    assert numbers["frechet"] is numbers["attributes"] is None
    assert numbers["novelty"]["features"] == "pca"
    assert {path.name for path in folder.glob("*.png")} == PICTURES
    assert math.isfinite(numbers["bits_per_dim"]) and "no labels" in capsys.readouterr().out


def test_evaluating_twice_gives_the_same_numbers(quick, tmp_path, capsys):
    train(vae_fc, tmp_path)
    folder = tmp_path / "fc_toy-digits_z2"
    results = []
    for _ in range(2):
        evaluate.main([str(folder), "--nll-samples", "5"])
        results.append(evaluated(folder) | {"seconds": 0})
    assert results[0] == results[1] and results[0]["epoch"] == 1
    capsys.readouterr()
    train(vae_fc, tmp_path, "--resume", "--epochs", 2)
    assert "evaluation.json and its pictures there are of an earlier epoch: python evaluate" in capsys.readouterr().out


def write(path, content):
    path.write_text(content)


def edit(path, **changes):
    write(path, json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {  # what is done to a run folder: what the message must name
    "no folder": (lambda run: shutil.rmtree(run), "no such folder"),
    "unfinished": (
        lambda run: [(run / name).unlink() for name in ("metrics.json", "encoder.keras", "decoder.keras")],
        "no metrics.json in it",
    ),
    "no config": (lambda run: (run / "config.json").unlink(), "no config.json in it"),
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
    "a file": (lambda run: (shutil.rmtree(run), write(run, "")), "no such folder"),
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
        sets = {name: (row[0], 300, 60, row[3]) for name, row in datasets.TOY_SETS.items()}
        patch.setattr(datasets, "TOY_SETS", sets)
        patch.setenv("VAE_DATA", str(data_dir))
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
    evaluate.main([str(tmp_path / "fc_small_z2"), "--nll-samples", "2"])
    check_consistent(evaluated(tmp_path / "fc_small_z2"))


def test_other_images_are_refused(small_sets, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        datasets, "TOY_SETS", {"toy-digits": (*datasets.TOY_SETS["toy-digits"][:1], 200, 40, "0123456789")}
    )
    monkeypatch.setenv("VAE_DATA", str(tmp_path))
    with pytest.raises(UserError, match="other images"):
        evaluate.main([str(finished_run)])


@pytest.mark.parametrize(
    "flags", [[], ["x", "--nll-samples", "0"], ["x", "--seed", "-1"], ["x", "--nll-images", "one"]]
)
def test_silly_flags(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(flags)
    assert stop.value.code == 2 and (flags[1] if flags else "RUN") in capsys.readouterr().err


def test_a_link_to_itself_is_no_run(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match="no such folder"):
        evaluate.main([str(tmp_path / "run")])


def test_a_classifier_that_cannot_be_kept_is_used_once(tmp_path, monkeypatch, capsys):
    """The data lie on a disk that may only be read; here, where tests may be run by root, there is no folder at all."""
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    (tmp_path / "file").touch()
    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2
    data = datasets.Dataset("dark", images, images, labels, labels, ("a", "b"), "x")
    features, _ = classifier.load_classifier(data, tmp_path / "file")(images / 255)
    assert features.shape == (20, classifier.FEATURES)
    assert "file: the classifier cannot be kept there (Not a directory)" in capsys.readouterr().out


def test_sets_of_one_name_keep_a_classifier_each(tmp_path, monkeypatch):
    """Say, two folders called train. Letters, whose labels are numbers, are not mirrored; named classes are."""
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    labels, mirrored = np.arange(20) % 2, {}
    for names, sha256 in ((("cat", "dog"), "1" * 64), (tuple(map(str, range(27))), "2" * 64)):
        images = np.zeros((20, 8, 8, 1), np.uint8)
        classifier.load_classifier(datasets.Dataset("train", images, images, labels, labels, names, sha256), tmp_path)
    for folder in sorted((tmp_path / "cache").iterdir()):
        kept = keras.models.load_model(folder / "classifier.keras")
        mirrored[folder.name] = any(isinstance(layer, keras.layers.RandomFlip) for layer in kept.layers)
    assert list(mirrored.values()) == [True, False]


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
    data = datasets.Dataset("halves", images[:600], images[600:], labels[:600], labels[600:], ("up", "low"), "x")
    describe = classifier.load_classifier(data, tmp_path)
    features, logits = describe(data.test / 255)
    assert features.shape == (100, classifier.FEATURES)
    presence, absence = evaluate.measures.recalls(logits.numpy() > 0, data.test_labels)
    assert min(*presence, *absence) > 0.9
    np.testing.assert_array_equal(describe(data.test / 255)[0], features, "an image has the same features every time")
    again = classifier.load_classifier(data, tmp_path)
    np.testing.assert_array_equal(again(data.test / 255)[1], logits)
