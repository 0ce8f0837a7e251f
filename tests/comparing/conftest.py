"""Int8 files for the tests of `compare`, made once a run by whoever asks first, also where tests run in parallel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxviz.catalogue import resolve
from tests.comparing import small

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

import quantise  # noqa: E402

PROBES = 16


class Files:
    """Files in a folder that all workers of a run share.

    `files("QDQ", per_channel=False)` is the path of the bundled network in that form: the fields of
    `quantise.Scheme`, and `calibrate` (one of `quantise.MISTAKES`). `files.small("resnet", "QDQ")`: one of
    `small.NETWORKS`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundled = Path(resolve("efficientnet-lite0"))

    def __call__(self, form: str = "QDQ", *, calibrate: str = "photos", **options: Any) -> Path:
        return self._quantised("bundled", lambda: onnx.load(self.bundled), form, calibrate, options)

    def small(self, name: str, form: str = "float", **options: Any) -> Path:
        make = small.NETWORKS[name]
        if form == "float":
            return self.made(f"{name}.onnx", lambda path: onnx.save(make(), path))
        return self._quantised(name, make, form, "photos", options)

    def _quantised(self, name: str, make: Any, form: str, calibrate: str, options: dict[str, Any]) -> Path:
        scheme = quantise.Scheme(form, **options)

        def write(path: Path) -> None:
            model = make()
            onnx.save(quantise.quantise(model, scheme, self._ranges(name, model, calibrate)), path)

        digest = hashlib.sha256(repr(scheme).encode()).hexdigest()[:12]
        return self.made(f"{name}-{calibrate}-{form}-{digest}.onnx", write)

    def photos(self) -> list[Path]:
        """68 crops of photos."""
        return sorted(self.made("photos", quantise.crops).iterdir())

    def probes(self, calibrate: str = "photos") -> np.ndarray:
        """The photos as the bundled network takes them, (N, 3, 224, 224) float32; for a mistake a few."""
        model = onnx.load(self.bundled)
        photos = self.photos() if calibrate == "photos" else self.photos()[::4]
        path = self.made(
            f"{calibrate}.npy",
            lambda path: np.save(path.open("wb"), quantise.inputs(model, photos, calibrate)),
        )
        return np.load(path)

    def _ranges(self, name: str, model: onnx.ModelProto, calibrate: str) -> Any:
        def write(path: Path) -> None:
            arrays = self.probes(calibrate) if name == "bundled" else small.pictures()
            path.write_bytes(pickle.dumps(quantise.calibrate(model, arrays)))

        return pickle.loads(self.made(f"{name}-{calibrate}.ranges", write).read_bytes())

    def made(self, name: str, write: Callable[[Path], Any]) -> Path:
        """The file or folder, written by whoever comes first."""
        path = self.folder / name
        if not path.exists():
            with _alone(self.folder / f"{name}.lock"):
                if not path.exists():
                    unfinished = self.folder / f"{os.getpid()}-{name}"
                    write(unfinished)
                    unfinished.rename(path)
        return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; where there are no locks of this kind, each makes its own file."""
    with path.open("w") as handle:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):  # each has a folder of its own below that of the run
        base = base.parent
    folder = base / "int8"
    folder.mkdir(exist_ok=True)
    return Files(folder)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Eight pictures for the small networks."""
    return small.photos()


@pytest.fixture(scope="session")
def resnet(files: Files) -> tuple[Any, Any]:
    """A small network and its int8 file."""
    one, other = (small.opened(files.small("resnet", form), **small.SCALED) for form in ("float", "QDQ"))
    return one, other


@pytest.fixture(scope="session")
def bundled(files: Files) -> onnx.ModelProto:
    """The bundled network in float32."""
    return onnx.load(files.bundled)


@pytest.fixture(scope="session")
def sound(files: Files) -> dict[str, Path]:
    """The bundled network in both int8 forms, per channel, calibrated on photos."""
    return {form: files(form) for form in ("QDQ", "QOperator")}


@pytest.fixture(scope="session")
def probes(files: Files) -> np.ndarray:
    """Sixteen photos as the bundled network takes them: (16, 3, 224, 224) float32."""
    photos = files.probes()
    return photos[np.linspace(0, len(photos) - 1, PROBES).astype(int)]
