"""How a value becomes a word of a job script: the only doors between what a user writes and what a shell reads."""

from __future__ import annotations

import re
import shlex

from glacierhpc.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")


def one_line(text: str) -> str:
    """Return a text that may stand on a line of a script.

    Raises
    ------
    InputError
        If it has a line break or control character: no quotes keep those inside a directive.
    """
    # the last three end a line for some readers of text files
    if any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in text):
        raise InputError(
            f"{text!r} cannot stand in a job script: it has a line break or control character; remove it"
        )
    return text


def word(text: str) -> str:
    """Return one word of a shell that is exactly this text."""
    return shlex.quote(one_line(text))


def words(texts: tuple[str, ...] | list[str]) -> str:
    """Return words of a shell, one for each text."""
    return " ".join(word(text) for text in texts)


def path_word(text: str) -> str:
    """Return one word of a shell in which ``$NAME`` and ``${NAME}`` stand for variables and nothing else is special.

    For folders that a site names by variables, such as ``/scratch/$SLURM_JOB_ACCOUNT``.
    """
    pieces, end = [], 0
    for match in _PART.finditer(one_line(text)):
        pieces += [_plain(text[end : match.start()]), "${" + (match[1] or match[2]) + "}"]
        end = match.end()
    return '"' + "".join([*pieces, _plain(text[end:])]) + '"'


def _plain(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)


def name(text: str, what: str) -> str:
    """Return a name that is one everywhere: in a queue, in a file name.

    Raises
    ------
    InputError
        If it is not made of letters, digits, dot, dash and underscore.
    """
    if not NAME.fullmatch(text):
        raise InputError(f"{what} {text!r} cannot be used; write letters, digits, dot, dash, underscore")
    return text


def variable(text: str) -> str:
    """Return the name of an environment variable.

    Raises
    ------
    InputError
        If it is none.
    """
    if not VARIABLE.fullmatch(text):
        raise InputError(f"{text!r} is no name of a variable; write letters, digits and underscore")
    return text


def directive(option: str, value: str) -> str:
    """Return the line of one option of ``sbatch``, its value in quotes; an empty value is that of a bare option.

    Raises
    ------
    InputError
        If the option's name is none, or the value cannot stand on a line.
    """
    if not re.fullmatch(r"[a-z][a-z-]*", option):
        raise InputError(
            f"directive {option!r} is not an option of sbatch; write its long name without dashes in front"
        )
    # sbatch takes a backslash for an escape inside quotes of either kind, unlike a shell
    escaped = value.replace("\\", "\\\\")
    return f"#SBATCH --{option}" + (f"={word(escaped)}" if value else "")


def file_pattern(path: str) -> str:
    r"""Return a path as ``sbatch`` wants it where it replaces ``%j``: every per cent sign of the path doubled.

    Raises
    ------
    InputError
        If it has a backslash: that ends all replacing, and the job could not write its log.
    """
    if "\\" in path:
        raise InputError(
            f"jobs cannot write their logs in {path!r}: sbatch reads its backslash as a sign; rename it"
        )
    return one_line(path).replace("%", "%%")


def walltime(hours: float) -> str:
    """Return hours as ``HH:MM:00``.

    Raises
    ------
    InputError
        If that is less than a minute.
    """
    minutes = round(hours * 60)
    if minutes < 1:
        raise InputError(f"walltime of {hours!r} hours is none; write at least 0.02")
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
