"""Checks of the network: this machine's name and interface, and the archive that the user has named."""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress

from glacierhpc.errors import InputError, redact
from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, warn
from glacierhpc.hpc.doctor.machine import Machine
from glacierhpc.hpc.rendezvous import address_of


def host_name(m: Machine) -> Finding:
    """Look whether this machine's own name leads to an address that others reach."""
    alone = m.role == "login" and not m.scheduler_needed
    try:
        found = socket.getaddrinfo(m.host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as err:
        told = f"{m.host} has no address ({err})"
        fix = "workers tell each other their names: --set interface=NAME, or tell the site (DNS, /etc/hosts)"
        return warn(told, fix) if alone or m.site.interface else fail(told, fix)
    return reached(m.host, str(found[0][4][0]), m.site.interface, alone=alone)


def reached(host: str, address: str, interface: str | None, *, alone: bool = False) -> Finding:
    """Judge the address that a host's name leads to; `alone` where no other machine is to reach it."""
    if ipaddress.ip_address(address).is_loopback and not interface:
        if alone:
            return skip(f"{host} is {address}, enough to work on this machine")
        return warn(
            f"{host} is {address}, which no other machine reaches",
            "name the interface between nodes: --set interface=NAME (ip -brief address)",
        )
    return ok(f"{host} is {address}")


def interface(m: Machine) -> Finding:
    """Look whether the network interface of the site is here."""
    if m.site.interface is None:
        return skip("none is named: the address of the machine's name is used")
    try:
        return ok(f"{m.site.interface}: {address_of(m.host, m.site.interface)}")
    except InputError as err:
        fix = "name one that is here: --set interface=NAME"
        if m.role == "login":
            return warn(str(err), f"{fix}; it may be there on compute nodes only")
        return fail(str(err), fix)


def archive(m: Machine) -> Finding:
    """Ask the archive that the user has named for its head, by way of the user's proxy if there is one."""
    if m.archive is None:
        return skip("no CONFIG was given that names one")
    parts = urllib.parse.urlsplit(m.archive)
    if parts.scheme not in ("http", "https"):
        return skip(f"{redact(m.archive)} is not on the network")
    proxy = _proxy(m.environ, parts.scheme, parts.hostname or "")
    proxies = urllib.request.ProxyHandler({parts.scheme: proxy} if proxy else {})
    way = " by the proxy" if proxy else ""
    request = urllib.request.Request(m.archive, method="HEAD", headers={"User-Agent": "glacierhpc"})
    try:
        trusting = urllib.request.HTTPSHandler(context=_trusting(m))
        with urllib.request.build_opener(proxies, trusting).open(request, timeout=8) as answer:
            return ok(f"{parts.hostname} answers{way} ({answer.status})")
    except urllib.error.HTTPError as err:
        err.close()
        return _refused(str(parts.hostname), err.code, way)
    except (OSError, ValueError, http.client.HTTPException) as err:
        reason = getattr(err, "reason", err)
        told = f"{parts.hostname} is not reached{way}: {redact(str(reason))}"
        if isinstance(reason, ssl.SSLCertVerificationError):
            return fail(
                told, "name a file with the authorities of your site or proxy: REQUESTS_CA_BUNDLE=FILE"
            )
        return _unreached(m, told)


def _trusting(m: Machine) -> ssl.SSLContext:
    """Return whose certificates are believed: as where scenes are read, those that the user or requests names."""
    named = m.environ.get("REQUESTS_CA_BUNDLE") or m.environ.get("CURL_CA_BUNDLE")
    if not named:
        with suppress(ImportError):
            import certifi  # comes with requests, which a login node may be without

            named = certifi.where()
    folder = named is not None and os.path.isdir(named)
    return ssl.create_default_context(cafile=None if folder else named, capath=named if folder else None)


def _refused(host: str, code: int, way: str) -> Finding:
    """Judge an answer that is none to the question: to HEAD many interfaces say 404 or 405."""
    if code == 407:
        return fail(f"the proxy wants a password ({code})", "write it into https_proxy: ask the site how")
    if code >= 500:
        return warn(f"{host} answers{way}, but is not well ({code})", "try again later")
    return ok(f"{host} answers{way} ({code})")


def _unreached(m: Machine, told: str) -> Finding:
    if m.role == "login":
        return fail(
            told, "look at the address in the configuration, and whether a proxy is needed: https_proxy"
        )
    fix = "read where there is a network: --set use.network=PARTITION, or on a login node: glacierhpc run"
    return warn(told, fix)


def _proxy(environ: Mapping[str, str], scheme: str, host: str) -> str | None:
    proxy = environ.get(f"{scheme}_proxy") or environ.get(f"{scheme.upper()}_PROXY")
    spared = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    names = [name.strip().lstrip(".*") for name in spared if name.strip()]
    if "*" in map(str.strip, spared) or any(
        name and (host == name or host.endswith("." + name)) for name in names
    ):
        return None
    return proxy or None
