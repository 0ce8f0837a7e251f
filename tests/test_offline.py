"""No command opens a socket or writes outside --out (P3, P7); ONNX Runtime does not report to its maker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import confined
import pytest
from PIL import Image

CONFINED = Path(confined.__file__)
TELEMETRY = "ORT_DISABLE_TELEMETRY"


class World:
    """A home folder, caches, temporary and working folders that are empty; results go to `out`."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.rest = folder / "rest"
        self.places = {name: self.rest / name for name in ("home", "tmp", "config", "cache", "data", "work")}
        for place in (self.out, *self.places.values()):
            place.mkdir(parents=True)

    def environment(self) -> dict[str, str]:
        """What a user's shell has who never heard of telemetry."""
        kept = ("PATH", "PYTHONPATH", "SYSTEMROOT", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(self.places["home"]),
            "USERPROFILE": str(self.places["home"]),
            "USER": "somebody",
            "TMPDIR": str(self.places["tmp"]),
            "XDG_CONFIG_HOME": str(self.places["config"]),
            "XDG_CACHE_HOME": str(self.places["cache"]),
            "XDG_DATA_HOME": str(self.places["data"]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, mode: str, *arguments: str, stdin: str = ""):
        line = [sys.executable, str(CONFINED), str(self.out), mode, *arguments]
        where = {"cwd": self.places["work"], "env": self.environment(), "timeout": 300}
        return subprocess.run(line, check=False, input=stdin, capture_output=True, text=True, **where)

    def littered(self) -> list[str]:
        """What lies outside of `out` now."""
        return sorted(str(path.relative_to(self.rest)) for path in self.rest.glob("*/**/*"))


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


@pytest.fixture
def pictures(photo_files, tmp_path) -> Path:
    """A folder of small photos."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in photo_files:
        with Image.open(path) as picture:
            picture.resize((96, 80)).save(folder / path.name)
    return folder


def test_the_command_line_opens_no_socket_and_writes_to_out_alone(world, pictures):
    picture = str(pictures / "chelsea.png")
    for command in (["predict", "efficientnet-lite0", picture], ["doctor"]):
        done = world.run("main", *command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout
    done = world.run("main", "cam", "efficientnet-lite0", picture, "-o", str(world.out / "cam.png"))
    assert done.returncode == 0, done.stderr
    assert world.littered() == []
    assert sorted(path.name for path in world.out.iterdir()) == ["cam.json", "cam.npy", "cam.png"]


COMMANDS = """
models
inspect efficientnet-lite0
filters efficientnet-lite0 -o {out}/filters.png
activations efficientnet-lite0 {picture} --layer stem -o {out}/maps.png
saliency efficientnet-lite0 {picture} -o {out}/saliency.png
saliency efficientnet-lite0 {picture} --backend torch -o {out}/torch.png
occlusion efficientnet-lite0 {picture} --stride 112 --window 112 -o {out}/occlusion.png
ascent efficientnet-lite0 --target 285 --size 64 --steps 2 -o {out}/ascent.png
patches efficientnet-lite0 {pictures} --layer stem --top 2 -o {out}/patches
embed efficientnet-lite0 {pictures} -o {out}/features.npy
map efficientnet-lite0 {pictures} --method pca -o {out}/map.png
gradient efficientnet-lite0 --technique grad-cam -o {out}/explainer.onnx
export transformers:nobody --random -o {out}/none.onnx
"""


def test_no_technique_opens_a_socket_or_writes_elsewhere(world, pictures):
    places = {"pictures": pictures, "picture": pictures / "chelsea.png", "out": world.out}
    commands = [[word.format(**places) for word in line.split()] for line in COMMANDS.strip().splitlines()]
    done = world.run("run", stdin="\n".join(map(json.dumps, commands)))
    assert done.returncode == 0, done.stderr
    codes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert codes == [[command, 2 if command[0] == "export" else 0] for command in commands], done.stderr
    assert world.littered() == []
    assert not (world.out / "none.onnx").exists()


def test_export_takes_away_what_torch_leaves_behind(world):
    small = [
        "--option=depths=[1]",
        "--option=hidden_sizes=[8]",
        "--option=embedding_size=8",
        "--option=num_labels=3",
    ]
    command = ["export", "transformers:resnet", "--random", *small, "-o", f"{world.out}/small.onnx"]
    done = world.run("run", stdin=json.dumps(command))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [command, 0], done.stderr
    assert (world.out / "small.onnx").stat().st_size > 1000
    assert world.littered() == []


@pytest.mark.parametrize("isolate", [False, True])
def test_python_opens_no_socket_and_writes_nothing(world, pictures, isolate):
    picture = str(pictures / "chelsea.png")
    code = (
        f"import onnxviz\nnet = onnxviz.load('efficientnet-lite0', isolate={isolate})\n"
        f"print(net.predict({picture!r})[0][0].index)\nonnxviz.saliency(net, {picture!r})"
    )
    done = world.run("code", stdin=code)
    assert (done.returncode, done.stdout) == (0, "285\n"), done.stderr
    assert world.littered() == []


def test_the_confinement_holds_sockets_also_of_native_code(world):
    done = world.run("code", stdin="import socket; socket.socket(); print('through')")
    assert "through" not in done.stdout
    assert done.returncode in (confined.WROTE, -31), done.stderr
    if world.run("filter").returncode == confined.NO_FILTER:
        pytest.skip("this system takes no seccomp filter: only Python's own sockets are held")
    done = world.run("code", stdin="import ctypes; ctypes.CDLL(None).socket(2, 1, 0); print('through')")
    assert (done.returncode, done.stdout) == (-31, ""), done.stderr


def test_the_confinement_holds_files(world):
    wrote = world.run("code", stdin="import os; open(os.path.expanduser('~/x'), 'w')")
    assert wrote.returncode == confined.WROTE
    native = "import ctypes, os; ctypes.CDLL(None).mkdir(os.path.expanduser('~/y').encode(), 0o700)"
    assert world.run("code", stdin=native).returncode == 0
    assert world.littered() == ["home/y"]


# --- ONNX Runtime's telemetry -------------------------------------------------------------------

# Stands in for ONNX Runtime: says what it found when it was imported, and what it was told.
RUNTIME = f"""
import os
print("imported with", os.environ.get("{TELEMETRY}"))
def disable_telemetry_events(): print("told")
class InferenceSession: ...
"""


@pytest.mark.parametrize(
    ("given", "before", "said"),
    [
        ({}, "", ["imported with 1", "told"]),
        ({TELEMETRY: "1"}, "", ["imported with 1", "told"]),
        ({TELEMETRY: "0"}, "", ["imported with 0"]),
        ({}, "import onnxruntime\n", ["imported with None", "told"]),
    ],
    ids=["unset", "off", "wanted by the user", "imported before us"],
)
def test_telemetry_is_off_before_the_import_unless_the_user_wants_it(tmp_path, given, before, said):
    (tmp_path / "onnxruntime.py").write_text(RUNTIME)
    code = f"{before}from onnxviz.runtime import providers\nproviders.version(), providers.onnxruntime()"
    environment = {name: value for name, value in os.environ.items() if name != TELEMETRY}
    environment |= {**given, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(CONFINED.parents[1])])}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == said
