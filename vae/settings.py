"""Settings of a run: the constants of a script and the flags of its command line, checked, in one frozen object."""

import argparse
import json
import math
import os
import re
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import keras

from vae.data.registry import KINDS, keys_of
from vae.terminal import EXIT_BAD_INPUT

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


def output_path(value):
    """Read a path that run folders may go to: TensorFlow would take * or ? in it for patterns of old checkpoints."""
    text = path(value)
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

    dataset: str = setting(path, "toy-digits, toy-faces, mnist, cifar10, cifar10-grey, celeba or a folder of images")
    z: int = setting(whole(1, 10_000), "latent dimensions")
    epochs: int = setting(whole(1), "passes over the training images")
    batch_size: int = setting(whole(1), "images in a training step")
    learning_rate: float = setting(real(1e-12, 1e6), "step size of AdamW after warm-up")
    likelihood: str = setting(choice("bernoulli", "gaussian"), "pixel distribution; auto: as the script says")
    binarize: str = setting(
        choice("none", "dynamic", "threshold"), "black-and-white pixels: drawn anew each time, or above one half"
    )
    beta: float = setting(real(0, 1e6), "weight of the KL term in training; reported losses always use 1")
    kl_warmup_epochs: float = setting(real(0, 1e6), "epochs in which the weight of the KL term rises from 0 to --beta")
    decay_per_epoch: float = setting(real(0, 1), "share of the weights that weight decay takes back in an epoch")
    seed: int = setting(whole(0, 2**31 - 1), "all randomness of the run follows from it")
    limit: int | None = setting(
        whole(1), "at most LIMIT training and LIMIT test images: the first ones or, for a folder, some spread over it"
    )
    image_size: int | None = setting(choice(32, 64, 128), "pixels a side, for celeba and folders of images")
    precision: str = setting(
        choice("fp32", "bf16"), "bf16: products in bfloat16, faster for convolutions if the CPU has instructions for it"
    )
    strategy: str = setting(
        choice("auto", "one", "mirrored", "multiworker"),
        "devices: one, all of this machine, or all machines of TF_CONFIG; auto: all that there are",
    )
    data_dir: str = setting(path, "where data sets are, or are downloaded to; $VAE_DATA overrides the constant")
    out: str = setting(output_path, "where run folders go")
    name: str | None = setting(folder_name, "the run folder's name")
    tensorboard: bool = setting(switch, "write tensorboard/ into the run folder too, for tensorboard --logdir results")
    resume: bool = field(
        default=False,
        metadata={"help": "continue the newest run of these settings that has not ended, or that gets more epochs"},
    )

    # Constants without a flag
    warmup_steps: int = setting(whole(0))
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

    def to_config(self):
        """The settings as one flat dict, for config.json."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | values.pop("networks")


CONSTANTS = {item.name: item.metadata["read"] for item in fields(Settings) if "read" in item.metadata}
OPTIONAL = {"limit", "image_size", "name"}  # may be None
FLAGS = {item.name: item.metadata["help"] for item in fields(Settings) if item.metadata.get("help")}
NETWORK_CONSTANTS = {  # those of the two scripts; others are read by `simple`
    "hidden": sizes,
    "filters": sizes,
    "activation": activation,
    "kernel": whole(1),
    "full_size_filters": whole(1),
}


# Constants and flags --------------------------------------------------------------------------------------------


def parse_settings(constants, argv=None):
    """Read the settings of a run: a flag wins over the constant of the same name.

    constants: the script's globals(), of which the names in CAPITALS count. A constant is one value for every data
    set, or a dict with a value for each data set or kind of data set, {"mnist": 5, "photographs": 256}.
    argv: the command line without the program's name; None: the program's own.

    Returns Settings. A bad value ends the program with one line and exit code 2.
    """
    parser = Parser(constants.get("__doc__"))
    given = {name.lower(): value for name, value in constants.items() if name.isupper() and name[0] != "_"}
    check_spelling(parser, constants, given)
    given["data_dir"] = os.environ.get("VAE_DATA") or given["data_dir"]
    for name in FLAGS:
        add_flag(parser, name, given.get(name))
    flags = vars(parser.parse_args(argv))
    if flags.get("likelihood") == "auto":
        del flags["likelihood"]
    dataset = flags.get("dataset") or read_constant(parser, "dataset", given["dataset"])
    values = {name: read_for(parser, name, given[name], dataset) for name in CONSTANTS if name not in flags}
    networks = {name: read_constant(parser, name, given[name]) for name in given if name not in CONSTANTS}
    script = re.sub(r"[^\w.-]+", "_", Path(constants.get("__file__") or "run").stem.removeprefix("vae_")) or "run"
    settings = Settings(**(values | flags), script=script, networks=networks)
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


def add_flag(parser, name, constant):
    """Add the flag of a setting, with its constant as the default that --help shows."""
    flag, text = "--" + name.replace("_", "-"), FLAGS[name]
    if name in ("resume", "tensorboard"):
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        return
    read = choice("auto", "bernoulli", "gaussian") if name == "likelihood" else CONSTANTS[name]
    shown = constant
    if isinstance(constant, dict):
        shown = ", ".join(f"{value} for {key}" for key, value in constant.items())
    default = "" if constant is None else f" (default: {shown})".replace("%", "%%")
    options = getattr(read, "options", None)
    metavar = "{" + ",".join(map(str, options)) + "}" if options else name.upper()
    parser.add_argument(flag, type=read, metavar=metavar, default=argparse.SUPPRESS, help=text + default)


def read_for(parser, name, constant, dataset):
    """The value of a constant for a data set: of a dict the entry for its name, else for its kind."""
    if not isinstance(constant, dict):
        return read_constant(parser, name, constant)
    for key in constant:
        if key not in KINDS:
            parser.refuse(f"{name.upper()}: {key!r} is none of {', '.join(KINDS)}")
    values = {key: read_constant(parser, name, value) for key, value in constant.items()}
    keys = keys_of(dataset)
    for key in keys:
        if key in values:
            return values[key]
    if name not in OPTIONAL:
        parser.refuse(f"{name.upper()}: has no value for {dataset}; add one for {' or '.join(keys)}")


def read_constant(parser, name, value):
    """The value of a constant, read as its flag would be; a bad one ends the program."""
    if value is None and name in OPTIONAL:
        return None
    try:
        return (CONSTANTS | NETWORK_CONSTANTS).get(name, simple)(value)
    except argparse.ArgumentTypeError as error:
        flag = f" (--{name.replace('_', '-')})" if name in FLAGS else ""
        parser.refuse(f"{name.upper()}{flag}: {error}")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of flags above it."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message):
        self.refuse(f"{message}; see --help")

    def refuse(self, message):
        """End the program with one line."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}\n")
