"""The doctor's checks of the network, against servers on loopback; and how two hosts try to reach each other."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from glacierhpc.errors import GlacierError
from glacierhpc.hpc.doctor import meeting, network
from glacierhpc.hpc.doctor import node as node_look
from tests.hpc.machines import made


class Answers(BaseHTTPRequestHandler):
    """Answers HEAD with the number in the path; as a proxy, with what it was told to."""

    def do_HEAD(self) -> None:  # noqa: N802
        code = 204 if self.path.startswith("http://") else int(self.path.strip("/") or 200)
        self.send_response(code)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "status"), [("", "ok"), ("404", "ok"), ("405", "ok"), ("503", "warn"), ("407", "fail")]
)
def test_the_archive_answers(path: str, status: str, server: str, tmp_path: Path) -> None:
    found = network.archive(made(tmp_path, archive=f"http://{server}/{path}"))
    assert found.status == status, found


def test_the_archive_is_not_reached(closed_port: int, tmp_path: Path) -> None:
    address = f"http://user:secret@127.0.0.1:{closed_port}/?sig=secret"
    login = network.archive(made(tmp_path, archive=address))
    assert login.status == "fail" and "https_proxy" in login.fix
    node = network.archive(made(tmp_path, archive=address, role="compute"))
    assert node.status == "warn" and "use.network" in node.fix
    assert "secret" not in login.told + node.told
    assert network.archive(made(tmp_path)).status == "skip"
    assert network.archive(made(tmp_path, archive="s3://bucket")).status == "skip"


def test_the_proxy_is_used_unless_spared(server: str, closed_port: int, tmp_path: Path) -> None:
    by_proxy = made(tmp_path, archive="http://archive.invalid/", environ={"http_proxy": f"http://{server}"})
    found = network.archive(by_proxy)
    assert found.status == "ok" and "by the proxy (204)" in found.told
    nowhere = {"http_proxy": f"http://127.0.0.1:{closed_port}"}
    assert network.archive(made(tmp_path, archive=f"http://{server}/", environ=nowhere)).status == "fail"
    for names in ("localhost, 127.0.0.1", "*"):
        spared = nowhere | {"no_proxy": names}
        assert network.archive(made(tmp_path, archive=f"http://{server}/", environ=spared)).status == "ok"


@pytest.fixture(scope="module")
def vouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody but itself vouches for, and its key."""
    key, own = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, usage = (
        datetime.now(UTC),
        dict.fromkeys(USES, False) | {"key_cert_sign": True, "digital_signature": True},
    )
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = x509.CertificateBuilder(own, own, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = made.add_extension(x509.KeyUsage(**usage), critical=True).add_extension(here, critical=True)
    folder = tmp_path_factory.mktemp("vouched")
    (folder / "own.pem").write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    (folder / "own.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "own.pem", folder / "own.key"


USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def test_whom_the_user_trusts_is_believed(vouched: tuple[Path, Path], tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*vouched)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{running.server_address[1]}/"
        stranger = network.archive(made(tmp_path, archive=address))
        trusting = made(tmp_path, archive=address, environ={"REQUESTS_CA_BUNDLE": str(vouched[0])})
        believed = network.archive(trusting)
        running.shutdown()
    assert stranger.status == "fail" and "REQUESTS_CA_BUNDLE" in stranger.fix, stranger
    assert believed.status == "ok", believed


def test_something_that_does_not_speak_http(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answers() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail\r\n")

        threading.Thread(target=answers, daemon=True).start()
        found = network.archive(made(tmp_path, archive=f"http://127.0.0.1:{listening.getsockname()[1]}/"))
    assert found.status == "fail" and "is not reached" in found.told, found


def test_host_names_lead_to_addresses(tmp_path: Path) -> None:
    assert network.host_name(made(tmp_path, host="localhost", scheduler_needed=True)).status == "warn"
    assert network.host_name(made(tmp_path, host="localhost", role="compute")).status == "warn"
    assert network.host_name(made(tmp_path, host="localhost")).status == "skip"  # nobody is to reach it
    assert network.host_name(made(tmp_path, host="localhost", site={"interface": "lo"})).status == "ok"
    nameless: dict[str, Any] = {"host": "no-such-host.invalid"}
    assert network.host_name(made(tmp_path, **nameless)).status == "warn"  # enough for this machine alone
    assert network.host_name(made(tmp_path, **nameless, scheduler_needed=True)).status == "fail"
    assert network.host_name(made(tmp_path, **nameless, role="compute")).status == "fail"
    assert network.reached("n1", "10.0.0.7", None).status == "ok"


def test_the_interface_is_here(tmp_path: Path) -> None:
    assert network.interface(made(tmp_path)).status == "skip"
    assert network.interface(made(tmp_path, site={"interface": "lo"})).status == "ok"
    absent: dict[str, Any] = {"site": {"interface": "hsn0"}}
    assert network.interface(made(tmp_path, **absent)).status == "warn"
    node = network.interface(made(tmp_path, **absent, role="compute"))
    assert node.status == "fail" and "lo" in node.told  # those that are there


@pytest.fixture
def host(tmp_path: Path) -> Iterator[meeting.Host]:
    with closing(meeting.Host(tmp_path, "localhost", None)) as host:
        yield host


def test_host_and_node_meet(host: meeting.Host, tmp_path: Path) -> None:
    assert (tmp_path / "host.json").stat().st_mode & 0o077 == 0
    with closing(meeting.Node(tmp_path, "localhost", None)) as node:
        assert host.heard["host"] == "localhost" and abs(host.heard["heard"] - host.heard["time"]) < 60
        assert host.node()["refused"] == "" and host.node()["locked"] is True
        assert host.call_node() == ""
        node.wait()


def test_hosts_without_an_address_of_their_own_meet_by_the_folder(tmp_path: Path) -> None:
    """As where a login host's name leads to what stands before it: neither can listen there."""
    with closing(meeting.Host(tmp_path, "no-such-host.invalid", None)) as host:
        assert "no address of its own" in meeting_refusal(host)
        with closing(meeting.Node(tmp_path, "nor-this.invalid", None)) as node:
            assert "no address of its own" in host.node()["refused"] and host.node()["locked"] is True
            assert "no address of its own" in host.call_node()
            node.wait()  # for nobody


def meeting_refusal(host: meeting.Host) -> str:
    with pytest.raises(OSError, match="no-such-host") as refused:
        meeting.call(host.address, 0, host.word)
    return str(refused.value)


@pytest.mark.parametrize(("ahead_s", "status"), [(0, "ok"), (-600, "fail"), (600, "fail"), (60, "warn")])
def test_the_node_tells_its_time(ahead_s: float, status: str, host: meeting.Host, tmp_path: Path) -> None:
    known = json.loads((tmp_path / "host.json").read_text())
    meeting.call(known["address"], known["port"], known["word"], host="node", time=time.time() + ahead_s)
    visit = node_look._Visit(made(tmp_path), tmp_path, host)
    assert visit._clock({}).status == status


def test_host_and_node_do_not_meet(host: meeting.Host, tmp_path: Path) -> None:
    host.close()  # as behind a firewall, and on a file system without locks
    with closing(meeting.Node(tmp_path, "localhost", None)):
        assert "refused" in host.node()["refused"] and host.node()["locked"] is False
        assert host.heard == {} and host.call_node() == ""
    assert host.call_node() != ""


def test_only_who_knows_the_word_is_heard(host: meeting.Host, tmp_path: Path) -> None:
    known = json.loads((tmp_path / "host.json").read_text())
    with pytest.raises((OSError, ValueError)):
        meeting.call(known["address"], known["port"], "guessed", host="evil")
    for said in (b"", b"\n", b"[]\n", b'"x"\n', b"null\n", b"\xff\n", b"[" * 3000 + b"\n", b"x" * 10_000):
        stranger = socket.create_connection((known["address"], known["port"]), timeout=30)
        with stranger, suppress(OSError):
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
    assert host.heard == {}
    meeting.call(known["address"], known["port"], known["word"], host="node")  # it is still there
    assert host.heard["host"] == "node"


def test_a_folder_that_is_not_shared_is_told(tmp_path: Path) -> None:
    with pytest.raises(GlacierError, match="is not seen"):
        meeting.Node(tmp_path / "none", "localhost", None)
