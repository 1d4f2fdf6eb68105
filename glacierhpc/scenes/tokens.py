"""Access tokens in URLs: fetched once, renewed before they expire, shared by the processes of a run.

Tokens never leave this module except inside the URL that is handed to the reader.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import requests
import requests.adapters
import urllib3.util.retry

from glacierhpc.errors import GlacierError, redact
from glacierhpc.scenes.remote import shared
from glacierhpc.scenes.remote.clock import CLOCK

log = logging.getLogger(__name__)

BLOB_DOMAIN = ".blob.core.windows.net"
PUBLIC_ACCOUNTS = ("ai4edatasetspublicassets",)
RENEW_BEFORE_S = 120.0  # a read that starts now must end before the token does
REFUSED_AGAIN_S = 30.0
HTTP_ATTEMPTS = 6


@dataclass
class _Token:
    query: str = ""
    expires_at: float = 0.0
    """By the servers' clocks."""
    lifetime_s: float = 0.0
    refused: str = ""
    refused_at: float = -math.inf
    lock: threading.Lock = field(default_factory=threading.Lock)

    def good_for_s(self) -> float:
        """Return how long the token holds, s; 0 for none."""
        return self.expires_at - CLOCK.now() if self.query else 0.0

    def take(self, told: Mapping[str, Any]) -> None:
        """Take over what another process was given."""
        try:
            query, expires_at = str(told["query"]), float(told["expires_at"])
            lifetime_s = float(told["lifetime_s"])
        except (KeyError, TypeError, ValueError):
            return
        if query != self.refused:
            self.query, self.expires_at, self.lifetime_s = query, expires_at, lifetime_s


class TokenSigner:
    """Tokens per storage account and container, as Planetary Computer hands them out.

    The planetary-computer package asks without a lock (every thread at once) and without a timeout, and never
    re-signs a URL that already carries a token, so long runs die when it expires; this is the same protocol
    without these. Processes that share a private folder share the tokens, too: one asks, the others read.
    """

    def __init__(
        self,
        token_url: str,
        *,
        timeout_s: float = 30.0,
        azure_only: bool = True,
        subscription_key: str | None = None,
        shared_folder: Path | None = None,
    ) -> None:
        self._token_url, self._folder = token_url, shared_folder
        self._early = random.uniform(1.0, 1.2)  # not all processes at once
        self._headers = {"Ocp-Apim-Subscription-Key": subscription_key} if subscription_key else {}
        self._timeout_s = timeout_s
        self._azure_only = azure_only
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._lock = threading.Lock()
        self._session = _session()

    def sign(self, href: str) -> str:
        """Return the URL with a fresh token in place of its old query."""
        place = self._place(href)
        if place is None:
            return href
        token = self._token(place)
        with token.lock:
            if not self._lasts(token):
                self._replace(place, token)
            query = token.query
        return urlunsplit(urlsplit(href)._replace(query=query, fragment=""))

    def renew(self, href: str) -> None:
        """Forget the token for this URL, so that the next `sign` asks for another.

        Not more often than a token is due: a server that refuses every one is no reason to ask for thousands.
        """
        place = self._place(href)
        if place is None:
            return
        token = self._token(place)
        with token.lock:
            if not token.query or urlsplit(href).query not in ("", token.query):
                return  # another thread has renewed it meanwhile
            seldom_s = min(REFUSED_AGAIN_S, token.lifetime_s / 4)
            if time.monotonic() - token.refused_at > seldom_s or token.good_for_s() <= 0:
                token.refused, token.query, token.refused_at = token.query, "", time.monotonic()

    def expired(self, signed: str) -> bool:
        """Read the expiry (``se``) from a signed URL; ``st`` is back-dated and says nothing."""
        expiry = parse_qs(urlsplit(signed).query).get("se")
        return expiry is not None and _parse_time(expiry[0]) <= CLOCK.now()

    def headers(self, url: str) -> dict[str, str]:
        """Return nothing: the token is in the URL."""
        return {}

    def _lasts(self, token: _Token, share: float = 1.0) -> bool:
        """Say whether a read that starts now will end before the token does."""
        # never more than a quarter of a short-lived token
        margin_s = min(max(RENEW_BEFORE_S, self._timeout_s), token.lifetime_s / 4)
        return token.good_for_s() > share * self._early * margin_s

    def _replace(self, place: tuple[str, str], token: _Token) -> None:
        """Take the token another process was given, or ask for one while the others wait."""
        name = shared.name_for("token", self._token_url, *place)
        in_time = self._lasts(token, 0.5)
        with shared.locked(self._folder, name, wait_s=0.0 if in_time else self._timeout_s) as held:
            if not held and in_time:
                return  # another one is asking; the old token is still good
            token.take(shared.read(self._folder, name))
            if self._lasts(token):
                return
            self._fetch(place, token)
            told = {"query": token.query, "expires_at": token.expires_at, "lifetime_s": token.lifetime_s}
            shared.write(self._folder, name, told)

    def _token(self, place: tuple[str, str]) -> _Token:
        with self._lock:
            return self._tokens.setdefault(place, _Token())

    def _place(self, href: str) -> tuple[str, str] | None:
        """Account and container: the host's name and the first folder."""
        parts = urlsplit(href)
        folders = [part for part in parts.path.split("/") if part]
        if parts.scheme not in ("http", "https") or not folders or not parts.hostname:
            return None
        account = parts.hostname.split(".")[0] if is_azure(href) else parts.hostname
        if account in PUBLIC_ACCOUNTS or (self._azure_only and not is_azure(href)):
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
        # by the server's clock: that of a compute node may be minutes off
        now = CLOCK.learn(response.headers.get("Date"))
        token.query, token.expires_at, token.lifetime_s = query, expires_at, expires_at - now
        log.debug("token for %s/%s, valid for %.0f s", *place, token.lifetime_s)


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


def is_azure(href: str) -> bool:
    """Say whether a file is in a store of Azure, as those of Planetary Computer are."""
    return urlsplit(href).netloc.endswith(BLOB_DOMAIN)


def _parse_time(text: str) -> float:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _short(err: Exception) -> str:
    return redact(str(err).splitlines()[0])[:200] if str(err) else type(err).__name__
