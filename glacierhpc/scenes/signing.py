"""Access tokens for asset URLs: fetched once, renewed before they expire, attached at the moment of reading.

Nothing here reads pixels. Tokens never leave this module except inside the URL that is handed to the reader.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol
from urllib.parse import parse_qs, urlsplit, urlunsplit

import requests
import requests.adapters
import urllib3.util.retry

from glacierhpc.errors import GlacierError, InputError, redact

log = logging.getLogger(__name__)

BLOB_DOMAIN = ".blob.core.windows.net"
PUBLIC_ACCOUNTS = ("ai4edatasetspublicassets",)
RENEW_BEFORE_S = 120.0  # a read that starts now must end before the token does
HTTP_ATTEMPTS = 6


class Signer(Protocol):
    """What turns an unsigned URL into one that can be read now."""

    def sign(self, href: str) -> str:
        """Return the URL with a token that is valid for a while; other URLs unchanged."""

    def renew(self, href: str) -> None:
        """Forget the token of this URL: the server refused it."""

    def expired(self, signed: str) -> bool:
        """Say whether the token in a signed URL has expired."""


@dataclass(frozen=True)
class SignerSpec:
    """A signer in words: small and picklable, so that workers build their own."""

    kind: str = "none"
    """``none``, ``planetary-computer`` or ``token``."""
    token_url: str | None = None
    """Endpoint that answers ``GET {token_url}/{account}/{container}``."""
    timeout_s: float = 30.0


def signer_spec(
    signing: str, *, catalogue: str = "", hrefs: Iterable[str] = (), timeout_s: float = 30.0
) -> SignerSpec:
    """Return how to sign the assets of a catalogue.

    Parameters
    ----------
    signing : str
        ``auto`` (Planetary Computer's own where the catalogue or the files are there), ``none``,
        ``planetary-computer``, or the URL of a token endpoint with the same protocol.
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
        azure = "planetarycomputer" in catalogue or any(_is_azure(href) for href in hrefs)
        return SignerSpec("planetary-computer" if azure else "none", timeout_s=timeout_s)
    if signing in ("none", "planetary-computer"):
        return SignerSpec(signing, timeout_s=timeout_s)
    if urlsplit(signing).scheme in ("http", "https"):
        return SignerSpec("token", signing.rstrip("/"), timeout_s)
    raise InputError(
        f"archive.signing {signing!r} is not known; write 'auto', 'none', 'planetary-computer' or the URL of "
        "a token endpoint"
    )


@lru_cache(maxsize=8)
def make_signer(spec: SignerSpec) -> Signer:
    """Return the signer of a spec; one per process, so that all threads share its tokens."""
    if spec.kind == "none":
        return NoSigner()
    if spec.kind == "planetary-computer":
        from planetary_computer.settings import Settings  # its import takes a second

        # the package knows the endpoint and the user's key, from variables or from its settings file
        settings = Settings()
        return TokenSigner(
            settings.sas_url.rstrip("/"),
            timeout_s=spec.timeout_s,
            azure_only=True,
            subscription_key=settings.subscription_key,
        )
    return TokenSigner(str(spec.token_url), timeout_s=spec.timeout_s, azure_only=False)


class NoSigner:
    """For archives that anyone may read."""

    def sign(self, href: str) -> str:
        """Return the URL as it is."""
        return href

    def renew(self, href: str) -> None:
        """Do nothing."""

    def expired(self, signed: str) -> bool:
        """Nothing expires."""
        return False


@dataclass
class _Token:
    query: str = ""
    expires_at: float = 0.0
    lifetime_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def usable(self) -> bool:
        # a margin of two minutes, but never more than a quarter of a short-lived token
        return bool(self.query) and time.time() < self.expires_at - min(RENEW_BEFORE_S, self.lifetime_s / 4)


class TokenSigner:
    """Tokens per storage account and container, as Planetary Computer hands them out.

    The planetary-computer package asks without a lock (every thread at once) and without a timeout, and never
    re-signs a URL that already carries a token, so long runs die when it expires; this is the same protocol
    without these.
    """

    def __init__(
        self,
        token_url: str,
        *,
        timeout_s: float = 30.0,
        azure_only: bool = True,
        subscription_key: str | None = None,
    ) -> None:
        self._token_url = token_url
        self._headers = {"Ocp-Apim-Subscription-Key": subscription_key} if subscription_key else {}
        self._timeout_s = timeout_s
        self._azure_only = azure_only
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._lock = threading.Lock()
        self._session = _session()
        hide_tokens_in_logs()

    def sign(self, href: str) -> str:
        """Return the URL with a fresh token in place of its old query."""
        place = self._place(href)
        if place is None:
            return href
        token = self._token(place)
        with token.lock:
            if not token.usable():
                self._fetch(place, token)
            query = token.query
        return urlunsplit(urlsplit(href)._replace(query=query, fragment=""))

    def renew(self, href: str) -> None:
        """Forget the token for this URL, so that the next `sign` asks for another."""
        place = self._place(href)
        if place is None:
            return
        token = self._token(place)
        with token.lock:
            if urlsplit(href).query in ("", token.query):  # another thread may have renewed it meanwhile
                token.query = ""

    def expired(self, signed: str) -> bool:
        """Read the expiry (``se``) from a signed URL; ``st`` is back-dated and says nothing."""
        expiry = parse_qs(urlsplit(signed).query).get("se")
        return expiry is not None and _parse_time(expiry[0]) <= time.time()

    def _token(self, place: tuple[str, str]) -> _Token:
        with self._lock:
            return self._tokens.setdefault(place, _Token())

    def _place(self, href: str) -> tuple[str, str] | None:
        """Account and container: the host's name and the first folder."""
        parts = urlsplit(href)
        folders = [part for part in parts.path.split("/") if part]
        if parts.scheme not in ("http", "https") or not folders or not parts.hostname:
            return None
        account = parts.hostname.split(".")[0] if _is_azure(href) else parts.hostname
        if account in PUBLIC_ACCOUNTS or (self._azure_only and not _is_azure(href)):
            return None
        return account, folders[0]

    def _fetch(self, place: tuple[str, str], token: _Token) -> None:
        url = f"{self._token_url}/{place[0]}/{place[1]}"
        try:
            response = self._session.get(url, headers=self._headers, timeout=self._timeout_s)
            response.raise_for_status()
            answer = response.json()
            query, expires_at = str(answer["token"]).lstrip("?"), _parse_time(answer["msft:expiry"])
        except (requests.RequestException, ValueError, KeyError) as err:
            raise GlacierError(
                f"no access token from {url}: {_short(err)}; check the network and archive.signing, run again"
            ) from err
        token.query, token.expires_at, token.lifetime_s = query, expires_at, expires_at - time.time()
        log.debug("token for %s/%s, valid for %.0f s", *place, token.lifetime_s)


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
        "urllib3",
    ):
        logging.getLogger(name).addFilter(_REDACTION)


def _session() -> requests.Session:
    retry = urllib3.util.retry.Retry(
        total=HTTP_ATTEMPTS,
        backoff_factor=0.3,
        backoff_jitter=0.3,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
        respect_retry_after_header=True,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    return session


def _is_azure(href: str) -> bool:
    return urlsplit(href).netloc.endswith(BLOB_DOMAIN)


def _parse_time(text: str) -> float:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _short(err: Exception) -> str:
    return redact(str(err).splitlines()[0])[:200] if str(err) else type(err).__name__
