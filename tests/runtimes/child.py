"""Runs files with whatever ONNX Runtime this Python has: python child.py FOLDER PROVIDER [OPTIONS AS JSON]

It needs nothing else, so it runs in an environment of its own. See held.write and held.read.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime


def main(folder: Path, provider: str, options: str = "{}") -> None:
    onnxruntime.set_default_logger_severity(4)
    assert provider in onnxruntime.get_available_providers(), onnxruntime.get_available_providers()
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        feeds = {
            name: np.frombuffer((folder / file).read_bytes(), kind).reshape(shape)
            for name, kind, shape, file in case["feeds"]
        }
        try:
            session = onnxruntime.InferenceSession(
                folder / f"{case['file']}.onnx", providers=[(provider, json.loads(options))]
            )
            assert session.get_providers()[0] == provider, session.get_providers()
            outputs = session.run(case["outputs"], feeds)
        except Exception as error:
            told: object = str(error)
        else:
            told = [[n, str(v.dtype), v.shape] for n, v in zip(case["outputs"], outputs, strict=True)]
            for i, value in enumerate(outputs):
                (folder / f"{case['file']}.out{i}").write_bytes(value.tobytes())
        (folder / f"{case['file']}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
