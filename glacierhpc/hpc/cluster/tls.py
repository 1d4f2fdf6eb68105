"""Who may take part in a cluster: certificates of one run, in a folder that only its user can enter.

The authority that signs them lives in memory and signs nobody else; what workers need lies in files, and goes with the
run. Folders that a killed run has left are removed by the next one.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from distributed import Security

from glacierhpc.errors import GlacierError, InputError

log = logging.getLogger(__name__)

PREFIX = ".tls-"
OWNER = "owner.json"
VALID = timedelta(days=30)
"""Longer than a step may take; the folder is gone long before."""
SKEW = timedelta(hours=1)
"""By how much the clock of a node may be behind."""
STALE_S = 3600.0
"""A folder of another machine that nobody has touched for so long is of a dead run; see `touch`."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Credentials:
    """What the processes of one cluster know each other by."""

    folder: Path
    security: Security
    """Of scheduler and client in memory, of workers as paths."""

    def touch(self) -> None:
        """Say that the run is alive, to whoever sweeps; to be called more often than every `STALE_S`."""
        (self.folder / OWNER).touch()


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
    sweep(parent)
    folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as err:
        raise GlacierError(f"{folder} cannot be made: {err.strerror}; name another cluster folder") from err
    try:
        refuse_open(folder)
        _write(folder / OWNER, json.dumps(_this_process()))
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


def sweep(parent: Path) -> list[Path]:
    """Remove what dead runs have left below `parent`, and return it."""
    swept = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        if not folder.is_symlink() and folder.is_dir() and is_dead(folder):
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
            log.info("removed %s, which a dead run had left", folder)
    return swept


def is_dead(folder: Path) -> bool:
    """Return whether the process that made a folder of certificates is gone."""
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        untouched_s = _now_there(folder) - (folder / OWNER).stat().st_mtime
    except (OSError, ValueError):
        # the folder is made before the file: not within one second of the other
        return _older_than(folder, 60.0)
    if not isinstance(owner, dict):
        return untouched_s > STALE_S
    if (owner.get("host"), owner.get("boot")) == (_this_process()["host"], _this_process()["boot"]):
        return _started(int(owner.get("pid", 0))) != owner.get("started")
    return untouched_s > STALE_S


def _older_than(folder: Path, seconds: float) -> bool:
    try:
        return _now_there(folder.parent) - folder.stat().st_mtime > seconds
    except OSError:
        return False


def _now_there(folder: Path) -> float:
    """Return the time by the clock of the file system, which is not that of this machine."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


def _this_process() -> dict[str, Any]:
    boot = BOOT.read_text(encoding="ascii").strip() if BOOT.is_file() else ""
    return {
        "host": socket.gethostname(), "boot": boot, "pid": os.getpid(), "started": _started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
    }  # fmt: skip


def _started(pid: int) -> str | None:
    """Return when a process was started, in the kernel's own count; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]  # field 22 of proc(5), counted from the one after the name


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
