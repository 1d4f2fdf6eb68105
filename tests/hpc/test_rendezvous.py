"""The store by which Horovod's processes find each other: values come back, and it ends with whoever started it."""

from __future__ import annotations

import http.client
import subprocess
import sys
from pathlib import Path

import pytest

from glacierhpc.errors import InputError
from glacierhpc.hpc.rendezvous import MAX_VALUE_BYTES, address_of

ROOT = Path(__file__).resolve().parents[2]


def test_values_come_back_and_it_ends_with_its_owner() -> None:
    command = [sys.executable, "-m", "glacierhpc", "rendezvous", "--address", "localhost"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        address, port = server.stdout.readline().split()
        host, key = address.split("/")
        assert host == f"127.0.0.1:{port}"
        connection = http.client.HTTPConnection(host, timeout=10)
        value = bytes(range(256))

        def asked(method: str, name: str, body: bytes | None = None, *, key: str = key) -> tuple[int, bytes]:
            connection.request(method, f"/{key}:{port}{name}", body)  # as Horovod puts it together
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert asked("GET", "/global/0")[0] == 404
        assert asked("PUT", "/global/0", value)[0] == 200
        assert asked("GET", "/global/0") == (200, value)
        for method in ("GET", "PUT", "DELETE"):  # by who does not know the key
            assert asked(method, "/global/0", b"another", key=key[:-1])[0] == 403
            assert asked(method, "/global/0", b"another", key="")[0] == 403
        assert asked("GET", "/global/0") == (200, value)
        assert asked("DELETE", "/global/0")[0] == 200 and asked("GET", "/global/0")[0] == 404
        connection.putrequest("PUT", f"/{key}:{port}/global/0")
        connection.putheader("Content-Length", str(MAX_VALUE_BYTES + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
        server.stdin.close()
        assert server.wait(20) == 0


def test_an_interface_has_an_address_or_is_named() -> None:
    assert address_of("nowhere", "lo") == "127.0.0.1"
    with pytest.raises(InputError, match=r"network interface 'ib7' has no address here.*\blo\b"):
        address_of("localhost", "ib7")
    with pytest.raises(InputError, match="host 'no.such.host.invalid' has no address"):
        address_of("no.such.host.invalid")
