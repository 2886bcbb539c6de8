"""How TensorFlow is loaded: quickly, without its log, and with one clear line where something is missing."""

import contextlib
import gc
import os
import sys

OLDEST, NEWEST = (3, 10), (3, 13)  # Python versions; TensorFlow has packages for these
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


@contextlib.contextmanager
def loading_packages():
    """Import packages inside this block: quietly, and ending the program with one line on Ctrl-C or a missing one.

    TensorFlow logs in C++ while it loads, before its log level counts, so stderr is silent meanwhile. It also creates
    hundreds of thousands of objects that all stay alive. Collecting garbage among them would take a third of the time
    of `import tensorflow`.
    """
    open_closed_streams()
    check_python()
    is_terminal = sys.stdout.isatty()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for limit in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):  # they would cut the classifier's training short
        os.environ.pop(limit, None)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512, where it is 1.7 times faster
    if is_terminal:
        print("loading TensorFlow ...", end="", flush=True)
    gc.disable()
    try:
        with silent_stderr():
            yield
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except ModuleNotFoundError as error:
        way_out = "pip install -r requirements.txt"
        if sys.version_info[:2] > NEWEST:
            way_out += f", but TensorFlow may have no package for this Python: {needed()}"
        print(f"{sys.argv[0]}: error: {error}; {way_out}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    finally:
        gc.freeze()
        gc.enable()
        if is_terminal:
            print("\r\x1b[K", end="", flush=True)


def check_python():
    """End the program with one line if Python is too old.

    What is read before has to be in the syntax of Python 3.7: this file, vae/__init__.py, utils.py and the scripts.
    """
    if sys.version_info < OLDEST:
        print(f"{sys.argv[0]}: error: {needed()}; make a virtual environment with one of these", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT)


def needed():
    """Which Python the program needs, and which one this is."""
    oldest, newest, this = (".".join(map(str, version[:2])) for version in (OLDEST, NEWEST, sys.version_info))
    return f"Python {oldest} to {newest} is needed, and this is {this}"


def open_closed_streams():
    """Open stdout and stderr on the null device where the program was started without them.

    Python leaves them as None, and the next file opened, perhaps a user's, gets their number. C++ would log into it.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@contextlib.contextmanager
def silent_stderr():
    """Discard what C libraries write to stderr, past Python: it names no file and no way out."""
    sys.stderr.flush()
    saved, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silent)
