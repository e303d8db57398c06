"""Origin: where and with what something was computed, and how several differ. No torch in here."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

UNLIKE = "not all stages were computed alike: "  # how the doubt begins that is raised where stages of a run differ so


class Origin(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """versions: of packages. git: the revision of the code. device: as torch writes it. host: system, machine, processor,
    cores and, on CUDA, the accelerator. What is not known is empty."""

    versions: dict[str, str] = {}
    git: str = ""
    device: str = ""
    host: dict[str, Any] = {}


class Apart(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What some stages of a record have of their own, beside what all have in common."""

    stages: list[str]
    origin: Origin


UNTOLD = Origin()


def present(device: str, accelerator: str = "") -> Origin:
    """That of what this process computes on a device; accelerator: its name."""
    return Origin(versions(), git_revision(), device, host() | ({"accelerator": accelerator} if accelerator else {}))


def joined(common: Origin, own: Origin) -> Origin:
    versions, host = common.versions | own.versions, common.host | own.host
    return Origin(versions, own.git or common.git, own.device or common.device, host)


def united(origins: Mapping[str, Origin]) -> tuple[Origin, list[Apart]]:
    """What all have in common, and what else some have: nothing where they are equal. `joined` brings each back."""
    common = functools.reduce(_shared, origins.values()) if origins else UNTOLD
    apart: list[Apart] = []
    for name, origin in origins.items():
        own = _beside(origin, common)
        alike = next((group for group in apart if group.origin == own), None)
        if alike is None:
            apart.append(Apart([name], own))
        else:
            alike.stages.append(name)
    return common, apart if len(apart) > 1 else []


def _shared(one: Origin, other: Origin) -> Origin:
    def same(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in a.items() if k in b and b[k] == v}

    git, device = one.git if one.git == other.git else "", one.device if one.device == other.device else ""
    return Origin(same(one.versions, other.versions), git, device, same(one.host, other.host))


def _beside(origin: Origin, common: Origin) -> Origin:
    versions = {k: v for k, v in origin.versions.items() if k not in common.versions}
    host = {k: v for k, v in origin.host.items() if k not in common.host}
    return Origin(versions, "" if common.git else origin.git, "" if common.device else origin.device, host)


def in_words(origin: Origin) -> str:
    host = dict(origin.host)
    device = f"{origin.device} ({host.pop('accelerator')})" if origin.device and "accelerator" in host else origin.device
    revision = f"revision {origin.git}" if origin.git else ""
    parts = (device, *_pairs(origin.versions), revision, *_pairs(host))
    return ", ".join(part for part in parts if part) or "not recorded"


def _pairs(found: Mapping[str, Any]) -> Iterable[str]:
    return (f"{name} {value}" for name, value in found.items())


def differences(apart: Iterable[Apart]) -> str:
    """Which stages were computed where and with what, as far as they differ; nothing where they do not."""
    return _grouped({stage: in_words(group.origin) for group in apart for stage in group.stages})


def unlike(what: str, origins: Mapping[str, Iterable[Origin]]) -> list[str]:
    """A doubt where not all names (`what` they are, in plural) stand on the same version of torch and kind of device."""
    kinds = {name: " and ".join(sorted({_kind(o) for o in several} - {""})) for name, several in origins.items()}
    known = {name: kind for name, kind in kinds.items() if kind}
    return [f"not all {what} were computed alike: {_grouped(known)}"] if len(set(known.values())) > 1 else []


def _kind(origin: Origin) -> str:
    """Without the build of torch, and the number of the device."""
    torch, device = origin.versions.get("torch", "").partition("+")[0], origin.device.partition(":")[0]
    return f"torch {torch} on {device}" if torch and device else ""


def _grouped(said: Mapping[str, str]) -> str:
    """What is said of each name, once for all of which the same is; the most come last, as the rest."""
    groups: dict[str, list[str]] = {}
    for name, text in said.items():
        groups.setdefault(text, []).append(name)
    *few, most = sorted(groups.items(), key=lambda group: len(group[1])) or [("", [])]
    named = [(", ".join(names), text) for text, names in few]
    named += [(most[1][0] if len(most[1]) == 1 else "the rest", most[0])] if few else []
    return "; ".join(f"{names}: {text}" for names, text in named)


@functools.cache
def versions() -> dict[str, str]:
    """Of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("ostiary", "torch", "torch_geometric", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_revision() -> str:
    """The revision of the code that runs, with '+dirty' where files differ; empty outside a checkout."""
    here = Path(__file__).parent
    run = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    try:
        inside = run(["git", "ls-files", "--error-unmatch", Path(__file__).name])
        if inside.returncode != 0:
            return ""
        revision = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        dirty = run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{revision}+dirty" if dirty else revision


@functools.cache
def host() -> dict[str, Any]:
    found = {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
    }
    return {name: value for name, value in found.items() if value}


def _processor(listed: Path = Path("/proc/cpuinfo")) -> str:
    """The name of its model; empty where the system tells none."""
    try:
        named = re.search(r"^model name\s*: *(.+)$", listed.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor()
