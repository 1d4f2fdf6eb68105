"""URLs that stay as they are, and a token in a header for archives that know their users by one, as NASA's do.

The token goes to its own hosts only: such archives send on, to a login and to where the files lie, neither of which
must see it.
"""

from __future__ import annotations

import re
from pathlib import Path

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.scenes.remote import shared
from glacierhpc.scenes.remote.access import HTTPS_PORT, is_safe, place_of

_NAME = "bearer"
_HOST = re.compile(
    r"(\*\.(?=[\w-]+\.))?([\w-]+\.)*[\w-]+(:\d{1,5})?", re.ASCII
)  # *.org is no end of one owner
_TOKEN = re.compile(r"[\w.~+/=-]+", re.ASCII)  # RFC 6750, section 2.1


def bearer_hosts(signing: str) -> tuple[str, ...]:
    """Return the hosts that ``bearer:host,host`` names; none for other ways, or where one is no name of a host.

    A name may begin with ``*.`` for all that end so, and end with a port; without, it is that of https.
    """
    kind, _, hosts = signing.partition(":")
    names = tuple(name.strip().lower() for name in hosts.split(","))
    return names if kind == "bearer" and all(_HOST.fullmatch(name) for name in names) else ()


def hand_over(hosts: tuple[str, ...], token: str, folder: Path | None) -> None:
    """Leave the user's token where the workers of a run find it, and nobody else; nothing where no host wants one.

    Raises
    ------
    InputError
        If there is none, or it cannot be one.
    GlacierError
        If the folder cannot be kept from others.
    """
    if not hosts:
        return
    if not _TOKEN.fullmatch(token):
        problem = "has characters that no token has" if token else "is not set"
        raise InputError(
            f"archive.signing sends a token to {', '.join(hosts)}, but EARTHDATA_TOKEN {problem}; write "
            "export EARTHDATA_TOKEN=... before the run, or archive.signing: none to log in by ~/.netrc"
        )
    shared.write(folder, _NAME, {"token": token})
    if token_in(folder) != token:
        raise GlacierError(
            f"no file in {folder} can be kept from others, so no token is left there; log in by ~/.netrc"
        )


def token_in(folder: Path | None) -> str:
    """Return the token that was handed over; empty where none was."""
    return str(shared.read(folder, _NAME).get("token", ""))


class PlainSigner:
    """Leaves URLs as they are, and tells a token to some hosts; to none where anyone may read.

    Parameters
    ----------
    hosts : tuple of str
        See `bearer_hosts`.
    folder : path, optional
        Where the token was left.
    """

    def __init__(self, hosts: tuple[str, ...] = (), folder: Path | None = None) -> None:
        self._hosts, self._folder = hosts, folder

    def sign(self, href: str) -> str:
        """Return the URL as it is."""
        return href

    def renew(self, href: str) -> None:
        """Do nothing: only the user can get another token."""

    def expired(self, signed: str) -> bool:
        """Know of no end: a token in a header lasts for weeks."""
        return False

    def headers(self, url: str) -> dict[str, str]:
        """Return the token for one of its hosts, unless it could be read on the way.

        Raises
        ------
        Fault
            If it cannot be said where the URL leads.
        """
        if not self._hosts:
            return {}
        host, port = place_of(url)
        own = any(_matches(named, host, port) for named in self._hosts)
        # read anew each time: the signers of a process outlive a run, the token does not
        token = token_in(self._folder) if own and is_safe(url) else ""
        return {"Authorization": f"Bearer {token}"} if token else {}


def _matches(named: str, host: str, port: int) -> bool:
    name, _, own_port = named.partition(":")
    same = host.endswith(name[1:]) if name.startswith("*") else host == name
    return same and port == int(own_port or HTTPS_PORT)
