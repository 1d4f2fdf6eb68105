"""Quotas as commands tell them. Scripts stand for these: there is no Lustre or GPFS here."""

from __future__ import annotations

from pathlib import Path

import pytest

from glacierhpc.hpc.quota import TOLD, QuotaLeft, about, least, parse_quota, quota_left

KIB = 1024


GPFS = """\
mmlsquota::HEADER:version:reserved:reserved:filesystemName:quotaType:id:name:blockUsage:blockQuota:blockLimit:\
blockInDoubt:blockGrace:filesUsage:filesQuota:filesLimit:filesInDoubt:filesGrace:remarks:quota:defQuota:fid:filesetname:
mmlsquota::0:1:::work:USR:1001:me:3000:4000:5000:64:none:70:0:100:0:none::on:off:::
mmlsquota::0:1:::work:GRP:20:us:9000:0:9500:64:none:700:0:0:0:none::on:off:::
"""
SCALED = """\
Disk quotas for user me (uid 1001):
     Filesystem   space   quota   limit   grace   files   quota   limit   grace
  /dev/sda1         12M    500M   1024M            1200    2000    3k
server:/a/very/long/export/of/homes
                  1.5G*     1G      2G   6days     10k     20k     30k
"""
MIB = KIB**2


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/scratch 1000 0 5000 - 20 0 100 -\n", QuotaLeft(4000 * KIB, 80)),
        ("/scratch 6000* 5000 5500 6d23h 120* 0 100 none\n", QuotaLeft(0, 0)),
        ("/scratch 1000 0 0 - 20 0 0 -\n", None),
        # a long name is broken over two lines
        ("/pfs/lustrep1/a/very/long/name\n      1000  2000 0 - 20 0 100 -\n", QuotaLeft(1000 * KIB, 80)),
        ("/home 1000 0 3000 0 20 0 90 0\n", QuotaLeft(2000 * KIB, 70)),  # quota --raw-grace
        (SCALED, QuotaLeft(512 * MIB, 1800)),
        (GPFS, QuotaLeft(500 * KIB, 30)),
        ("Disk quotas for user me (uid 1001): none\n", None),
    ],
)
def test_what_is_left_of_quotas(text, left):
    found = parse_quota(text)
    assert found is not None and least(found) == left


@pytest.mark.parametrize(
    "text",
    ["quotactl failed\n", "", "used 5 of 10 TB\n", "home 1 2 3 4 5 6 7\n", GPFS.replace("9500", "9T"),
     "                         Block Limits\nFilesystem type KB quota limit\nwork USR 12 0 0 0 none\n"],
)  # fmt: skip
def test_what_is_not_understood_is_not_made_up(text):
    assert parse_quota(text) is None


def test_of_several_file_systems_that_of_the_folder_counts(tmp_path):
    text = f"/ 1 0 2 - 1 0 2 -\n{tmp_path} 10 0 30 - 5 0 25 -\n/other 1 0 1 - 1 0 1 -\n{tmp_path} 10 0 40 - 5 0 9 -\n"
    assert least(about(parse_quota(text) or [], tmp_path / "runs")) == QuotaLeft(20 * KIB, 4)


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
    assert quota_left(tmp_path / "runs" / "new", lfs=lfs) == QuotaLeft(2000 * KIB, 20)


def test_nothing_is_known_where_nobody_tells(tmp_path):
    assert quota_left(tmp_path, lfs="no-such-command-here") is None
    assert quota_left(tmp_path, lfs=script(tmp_path, "exit 1")) is None
    assert quota_left(tmp_path, lfs=script(tmp_path, "echo x 1 0 0 - 1 0 0 -")) is None


def test_a_site_has_a_command_of_its_own(tmp_path, caplog):
    """Its answer is that of the job script where the command is not there, as inside an image."""
    asked = script(tmp_path, '[ $# = 4 ] && [ "$2 $4" = "me x y" ] && echo "/ 10 0 30 - 5 0 25 -"')
    environ = {"WHO": "me"}
    assert quota_left(tmp_path, command=f"{asked} -u $WHO -f x y", environ=environ) is None
    assert "told 'nothing', which is none of lfs quota" in caplog.text
    left = quota_left(tmp_path / "new", command=f"{asked} -u $WHO -f 'x y'", environ=environ)
    assert left == QuotaLeft(20 * KIB, 20)
    handed_in = {TOLD: "/ 10 0 20 - 5 0 25 -"}
    for command in ("not-in-the-image", None):
        assert quota_left(tmp_path, command=command, environ=handed_in) == QuotaLeft(10 * KIB, 20)
    caplog.clear()
    assert quota_left(tmp_path, command=script(tmp_path, "echo all is well; exit 1"), environ={}) is None
    assert "told 'all is well'" in caplog.text
