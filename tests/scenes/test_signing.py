"""Tokens: asked for once, renewed in time and on refusal, never shown."""

from __future__ import annotations

import logging
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from glacierhpc.errors import GlacierError, InputError, redact
from glacierhpc.scenes import tokens
from glacierhpc.scenes.remote.clock import ServerClock
from glacierhpc.scenes.signing import SignerSpec, make_signer, signer_spec
from glacierhpc.scenes.tokens import TokenSigner

BLOB = "https://landsateuwest.blob.core.windows.net/landsat-c2/level-2/a.TIF"


class Office:
    """Stands for the token endpoint's HTTP session; counts."""

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s, self.asked = lifetime_s, []

    def get(self, url: str, **options: Any) -> Any:
        assert options["timeout"] > 0
        self.asked.append((url, options["headers"]))
        time.sleep(0.01)
        expiry = datetime.now(UTC) + timedelta(seconds=self.lifetime_s)
        text = expiry.isoformat().replace("+00:00", "Z")
        answer = {"msft:expiry": text, "token": f"st=2020-01-01&se={text}&sig=secret{len(self.asked)}"}
        return type(
            "Answer", (), {"raise_for_status": lambda _: None, "json": lambda _: answer, "headers": {}}
        )()


@pytest.fixture
def office(monkeypatch) -> Office:
    found = Office(3600)
    monkeypatch.setattr(tokens, "_session", lambda: found)
    return found


def test_auto_knows_planetary_computer_by_catalogue_or_by_files():
    assert signer_spec("auto", catalogue="https://planetarycomputer.microsoft.com/api/stac/v1").kind == (
        "planetary-computer"
    )
    assert signer_spec("auto", hrefs=[BLOB]).kind == "planetary-computer"
    assert signer_spec("auto", hrefs=["https://example.org/a.tif", "/data/a.tif"]).kind == "none"
    assert signer_spec("http://127.0.0.1:1/token/") == SignerSpec("token", "http://127.0.0.1:1/token")
    with pytest.raises(InputError, match="archive.signing 'azure' is not known"):
        signer_spec("azure")


def test_a_spec_travels_and_a_process_has_one_signer():
    spec = pickle.loads(pickle.dumps(SignerSpec("planetary-computer")))  # noqa: S301
    assert make_signer(spec) is make_signer(SignerSpec("planetary-computer"))
    assert make_signer(SignerSpec()).sign(BLOB) == BLOB


def test_many_threads_ask_once(office):
    signer = TokenSigner("https://pc/token")
    with ThreadPoolExecutor(16) as pool:
        signed = set(pool.map(signer.sign, [BLOB] * 64))
    assert [url for url, _ in office.asked] == ["https://pc/token/landsateuwest/landsat-c2"]
    assert len(signed) == 1 and parse_qs(urlsplit(signed.pop()).query)["sig"] == ["secret1"]


def test_containers_have_their_own_tokens_and_other_hosts_none(office):
    signer = TokenSigner("https://pc/token")
    signer.sign(BLOB)
    signer.sign(BLOB.replace("landsat-c2", "other"))
    assert len(office.asked) == 2
    public = "https://ai4edatasetspublicassets.blob.core.windows.net/x/thumb.png"
    for href in ("https://example.org/a/b.tif", "/data/b.tif", public):
        assert signer.sign(href) == href
    assert len(office.asked) == 2


def test_an_old_query_is_replaced(office):
    signer = TokenSigner("https://pc/token")
    old = BLOB + "?se=2020-01-01T00:00:00Z&sig=old"
    assert signer.expired(old) and not signer.expired(BLOB)
    assert "old" not in signer.sign(old) and signer.sign(old).count("sig=") == 1
    back_dated = BLOB + "?st=2020-01-01T00:00:00Z&se=2999-01-01T00:00:00Z&sig=x"
    assert not signer.expired(back_dated)


def test_tokens_are_renewed_before_they_expire_and_on_refusal(office, monkeypatch):
    clock = ServerClock()
    monkeypatch.setattr(tokens, "CLOCK", clock)
    office.lifetime_s = 400
    signer = TokenSigner("https://pc/token")
    first = signer.sign(BLOB)
    assert signer.sign(BLOB) == first
    clock._ahead_s = 310  # a quarter of the lifetime before the end
    office.lifetime_s = 710
    second = signer.sign(BLOB)
    assert second != first
    clock._ahead_s = 410
    assert signer.expired(first) and not signer.expired(second)
    signer.renew(second)
    third = signer.sign(BLOB)
    assert third != second
    signer.renew(second)  # another thread was refused with the old token: the new one stays
    assert signer.sign(BLOB) == third and len(office.asked) == 3


def test_the_packages_endpoint_and_key_are_used(office, monkeypatch):
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "k")
    monkeypatch.setenv("PC_SDK_SAS_URL", "https://pc/token")
    make_signer.cache_clear()
    make_signer(signer_spec("planetary-computer")).sign(BLOB)
    make_signer.cache_clear()
    url, headers = office.asked[0]
    assert url.startswith("https://pc/token/") and headers == {"Ocp-Apim-Subscription-Key": "k"}
    TokenSigner("https://mine/token", azure_only=False).sign("http://host/c/a.tif")
    assert office.asked[1] == ("https://mine/token/host/c", {})


def test_an_unreachable_office_is_one_line(monkeypatch):
    monkeypatch.setattr(tokens, "HTTP_ATTEMPTS", 0)
    signer = TokenSigner("http://127.0.0.1:9/token", timeout_s=1)
    with pytest.raises(
        GlacierError, match="no access token from http://127.0.0.1:9.*archive.signing"
    ) as caught:
        signer.sign(BLOB)
    assert "\n" not in str(caught.value)


def test_tokens_are_redacted_in_texts_and_in_foreign_logs(caplog):
    text = f"Failed to load {BLOB}?se=2026-01-01T00%3A00%3A00Z&sig=ab%3D:1 due to '{BLOB}?sig=ab%3D'"
    assert "sig=" not in redact(text) and redact(text).startswith(f"Failed to load {BLOB}?...")
    assert redact("no token? none") == "no token? none"
    make_signer.cache_clear()
    make_signer(SignerSpec())
    with caplog.at_level(logging.INFO):
        logging.getLogger("odc.loader._rio").error("Failed to load %s:%d", f"{BLOB}?sig=secret", 1)
        logging.getLogger("rasterio._env").info(f"GDAL signalled {BLOB}?se=1&sig=secret")
    assert "secret" not in caplog.text and "a.TIF?..." in caplog.text
