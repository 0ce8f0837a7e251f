"""Freeze what onnxviz gives, and see what a change of the code changes: python3 tools/freeze.py write|compare FILE

    python3 tools/freeze.py write FILE --jobs 2          run everything, and keep what it gave (4 minutes)
    python3 tools/freeze.py compare --jobs 2             run everything again, and tell what differs from FILE
    python3 tools/freeze.py compare --groups masks --only rise     one group, and what a pattern finds in GROUP/CASE
    python3 tools/freeze.py compare OLD --with NEW       two files that were written before
    python3 tools/freeze.py list                         the groups

Without FILE: tools/freezing/reference.json. Floats may differ by --tolerance (1e-6) of their array's norm, pixels by
single levels; texts, integers, names and shapes not at all. --loose is for another machine: floats 1e-4, numbers in
texts nearly equal, no digests. --arrays DIR keeps whole arrays as .npy (`write`), or compares with those (`compare`).
--files DIR adds the .onnx files below a folder. --keep DIR keeps what each group gave, and begins there again.

Run it with the Python of the test environment (tools/test.py makes it). Ends with 1 where something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]
REFERENCE = ROOT / "tools" / "freezing" / "reference.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "compare", "list", "group"))
    parser.add_argument("file", nargs="?", default=str(REFERENCE))
    parser.add_argument("--with", dest="other", type=Path, help="compare: with this file, and run nothing")
    parser.add_argument("--only", default="", help="a pattern of GROUP/CASE")
    parser.add_argument(
        "--groups", default="", metavar="A,B", help="only these start at all (`list` names them)"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tolerance", type=float)
    parser.add_argument("--loose", action="store_true")
    parser.add_argument("--arrays", type=Path)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args(arguments)
    from freezing import cases, reference

    if options.what == "list":
        print(*cases.GROUPS, sep="\n")
        return 0
    if options.what == "group":
        return _group(options)
    if options.other is not None:
        return _compare(reference.load(Path(options.file)), reference.load(options.other), options, None)
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "arrays" if options.arrays and options.what == "compare" else options.arrays
        found = _run(options, arrays, Path(folder))
        if options.what == "write":
            reference.save(Path(options.file), found)
            print(f"{len(found)} cases, {Path(options.file).stat().st_size:,} bytes: {options.file}")
            return 0
        return _compare(reference.load(Path(options.file)), found, options, arrays)


# --- running --------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, arrays: Path | None, folder: Path) -> dict[str, Any]:
    """What every case that is asked for gave, each group in a process of its own."""
    from freezing import cases

    keep = options.keep or folder / "groups"
    keep.mkdir(parents=True, exist_ok=True)
    if arrays is not None:
        arrays.mkdir(parents=True, exist_ok=True)
    wanted = options.groups.split(",") if options.groups else list(cases.GROUPS)

    def run(name: str) -> dict[str, Any]:
        result = keep / f"{name}.json"
        if not result.exists():
            more = ["--only", options.only] if options.only else []
            more += ["--arrays", str(arrays)] if arrays is not None else []
            more += ["--files", str(options.files.resolve())] if options.files else []
            start = time.monotonic()
            subprocess.run(
                [sys.executable, __file__, "group", name, "--keep", str(keep), *more],
                check=True, env=cases.environment(), cwd=folder, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        return json.loads(result.read_text(encoding="utf-8"))

    with ThreadPoolExecutor(options.jobs) as pool:
        parts = list(pool.map(run, wanted))
    return {name: told for part in parts for name, told in part.items()}


def _group(options: argparse.Namespace) -> int:
    """One group, in this process."""
    from freezing.cases import GROUPS, Place
    from freezing.record import Recorder

    warnings.simplefilter("ignore")
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), options.files)
        recorder = Recorder({folder: "<folder>", str(ROOT): "<root>"}, options.arrays)
        for case, call in GROUPS[options.file](place):
            recorder.case = f"{options.file.rstrip('0123456789')}/{case}"
            if not re.search(options.only, recorder.case):
                continue
            try:
                value = call()
            except Exception as error:
                value = error
            told[recorder.case] = recorder.tell(value)
    part = options.keep / f"{options.file}.part"
    part.write_text(json.dumps(told), encoding="utf-8")
    part.replace(options.keep / f"{options.file}.json")
    return 0


# --- comparing ------------------------------------------------------------------------------------


def _compare(
    old: dict[str, Any], new: dict[str, Any], options: argparse.Namespace, arrays: Path | None
) -> int:
    from freezing.cases import GROUPS
    from freezing.reference import Differences

    tolerance = options.tolerance if options.tolerance is not None else 1e-4 if options.loose else 1e-6
    differences = Differences(tolerance, 5e-3 if options.loose else min(1e-4, tolerance * 100), options.loose)
    differences.folders = (options.arrays, arrays) if arrays is not None and options.arrays else None
    left_out = [
        name.rstrip("0123456789")
        for name in GROUPS
        if options.groups and name not in options.groups.split(",")
    ]
    for name in sorted(old.keys() | new.keys()):
        if not re.search(options.only, name) or (
            name not in new and name.split("/")[0] in (*left_out, "files")
        ):
            continue
        if name not in new:
            differences.found.append((name, "the case is gone"))
        elif name not in old:
            differences.notes.append((name, "the case is new"))
        else:
            differences.compare(name, old[name], new[name])
    for title, entries in (("note", differences.notes), ("DIFFERS", differences.found)):
        for name, text in entries:
            print(f"{title}  {name}: {text}")
    print("; ".join(f"{number:,} {what}" for what, number in sorted(differences.counts.items())))
    print(
        f"largest relative difference of a float array: {differences.largest:.1e}; {len(differences.found)} differences"
    )
    return 1 if differences.found else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
