"""How asset URLs are signed, at the moment of reading: what a signer is, and which one an archive asks for.

The signers themselves are in `tokens` and `bearer`; nothing here reads pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from glacierhpc.errors import InputError, redact
from glacierhpc.scenes.bearer import PlainSigner, bearer_hosts
from glacierhpc.scenes.tokens import TokenSigner, is_azure


class Signer(Protocol):
    """What turns an unsigned URL into one that can be read now."""

    def sign(self, href: str) -> str:
        """Return the URL with a token that is valid for a while; other URLs unchanged."""

    def renew(self, href: str) -> None:
        """Forget the token of this URL: the server refused it."""

    def expired(self, signed: str) -> bool:
        """Say whether the token in a signed URL has expired."""

    def headers(self, url: str) -> dict[str, str]:
        """Return what to tell where a URL leads, and nowhere else."""


@dataclass(frozen=True)
class SignerSpec:
    """A signer in words: small and picklable, so that workers build their own."""

    kind: str = "none"
    """``none``, ``planetary-computer``, ``token`` or ``bearer``."""
    token_url: str | None = None
    """Endpoint that answers ``GET {token_url}/{account}/{container}``."""
    timeout_s: float = 30.0
    shared: Path | None = None
    """Private folder through which the processes of a run share their tokens; None = each asks for its own."""
    hosts: tuple[str, ...] = ()
    """To which a bearer token goes: names, or ``*.`` and the end of names."""


def signer_spec(
    signing: str,
    *,
    catalogue: str = "",
    hrefs: Iterable[str] = (),
    timeout_s: float = 30.0,
    shared: Path | None = None,
) -> SignerSpec:
    """Return how to sign the assets of a catalogue.

    Parameters
    ----------
    signing : str
        ``auto`` (Planetary Computer's own where the catalogue or the files are there), ``none``,
        ``planetary-computer``, the URL of a token endpoint with the same protocol, or ``bearer:`` and the hosts,
        separated by commas, that shall know the user by the token that `bearer.hand_over` left.
    catalogue : str
        The catalogue's URL, for ``auto``.
    hrefs : iterable of str
        Asset URLs, for ``auto``.

    Raises
    ------
    InputError
        For anything else.
    """
    if signing == "auto":
        azure = "planetarycomputer" in catalogue or any(is_azure(href) for href in hrefs)
        return SignerSpec("planetary-computer" if azure else "none", timeout_s=timeout_s, shared=shared)
    if signing in ("none", "planetary-computer"):
        return SignerSpec(signing, timeout_s=timeout_s, shared=shared)
    if urlsplit(signing).scheme in ("http", "https"):
        return SignerSpec("token", signing.rstrip("/"), timeout_s, shared)
    if hosts := bearer_hosts(signing):
        return SignerSpec("bearer", timeout_s=timeout_s, shared=shared, hosts=hosts)
    raise InputError(
        f"archive.signing {signing!r} is not known; write 'auto', 'none', 'planetary-computer', the URL of a "
        "token endpoint, or 'bearer:' and the hosts that shall be sent a token"
    )


@lru_cache(maxsize=8)
def make_signer(spec: SignerSpec) -> Signer:
    """Return the signer of a spec; one per process, so that all threads share its tokens."""
    hide_tokens_in_logs()  # also without any of ours: a server may send on to a signed URL
    if spec.kind in ("none", "bearer"):
        return PlainSigner(spec.hosts, spec.shared)
    if spec.kind == "planetary-computer":
        from planetary_computer.settings import Settings  # its import takes a second

        # the package knows the endpoint and the user's key, from variables or from its settings file
        settings = Settings()
        return TokenSigner(
            settings.sas_url.rstrip("/"),
            timeout_s=spec.timeout_s,
            azure_only=True,
            subscription_key=settings.subscription_key,
            shared_folder=spec.shared,
        )
    return TokenSigner(
        str(spec.token_url), timeout_s=spec.timeout_s, azure_only=False, shared_folder=spec.shared
    )


class _Redaction(logging.Filter):
    """Takes the tokens out of what other packages log: they name the whole URL when a read fails."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message != (told := redact(message)):
            record.msg, record.args = told, None
        return True


_REDACTION = _Redaction()


def hide_tokens_in_logs() -> None:
    """Keep tokens out of the log lines of the packages that read files; once is enough, twice no harm."""
    for name in (
        "rasterio._env",
        "rasterio._err",
        "rasterio._base",
        "odc.loader._rio",
        "stackstac",
        # filters are not inherited: each logger that names URLs has its own
        "urllib3",
        "urllib3.connectionpool",
        "urllib3.poolmanager",
        "urllib3.util.retry",
    ):
        logging.getLogger(name).addFilter(_REDACTION)
