"""What the person at the terminal types and sees: flags, one-line messages, a progress bar, exit codes."""

import argparse
import contextlib
import errno
import gc
import itertools
import math
import os
import re
import sys
from pathlib import Path

from data.layouts import idx_folder

LONGEST_NAME, LONGEST_PATH = 200, 4000  # bytes
EXIT_BAD_INPUT, EXIT_NON_FINITE, EXIT_INTERRUPTED = 2, 3, 130
PACKAGES = {"tensorflow", "keras", "numpy", "matplotlib", "PIL"}  # that requirements.txt brings


class UserError(Exception):
    """Bad arguments or data: one line that names the file or flag and the way out (exit code 2)."""


class NonFiniteError(Exception):
    """A number is not finite: one line that names the term, the epoch and the step, or the image (exit code 3)."""


def reason(error):
    """Why something failed, in a few words on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


def plain(error):
    """Why TensorFlow failed, in a few words, without the names of its operations."""
    text = re.sub(r"^\{\{.*?\}\} |\s*\[Op.*", "", " ".join(str(error).split()))
    return text.split("; ")[-1][:300] or type(error).__name__


def one_line(text):
    """Text with escapes in place of what would break a line or steer a terminal; names of files may hold both."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_file(error, path):
    """Give an OSError that names no file, as one of a full disk, this one."""
    if error.errno and not error.filename:
        error.filename = str(path)


def note(message):
    """Print one line at once, also when stdout is a file or a pipe."""
    print(message, flush=True)


def wipe_line():
    """Begin the terminal's last line anew."""
    print("\r\x1b[K", end="", flush=True)


def open_closed_streams():
    """Where a program is started with stdout or stderr closed, open them into nothing.

    Otherwise they are None in Python, and the next file opened, perhaps one of images, is where C++ code logs to.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


@contextlib.contextmanager
def importing():
    """Modules are loaded: Ctrl-C meanwhile ends the program as at any other time, a package that is not there too."""
    open_closed_streams()
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        print(f"{sys.argv[0]}: error: {error}; pip install -r requirements.txt", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None


@contextlib.contextmanager
def silent_stderr():
    """What libraries in C write to stderr, past Python, goes nowhere meanwhile: it names no file and no way out."""
    sys.stderr.flush()
    saved, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silent)


@contextlib.contextmanager
def loading():
    """Load TensorFlow, and Keras for it, without a log and without garbage collection.

    TensorFlow logs while it loads, in C++ and before its log level counts, so stderr is silent meanwhile.
    And it makes objects by the hundred thousand, all of which stay: to look through them for garbage again and again,
    and once more at the end, takes a third of the time of `import tensorflow`.
    """
    told = sys.stdout.isatty()
    if told:
        print("loading TensorFlow ...", end="", flush=True)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for limit in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):  # for somebody's tests: they cut training short
        os.environ.pop(limit, None)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # else off without AVX-512: 1.7 times slower convolutions
    collecting = gc.isenabled()
    gc.disable()
    with importing():
        try:
            with silent_stderr():
                yield
        finally:
            gc.freeze()
            if collecting:
                gc.enable()
            if told:
                wipe_line()


@contextlib.contextmanager
def progress_bar(total, label=None):
    """A progress bar of `total` steps, moved by the function that this yields; wiped at its end if it has no label.

    Without a terminal there is no bar, only the label.
    """
    from keras.utils import Progbar  # here, because Keras takes seconds to import and most messages need none of it

    if label:
        note(label)
    bar = Progbar(total) if sys.stdout.isatty() and total else None
    if bar:
        bar.update(0)
    numbers = itertools.count(1)

    def tick():
        count = next(numbers)
        if bar:
            bar.update(count, finalize=bool(label) and count >= total)

    yield tick
    if bar and not label:
        wipe_line()


def progress(items, total, label=None):
    """Yield from `items` behind a progress_bar."""
    with progress_bar(total, label) as tick:
        for item in items:
            yield item
            tick()


def _number(kind, low, high=math.inf):
    """An argparse type: an int or a finite float in [low, high]."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not ((kind is int or math.isfinite(value)) and low <= value <= high):
            bound = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun} {bound}")
        return value

    return parse


def _folder_name(text):
    if text in ("", ".", "..") or Path(text).name != text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain folder name")
    if len(os.fsencode(text)) > LONGEST_NAME:  # of the 255 that a disk takes: further runs have numbers
        raise argparse.ArgumentTypeError(f"a name of more than {LONGEST_NAME} bytes")
    return _no_pattern(text)


def _no_pattern(text):
    """A path of run folders: TensorFlow deletes old checkpoints by a pattern, which would be other runs' as well."""
    if set(text) & set("*?[]" if os.name == "nt" else "*?[]\\"):
        raise argparse.ArgumentTypeError(f"{text!r} has one of * ? [ ] \\ in it, which TensorFlow takes for patterns")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError(f"{text!r} is not in UTF-8, and TensorFlow asks for that")
    return text


def _path(text):
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("an empty path")
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(part)) > 255 for part in Path(text).parts):
        raise argparse.ArgumentTypeError("a path that is too long")
    return os.path.expanduser(text)  # noqa: PTH111 (which raises where there is no such user); as in --out=~/runs


def _switch(text):
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return text == "True"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of flags above it."""

    def __init__(self, description):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message):
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message}; see --help\n")


FLAGS = {  # name: (type or choices, help)
    "dataset": (_path, "toy-digits, toy-faces, mnist, cifar10, cifar10-grey, celeba or a folder of images"),
    "z": (_number(int, 1, 10_000), "latent dimensions; default: as BY_DATASET in the script says"),
    "epochs": (_number(int, 1), "passes over the training images; default: as BY_DATASET says"),
    "batch_size": (_number(int, 1), "images in a training step"),
    "learning_rate": (_number(float, 1e-12, 1e6), "step size of AdamW after warm-up"),
    "likelihood": (
        ("auto", "bernoulli", "gaussian"),
        "pixel distribution; auto: bernoulli for digits and MNIST's like, else gaussian",
    ),
    "binarize": (("none", "dynamic", "threshold"), "black-and-white pixels: drawn anew each time, or above one half"),
    "beta": (_number(float, 0, 1e6), "weight of the KL term in training; reported losses have 1"),
    "kl_warmup_epochs": (_number(float, 0, 1e6), "epochs over which the weight of the KL term rises from 0 to --beta"),
    "decay_per_epoch": (_number(float, 0, 1), "share of the weights that weight decay takes back in an epoch"),
    "seed": (_number(int, 0, 2**31 - 1), "all randomness of the run follows from it; toy images are always the same"),
    "limit": (
        _number(int, 1),
        "at most LIMIT training and LIMIT test images: the first ones, or of a folder some from all over it",
    ),
    "image_size": (("32", "64", "128"), "pixels a side, for celeba and folders of images"),
    "precision": (("fp32", "bf16"), "bf16: products in bfloat16, on a CPU that has them faster for convolutions"),
    "strategy": (
        ("auto", "one", "mirrored", "multiworker"),
        "devices: one, all of this machine, or all machines of TF_CONFIG; auto: all that there are",
    ),
    "data_dir": (_path, "where data sets lie or are downloaded to; default: $VAE_DATA, else DATA_DIR in the script"),
    "out": (lambda text: _no_pattern(_path(text)), "where run folders go"),
    "name": (_folder_name, "run folder's name"),
}

CONSTANTS = {  # those of the scripts that have no flag: their types
    "log_std_bound": _number(float, 1, 40),  # exp(2 * 40) is still a float32
    "log_std_start": _number(float, -40, 40),
    "warmup_steps": _number(int, 0),
    "gradient_clip": _number(float, 1e-12),
    "average_power": _number(float, 0),
    "steps_per_call": _number(int, 1),
    "shift": _number(int, 0),
    "mirror": _switch,
    "xla": _switch,
    "tensorboard": _switch,
}
MAY_BE_NONE = {"limit", "image_size", "name"}  # once BY_DATASET has given the others


def parse_settings(script, description, constants, argv=None):
    """Settings of a run: a flag wins over the constant of the same name, a constant over the data set's default.

    `constants` are a script's globals, of which the UPPER_CASE ones count. Returns an argparse.Namespace of them all,
    in lower case, with `script`, but for BY_DATASET, whose row stands in for what is None. Bad values exit with 2.
    """
    given = {name.lower(): value for name, value in constants.items() if name.isupper() and name[0] != "_"}
    by_dataset = given.pop("by_dataset")
    given["data_dir"] = os.environ.get("VAE_DATA") or given["data_dir"]
    parser = _Parser(description)
    for name, (kind, text) in FLAGS.items():
        accepted = {"choices": kind} if isinstance(kind, tuple) else {"type": kind, "metavar": name.upper()}
        parser.add_argument("--" + name.replace("_", "-"), help=text, **accepted)
    shows = "write tensorboard/ into the run folder too, for tensorboard --logdir results"
    parser.add_argument("--tensorboard", action="store_true", default=None, help=shows)
    goes_on = "go on with the newest run of these settings that has not ended, or that a larger --epochs makes longer"
    parser.add_argument("--resume", action="store_true", help=goes_on)
    flags = vars(parser.parse_args(argv))
    given |= {name: value for name, value in flags.items() if value is not None}
    settings = argparse.Namespace(script=script, **given)
    settings.dataset = _as_flag(parser, "dataset", settings.dataset)
    for name, value in _row_of(parser, settings.dataset, by_dataset).items():
        if getattr(settings, name.lower()) is None:
            setattr(settings, name.lower(), value)
    _check_constants(parser, settings)
    return settings


def _row_of(parser, dataset, by_dataset):
    """What BY_DATASET says of a data set; a row that is not there or has a constant that is none ends the program."""
    own = "mnist" if idx_folder(Path(dataset)) else "a folder"  # the first for sets in MNIST's file names
    name = dataset if dataset in by_dataset else own
    if name not in by_dataset:
        parser.error(f"BY_DATASET: has no row {name!r}")
    unknown = [constant for constant in by_dataset[name] if constant.lower() not in FLAGS | CONSTANTS]
    if unknown:
        parser.error(f"BY_DATASET: {unknown[0]} in the row {name!r} is no constant that a row can give")
    return by_dataset[name]


def _as_flag(parser, name, value):
    """A setting read as its flag would be, though a constant may be of another type; a bad one ends the program."""
    kind = FLAGS[name][0] if name in FLAGS else CONSTANTS[name]
    called = f"{name.upper()} (--{name.replace('_', '-')})" if name in FLAGS else name.upper()
    if value is None:
        parser.error(f"{called}: is None, and nothing stands in for it")
    if isinstance(kind, tuple):
        if str(value) not in kind:
            parser.error(f"{called}: {value!r} is not one of {', '.join(kind)}")
        return value
    try:
        return kind(str(value))
    except argparse.ArgumentTypeError as error:
        parser.error(f"{called}: {error}")


def _check_constants(parser, settings):
    """Constants are edited by hand: read them as their flags would be, and refuse contradictions."""
    for name in FLAGS | CONSTANTS:
        value = getattr(settings, name)
        if value is not None or name not in MAY_BE_NONE:
            setattr(settings, name, _as_flag(parser, name, value))
    settings.image_size = int(settings.image_size) if settings.image_size else None
    if settings.likelihood == "auto":
        digits = settings.dataset in ("toy-digits", "mnist") or idx_folder(Path(settings.dataset))
        settings.likelihood = "bernoulli" if digits else "gaussian"
    if settings.likelihood == "gaussian" and settings.binarize != "none":
        parser.error(f"--binarize {settings.binarize}: black-and-white pixels need --likelihood bernoulli")


EVALUATION_FLAGS = {  # name: (type, help)
    "data_dir": (_path, "where the data sets lie; default: $VAE_DATA, else the folder that the run used"),
    "out": (_path, "where summary.png of several runs goes; default: results"),
    "nll_samples": (_number(int, 1, 10**9), "importance samples an image; default: 5,000, 500 for a convolutional run"),
    "nll_images": (_number(int, 1), "test images for nll, evenly spaced; default: all, 1,000 with Gaussian pixels"),
    "seed": (_number(int, 0, 2**31 - 1), "noise, samples and mixture follow from it; default: 0"),
}


def parse_evaluation(description, argv=None):
    """What evaluate.py is asked to do: argparse.Namespace of `runs`, a list of folders, and EVALUATION_FLAGS."""
    parser = _Parser(description)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=_path, help="a finished run's folder")
    for name, (kind, text) in EVALUATION_FLAGS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar=name.upper(), help=text)
    parser.set_defaults(data_dir=os.environ.get("VAE_DATA") or None, out="results", seed=0)
    return parser.parse_args(argv)


DISK_HINTS = {  # errno: the way out
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EFBIG: "no file may grow so large here (see ulimit -f)",
}


def complaint(error):
    """The line about an error that its user can mend, and the exit code; raises it where that is not so."""
    if isinstance(error, NonFiniteError):
        return str(error), EXIT_NON_FINITE
    if isinstance(error, UserError):
        return str(error), EXIT_BAD_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
        needs = "a run with a smaller --batch-size, --z, --image-size or --limit needs less"
        return f"not enough memory; {needs}", EXIT_BAD_INPUT
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain once more at its end
        return "nobody reads the output any more; run it again, a training with --resume", EXIT_BAD_INPUT
    if isinstance(error, OSError):
        hint = DISK_HINTS.get(error.errno, "check the path and its permissions, or name another (--data-dir, --out)")
        return f"{error.filename or 'disk'}: {error.strerror or error}; {hint}", EXIT_BAD_INPUT
    raise error


def is_interrupt(error):
    """Whether Ctrl-C is behind an error: caught in the middle of some scope, TensorFlow raises another one over it."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def launch(main):
    """Run `main()` as a command: exit 0, or one clear line and the exit code of the contract, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="backslashreplace")  # paths may hold what a terminal cannot show
    try:
        main()
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            told = isinstance(error, KeyboardInterrupt) and str(error)
            print(f"\n{told or 'interrupted'}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        line, code = complaint(error)
        with contextlib.suppress(BrokenPipeError):
            print(f"{sys.argv[0]}: error: {one_line(line)}", file=sys.stderr, flush=True)
        sys.exit(code)
