"""Quotas as `lfs` tells them. A script stands for it: there is no Lustre file system here."""

from __future__ import annotations

from pathlib import Path

import pytest

from glacierhpc.hpc.quota import QuotaLeft, parse_quota, quota_left

KIB = 1024


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/scratch 1000 0 5000 - 20 0 100 -\n", QuotaLeft(4000 * KIB, 80)),
        ("/scratch 6000* 5000 5500 6d23h 120* 0 100 none\n", QuotaLeft(0, 0)),
        ("/scratch 1000 0 0 - 20 0 0 -\n", QuotaLeft(None, None)),
        # a long name is broken over two lines
        ("/pfs/lustrep1/a/very/long/name\n      1000  2000 0 - 20 0 100 -\n", QuotaLeft(1000 * KIB, 80)),
        ("quotactl failed\n", None),
        ("", None),
    ],
)
def test_a_line_of_quota(text, left):
    assert parse_quota(text) == left


def script(folder: Path, text: str) -> str:
    path = folder / "lfs-told"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_tighter_of_user_and_project_counts(tmp_path):
    lfs = script(
        tmp_path,
        'case "$*" in\n'
        f'"project -d {tmp_path}") echo " 4711 P {tmp_path}";;\n'
        f'"quota -q -p 4711 {tmp_path}") echo "{tmp_path} 10 0 2010 - 5 0 1000 -";;\n'
        '"quota -q -u "*) echo "x 10 0 9010 - 5 0 25 -";;\n'
        "*) exit 1;; esac",
    )
    assert quota_left(tmp_path / "runs" / "new", command=lfs) == QuotaLeft(2000 * KIB, 20)


def test_nothing_is_known_where_nobody_tells(tmp_path):
    assert quota_left(tmp_path, command="no-such-command-here") is None
    assert quota_left(tmp_path, command=script(tmp_path, "exit 1")) is None
    assert quota_left(tmp_path, command=script(tmp_path, "echo x 1 0 0 - 1 0 0 -")) is None
