"""The two errors a user can meet, the sentences they share, and what none may tell; nothing here does any work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

REQUEUE = 75
"""Exit code of work that was asked to stop and goes on when started again: EX_TEMPFAIL of ``sysexits.h``."""


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


_TOKEN_NAME = r"(?:sig|signature|x-amz-\w[\w-]*|x-goog-\w[\w-]*|sas|\w*token)(?:=|%3D)"
_BEFORE = r"(?:[^\s'\"<>]*(?:[^\w\s'\"<>-]|%[0-9A-F]{2}))?"
_QUERY_WITH_TOKEN = re.compile(rf"\?{_BEFORE}{_TOKEN_NAME}[^\s'\"<>]*[^\s'\"<>.,:;)\]}}]", re.I)
_BARE_SIGNATURE = re.compile(r"(\bsig(?:nature)?=)[^\s&'\"<>]+", re.I)
_PASSWORD = re.compile(r"(://)[^\s/@:]*:[^\s/@]*@")


def redact(text: str) -> str:
    """Return an error text or URL without the secrets in it.

    Takes the whole query of a URL that is signed or has a token, and the user and password before a host.
    """
    text = _QUERY_WITH_TOKEN.sub("?...", text)
    return _PASSWORD.sub(r"\1...@", _BARE_SIGNATURE.sub(r"\1...", text))
