"""Who, when, what and with what: the particulars of a report, from run manifests and the machine."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onnxviz.network import Network

# What decides how integers are multiplied: without VNNI, products of 8 bits may saturate in 16.
_FEATURES: Final = (
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx_vnni", "AVX-VNNI"),
    ("amx_int8", "AMX int8"),
    ("asimddp", "dot product"),
    ("i8mm", "int8 matrices"),
)
# Those that add up products of 8-bit codes in 32 bits at once.
_SUMS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


def now() -> datetime:
    """The time of a run, in UTC; where SOURCE_DATE_EPOCH is set, as for reproducible builds, that time."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(given), UTC) if given.isdecimal() else datetime.now(UTC)


def machine() -> dict[str, Any]:
    """What computes here: system, architecture, cores and the processor's instructions for integers; no names.

    vnni   whether it adds up products of 8-bit codes in 32 bits at once; None where that cannot be told
    """
    try:
        told = Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        told = ""
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", told, re.MULTILINE)).split())
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "instructions": [name for flag, name in _FEATURES if flag in flags],
        "vnni": bool(flags & _SUMS) if flags else None,
    }


def from_here(path: str | os.PathLike[str]) -> str:
    """A path from the folder that the command runs in; of a file that lies elsewhere its name alone."""
    found = Path(path)
    if found.is_absolute() and found.is_relative_to(Path.cwd()):
        found = found.relative_to(Path.cwd())
    return found.name if found.is_absolute() or ".." in found.parts else str(found)


def file_of(net: Network) -> str:
    """The path of a network's file from here; what the network is called where it came from memory."""
    source = net._loaded.source
    return from_here(source) if Path(source).is_file() else net.name


def facts(networks: Mapping[str, Mapping[str, Any]], *, by: str | None = None, **more: Any) -> dict[str, Any]:
    """The particulars as a page lists them.

    networks   run manifests (`Network.manifest`), by what the page calls the file: 'network', or 'A' and 'B'
    by         who signs
    more       what else there is to say (photos, seed); None is left out
    """
    told: dict[str, Any] = {}
    for name, manifest in networks.items():
        model = manifest["model"]
        opset = ", ".join(f"{domain or 'opset'} {version}" for domain, version in model["opset"].items())
        maker = f", {model['producer']}" if model.get("producer") else ""
        told |= {name: f"{model['name']} ({opset}{maker})", f"{name}, SHA-256": model["sha256"]}
    first = next(iter(networks.values()), {})
    versions = dict(first.get("versions", {}))
    here = machine()
    told |= {**more, "made by": by, "onnxviz": versions.pop("onnxviz", None)}
    runtime = versions.pop("onnxruntime", None)
    told["ONNX Runtime"] = runtime and f"{runtime}, {first['provider']}"
    where = f"{here['system']} on {here['architecture']}", f"{here['cores']} cores"
    told |= {**versions, "machine": ", ".join([*where, *here["instructions"]])}
    return {name: value for name, value in told.items() if value is not None}
