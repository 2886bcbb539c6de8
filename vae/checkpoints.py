"""Checkpoints of a run: saved after every epoch, restored by --resume, and named when a number is not finite."""

import numpy as np
import tensorflow as tf

from vae.run_folder import NEW_RUN, read_rows, writing
from vae.terminal import NonFiniteError, UserError, is_interrupt, note, reason

# What TensorFlow raises at damaged checkpoints: its own errors and Python's
UNRESTORABLE = (tf.errors.OpError, AssertionError, ValueError, TypeError, LookupError, RuntimeError)


def save_checkpoint(checkpoints, epoch):
    """Save the state after an epoch. The one before stays until this one is written."""
    with writing(checkpoints.directory, "then --resume"):
        checkpoints.save(epoch)


def restore(state, folder):
    """Load the newest checkpoint of a run folder, or save the first one.

    state: a tf.train.Checkpoint. Returns its CheckpointManager, which keeps the newest two, and the rows of metrics.csv
    up to the checkpoint. UserError if these cannot be read.
    """
    place, rows = folder / "checkpoint", read_rows(folder / "metrics.csv")
    try:
        checkpoints = tf.train.CheckpointManager(state, str(place), max_to_keep=2)
    except UNRESTORABLE as error:
        raise UserError(f"{place / 'checkpoint'}: cannot be read ({reason(error)}); {NEW_RUN}") from None
    if not checkpoints.latest_checkpoint:
        if rows or has_trained_checkpoint(folder):
            raise UserError(f"{place / 'checkpoint'}: names no checkpoint, though epochs were trained; {NEW_RUN}")
        save_checkpoint(checkpoints, 0)
        return checkpoints, []
    done = epoch_of(restore_newest(checkpoints))
    if len(rows) < done:
        raise UserError(f"{folder / 'metrics.csv'}: {len(rows)} of {done} epochs can be read; {NEW_RUN}")
    return checkpoints, rows[:done]


def restore_newest(checkpoints):
    """Load the newest checkpoint that can be read; returns its path."""
    paths = checkpoints.checkpoints or [checkpoints.latest_checkpoint]  # the list is empty if the clock was set back
    for path in reversed(paths):
        try:
            checkpoints.checkpoint.restore(path).assert_consumed()
            return path
        except UNRESTORABLE as error:
            if is_interrupt(error):
                raise
            why = f"{path}: cannot be read ({reason(error)})"
            if path != paths[0]:
                note(f"{why}; continuing from the one before")
    raise UserError(f"{why}; {NEW_RUN}")


def epoch_of(checkpoint):
    """The epoch after which a checkpoint was saved, from its path."""
    return int(checkpoint.rsplit("-", 1)[1])


def has_trained_checkpoint(folder):
    """Whether a run folder has a checkpoint of a trained epoch, even one that its list of checkpoints lacks."""
    return any(path.stem != "ckpt-0" for path in folder.glob("checkpoint/ckpt-*.index"))


def describe_checkpoint(folder):
    """Where a run's checkpoint is, in words. folder: None where another worker keeps it."""
    return f"{folder}/checkpoint" if folder else "the first worker's checkpoint"


def check_finite(terms, place, before, kept_epoch, folder):
    """Stop at the first row of terms (N, 2), reconstruction and KL, that is not finite: number before + 1 or later.

    place: what the rows are, such as "epoch 3, step". kept_epoch: that of the last checkpoint.
    """
    bad = np.argwhere(~np.isfinite(terms))
    if len(bad):
        row, term = bad[0]
        name = ("the reconstruction term", "the KL term")[term]
        raise non_finite_error(name, terms[row, term], f"{place} {before + row + 1}", kept_epoch, folder)


def non_finite_error(name, value, place, kept_epoch, folder):
    """The NonFiniteError that says which value became what, where, and what is kept."""
    kept = f"{describe_checkpoint(folder)} holds epoch {kept_epoch}"
    return NonFiniteError(f"{name} became {value} in {place}; {kept}. Try a smaller --learning-rate")
