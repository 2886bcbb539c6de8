"""The pages are true: every command, link, file and name in them, the Python blocks, and the tables of numbers."""

import ast
import csv
import dataclasses
import json
import re
import shlex

import numpy as np
import pytest
import reference
from conftest import ROOT, run_script, step_by_step
from PIL import Image

import evaluate
import utils
import vae_conv
import vae_fc
from vae import pictures, settings
from vae.data.registry import load_dataset

NAMES = ("README.md", "data/README.md", "results/README.md", "tests/README.md", "vae/README.md")
PAGES = {page: (ROOT / page).read_text(encoding="utf-8") for page in NAMES}
README = PAGES["README.md"]
SCRIPTS = {"vae_fc.py": vae_fc, "vae_conv.py": vae_conv}
HISTORY = ("counted again", "of an earlier version", "no longer", "at commit", "older version", "earlier version")
OF_A_RUN = {"metrics.csv", "vae_mine.py", "vae_conditional.py"}  # named in the pages, but no files of this repository


def blocks(language, text):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands_of(text):
    """Commands in ```sh blocks, without comments, and those in code within sentences and tables."""
    lines = [line.split("#")[0].strip() for block in blocks("sh", text) for line in block.splitlines()]
    return [line for line in lines if line], re.findall(r"`((?:python|pip install) [^`]*)`", text)


def slug(heading):
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_blocks(text):
    """A page without its fenced blocks."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


COMMANDS = commands_of(README)[0]
LINES = [line for text in PAGES.values() for found in commands_of(text) for line in found]
ALL = sorted({part.strip() for line in LINES for part in line.split("&&")})


# Commands -------------------------------------------------------------------------------------------------------


def test_the_two_commands_stand_there_word_for_word():
    assert COMMANDS[:2] == [
        "pip install -r requirements.txt && python vae_fc.py",
        "pip install -r tests/requirements.txt && python -m pytest",
    ]


def test_the_first_command_runs_without_a_network_and_says_where_its_pictures_are(tmp_path):
    """As a new user types it, but for the number of epochs and where things go; and as the README prints it."""
    finished = run_script("vae_fc.py", "--epochs", 2, "--out", tmp_path, "--data-dir", tmp_path / "data")
    assert finished.returncode == 0 and finished.stderr == ""
    for picture in pictures.RUN_PICTURES:
        path = tmp_path / "fc_toy-digits_z2" / picture
        assert path.exists() and str(path) in finished.stdout
    assert "parameters, on the CPU\n" in finished.stdout
    lines = [line for line in finished.stdout.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    losses = [float(re.search(r"test ([\d.]+)", line)[1]) for line in lines]
    assert losses[1] < losses[0] - 1, "it learns"
    for word in ("train", "test", "active units", "images/s", "=", "+"):
        assert word in lines[0]
    shown = blocks("text", README)[0].splitlines()
    printed = [line.replace(str(tmp_path), "results") for line in finished.stdout.splitlines()]
    assert shown[:3] == printed[:3] and shown[-7:] == printed[-7:]
    assert re.sub(r" *[\d.,]+", "0", shown[3]) == re.sub(r" *[\d.,]+", "0", lines[0])


def test_the_first_minute_is_that_of_the_present_defaults():
    lines = blocks("text", README)[0].splitlines()
    epochs = settings.parse_settings(vars(vae_fc), []).epochs
    assert [line for line in lines if line.startswith(f"epoch {epochs}/{epochs} ")]
    loss = float(re.search(r"test loss (\S+) nats", "".join(lines))[1])
    for row in reference.read_reference():
        if row["name"] == "toy-digits" and row["seed"] == "0":
            assert loss == pytest.approx(float(row["test_loss"]), rel=0.01)


@pytest.mark.parametrize("command", ALL)
def test_every_command_is_understood(command, capsys):
    program, *arguments = shlex.split(command)
    if program == "pip":
        assert arguments[0] == "install"
        for path in arguments[2:] if arguments[1] == "-r" else ():
            assert (ROOT / path).exists()
    elif program == "python" and arguments[0] != "-m":
        check_script(*arguments)
    elif program == "python":
        assert arguments[1] == "pytest"
    else:
        assert program in ("export", "tensorboard")


def check_script(script, *flags):
    """The script exists and takes these flags."""
    if "--help" in flags:
        with pytest.raises(SystemExit) as stop:
            SCRIPTS[script].main(flags)
        assert stop.value.code == 0
    elif script in SCRIPTS:
        found = settings.parse_settings(vars(SCRIPTS[script]), list(flags))
        assert found.z and found.epochs
    elif script == "evaluate.py":
        assert evaluate.parse_evaluation(list(flags))["runs"]
    elif script == "vae_conditional.py":
        check_script("vae_fc.py", *flags)
    else:
        text = (ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{flag}"' in text for flag in flags if flag.startswith("--"))
        if script == "tests/reference.py":
            assert {flag for flag in flags if re.match("[a-z]+-", flag)} <= {row.name for row in reference.ROWS}


@pytest.mark.parametrize("script", [vae_fc, vae_conv])
def test_help_lists_every_flag(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and script.__doc__.strip().splitlines()[0] in shown
    for name in (*settings.FLAGS, "resume", "tensorboard"):
        assert "--" + name.replace("_", "-") in shown


# Links, files and names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"(?:\]\(|<img src=\")(?!https?:)([^)\"]+)", PAGES[page]):
        path, _, anchor = target.partition("#")
        path = (ROOT / page).parent / path if path else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", path.read_text(encoding="utf-8"))
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_this_repository_that_a_page_names_exists(page):
    named = set(re.findall(r"(?<![\w/.-])((?:[\w-]+/)*[\w.-]+\.(?:py|md|cff|toml|csv))\b", PAGES[page])) - OF_A_RUN
    inside = ("vae", "vae/data", "vae/explorer", "tests", "tests/benchmarks", "results")
    folders = [ROOT, (ROOT / page).parent, *(ROOT / name for name in inside)]
    missing = {name for name in named if not any((folder / name).exists() for folder in folders)}
    assert all("list_" in name for name in missing), missing  # CelebA's lists as Kaggle has them


def test_every_test_and_benchmark_is_on_its_page():
    paths = [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py")]
    parts = {"common", "faces", "peers_jax", "peers_keras", "peers_torch"}  # of the benchmarks
    assert not [path for path in paths if f"`{path.name}`" not in PAGES["tests/README.md"] and path.stem not in parts]


def test_every_function_that_the_page_about_the_code_names_exists():
    program = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.py"), *ROOT.glob("vae/**/*.py")])
    named = set(re.findall(r"`(?:Vae\.|\w+\.)?([a-z]+(?:_[a-z]+)+)`", without_blocks(PAGES["vae/README.md"])))
    assert {name for name in named if not re.search(rf"\bdef {name}\b", program)} <= {"mine_mnist_z2"}
    assert len(named) > 10
    for module, name in re.findall(r"`(utils|steps|measures|likelihood|elbo)\.(\w+)`", PAGES["vae/README.md"]):
        path = ROOT / "utils.py" if module == "utils" else ROOT / "vae" / f"{module}.py"
        assert name == "py" or f"def {name}(" in path.read_text(encoding="utf-8"), (module, name)


def test_the_drawing_of_the_floors_has_every_part_and_imports_point_downwards():
    drawing = blocks("text", PAGES["vae/README.md"])[0]
    floors = [re.findall(r"(\w+)(?:\.py|/)", part) for part in re.split(r"(?m)^ ─+$", drawing)]
    floor_of = {name: number for number, names in enumerate(floors) for name in names}
    top = {path.stem: path for path in ROOT.glob("*.py")}
    parts = {path.stem: path for path in (ROOT / "vae").glob("[!_]*.py")}
    packages = {path: path.parent.name for path in (ROOT / "vae").glob("*/*.py")}
    for path, name in ({path: name for name, path in (top | parts).items()} | packages).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for imported in imports_of(tree, set(floor_of)):
            assert floor_of[imported] >= floor_of[name], f"{name} imports {imported} from a floor above"
    assert {*top, *parts, *packages.values()} == set(floor_of)


def imports_of(tree, parts):
    """The parts of the program that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [*node.module.split("."), *(alias.name for alias in node.names if node.module == "vae")]
            yield from (name for name in names if node.module.split(".")[0] in {"vae", *parts} and name in parts)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in parts)


# Python in the pages --------------------------------------------------------------------------------------------


def test_every_python_block_is_run_by_a_test():
    assert {page: len(blocks("python", text)) for page, text in PAGES.items() if blocks("python", text)} == {
        "README.md": 1,
        "data/README.md": 1,
        "vae/README.md": 1,
    }


def test_the_encoder_works_elsewhere_as_the_page_says(tmp_path, monkeypatch):
    """The block of the README in a folder with a run of the README's own command, on a few small images."""
    monkeypatch.setattr(vae_conv, "FILTERS", (8, 16, 32))
    monkeypatch.setattr(vae_conv, "HIDDEN", (64,))
    monkeypatch.setattr(utils, "draw_pictures", lambda run, means: None)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Pictures" / "cats"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(80):
        coarse = random.integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((90, 70)).save(folder / f"{number:02}.jpg")
    (command,) = [line for line in commands_of(README)[0] if "Pictures/cats" in line]
    flags = shlex.split(command.replace("~", str(tmp_path)))[2:]
    with step_by_step():
        vae_conv.main([*flags, *"--epochs 1 --batch-size 35 --out results".split(), "--data-dir", str(tmp_path)])
    check_that_all_of_a_run_is_explained(tmp_path / "results" / "conv_cats_z64")
    data = load_dataset(str(folder), tmp_path, 64)
    (block,) = blocks("python", README)
    assert set(re.findall(r"(?m)^(?:import|from) (\w+)", block)) == {"keras", "numpy", "PIL"}
    (tmp_path / "cat.jpg").write_bytes((folder / "00.jpg").read_bytes())
    exec(block, names := {})
    assert names["mean"].shape == names["log_std"].shape == (1, 64)
    assert np.asarray(Image.open("cat_again.png")).shape == (64, 64, 3)
    differences = np.abs(np.concatenate([data.train, data.test]) - 255 * names["x"]).max(axis=(1, 2, 3))
    assert differences.min() < 3, "it sees what training saw"


def check_that_all_of_a_run_is_explained(folder):
    """results/README.md names every file of a run, every column and key that is no setting."""
    config, metrics = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "metrics"))
    fields = {field.name for field in dataclasses.fields(settings.Settings)}
    own = {name.lower() for name in vars(vae_conv) if name.isupper()}
    files = {path.name + "/" * path.is_dir() for path in folder.iterdir()}
    for name in {*files, *metrics, *(set(config) - fields - own)}:
        assert f"`{name}`" in PAGES["results/README.md"], name


def test_arrays_of_ones_own_are_read_as_they_were_written(tmp_path):
    (code,) = blocks("python", PAGES["data/README.md"])
    exec(code, names := {})
    random = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    for split, count in (("train", 9), ("t10k", 4)):
        written = {"images": random.integers(0, 256, (count, 20, 24), np.uint8), "labels": np.arange(count) % 3}
        for kind, array in written.items():
            names["write_idx"](folder / f"{split}-{kind}-idx{array.ndim}-ubyte", array)
    data = load_dataset(str(folder), tmp_path)
    assert data.image_shape == (20, 24, 1) and (len(data.train), len(data.test)) == (9, 4)
    np.testing.assert_array_equal(data.test[..., 0], written["images"])
    np.testing.assert_array_equal(data.test_labels, written["labels"])


# Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", reference.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_those_of_the_reference(page):
    """If this fails, run python tests/reference.py --tables."""
    text = page.read_text(encoding="utf-8")
    assert reference.render(text, reference.read_reference()) == text
    assert "<!-- table: " in text and text.count("<!-- end -->") == len(reference.MARKED.findall(text))


def test_every_command_of_the_reference_is_understood_and_each_row_has_its_command():
    assert len({row.name for row in reference.ROWS}) == len(reference.ROWS)
    for row in reference.ROWS:
        check_script(*shlex.split(row.command)[1:])
        assert evaluate.parse_evaluation(["run", *shlex.split(row.evaluate)])["runs"] == ["run"]
    with reference.REFERENCE.open(newline="", encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == reference.COLUMNS
    known = {row.name: row for row in reference.ROWS}
    for row in reference.read_reference():
        flag = f" --seed {row['seed']}" if row["seed"] != "0" else ""
        assert row["command"] == known[row["name"]].command + flag
        assert row["evaluate"] == known[row["name"]].evaluate
        assert not row["commit"].endswith("-dirty")


MEASURED = {"name": "mnist-z2", "seed": "0", "test_loss": "137.149", "test_recon": "130.58", "test_kl": "6.57"}
MEASURED["command"] = "python vae_fc.py --dataset mnist --z 2"


def test_a_row_replaces_the_one_of_its_name_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "reference.csv")
    reference.REFERENCE.write_text(",".join(reference.COLUMNS) + "\n")
    for name, seed, loss in (("mnist-z2", 1, 1.0), ("mnist-z2", 0, 2.0), ("toy-digits", 0, 3.0), ("mnist-z2", 0, 4.0)):
        reference.add_to_reference({"name": name, "seed": seed, "test_loss": loss, "data_note": "a, note"})
    rows = [(row["name"], row["seed"], row["test_loss"]) for row in reference.read_reference()]
    assert rows == [("toy-digits", "0", "3.0"), ("mnist-z2", "0", "4.0"), ("mnist-z2", "1", "1.0")]
    assert {row["data_note"] for row in reference.read_reference()} == {"a, note"}


def test_tables_and_values_are_made_of_rows():
    rows = [MEASURED | {"seconds": "83.2"}, MEASURED | {"seed": "1", "test_loss": "138.149"}]
    values = ("mnist-z2 {test_loss:.2f} nats | much", "mnist-z10 {test_loss:.2f} | x", "mnist-z10 {test_loss:.2f}")
    page = ", ".join(f"<!-- value: {value} -->?<!-- end -->" for value in values)
    assert re.sub("<!--.*?-->", "", reference.render(page, rows)) == "137.15 nats, x, –"
    table = reference.render_table("reference", rows)
    assert "| `python vae_fc.py --dataset mnist --z 2` | 137.15 = 130.58 + 6.57 | 137.65 ± 0.71 (2) | – |" in table
    assert "--z 10`" not in table, "not measured"
    rows[0]["data_note"] = "copies of digits"
    assert table.count("<sup>") == 0
    assert "--z 2` <sup>1</sup> | 137.15" in reference.render_table("results", rows)
    assert reference.render_table("results", rows).endswith("\n\n<sup>1</sup> copies of digits.\n")
    assert ">137.15 nats (copies of digits)<" in reference.render(page, rows)


@pytest.mark.slow
def test_a_row_is_measured(tmp_path, monkeypatch):
    """A run of one epoch, and its evaluation, as `python tests/reference.py quick` does it."""
    row = reference.Row("quick", "python vae_fc.py --epochs 1 --limit 300", "--nll-samples 10")
    monkeypatch.setattr(reference, "ROWS", [row])
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "reference.csv")
    page = tmp_path / "page.md"
    page.write_text("<!-- value: quick {nll:.2f} from {nll_samples:.0f} -->–<!-- end -->")
    monkeypatch.setattr(reference, "PAGES", (page,))
    reference.REFERENCE.write_text(",".join(reference.COLUMNS) + "\n")
    reference.main(["quick", "--seed", "3", "--data-dir", str(tmp_path), "--out", str(tmp_path)])
    (found,) = reference.read_reference()
    metrics, evaluation = (
        json.loads((tmp_path / "quick-seed3" / "fc_toy-digits_z2" / f"{part}.json").read_text())
        for part in ("metrics", "evaluation")
    )
    assert found["command"] == f"{row.command} --seed 3" and found["device"] == "CPU" and float(found["seconds"]) > 1
    assert float(found["test_loss"]) == metrics["test_loss"] and float(found["nll"]) == evaluation["nll"]
    assert float(found["frechet.samples"]) == evaluation["frechet"]["samples"] and found["bits_per_dim"] == ""
    assert f"-->{evaluation['nll']:.2f} from 10<!--" in page.read_text()
    for name in {*evaluation, *evaluation["novelty"], "classifier_accuracy", *found} - {*reference.COLUMNS}:
        assert f"`{name}`" in PAGES["results/README.md"], name
    for path in (tmp_path / "quick-seed3" / "fc_toy-digits_z2").iterdir():
        assert path.name in PAGES["results/README.md"]


# Form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_short_and_tell_no_history(page):
    text = PAGES[page]
    assert len(text.splitlines()) <= (200 if page == "README.md" else 300)
    assert not [word for word in HISTORY if word in text.lower()]
    for line in text.splitlines():
        assert line.startswith(("|", "<!--", "-")) or len(line) <= 120
        assert not line.lstrip().startswith("<!-- value"), "it would begin a block of HTML"


def test_the_gallery_is_small_and_every_picture_in_it_is_shown():
    pictures = {path.name: path.stat().st_size for path in (ROOT / "results" / "gallery").iterdir()}
    assert sum(pictures.values()) <= 3_000_000
    shown = "".join(PAGES.values())
    assert not [name for name in pictures if f"gallery/{name}" not in shown]
