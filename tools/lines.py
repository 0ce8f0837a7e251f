"""How large the house is, and how far a call goes in it: python3 tools/lines.py [lines|flow|operators|picture]

    lines       files and lines of each room of onnxviz/ and of tests/, against the budgets of the redesign
    flow        files that integrated gradients enter, calls and modules of `predict`, on the bundled network
    operators   package files that ask for an operator by name, the most named first; what writes nodes aside
    picture     writes docs/pictures/house.svg: which room imports which, floor by floor

Without a word: the first three. `flow` and `operators` need the test environment (tools/test.py makes it).
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

from environment import place

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnxviz"
# Row: the folders that are it, today's and those to come, and its budget of lines. `.` is the package's own folder.
BUDGETS: dict[str, tuple[tuple[str, ...], int]] = {
    "graph": (("graph",), 5200),
    "grad": (("grad",), 3400),
    "runtime, backends": (("runtime", "backends"), 2370),
    "image, figures": (("image", "figures"), 2400),
    "techniques": (
        ("attribution", "features", "synthesis"),
        8400,
    ),
    "comparing, auditing": (("comparing", "auditing"), 4000),
    "cli": (("cli",), 900),
    "demo, templates": (("demo", "templates"), 400),
    "exporting, objectives, root": (("exporting", "objectives", "."), 3300),
}
ALL, FILES, TESTS = 30_000, 140, 18_000
MOST_FILES = 5  # of the package, that may name one operator

# What is measured, in a process of its own: argument 1 says which. Prints two numbers.
PROBE = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
from skimage import data
package, what, folder = sys.argv[1:]
files, calls = set(), 0

def watch(frame, event, _):
    global calls
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package) and code.co_name != "<module>":
        files.add(code.co_filename)
        calls += 1

def measured(call):
    threading.setprofile(watch)
    sys.setprofile(watch)
    call()
    sys.setprofile(None)
    threading.setprofile(None)

if what in ("command", "predict command"):
    from PIL import Image
    from onnxviz.cli.main import run
    Image.fromarray(data.chelsea()).save(f"{folder}/cat.png")
    line = ["efficientnet-lite0", f"{folder}/cat.png", "--provider", "cpu", "-q"]
    more = ["-m", "integrated-gradients", "--steps", "4", "-o", f"{folder}/a.png"]
    measured(lambda: run(["saliency", *line, *more] if what == "command" else ["predict", *line]))
else:
    import onnxviz
    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    if what == "used":
        net.predict(data.chelsea())
    if what in ("open", "used"):
        measured(lambda: onnxviz.saliency(net, data.chelsea(), method="integrated-gradients", steps=4))
    else:
        measured(lambda: net.predict(data.chelsea()))
print(len(files), calls, sum(name.partition(".")[0] == "onnxviz" for name in sys.modules), file=sys.stderr)
"""


def main(arguments: list[str]) -> int:
    wanted = arguments or ["lines", "flow", "operators"]
    if set(wanted) - set(WORDS):
        print(__doc__)
        return 2
    if {"flow", "operators"} & set(wanted) and importlib.util.find_spec("onnx") is None:
        python = place("test")
        if not python.exists():
            print(
                "`flow` and `operators` need the test environment: python3 tools/test.py makes it",
                file=sys.stderr,
            )
            wanted = [name for name in wanted if name not in ("flow", "operators")]
        else:
            return subprocess.call([str(python), __file__, *wanted])
    for name in wanted:
        WORDS[name]()
        print()
    return 0


# --- lines ----------------------------------------------------------------------------------------


def sizes() -> dict[str, tuple[int, int]]:
    """(files, lines) of each row of the budgets; what belongs to none of them is a row of its own."""
    rooms = {folder: row for row, (folders, _) in BUDGETS.items() for folder in folders}
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".html", ".jinja", ".j2", ".css", ".js"):
            folder = path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else "."
            row = counted[rooms.get(folder, folder)]
            row[0] += 1
            row[1] += len(path.read_text(encoding="utf-8").splitlines())
    return {row: (files, count) for row, (files, count) in counted.items()}


def lines() -> None:
    found = sizes()
    print(f"{'room':30}{'files':>7}{'lines':>9}{'budget':>9}{'of it':>8}")
    rows = [
        (row, *found.get(row, (0, 0)), BUDGETS[row][1] if row in BUDGETS else 0)
        for row in (*BUDGETS, *(found.keys() - BUDGETS.keys()))
    ]
    rows.append(("onnxviz/", sum(row[1] for row in rows), sum(row[2] for row in rows), ALL))
    tests = [len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")]
    rows.append(("tests/", len(tests), sum(tests), TESTS))
    for row, files, count, budget in rows:
        print(f"{row:30}{files:7,}{count:9,}{budget:9,}" + (f"{count / budget:8.0%}" if budget else ""))
    print(f"(files of onnxviz/: about {FILES} wanted)")


# --- flow -----------------------------------------------------------------------------------------


def probe(what: str) -> list[int]:
    """Files that are entered, calls that are made, modules that are imported by then; see `PROBE`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(PACKAGE), what, folder],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return [int(one) for one in done.stderr.split()[-3:]]


def flow() -> None:
    files = [probe(what)[0] for what in ("command", "open", "used")]
    print(f"integrated gradients enter {files[0]} of our files from the command line (60 wanted)")
    print(
        f"                           {files[1]} on a network just opened, {files[2]} after it predicted (35 wanted)"
    )
    print(f"predict makes {probe('predict')[1]:,} calls inside the package (4,000 wanted)")
    print(f"        imports {probe('predict command')[2]} of our modules from the command line (60 wanted)")


# --- operators ------------------------------------------------------------------------------------


# What these write they have to name; `tape.Conv(...)` and the like name nothing as a text.
WRITING = {"add", "node", "make_node"}


def operator_files() -> dict[str, set[str]]:
    """The package's files that ask for an operator by its name, as a text of its own: docstrings and what writes
    nodes are not counted, several names in one text (the operator table's) are."""
    import onnx

    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    files: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        written = {
            id(argument)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and getattr(call.func, "attr", getattr(call.func, "id", "")) in WRITING
            for argument in call.args
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in written:
                words = node.value.split()
                for word in words if names.issuperset(words) else ():
                    files[word].add(path.relative_to(PACKAGE).as_posix())
    return files


def operators() -> None:
    ranked = sorted(operator_files().items(), key=lambda pair: (-len(pair[1]), pair[0]))
    over = [(name, len(files)) for name, files in ranked if len(files) > MOST_FILES]
    print(f"{len(ranked)} operators are named; {len(over)} in more than {MOST_FILES} files:")
    print(", ".join(f"{name} {count}" for name, count in over) or "none")


# --- picture --------------------------------------------------------------------------------------

HOUSE = ROOT / "docs" / "pictures" / "house.svg"


def floors() -> list[list[str]]:
    """The rooms of each floor, the uppermost first, as pyproject.toml orders them for import-linter."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
    return [re.split(r"\s*[:|]\s*", floor) for floor in layers]


def imports() -> Counter[tuple[str, str]]:
    """(room, room that it imports from) -> how many imports; late ones and those for types alone as well."""
    rooms, found = {room for floor in floors() for room in floor}, Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for parts in (name.split(".") for name in names):
                if parts[0] == "onnxviz" and len(parts) > 1 and own in rooms and parts[1] in rooms - {own}:
                    found[own, parts[1]] += 1
    return found


def picture() -> None:
    """A row for each room, a column for each that it imports from, the roof first: red is what the floors forbid."""
    height = {room: i for i, floor in enumerate(floors()) for room in floor}
    rooms, found, cell, left, top = list(height), imports(), 26, 150, 150
    size = {room: _lines_of(room) for room in rooms}
    wide, high = left + cell * len(rooms) + 20, top + cell * len(rooms) + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<text x="10" y="18">How often the room of a row imports from the room of a column. Blue: from a lower floor. '
        "Grey: from its own floor. Red: from a higher one.</text>",
    ]
    for i, room in enumerate(rooms):
        x, y = left + cell * i, top + cell * i
        out.append(
            f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{room}<title>{size[room]:,} lines</title></text>'
        )
        out.append(f'<text transform="translate({x + 17},{top - 8}) rotate(-60)">{room}</text>')
        out.append(f'<rect x="{x}" y="{y}" width="{cell - 2}" height="{cell - 2}" fill="#444"/>')
    for (above, below), count in sorted(found.items()):
        row, column = rooms.index(above), rooms.index(below)
        x, y = left + cell * column, top + cell * row
        strength = min(1.0, 0.25 + count / 40)
        down = height[below] - height[above]
        colour = f"rgba(30,110,170,{strength:.2f})" if down > 0 else "#d33" if down < 0 else "#ccc"
        out.append(
            f'<rect x="{x}" y="{y}" width="{cell - 2}" height="{cell - 2}" fill="{colour}">'
            f"<title>{above} from {below}</title></rect>"
            f'<text x="{x + cell / 2 - 1}" y="{y + 16}" text-anchor="middle" font-size="9">{count}</text>'
        )
    HOUSE.write_text("\n".join([*out, "</svg>", ""]), encoding="utf-8")
    print(HOUSE.relative_to(ROOT))


def _lines_of(room: str) -> int:
    place = PACKAGE / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


WORDS = {"lines": lines, "flow": flow, "operators": operators, "picture": picture}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
