"""The two errors a user can meet, and the sentences they share; nothing here does any work."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GlacierError(Exception):
    """The work failed although the input was acceptable; the command ends with exit code 1."""

    exit_code = 1


class InputError(GlacierError):
    """The input is wrong: says what was given, why it cannot be, what to write instead; exit code 2."""

    exit_code = 2


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that `name` was probably meant to be, or None."""
    matches = get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(what: str, name: str, valid: Iterable[str]) -> InputError:
    """Return the error for a choice by name that does not exist.

    Parameters
    ----------
    what : str
        What is being chosen, with its place: ``"model"``, ``"align.motion"``.
    name : str
        What was given.
    valid : iterable of str
        The names that exist.
    """
    names = sorted(valid)
    nearest = nearest_name(name, names)
    hint = f"; did you mean {nearest!r}?" if nearest else "."
    return InputError(f"{what} {name!r} is not known{hint} Valid: {', '.join(names)}.")


def missing_package(package: str, extra: str) -> InputError:
    """Return the error for an optional package that is not installed, naming the extra that brings it."""
    return InputError(
        f"{package!r} is not installed here; install it with: pip install 'glacierhpc[{extra}]' "
        "(the container image built from deeplearning.def has it)"
    )
