"""What a run says at the terminal: one-line messages, a progress bar, errors and exit codes."""

import contextlib
import difflib
import errno
import itertools
import os
import re
import sys

import tensorflow as tf
from keras.utils import Progbar

from vae.startup import EXIT_BAD_INPUT, EXIT_INTERRUPTED

EXIT_NON_FINITE = 3


class UserError(Exception):
    """Bad arguments or data: one line that names the file or flag and the way out (exit code 2).

    listed: lines to print below it, where there are things to choose from.
    """

    def __init__(self, message, listed=()):
        super().__init__(message)
        self.listed = listed


class NonFiniteError(Exception):
    """A number is not finite: one line that names the term, the epoch and the step, or the image (exit code 3)."""


# Messages -----------------------------------------------------------------------------------------------------


def note(message):
    """Print a line at once, also when stdout is a file or a pipe."""
    print(message, flush=True)


def reason(error):
    """Why something failed, in a few words on one line, without the names of TensorFlow's operations."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    if isinstance(error, tf.errors.OpError):
        text = re.sub(r"^\{\{.*?\}\} |\s*\[(\[\{\{|Op).*", "", text).split("; ")[-1]
    return text[:300] or type(error).__name__


def one_line(text):
    """Escape what would break a line or steer a terminal. File names may contain both."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value):
    """A setting's value as a person writes it: the sizes of layers as 500-500-500."""
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    return "none" if value is None else str(value)


def did_you_mean(word, options):
    """The end of a message about a word that is none of the options: a question, if one of them is close to it.

    options: {how it is spelt: what to suggest}, or texts that are both.
    """
    options = options if isinstance(options, dict) else {option: option for option in options}
    found = difflib.get_close_matches(word, options, 1)
    return f"; did you mean {options[found[0]]}?" if found else ""


def name_file(error, path):
    """Add the path to an OSError that names no file, such as the one of a full disk."""
    if error.errno and not error.filename:
        error.filename = str(path)


# Progress -----------------------------------------------------------------------------------------------------


def clear_line():
    """Erase the terminal's current line."""
    print("\r\x1b[K", end="", flush=True)


@contextlib.contextmanager
def progress_bar(total, label=None):
    """Show a progress bar of `total` steps. Yields a function that advances it by one.

    A bar with a label stays on the screen, a bar without one is erased at its end. Where stdout is not a terminal,
    only the label is printed.
    """
    if label:
        note(label)
    if not (sys.stdout.isatty() and total):
        yield lambda: None
        return
    bar, count = Progbar(total), itertools.count(1)
    bar.update(0)

    def advance():
        done = next(count)
        bar.update(done, finalize=bool(label) and done >= total)

    yield advance
    if not label:
        clear_line()


def progress(items, total, label=None):
    """Yield the items while a progress bar advances."""
    with progress_bar(total, label) as advance:
        for item in items:
            yield item
            advance()


# Ends ---------------------------------------------------------------------------------------------------------


def explain(error):
    """The message for an error that a user can fix; re-raises any other error."""
    if isinstance(error, UserError | NonFiniteError):
        return str(error)
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return "not enough memory; a run with a smaller --batch-size, --z, --image-size or --limit needs less"
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more when it exits
        return "the output was closed before the end; run it again, a training with --resume"
    if isinstance(error, OSError):
        hint = "check the path and its permissions, or name another (--data-dir, --out)"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some disk space"
        elif error.errno == errno.EFBIG:
            hint = "no file may grow so large here (see ulimit -f)"
        return f"{error.filename or 'disk'}: {error.strerror or error}; {hint}"
    raise error


def is_interrupt(error):
    """Whether Ctrl-C caused an error: TensorFlow's device scopes may raise another one on top of it."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def launch(main):
    """Run `main()` as a command: exit with 0, or with one clear line and an exit code, never with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's streams lack it
            stream.reconfigure(errors="backslashreplace")  # paths may hold what a terminal cannot show
    try:
        main()
    except (KeyboardInterrupt, Exception) as error:
        if is_interrupt(error):
            message = isinstance(error, KeyboardInterrupt) and str(error)
            print(f"\n{message or 'interrupted'}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        line = "\n  ".join(map(one_line, [explain(error), *getattr(error, "listed", ())]))
        with contextlib.suppress(BrokenPipeError):
            print(f"{sys.argv[0]}: error: {line}", file=sys.stderr, flush=True)
        sys.exit(EXIT_NON_FINITE if isinstance(error, NonFiniteError) else EXIT_BAD_INPUT)
