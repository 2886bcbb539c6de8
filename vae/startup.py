"""How TensorFlow is loaded: quickly, without its log, and with one clear line where something is missing."""

import contextlib
import gc
import os
import sys

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


@contextlib.contextmanager
def loading_packages():
    """Import packages inside this block: quietly, and ending the program with one line on Ctrl-C or a missing one.

    TensorFlow logs in C++ while it loads, before its log level counts, so stderr is silent meanwhile. It also creates
    hundreds of thousands of objects that all stay alive. Collecting garbage among them would take a third of the time
    of `import tensorflow`.
    """
    open_closed_streams()
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
        print(f"{sys.argv[0]}: error: {error}; pip install -r requirements.txt", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    finally:
        gc.freeze()
        gc.enable()
        if is_terminal:
            print("\r\x1b[K", end="", flush=True)


def open_closed_streams():
    """Open stdout and stderr on the null device where the program was started without them.

    Python leaves them as None, and the next file opened, perhaps a user's, gets their number. C++ would log into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
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
