"""What of this machine's processor a comparison has to know."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What of this machine's processor matters to sums of codes.

    vnni       whether it adds up products of 8-bit codes in 32 bits at once; None where that cannot be told
    features   those of its features that decide that
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    flags = {
        word
        for line in text.splitlines()
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    sums = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
    return {
        "architecture": platform.machine().lower(),
        "features": [one for one in known if one in flags],
        "vnni": bool(flags & sums) if flags else None,
    }
