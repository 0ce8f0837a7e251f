"""The file that a freeze is kept in, and what differs between two of them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ARRAY = "array: "  # begins what an array is written as
LEAST = 48  # characters from which what occurs twice is stored once
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")


# --- the file -------------------------------------------------------------------------------------


def save(path: Path, cases: dict[str, Any]) -> None:
    """One line a case; what occurs several times stands once, under a short name, in lines of its own."""
    cases = {name: _written(value) for name, value in sorted(cases.items())}
    counts: Counter[str] = Counter()

    def count(value: Any) -> None:
        text = _json(value)
        if isinstance(value, (dict, list, str)) and len(text) >= LEAST:
            counts[text] += 1
            if counts[text] > 1:
                return  # what it holds is stored with it
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            count(one)

    count(list(cases.values()))
    shared: dict[str, Any] = {}

    def packed(value: Any, top: bool = False) -> Any:
        text = _json(value)
        if not top and counts[text] > 1:
            name = digest(text)
            if name not in shared:
                shared[name] = None
                shared[name] = packed(value, top=True)
            return {"$": name}
        if isinstance(value, dict):
            return {key: packed(one) for key, one in value.items()}
        return [packed(one) for one in value] if isinstance(value, list) else value

    told = {name: packed(value, top=True) for name, value in cases.items()}
    lines = [f" {_json(name)}: {_json(one)}" for name, one in sorted(shared.items())]
    rows = [f" {_json(name)}: {_json(one)}" for name, one in told.items()]
    text = '{"shared": {\n' + ",\n".join(lines) + '\n},\n"cases": {\n' + ",\n".join(rows) + "\n}}\n"
    path.write_text(text, encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """The cases of a file, with everything in its place."""
    held = json.loads(path.read_text(encoding="utf-8"))
    shared = held["shared"]

    def full(value: Any) -> Any:
        if isinstance(value, dict):
            if len(value) == 1 and "$" in value:
                return full(shared[value["$"]])
            return {key: full(one) for key, one in value.items()}
        if isinstance(value, str) and value.startswith(ARRAY):
            return _read(value)
        return [full(one) for one in value] if isinstance(value, list) else value

    return {name: full(one) for name, one in held["cases"].items()}


def _written(value: Any) -> Any:
    """Arrays as a line each."""
    if isinstance(value, dict) and set(value) == {"array", "sha", "stats", "sums"}:
        numbers = " ".join(f"{one:.8g}" for one in (*value["stats"], *value["sums"]))
        return f"{ARRAY}{value['array']} {value['sha']} {numbers}"
    if isinstance(value, dict):
        return {key: _written(one) for key, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, list) else value


def _read(line: str) -> dict[str, Any]:
    kind, shape, sha, *numbers = line[len(ARRAY) :].split(" ")
    known = [float(one) for one in numbers]
    return {"array": f"{kind} {shape}", "sha": sha, "stats": known[:4], "sums": known[4:]}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def digest(text: str) -> str:
    from freezing.record import digest as of

    return of(text.encode())[:7]


# --- what differs ---------------------------------------------------------------------------------


@dataclass
class Differences:
    """What differs between two freezes.

    tolerance   of float arrays: the norm of the difference, by the array's norm; of numbers: by the number or by 1
    pictures    the same of uint8 arrays: single levels of single pixels pass
    loose       numbers within texts may differ as others do; digests and what `~` marks are not looked at
    """

    tolerance: float = 1e-6
    pictures: float = 1e-4
    loose: bool = False
    found: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    largest: float = 0.0
    folders: tuple[Path, Path] | None = None

    def compare(self, name: str, old: Any, new: Any) -> None:
        """Look at one value of a case and what is in it."""
        last = name.rpartition("/")[2]
        if last.startswith("~"):
            if old != new and not self.loose:
                self.notes.append((name, f"{_short(old)} -> {_short(new)}"))
        elif self.loose and last in ("sha256", "bytes", "sha"):
            return
        elif isinstance(old, dict) and isinstance(new, dict):
            if "array" in old and "array" in new:
                self._array(name, old, new)
                return
            for key in old:
                if key not in new:
                    self._say(f"{name}/{key}", f"is gone: {_short(old[key])}")
                else:
                    self.compare(f"{name}/{key}", old[key], new[key])
            for key in new.keys() - old.keys():
                self._say(f"{name}/{key}", f"is new: {_short(new[key])}")
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            for place, (one, other) in enumerate(zip(old, new, strict=True)):
                self.compare(f"{name}/{place}", one, other)
        elif isinstance(old, list) and isinstance(new, list):
            gone = [one for one in old if one not in new]
            more = [one for one in new if one not in old]
            self._say(name, f"{len(old)} -> {len(new)} entries; gone {_short(gone)}; new {_short(more)}")
        else:
            self._leaf(name, old, new)

    def _leaf(self, name: str, old: Any, new: Any) -> None:
        self.counts["values"] += 1
        if type(old) is type(new) and old == new:
            self.counts["values exactly equal"] += 1
        elif _real(old) and _real(new) and (isinstance(old, float) or isinstance(new, float)):
            if (gap := abs(old - new) / max(1.0, abs(old), abs(new))) > self.tolerance:
                self._say(name, f"{old!r} -> {new!r} (by {gap:.1e})")
        elif not (self.loose and isinstance(old, str) and isinstance(new, str) and self._alike(old, new)):
            self._say(name, f"{_short(old)} -> {_short(new)}")

    def _alike(self, old: str, new: str) -> bool:
        """Whether two texts are the same but for numbers that are nearly equal."""
        if NUMBER.sub("#", old) != NUMBER.sub("#", new):
            return False
        pairs = zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
        try:
            return all(
                math.isclose(float(a.replace(",", "")), float(b.replace(",", "")), rel_tol=0.02, abs_tol=0.02)
                for a, b in pairs
            )
        except ValueError:
            return False

    def _array(self, name: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        self.counts["arrays"] += 1
        if old == new:
            self.counts["arrays exactly equal"] += 1
            return
        if old["array"] != new["array"] or old.get("not finite") != new.get("not finite"):
            said = [f"{one['array']}, {one.get('not finite', 0)} not finite" for one in (old, new)]
            self._say(name, " -> ".join(said))
            return
        kind = old["array"].split()[0]
        if "values" in old:
            if kind.startswith(("str", "object", "<U")):
                self._say(name, f"{_short(old['values'])} -> {_short(new['values'])}")
                return
            before, after = (np.array(one["values"], np.float64) for one in (old, new))
            norm, gap = float(np.linalg.norm(before)), float(np.linalg.norm(before - after))
        else:
            norm = max(old["stats"][3], new["stats"][3])
            gap = float(np.sqrt(np.mean((np.array(old["sums"]) - np.array(new["sums"])) ** 2)))
            gap = max(gap, *(abs(a - b) for a, b in zip(old["stats"], new["stats"], strict=True)))
        # Integers may not differ at all, apart from pixels: a heat map's last digit moves single ones by one level.
        share = gap / max(norm, 1e-30)
        most = self.pictures if kind == "uint8" else self.tolerance if kind.startswith("float") else 0.0
        if kind == "float16":
            most = max(most, 1e-3 if self.loose else most)
        self.largest = max(self.largest, share if kind.startswith("float") else 0.0)
        if share > most:
            self._say(
                name, f"{old['array']} differs by {share:.1e} of its norm {norm:.6g}{self._exactly(name)}"
            )
        else:
            self.counts["arrays within the tolerance"] += 1

    def _exactly(self, name: str) -> str:
        """The largest difference, where both sides' arrays are at hand."""
        from freezing.record import array_file

        paths = [folder / array_file(name) for folder in self.folders or ()]
        if not paths or not all(path.exists() for path in paths):
            return ""
        before, after = (np.load(path).astype(np.float64) for path in paths)
        gap = np.abs(before - after)
        place = tuple(int(k) for k in np.unravel_index(np.nanargmax(gap), gap.shape))
        return f"; by {gap[place]:.3g} at {place}, {before[place]:.9g} -> {after[place]:.9g}"

    def _say(self, name: str, text: str) -> None:
        self.found.append((name, text))


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= 160 else text[:100] + " … " + text[-50:]
