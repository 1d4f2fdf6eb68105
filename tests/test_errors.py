"""What an error may tell, and what it must not."""

import pytest

from glacierhpc.errors import redact


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (
            "no https://a.b/c.tif?se=2026-01-01T00:00:00Z&sig=SECRET%3D&sp=SECRET: 404",
            "no https://a.b/c.tif?...: 404",
        ),
        ("('https://a.b/c?X-Amz-Date=1&X-Amz-Signature=SECRET', 1)", "('https://a.b/c?...', 1)"),
        ("GET /c?collection=x&token=SECRET.", "GET /c?...."),
        ("https://a.b/c?access_token=SECRET&q=1", "https://a.b/c?..."),
        ("https://a.b/c?sas=SECRET", "https://a.b/c?..."),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fa.b%2Fc%3Fsig%3DSECRET", "/vsicurl?..."),
        ("KeyError: 'se=2026&sig=SECRET&sp=r'", "KeyError: 'se=2026&sig=...&sp=r'"),
        ("https://me:SECRET@a.b/c", "https://...@a.b/c"),
    ],
)
def test_secrets_are_cut(told, wanted):
    assert redact(told) == wanted


@pytest.mark.parametrize(
    "text", ["no token? none", "https://a.b/c?q=1&design=2", "did you mean 'sig'? x", ""]
)
def test_other_texts_stay(text):
    assert redact(text) == text
