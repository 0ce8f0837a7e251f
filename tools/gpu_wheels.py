"""Carry large wheels to a machine without a network in pieces: python3 tools/gpu_wheels.py split|join FOLDER

split   cuts every wheel of FOLDER that is larger than a piece into FOLDER/NAME.whl.000, .001, ... and removes it
join    puts the pieces in FOLDER together again; a wheel that is not complete is named, with what is there
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

PIECE = 34 << 20  # with the checkout's own files under 64 MiB


def split(folder: Path) -> None:
    for wheel in sorted(folder.glob("*.whl")):
        data = wheel.read_bytes()
        if len(data) <= PIECE:
            continue
        for number, start in enumerate(range(0, len(data), PIECE)):
            Path(f"{wheel}.{number:03}").write_bytes(data[start : start + PIECE])
        Path(f"{wheel}.sha256").write_text(hashlib.sha256(data).hexdigest())
        wheel.unlink()


def join(folder: Path) -> None:
    for wanted in sorted(folder.glob("*.whl.sha256")):
        wheel = wanted.with_suffix("")
        pieces = sorted(folder.glob(wheel.name + ".[0-9][0-9][0-9]"))
        data = b"".join(piece.read_bytes() for piece in pieces)
        if hashlib.sha256(data).hexdigest() != wanted.read_text().strip():
            sys.exit(f"{wheel.name} is not whole: {len(pieces)} pieces, {len(data)} bytes")
        wheel.write_bytes(data)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("split", "join"):
        sys.exit(__doc__)
    {"split": split, "join": join}[sys.argv[1]](Path(sys.argv[2]))
