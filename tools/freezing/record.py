"""What a run gave, told in few numbers that no change of consequence leaves alike.

An array is told by shape, dtype, a digest of its bytes, [min, max, mean, norm], and four sums of its entries under
fixed random signs: the root mean square of how these sums differ estimates the norm of the difference.
Pictures are told by their pixels, .npy by the array, ONNX files by their interface and what they compute.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

SIGNS = 4
FEW = 12  # an array of so many entries is kept whole
# Of manifests and files: clocks, versions, digests of what encoders made. `~` below marks what may change silently.
DROPPED = {"versions", "seconds", "onnxviz", "progress", "watch"}


class Recorder:
    """Tells values; `root` and `temporary` paths are hidden in texts, arrays are kept in `arrays` where asked for."""

    def __init__(self, hidden: dict[str, str], arrays: Path | None = None) -> None:
        self._hidden = sorted(hidden.items(), key=lambda pair: -len(pair[0]))
        self._arrays = arrays
        self.case = ""

    # --- values -----------------------------------------------------------------------------------

    def tell(self, value: Any, where: str = "") -> Any:
        """A value of JSON that tells any result."""
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, (float, np.floating)):
            return number(float(value))
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, np.ndarray):
            return self.array(value, where)
        if isinstance(value, bytes):
            return {"bytes": len(value), "~sha": digest(value)}
        if isinstance(value, dict):
            items = {str(key): one for key, one in value.items() if key not in DROPPED}
            told = {key: self.tell(one, f"{where}/{key}") for key, one in items.items()}
            if isinstance(told.get("layers"), list):  # a line each: facts in their order
                told["layers"] = [_line(one) for one in told["layers"]]
            return told
        if isinstance(value, (list, tuple, set, frozenset)):
            listed = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
            if len(listed) > FEW and all(type(one) is float for one in listed):
                return self.array(np.array(listed), where)
            return [self.tell(one, f"{where}/{place}") for place, one in enumerate(listed)]
        if isinstance(value, Path) and value.is_dir():
            return self.folder(value, where)
        if isinstance(value, Path):
            return self.text(str(value))
        if isinstance(value, BaseException):
            return {"error": type(value).__name__, "text": self.text(str(value))}
        kind = type(value)
        if kind.__module__.startswith("PIL."):
            return {"picture": self.array(np.asarray(value.convert("RGB")), f"{where}/picture")}
        if kind.__name__ == "ModelProto":
            return self.model(value, where)
        if dataclasses.is_dataclass(value):
            return self._result(value, where)
        return {"~object": kind.__name__}

    def _result(self, value: Any, where: str) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
        parts = {name: getattr(value, name) for name in names if name != "network"}
        if hasattr(value, "manifest") and hasattr(value, "pages"):
            try:
                parts["pages()"] = value.pages()
            except TypeError as error:
                parts["pages()"] = error
            parts["table()"] = value.table()
        for name in ("to_dict", "lines"):
            # Of a result it is told what stands above already.
            if hasattr(value, name) and not (name == "to_dict" and "pages()" in parts):
                parts[f"{name}()"] = getattr(value, name)()
        return self.tell(parts, where)

    def text(self, text: str) -> Any:
        """A text without what differs from machine to machine, and without padding; of several lines a list."""
        for path, name in self._hidden:
            text = text.replace(path, name)
        lines = [re.sub(r"( |─){3,}", r"\1\1", line.rstrip()) for line in text.split("\n")]
        return lines if len(lines) > 1 else lines[0]

    def array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        """Shape, dtype, digest, and few numbers; kept as .npy too where that was asked for."""
        told: dict[str, Any] = {"array": f"{array.dtype} {'x'.join(map(str, array.shape))}"}
        if array.dtype.kind not in "fiub":
            return told | {"values": self.tell(array.ravel().tolist(), where)}
        if self._arrays is not None:
            np.save(self._arrays / array_file(f"{self.case}{where}"), array)
        data = np.ascontiguousarray(array)
        flat = data.ravel().astype(np.float64)
        finite = np.isfinite(flat)
        if not finite.all():
            told["not finite"] = int((~finite).sum())
            flat = np.where(finite, flat, 0)
        if flat.size <= FEW:
            return told | {"values": [number(one) for one in flat]}
        told["sha"] = digest(data.tobytes())
        told["stats"] = [number(one) for one in (flat.min(), flat.max(), flat.mean(), np.linalg.norm(flat))]
        return told | {"sums": [number(one) for one in signed_sums(flat)]}

    # --- files ------------------------------------------------------------------------------------

    def folder(self, folder: Path, where: str = "") -> dict[str, Any]:
        """Every file below a folder, by name."""
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {name: self.file(path, f"{where}/{name}") for name, path in sorted(files.items())}

    def file(self, path: Path, where: str) -> Any:
        """What is in a file, by its ending."""
        from PIL import Image, ImageSequence

        ending = path.suffix.lower()
        if ending in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"):
            with Image.open(path) as picture:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(picture)]
            shown = frames if len(frames) < 4 else [frames[0], frames[len(frames) // 2], frames[-1]]
            return {"frames": len(frames), "shown": self.tell(shown, f"{where}/shown")}
        if ending == ".npy":
            return self.array(np.load(path), where)
        if ending == ".npz":
            with np.load(path) as held:
                return self.tell({name: held[name] for name in sorted(held)}, where)
        if ending == ".onnx":
            import onnx

            return self.model(onnx.load(path), where)
        data = path.read_bytes()
        if ending == ".json":
            return self.tell(json.loads(data), where)
        if ending == ".csv":
            return self.tell(_table(data.decode()), where)
        if ending in (".html", ".txt"):
            return self.text(re.sub(r"data:image/[\w+]+;base64,([\w+/=]+)", self._embedded, data.decode()))
        return {"bytes": len(data), "~sha": digest(data)}

    def _embedded(self, found: re.Match[str]) -> str:
        from PIL import Image

        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        return f"picture {pixels.shape} {digest(pixels.tobytes())}"

    def model(self, proto: Any, where: str) -> dict[str, Any]:
        """An ONNX file's interface, whether the checker passes it, and what it computes of random inputs."""
        import onnx
        import onnxruntime

        def interface(values: Any) -> dict[str, str]:
            return {one.name: _type(one.type.tensor_type) for one in values}

        weights = {tensor.name for tensor in proto.graph.initializer}
        inputs = [one for one in proto.graph.input if one.name not in weights]
        operators = [f"{node.domain}:{node.op_type}".lstrip(":") for node in proto.graph.node]
        told: dict[str, Any] = {
            "inputs": interface(inputs),
            "outputs": interface(proto.graph.output),
            "opsets": {one.domain: one.version for one in proto.opset_import},
            "domains": sorted({node.domain for node in proto.graph.node}),
            "~operators": {name: operators.count(name) for name in sorted(set(operators))},
        }
        told["metadata"] = {one.key: _parsed(one.value) for one in proto.metadata_props}
        told = self.tell(told, where)
        try:
            onnx.checker.check_model(proto, full_check=True)
        except Exception as error:
            told["checker"] = type(error).__name__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, ["CPUExecutionProvider"]
            )
            names = [one.name for one in session.get_outputs()]
            arrays = session.run(names, _random(session.get_inputs()))
            told["run"] = self.tell(dict(zip(names, arrays, strict=True)), f"{where}/run")
        except Exception as error:
            told["run"] = {"error": type(error).__name__}
        return told


def _type(tensor: Any) -> str:
    sides = [one.dim_param or str(one.dim_value) for one in tensor.shape.dim]
    return f"{tensor.elem_type} " + ("x".join(sides) if tensor.HasField("shape") else "?")


def _table(text: str) -> Any:
    """The columns of a CSV file: numbers as arrays, a picture's features as one."""
    head, *rows = csv.reader(io.StringIO(text))
    columns: dict[str, Any] = {}
    for name, column in zip(head, zip(*rows, strict=True), strict=True):
        try:
            numbers = [float(one) for one in column]
        except ValueError:
            columns[name] = list(column)
        else:
            columns.setdefault(name.rstrip("0123456789"), []).append(numbers)
    return {name: np.array(one) if isinstance(one[0], list) else one for name, one in columns.items() if one}


def _line(value: Any) -> str:
    facts = list(value.values()) if isinstance(value, dict) else value
    return value if isinstance(value, str) else json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _random(inputs: Any) -> dict[str, np.ndarray]:
    """The same random arrays each time: two pictures of side 32 where the file leaves it open."""
    chance, feeds = np.random.default_rng(0), {}
    for one in inputs:
        shape = [
            side if isinstance(side, int) else (32 if place else 2) for place, side in enumerate(one.shape)
        ]
        if "float" in one.type or "double" in one.type:
            kind = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(one.type, np.float32)
            feeds[one.name] = chance.standard_normal(shape).astype(kind)
        elif "uint8" in one.type:
            feeds[one.name] = chance.integers(0, 256, shape, dtype=np.uint8)
        else:
            feeds[one.name] = np.ones(shape, {"tensor(bool)": np.bool_}.get(one.type, np.int64))
    return feeds


def signed_sums(flat: np.ndarray) -> np.ndarray:
    """(SIGNS,): the sums of a float64 vector's entries under signs that hang on the places alone (splitmix64)."""
    sums = np.zeros(SIGNS)
    for start in range(0, flat.size, 1 << 20):
        part = flat[start : start + (1 << 20)]
        bits = (np.arange(start + 1, start + part.size + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        for k in range(SIGNS):
            chosen = (bits >> np.uint64(63 - k)) & np.uint64(1) == 1
            sums[k] += part[chosen].sum() - part[~chosen].sum()
    return sums


def number(value: float) -> Any:
    """Eight digits; text where there is no number."""
    return float(f"{value:.8g}") if np.isfinite(value) else str(value)


def array_file(name: str) -> str:
    """Where the array of this name is kept, in a folder of arrays."""
    return f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)[:120]}-{digest(name.encode())}.npy"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]
