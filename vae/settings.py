"""Settings of a run: the constants of a script and the flags of its command line, checked, in one frozen object."""

import argparse
import ast
import contextlib
import functools
import json
import math
import os
import re
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import keras

from vae.data.registry import KINDS, keys_of, known_name
from vae.run_folder import git
from vae.terminal import EXIT_BAD_INPUT, did_you_mean

LONGEST_NAME, LONGEST_PATH = 200, 4000  # bytes; a disk takes names of 255, but further runs get numbers

# How a value is read ------------------------------------------------------------------------------------------
#
# Each function takes a flag's text or a constant's value and returns the checked value. It raises
# argparse.ArgumentTypeError with the rest of a line that begins with the flag or the constant.


def number(kind, low, high=math.inf):
    """Return the reader of an int or a finite float in [low, high]."""

    def read(value):
        try:
            parsed = kind(str(value))
        except ValueError:
            parsed = math.nan
        if not ((kind is int or math.isfinite(parsed)) and low <= parsed <= high):
            bound = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{value!r} is not {noun} {bound}")
        return parsed

    return read


whole, real = partial(number, int), partial(number, float)


def choice(*options):
    """Return the reader of one of several texts or numbers."""

    def read(value):
        for option in options:
            if str(value) == str(option):
                return option
        raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(map(str, options))}")

    read.options = options  # for --help
    return read


switch = choice(True, False)


def path(value):
    """Read a path, with ~ for the home folder."""
    text = str(value)
    if not text or "\0" in text or value is None or len(os.fsencode(text)) > LONGEST_PATH:
        raise argparse.ArgumentTypeError(f"{value!r} is not a path of 1 to {LONGEST_PATH} bytes")
    return os.path.expanduser(text)  # noqa: PTH111 (Path's raises where there is no such user)


def folder(value):
    """Read the path of a folder, which need not exist."""
    text = path(value)
    with contextlib.suppress(OSError):  # too long a name, for one
        if Path(text).is_file():
            raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder")
    return text


def dataset_name(value):
    """Read the name of a data set, in any case, or the path of a folder."""
    return known_name(path(value))


def output_path(value):
    """Read a path that run folders may go to: TensorFlow would take * or ? in it for patterns of old checkpoints."""
    text = folder(value)
    if set(text) & set("*?[]" if os.name == "nt" else "*?[]\\"):
        raise argparse.ArgumentTypeError(f"{text!r} has one of * ? [ ] \\ in it, which TensorFlow takes for patterns")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not in UTF-8, and TensorFlow asks for that")
    return text


def folder_name(value):
    """Read the name of a run folder."""
    text = str(value)
    plain = text not in ("", ".", "..") and Path(text).name == text and text.isprintable()
    if not plain or len(os.fsencode(text)) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain folder name of 1 to {LONGEST_NAME} bytes")
    return output_path(text)


def sizes(value):
    """Read the sizes of layers in a row: a tuple of whole numbers above 0."""
    if not (isinstance(value, tuple | list) and all(type(size) is int and size > 0 for size in value)):
        raise argparse.ArgumentTypeError(f"{value!r} is not a tuple of whole numbers above 0, like (500,) or (32, 64)")
    return tuple(value)


def activation(value):
    """Read the name of one of Keras' activation functions."""
    try:
        keras.activations.get(str(value))
        return value
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a Keras activation like 'relu' or 'silu'") from None


def simple(value):
    """Read a constant that only the script knows: anything that config.json can hold."""
    try:
        json.dumps(value)
        return value
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number, a text or a tuple of these") from None


# The settings -------------------------------------------------------------------------------------------------


def setting(read, flag_help=None):
    """Declare a field of Settings: how its values are read, and what --help says if it has a flag."""
    return field(metadata={"read": read, "help": flag_help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a run. Scripts have most as a constant in CAPITALS; those with a help text have a flag too."""

    dataset: str = setting(
        dataset_name, "toy-digits, toy-faces, mnist, cifar10, cifar10-grey, celeba or a folder of images"
    )
    z: int = setting(whole(1, 10_000), "latent dimensions")
    epochs: int = setting(whole(1), "passes over the training images")
    batch_size: int = setting(whole(1), "images in a training step")
    learning_rate: float = setting(real(1e-12, 1e6), "step size of AdamW after warm-up")
    likelihood: str = setting(choice("bernoulli", "gaussian"), "pixel distribution; auto: the default")
    binarize: str = setting(
        choice("none", "dynamic", "threshold"), "black-and-white pixels: drawn anew each time, or above one half"
    )
    beta: float = setting(real(0, 1e6), "weight of the KL term in training; reported losses always use 1")
    kl_warmup_epochs: float = setting(real(0, 1e6), "epochs in which the weight of the KL term rises from 0 to --beta")
    decay_per_epoch: float = setting(real(0, 1), "share of the weights that weight decay takes back in an epoch")
    seed: int = setting(whole(0, 2**31 - 1), "all randomness of the run follows from it")
    limit: int | None = setting(
        whole(1),
        "at most N training and N test images: the first ones or, for a folder, some spread over it (default: all)",
    )
    image_size: int | None = setting(choice(32, 64, 128), "pixels a side, for celeba and folders of images")
    precision: str = setting(
        choice("fp32", "bf16"), "bf16: products in bfloat16, faster for convolutions if the CPU has instructions for it"
    )
    strategy: str = setting(
        choice("auto", "one", "mirrored", "multiworker"),
        "devices: one, all of this machine, or all machines of TF_CONFIG; auto: all that there are",
    )
    data_dir: str = setting(folder, "where data sets are, or are downloaded to; $VAE_DATA overrides the constant")
    out: str = setting(output_path, "where run folders go")
    name: str | None = setting(folder_name, "the run folder's name (default: <script>_<dataset>_z<z>)")
    tensorboard: bool = setting(switch, "write tensorboard/ into the run folder too, for tensorboard --logdir results")
    resume: bool = field(
        default=False,
        metadata={
            "help": "continue the newest run of these settings that has not ended, or that gets more epochs "
            "(default: off)"
        },
    )

    # Constants without a flag
    warmup_steps: int = setting(whole(0))
    rate_falls_after: int | None = setting(whole(1))
    gradient_clip: float = setting(real(1e-12))
    average_power: float = setting(real(0))
    steps_per_call: int = setting(whole(1))
    xla: bool = setting(switch)
    mirror: bool = setting(switch)
    shift: int = setting(whole(0))
    log_std_bound: float = setting(real(1, 40))  # exp(2 * 40) is still a float32
    log_std_start: float = setting(real(-40, 40))

    script: str  # names the run: "fc" for vae_fc.py
    networks: dict  # the script's other constants, {name in lower case: value}: its networks read them themselves
    defaults: dict  # {name: the script's default} of the settings that differ from it

    def to_config(self):
        """The settings as one flat dict, for config.json. Its "changes" are those that differ from the defaults."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        defaults, values = values.pop("defaults"), values | values.pop("networks")
        return values | {"changes": {name: values[name] for name in defaults}}


CONSTANTS = {item.name: item.metadata["read"] for item in fields(Settings) if "read" in item.metadata}
OPTIONAL = {"limit", "image_size", "name", "rate_falls_after"}  # may be None
NO_CHANGES = {"dataset", "data_dir", "out", "name", "resume", "strategy", "tensorboard"}  # what and where, not how
FLAGS = {item.name: item.metadata["help"] for item in fields(Settings) if item.metadata.get("help")}
NETWORK_CONSTANTS = {  # those of the two scripts; others are read by `simple`
    "hidden": sizes,
    "filters": sizes,
    "activation": activation,
    "kernel": whole(1),
    "full_size_filters": whole(1),
}


# --help lists the flags in these groups; "training" has those that no other one names
EVERYDAY = ("dataset", "z", "epochs", "resume", "seed", "limit", "name")
FOLDERS = ("image_size", "data_dir", "out", "tensorboard")
GROUPS = {
    "everyday": EVERYDAY,
    "training": tuple(name for name in FLAGS if name not in EVERYDAY + FOLDERS),
    "data and folders": FOLDERS,
}
METAVARS = {"dataset": "NAME", "name": "NAME", "data_dir": "FOLDER", "out": "FOLDER"}  # others take a number, N
SYNONYMS = {  # what other programs call a flag
    **dict.fromkeys(("latent-dim", "latent-size", "code-size", "z-dim"), "--z"),
    **{"lr": "--learning-rate", "weight-decay": "--decay-per-epoch", "kl-weight": "--beta", "bs": "--batch-size"},
    **{"warmup": "--kl-warmup-epochs", "output-dir": "--out", "continue": "--resume"},
    **{"gpu": "--strategy", "device": "--strategy"},
}


# Constants and flags --------------------------------------------------------------------------------------------


def parse_settings(constants, argv=None):
    """Read the settings of a run: a flag wins over the constant of the same name.

    constants: the script's globals(), of which the names in CAPITALS count. A constant is one value for every data
    set, or a dict with a value for each data set or kind of data set, {"mnist": 5, "photographs": 256}.
    argv: the command line without the program's name; None: the program's own.

    Returns Settings. A bad value ends the program with one line and exit code 2.
    """
    parser = Parser(constants.get("__doc__"), "[flags]")
    given = {name.lower(): value for name, value in constants.items() if name.isupper() and name[0] != "_"}
    check_spelling(parser, constants, given)
    given["data_dir"] = os.environ.get("VAE_DATA") or given["data_dir"]
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            add_flag(group, name, given.get(name))
    flags = vars(parser.parse_args(argv))
    if flags.get("likelihood") == "auto":
        del flags["likelihood"]
    dataset = flags.get("dataset") or read_constant(parser, "dataset", given["dataset"])
    values = {name: read_for(parser, name, given[name], dataset) for name in CONSTANTS if name not in flags}
    networks = {name: read_constant(parser, name, given[name]) for name in given if name not in CONSTANTS}
    script = re.sub(r"[^\w.-]+", "_", Path(constants.get("__file__") or "run").stem.removeprefix("vae_")) or "run"
    values |= flags
    defaults = defaults_left(constants.get("__file__"), given, values | networks)
    settings = Settings(**values, script=script, networks=networks, defaults=defaults)
    if settings.likelihood == "gaussian" and settings.binarize != "none":
        parser.error(f"--binarize {settings.binarize}: black-and-white pixels need --likelihood bernoulli")
    return settings


def check_spelling(parser, constants, given):
    """End the program if a constant is missing, or written in other letters than capitals."""
    for name in constants:
        if name.lower() in (CONSTANTS | NETWORK_CONSTANTS) and not name.isupper():
            parser.refuse(f"{name}: constants are written in capitals, {name.upper()}")
    for name in CONSTANTS:
        if name not in given:
            parser.refuse(f"{name.upper()}: is missing at the top of the script")


def add_flag(group, name, constant):
    """Add the flag of a setting, with its constant as the default that --help shows."""
    flag, text = "--" + name.replace("_", "-"), FLAGS[name]
    if constant is not None:
        text += f" (default: {default_in_words(constant)})".replace("%", "%%")
    if name in ("resume", "tensorboard"):
        group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        return
    read = choice("auto", "bernoulli", "gaussian") if name == "likelihood" else CONSTANTS[name]
    options = getattr(read, "options", None)
    metavar = "{" + ",".join(map(str, options)) + "}" if options else METAVARS.get(name, "N")
    group.add_argument(flag, type=read, metavar=metavar, default=argparse.SUPPRESS, help=text)


def default_in_words(constant):
    """A constant's value for --help; of a dict, the data sets with an entry of their own come first."""
    if not isinstance(constant, dict):
        return {True: "on", False: "off"}[constant] if isinstance(constant, bool) else constant
    first, *others = constant.values()
    if all(value == first for value in others):
        return first
    names = [key for key in constant if key not in ("digits", "photographs")]
    other = "other " if names else ""
    words = {"folder": "folders", "digits": f"{other}digits", "photographs": f"{other}photographs"}
    return ", ".join(f"{constant[key]} for {words.get(key, key)}" for key in dict.fromkeys([*names, *constant]))


def read_for(parser, name, constant, dataset):
    """The value of a constant for a data set: of a dict the entry for its name, else for its kind."""
    if not isinstance(constant, dict):
        return read_constant(parser, name, constant)
    for key in constant:
        if key not in KINDS:
            parser.refuse(f"{name.upper()}: {key!r} is none of {', '.join(KINDS)}")
    values = {key: read_constant(parser, name, value) for key, value in constant.items()}
    value = entry_for(values, dataset)
    if value is None and name not in OPTIONAL:
        parser.refuse(f"{name.upper()}: has no value for {dataset}; add one for {' or '.join(keys_of(dataset))}")
    return value


def entry_for(values, dataset):
    """The value of a dict for a data set, by its name or else by its kind. None if there is none."""
    return next((values[key] for key in keys_of(dataset) if key in values), None)


def read_constant(parser, name, value):
    """The value of a constant, read as its flag would be; a bad one ends the program."""
    try:
        return read_value(name, value)
    except argparse.ArgumentTypeError as error:
        flag = f" (--{name.replace('_', '-')})" if name in FLAGS else ""
        parser.refuse(f"{name.upper()}{flag}: {error}")


def read_value(name, value):
    """The value of a constant, checked; raises argparse.ArgumentTypeError."""
    if value is None and name in OPTIONAL:
        return None
    return (CONSTANTS | NETWORK_CONSTANTS).get(name, simple)(value)


# What differs from the defaults ---------------------------------------------------------------------------------


def defaults_left(script, constants, values):
    """{name: default} of the settings whose value is not their default.

    Defaults are the constants of the script's last commit, so that an edited constant counts as a flag does. Where git
    does not know the script, they are the constants as they stand.
    """
    constants, defaults = committed_constants(script) or constants, {}
    for name in (name for name in values if name not in NO_CHANGES):
        default = constants.get(name)
        if isinstance(default, dict) and name in CONSTANTS:
            default = entry_for(default, values["dataset"])
        with contextlib.suppress(argparse.ArgumentTypeError):  # a commit may hold anything
            default = read_value(name, default)
        if values[name] != default:
            defaults[name] = default
    return defaults


@functools.cache
def committed_constants(script):
    """The constants of a script's last commit, {name in lower case: value}; {} if git does not know the script."""
    path, found = Path(script or "none"), {}
    try:
        statements = ast.parse(git(path.parent, "show", f"HEAD:./{path.name}") or "").body
    except (SyntaxError, ValueError):
        return {}
    for statement in statements:
        with contextlib.suppress(AttributeError, ValueError):  # other statements; values that are computed
            name = statement.targets[0].id
            if name.isupper():
                found[name.lower()] = ast.literal_eval(statement.value)
    return found


# The command line -----------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong and what may have been meant, without the list of flags above it."""

    def __init__(self, description, usage):
        super().__init__(
            usage=f"%(prog)s {usage}",
            description=description,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=26),
            allow_abbrev=False,
        )

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(self.about_unknown(unknown[0]))
        return found

    def about_unknown(self, word):
        """What to say about a word that is no flag of this program."""
        flags = {flag.strip("-"): flag for flag in self._option_string_actions if flag.startswith("--")}
        if not word.startswith("-") and "=" not in word:
            return f"{word}: flags begin with --; did you mean --dataset {word}?"
        options = {other: flag for other, flag in SYNONYMS.items() if flag in flags.values()} | flags
        name = word.split("=")[0].strip("-").replace("_", "-").lower()
        return f"{word}: no such flag{did_you_mean(name, options) or '; see --help'}"

    def error(self, message):
        self.refuse(f"{message}; see --help")

    def refuse(self, message):
        """End the program with one line."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}\n")
