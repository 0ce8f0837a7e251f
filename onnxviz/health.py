"""What this machine has, and what is wrong with it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from onnxviz._version import __version__
from onnxviz.errors import OnnxVizError

# All of these install the one importable package `onnxruntime` and overwrite each other's files.
_RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
    "onnxruntime-silicon",
)
_NEEDED = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "pillow",
    "scipy",
    "scikit-learn",
    "jinja2",
    "typer",
    "rich",
)
_OPTIONAL = {
    "maps": ("openTSNE", "umap-learn"),
    "table": ("pyarrow",),
    "torch": ("torch",),
    "export": ("torch", "transformers"),
    "demo": ("scikit-image",),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `state` is 'ok', 'missing' (optional) or 'problem'."""

    name: str
    state: str
    detail: str


class Checks(list[Check]):
    """What was looked at, in that order: a list that prints as a table."""

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The table's lines."""
        marks = {"ok": "ok     ", "missing": "-      ", "problem": "PROBLEM"}
        width = max((len(check.name) for check in self), default=0)
        return [f"{marks[check.state]}  {check.name.ljust(width)}  {check.detail}" for check in self]


def doctor() -> Checks:
    """What this machine has and what is missing (Python, ONNX Runtime, providers, packages); changes nothing."""
    checks = [
        Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    ]
    checks.append(Check("onnxviz", "ok", __version__))
    checks += _runtime()
    for name in _NEEDED:
        version = _version(name)
        checks.append(
            Check(name, "ok", version)
            if version
            else Check(name, "problem", f"not installed: pip install {name}")
        )
    for extra, names in _OPTIONAL.items():
        absent = [name for name in names if _version(name) is None]
        have = ", ".join(f"{name} {_version(name)}" for name in names if name not in absent)
        checks.append(
            Check(f"extra {extra}", "missing", f'{", ".join(absent)}: pip install "onnxviz[{extra}]"')
            if absent
            else Check(f"extra {extra}", "ok", have)
        )
    checks += _backends()
    checks.append(_guarded())
    checks.append(_bundled())
    return Checks(checks)


def _runtime() -> list[Check]:
    installed = [(name, version) for name in _RUNTIMES if (version := _version(name))]
    listed = ", ".join(f"{name} {version}" for name, version in installed)
    if not installed:
        return [
            Check(
                "onnxruntime",
                "problem",
                'none is installed: pip install "onnxviz[cpu]" or pip install "onnxviz[gpu]"',
            )
        ]
    if len(installed) > 1:
        return [
            Check(
                "onnxruntime",
                "problem",
                f"{listed} overwrite each other's files: pip uninstall -y {' '.join(n for n, _ in installed)}, "
                "then install one of them",
            )
        ]
    checks = [Check("onnxruntime", "ok", listed)]
    from onnxviz.runtime import providers

    try:
        for name in providers.onnxruntime().get_available_providers():
            checks.append(_provider(name))
        checks += [_plugin(one) for one in providers.plugins()]
    except OnnxVizError as error:
        checks.append(Check("onnxruntime", "problem", str(error)))
    return checks


def _provider(name: str) -> Check:
    """Start a session on the provider: that it is listed does not mean that it works."""
    from onnxviz.programs import compile

    if name == "AzureExecutionProvider":
        return Check(name, "ok", "listed (remote endpoints; onnxviz does not use it)")
    try:
        program = compile(_probe(), provider=name, own=())
    except OnnxVizError as error:
        return Check(name, "problem", str(error))
    return Check(name, "ok", f"runs ({program.provider})")


def _plugin(plugin: Any) -> Check:
    """The same of a provider that is a package, in a process of its own, since its library is loaded.

    One that finds nothing here to run on is no problem of this machine.
    """
    from onnxviz.limits import Limits
    from onnxviz.programs import compile
    from onnxviz.runtime.worker import Worker, lacking

    if plugin.broken:
        return Check(plugin.name, "problem", f"the package cannot be used: {plugin.broken}")
    worker = None if lacking() else Worker("onnxviz.isolated", Limits())
    try:
        program = compile(_probe(), provider=plugin.name, own=(), worker=worker)
    except OnnxVizError as error:
        return Check(plugin.name, "missing", str(error))
    finally:
        if worker is not None:
            worker.close()
    return Check(plugin.name, "ok", f"runs ({program.provider}, {plugin.module})")


def _backends() -> list[Check]:
    """What gradients can be computed by."""
    from onnxviz.backends.choose import BACKENDS, version

    package = {"native": "onnxruntime", "torch": "torch", "ort-training": "onnxruntime"}
    how = {
        "native": 'pip install "onnxviz[cpu]"',
        "torch": 'pip install "onnxviz[torch]"',
        "ort-training": 'in an environment of its own with Python 3.11 or 3.12: pip install "onnxviz[ort-training]"',
    }
    checks = []
    for name in BACKENDS:
        found = version(name)
        state = "ok" if found else "missing"
        checks.append(Check(f"backend {name}", state, f"{package[name]} {found}" if found else how[name]))
    return checks


def _guarded() -> Check:
    """What holds a model that crashes, hangs or fills the memory away from its caller here."""
    from onnxviz import isolate
    from onnxviz.runtime.worker import lacking

    reason = lacking()
    if reason is not None:
        return Check(
            "strangers' models",
            "missing",
            "a model that crashes or hangs in native code ends its caller here, and load(isolate=True) is refused: "
            f"{reason}",
        )
    kept = (
        "crashes and time (run_seconds, load_seconds) are kept from the caller: commands, load(isolate=True)"
    )
    if not isolate.memory_is_guarded():
        return Check(
            "strangers' models", "missing", f"{kept}; memory is not: this system enforces no limit on it"
        )
    return Check(
        "strangers' models", "ok", f"{kept}; memory, too, on the CPU (GPU drivers reserve more than they use)"
    )


def _probe() -> Any:
    import onnx_ir as ir

    x = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [x])
    node.outputs[0].name = "y"
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([1])
    graph = ir.Graph([x], list(node.outputs), nodes=[node], opset_imports={"": 17}, name="probe")
    return ir.Model(graph, ir_version=8)


def _bundled() -> Check:
    from onnxviz.catalogue import resolve
    from onnxviz.files import sha256

    try:
        path = resolve("efficientnet-lite0")
        return Check("bundled network", "ok", f"efficientnet-lite0, sha256 {sha256(path)[:12]}…")
    except (OnnxVizError, OSError) as error:
        return Check("bundled network", "problem", str(error))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
