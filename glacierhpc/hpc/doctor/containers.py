"""Checks of what runs images: the program and its version, how it gets its rights, the image itself."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.apptainer import (
    FIXES,
    KEYRING,
    Runtime,
    architecture,
    by_profile,
    fakeroot_rung,
    version_of,
)
from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unheard, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine, words_of
from glacierhpc.hpc.slurm.client import Answer

NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What images call a machine, where that is another name than the kernel's."""


def runtime(m: Machine) -> Finding:
    """Look for the program that runs images, and whether it is new enough."""
    if m.inside:
        return skip("this runs in a container already")
    if m.site.container == "none":
        return skip(f"{m.site.title} runs no images")
    found = m.runtime()
    if found is None:
        told = f"no {m.site.container or 'apptainer or singularity'} on the path"
        fix = "try: module load apptainer (or singularity), or ask the site for it"
        return fail(told, fix) if m.image else skip(f"{told}; jobs run in an environment of Python")
    said = m.ask(found.path, "--version")
    try:
        version = version_of(said.out)
    except GlacierError:
        return warn(f"{found.path} does not tell its version: {words_of(said)}", "try it by hand")
    # the name singularity is Apptainer's, too, where both are wanted
    name = "singularity" if "singularity" in said.out.lower() else "apptainer"
    return _judged(Runtime(found.path, name, version), said.out.strip())


def _judged(found: Runtime, told: str) -> Finding:
    if not found.unprivileged:
        return warn(
            f"{told} is old: it runs images only where it is installed with root's rights",
            "ask the site for Apptainer 1.2 or newer; build the image elsewhere, and copy it",
        )
    if not found.builds:
        return warn(
            f"{told} runs images, but cannot build from deeplearning.def: it does not know --build-arg",
            "build the image elsewhere, and copy it; or ask the site for Apptainer 1.2 or newer",
        )
    return ok(told)


def fakeroot(m: Machine) -> Finding:
    """Say by which rung of Apptainer's ladder an ordinary user runs and builds images here, and try it."""
    if m.inside:
        return skip("this runs in a container already")
    if m.runtime() is None and not m.image:
        return skip("there is nothing that runs images")
    rung = fakeroot_rung(m.user, root=m.root)
    tried = m.ask("unshare", "--user", "--map-root-user", "true", timeout_s=5)
    if finding := unheard(tried):
        return finding
    # what AppArmor lets one program do says nothing of another
    refused = not (tried.ok or tried.missing or by_profile(m.root))
    if rung in ("subuid", "user namespace") and refused:
        return fail(f"user namespaces are allowed, but cannot be made: {words_of(tried)}", FIXES["none"])
    if rung == "none":
        return fail(f"no way: {_switched_off(m)}", FIXES["none"]) if m.image else warn(
            f"no way: {_switched_off(m)}", FIXES["none"]
        )  # fmt: skip
    if rung == "setuid":
        return warn("by root's rights of the program (setuid)", FIXES["setuid"])
    if rung == "user namespace":
        helped = ", with the fakeroot command" if m.which("fakeroot") else ""
        return warn(f"by a user namespace without subordinate ids{helped}", FIXES["user namespace"])
    absent = [name for name in ("newuidmap", "newgidmap") if m.which(name) is None]
    if absent:
        return warn(
            f"subordinate ids are there, {' and '.join(absent)} not",
            "ask the site to install the package uidmap (shadow-utils); builds work for most packages without",
        )
    return ok("by subordinate ids (subuid): images run, and build with --fakeroot")


def _switched_off(m: Machine) -> str:
    switches = {
        "proc/sys/user/max_user_namespaces": "0",
        "proc/sys/kernel/unprivileged_userns_clone": "0",
        "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
    }
    off = [name for name, value in switches.items() if m.text(name).strip() == value]
    return ", ".join(f"{name.removeprefix('proc/sys/').replace('/', '.')} = {switches[name]}" for name in off)


def fuse(m: Machine) -> Finding:
    """Look for what mounts an image without root's rights; without it every start unpacks the image first."""
    if m.inside or (m.runtime() is None and not m.image):
        return skip("there is nothing that mounts images")
    if fakeroot_rung(m.user, root=m.root) == "setuid":
        return skip("the program mounts images with root's rights")
    device = m.path("dev/fuse")
    if not device.exists() or not os.access(device, os.R_OK | os.W_OK):
        return warn(
            f"/dev/fuse {'may not be opened' if device.exists() else 'is not there'}: every start unpacks the image",
            "ask the site for the kernel module fuse and /dev/fuse for all; or unpack once: apptainer build --sandbox",
        )
    return ok("/dev/fuse may be opened")


def image(m: Machine) -> Finding:
    """Look whether the image is there, may be read, and is for this kind of machine."""
    if m.image is None:
        return skip("none is named: jobs run in an environment of Python")
    path = Path(m.expanded(m.image))
    build = "build it: make build-container; or name another: --set image=PATH, GLACIERHPC_IMAGE"
    if not path.exists():
        seen = " from this node; put it on a file system that all nodes share" if m.role == "compute" else ""
        return fail(f"{path} is not there{seen}", build)
    if path.is_dir():
        return warn(
            f"{path} is a folder (sandbox): tens of thousands of small files",
            "build one file: glacierhpc container build",
        )
    if not os.access(path, os.R_OK):
        return fail(f"{path} may not be read", f"chmod a+r {path}, and a+x the folders above it")
    return _of_kind(path, platform.machine())


def _of_kind(path: Path, machine: str) -> Finding:
    """Judge an image file by what its head says."""
    try:
        made_for = architecture(path)
    except InputError:
        return fail(f"{path} is no image (SIF): it is damaged, or something else", "build or copy it again")
    machine = NAMES.get(machine, machine)
    if made_for != machine:
        return fail(
            f"{path} is for {made_for}, this machine is {machine}", f"build it on a machine of {machine}"
        )
    return ok(f"{path} ({path.stat().st_size / 2**30:.1f} GiB, {made_for})")


def signature(m: Machine) -> Finding:
    """Check the signatures of the image."""
    found = m.runtime()
    if m.image is None or found is None or not Path(m.expanded(m.image)).is_file():
        return skip("there is no image")
    keys = [m.key] if m.key else m.site.signed_by or [KEYRING]
    for key in keys:
        # without a key of one's own no key server is asked, either
        by = ["--local"] if key == KEYRING else ["--key", m.expanded(key)]
        answer = m.ask(found.path, "verify", *by, m.expanded(m.image), timeout_s=50 / len(keys))
        if answer.ok:
            return ok(f"signed, by {'a key of your keyring' if key == KEYRING else 'the key ' + key}")
    return _unsigned(m, found, answer)


def _unsigned(m: Machine, found: Runtime, answer: Answer) -> Finding:
    """Judge what was said of an image whose signature is not known to be right."""
    said = answer.err + answer.out
    if answer.code is None:
        return unheard(answer) or unknown(f"not checked: {words_of(answer)}")
    if m.site.signed_by:
        told = f"none of signed_by has signed the image, and jobs refuse it: {words_of(answer)}"
        return fail(told, f"name another image, or have it signed: glacierhpc container sign {m.image}")
    if re.search(r"signature not found|not signed|no signatures", said, re.I):
        return warn(
            "the image is not signed", f"{found.name} sign {m.image}; nothing shows a change otherwise"
        )
    if re.search(r"key material not provided", said, re.I):
        return warn("signed by a key in a file, which is not named here", "name it: --key PUBLIC.pem")
    if re.search(r"unknown authority|not found in|public key|entity not found|unknown entity", said, re.I):
        return warn(
            f"signed by a key that is not known here: {words_of(answer)}", f"{found.name} key import FILE"
        )
    return fail(f"the signature is wrong: {words_of(answer)}", "do not use it; copy or build it again")


def same_image(m: Machine) -> Finding:
    """Compare the image with the one that a run was begun in."""
    begun = re.search(r'"container_digest":\s*"(\w+)"', _provenance(m))
    if begun is None:
        return skip("no run in an image is here")
    if m.image is None:
        return fail("the run was begun in an image, and none is named now", "name it: --set image=PATH")
    answer = _labels(m)
    label = re.search(r'"glacierhpc\.image-id":\s*"(\w+)"', answer.out)
    if label is None:
        told = unknown("the image does not tell what it is", "look at the finding about the image first")
        return unheard(answer) or told
    now = label[1]
    if now != begun[1]:
        return fail(
            f"the run was begun in another image ({begun[1][:12]}, now {now[:12]})",
            "go on with that image, or begin a new run: name=NEW; if you mean it: allow_another_image=true",
        )
    return ok(f"that of the run ({now[:12]})")


def _labels(m: Machine) -> Answer:
    """Ask an image for its labels, of which runs keep one on record."""
    found = m.runtime()
    if found is None:
        return Answer(("apptainer",), None, missing=True)
    return m.ask(found.path, "inspect", "--json", "--labels", m.expanded(m.image or ""), timeout_s=30)


def _provenance(m: Machine) -> str:
    path = m.folder / "provenance.json"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def libraries(m: Machine) -> Finding:
    """Compare the C libraries of image and machine: with a GPU the machine's driver runs on the image's."""
    if m.image is None:
        return skip("no image is named")
    if not m.has_gpu:
        return skip("no GPU driver is to be shown to the image")
    answer = m.ask_python("import platform; print(platform.libc_ver()[1])", timeout_s=50)
    here = platform.libc_ver()[1]
    if not answer.ok or not answer.out.strip():
        told = unknown(f"the image does not tell: {words_of(answer)}", "look at the image first")
        return unheard(answer) or told
    return compared(answer.out.strip(), here)


def compared(inside: str, here: str) -> Finding:
    """Judge two releases of the C library, of the image and of the machine."""
    try:
        older = version_of(inside)[:2] < version_of(here)[:2]
    except GlacierError:
        return unknown(f"C library {inside!r} in the image, {here!r} on the machine")
    if older:
        return warn(
            f"the image's C library ({inside}) is older than the machine's ({here})",
            "if programs in the image end with GLIBC_... not found: build it on a newer base (--build-arg FROM=...)",
        )
    return ok(f"C library {inside} in the image, {here} on the machine")


def space_for_builds(m: Machine) -> Finding:
    """Look for room where images are unpacked while they are built."""
    found = m.runtime()
    if found is None or m.role == "compute":
        return skip("no image is built here")
    named = (m.environ.get(name) for name in ("APPTAINER_TMPDIR", "SINGULARITY_TMPDIR", "TMPDIR"))
    folder = next(filter(None, named), "/tmp")
    try:
        free_gb = shutil.disk_usage(folder).free / 2**30
    except OSError as err:
        return warn(f"{folder}: {err.strerror}", "set APPTAINER_TMPDIR to a folder with 20 GiB")
    if free_gb < BUILD_GB:
        return warn(
            f"{folder} has {free_gb:.0f} GiB, a build takes up to {BUILD_GB}",
            f"set APPTAINER_TMPDIR to a folder on a local disk with {BUILD_GB} GiB",
        )
    return ok(f"{folder} has {free_gb:.0f} GiB")


BUILD_GB = 20
"""The unpacked image with the CUDA libraries of torch, and the packed one beside it."""
