"""Who may take part in a cluster: certificates of one run, in a folder that only its user can enter.

The authority that signs them lives in memory and signs nobody else; what workers need lies in files, and goes with the
run. Folders that a killed run has left are removed by the next one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from distributed import Security

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.cluster import owned

PREFIX = ".tls-"
VALID = timedelta(days=30)
"""Longer than a step may take; the folder is gone long before."""
SKEW = timedelta(hours=1)
"""By how much the clock of a node may be behind."""


@dataclass(frozen=True)
class Credentials:
    """What the processes of one cluster know each other by."""

    folder: Path
    security: Security
    """Of scheduler and client in memory, of workers as paths."""

    def touch(self) -> None:
        """Say that the run is alive, to whoever sweeps; to be called more often than every `owned.STALE_S`."""
        owned.touch(self.folder)


@contextmanager
def credentials(parent: Path) -> Iterator[Credentials]:
    """Make certificates for a cluster in a new folder below `parent`, and remove them at the end.

    Raises
    ------
    InputError
        If the file system lets others into the folder.
    GlacierError
        If it cannot be written.
    """
    owned.sweep(parent, PREFIX)
    folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as err:
        raise GlacierError(f"{folder} cannot be made: {err.strerror}; name another cluster folder") from err
    try:
        refuse_open(folder)
        owned.own(folder)
        yield Credentials(folder, _security(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_open(folder: Path) -> None:
    """Refuse a folder that is another's, or that others can look into.

    Raises
    ------
    InputError
        If it is.
    """
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid() or mode & 0o077:
        raise InputError(
            f"keys cannot be kept in {folder}: mode {mode:04o}, user {found.st_uid}; others could read them. Use a "
            "file system that keeps a folder at mode 0700, by run_dir=..."
        )


def _security(folder: Path) -> Security:
    authority = _Authority()
    pairs = {role: authority.sign(role) for role in ("client", "scheduler", "worker")}
    for name, text in {"ca.pem": authority.certificate, "worker.pem": pairs["worker"][0],
                       "worker.key": pairs["worker"][1]}.items():  # fmt: skip
        _write(folder / name, text)
    return Security(
        require_encryption=True,
        tls_ca_file=str(folder / "ca.pem"),
        tls_worker_cert=str(folder / "worker.pem"),
        tls_worker_key=str(folder / "worker.key"),
        tls_client_cert=pairs["client"][0],
        tls_client_key=pairs["client"][1],
        tls_scheduler_cert=pairs["scheduler"][0],
        tls_scheduler_key=pairs["scheduler"][1],
    )


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        file.write(text)


class _Authority:
    """A certificate authority whose key is in memory only."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"glacierhpc {secrets.token_hex(8)}")]
        )
        own = _builder(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = self._signed(own)

    def sign(self, role: str) -> tuple[str, str]:
        """Return a new certificate for a role, and its key."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, role)])
        uses = [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
        if role != "client":  # a client's certificate does not do to pose as a scheduler or worker
            uses.append(x509.ExtendedKeyUsageOID.SERVER_AUTH)
        wanted = (
            _builder(name, self._name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        )
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._signed(wanted), text.decode()

    def _signed(self, builder: Any) -> str:
        from cryptography.hazmat.primitives import hashes, serialization

        made = builder.sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()


def _builder(subject: Any, issuer: Any, public_key: Any) -> Any:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + VALID)
    )
