"""What this machine has, and what is wrong with it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from onnxviz import isolate
from onnxviz._version import __version__
from onnxviz.errors import OnnxVizError

# All of these install the one importable package `onnxruntime` and overwrite each other's files.
_ENDINGS = ("", "-gpu", "-directml", "-openvino", "-training", "-training-cpu", "-silicon")
_RUNTIMES = tuple(f"onnxruntime{ending}" for ending in _ENDINGS)
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
        checks.append(_have(name, _version(name), "problem", f"not installed: pip install {name}"))
    for extra, names in _OPTIONAL.items():
        absent = ", ".join(name for name in names if _version(name) is None)
        have = None if absent else ", ".join(f"{name} {_version(name)}" for name in names)
        checks.append(_have(f"extra {extra}", have, "missing", f'{absent}: pip install "onnxviz[{extra}]"'))
    checks += _backends()
    checks.append(_guarded())
    checks.append(_bundled())
    return Checks(checks)


def _have(name: str, found: str | None, otherwise: str, what: str) -> Check:
    """What was found is ok; where nothing was, the state is another, and there is something to do."""
    return Check(name, "ok", found) if found else Check(name, otherwise, what)


def _runtime() -> list[Check]:
    installed = [(name, version) for name in _RUNTIMES if (version := _version(name))]
    listed = ", ".join(f"{name} {version}" for name, version in installed)
    if len(installed) != 1:
        what = 'none is installed: pip install "onnxviz[cpu]" or pip install "onnxviz[gpu]"'
        if installed:
            names = " ".join(name for name, _ in installed)
            what = (
                f"{listed} overwrite each other's files: pip uninstall -y {names}, then install one of them"
            )
        return [Check("onnxruntime", "problem", what)]
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
    if name == "AzureExecutionProvider":
        return Check(name, "ok", "listed (remote endpoints; onnxviz does not use it)")
    return _started(name, "problem")


def _plugin(plugin: Any) -> Check:
    """The same of a provider that is a package, in a process of its own, since its library is loaded.

    One that finds nothing here to run on is no problem of this machine.
    """
    from onnxviz.limits import Limits
    from onnxviz.runtime.worker import Worker, lacking

    if plugin.broken:
        return Check(plugin.name, "problem", f"the package cannot be used: {plugin.broken}")
    worker = None if lacking() else Worker("onnxviz.isolated", Limits())
    try:
        return _started(plugin.name, "missing", worker, f", {plugin.module}")
    finally:
        if worker is not None:
            worker.close()


def _started(name: str, otherwise: str, worker: Any = None, more: str = "") -> Check:
    from onnxviz.programs import compile

    try:
        program = compile(_probe(), provider=name, own=(), worker=worker)
    except OnnxVizError as error:
        return Check(name, otherwise, str(error))
    return Check(name, "ok", f"runs ({program.provider}{more})")


def _backends() -> list[Check]:
    from onnxviz.backends.choose import BACKENDS, version

    alone = "in an environment of its own with Python 3.11 or 3.12: "
    checks = []
    for name in BACKENDS:
        found, extra = version(name), "cpu" if name == "native" else name
        have = f"{'torch' if name == 'torch' else 'onnxruntime'} {found}" if found else None
        how = f'{alone if name == "ort-training" else ""}pip install "onnxviz[{extra}]"'
        checks.append(_have(f"backend {name}", have, "missing", how))
    return checks


def _guarded() -> Check:
    """What holds a model that crashes, hangs or fills the memory away from its caller here."""
    from onnxviz.runtime.worker import lacking

    kept = "crashes and time (run_seconds, load_seconds) are kept from the caller: commands, load(isolate=True); memory"
    found = f"{kept}, too, on the CPU (GPU drivers reserve more than they use)"
    what = f"{kept} is not: this system enforces no limit on it"
    if (reason := lacking()) is not None:
        what = "a model that crashes or hangs in native code ends its caller here, and load(isolate=True) is refused: "
        what += reason
    guarded = reason is None and isolate.memory_is_guarded()
    return _have("strangers' models", found if guarded else None, "missing", what)


def _probe() -> Any:
    import onnx_ir as ir

    return ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> probe (float[1] x) => (float[1] y) { y = Relu(x) }'
    )


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
