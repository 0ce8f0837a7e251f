"""Which operators ONNX Runtime's CUDA provider has kernels for, told by itself on a machine without a card.

The provider starts on empty stand-ins of CUDA's libraries, made here by gcc: memory is the host's, kernels do nothing.
It lists its kernels and says where it would place each node; nothing can be computed.

    python3 tools/cuda_kernels.py table PYTHON           write cuda_kernels.txt beside this file
    python3 tools/cuda_kernels.py place PYTHON FILE...   which nodes of these models it leaves to the CPU

PYTHON   of an environment with onnxruntime-gpu
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import onnx

TABLE = Path(__file__).with_suffix(".txt")
ANY = 2**31 - 1
Types = dict[str, frozenset[str]]  # a type variable of the schema, and what it may be


class Kernel(NamedTuple):
    """A kernel: of the operator as it stands from opset `first` to `last`."""

    first: int
    last: int
    types: Types


@functools.cache
def kernels() -> dict[str, list[Kernel]]:
    """The kernels by operator, those of com.microsoft with that in front, from the table."""
    found: dict[str, list[Kernel]] = defaultdict(list)
    for line in TABLE.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            op, versions, *types = line.split()
            first, _, last = versions.partition("-")
            pairs = (one.partition("=") for one in types)
            found[op].append(
                Kernel(int(first), int(last or ANY), {k: frozenset(v.split(",")) for k, _, v in pairs})
            )
    return dict(found)


def newest() -> int:
    """The newest version of an operator that the table names: of later opsets it knows nothing."""
    return max(one.first for op, several in kernels().items() if "." not in op for one in several)


def has_kernel(op_type: str, opset: int, inputs: list[str], outputs: list[str]) -> bool:
    """Whether CUDA computes a standard operator of these types ('float', 'int64', ...; '' where one is not told).

    A kernel without an end is of exactly one version: ONNX Runtime takes none for a newer one that it does not name.
    """
    schema = onnx.defs.get_schema(op_type, opset)
    bound: dict[str, str] = {}
    for given, formals in ((inputs, schema.inputs), (outputs, schema.outputs)):
        for place, kind in enumerate(given):
            if kind and formals:
                bound.setdefault(formals[min(place, len(formals) - 1)].type_str, kind)
    since = schema.since_version
    return any(
        (since == one.first if one.last == ANY else one.first <= since <= one.last)
        and all(bound[name] in types for name, types in one.types.items() if name in bound)
        for one in kernels().get(op_type, ())
    )


# --- the table --------------------------------------------------------------------------------

_LIST = """
import json, onnxruntime, onnxruntime.capi.onnxruntime_pybind11_state as ort
print(onnxruntime.__version__)
listed = []
for k in ort.get_all_opkernel_def():
    if k.provider == "CUDAExecutionProvider" and k.domain in ("", "com.microsoft"):
        types = {name: list(map(str, several)) for name, several in k.type_constraints.items()}
        listed.append([f"{k.domain}.{k.op_name}".strip("."), *k.version_range, types])
print(json.dumps(listed))
"""
_PLACE = """
import collections, sys, onnxruntime as ort
for path in sys.argv[1:]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    made = ort.InferenceSession(path, options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    nodes = [(part.ep_name, n) for part in made.get_provider_graph_assignment_info() for n in part.get_nodes()]
    left = [n for where, n in nodes if where == "CPUExecutionProvider"]
    print(f"{path}: {len(left)} of {len(nodes)} on the CPU")
    for node in left:
        print(f"  {node.op_type} {node.name}")
"""


def table(python: str) -> str:
    """The table's text: a line `operator first-last type variable=types ...` each."""
    version, listed = _run(python, _LIST).splitlines()[:2]
    rows: dict[tuple[str, int, int], list[Types]] = defaultdict(list)
    for op, first, last, types in json.loads(listed):
        kinds = {
            name: frozenset(t[len("tensor(") : -1] for t in one if t.startswith("tensor("))
            for name, one in types.items()
        }
        _merge(rows[op, first, last], kinds)
    lines = [f"# What onnxruntime-gpu {version} computes on CUDA; by tools/cuda_kernels.py"]
    for (op, first, last), several in sorted(rows.items()):
        for kinds in several:
            told = " ".join(
                f"{name}={','.join(sorted(kinds[name]))}" for name in sorted(kinds) if kinds[name]
            )
            lines.append(f"{op} {first}{'' if last == ANY else f'-{last}'} {told}".rstrip())
    return "\n".join(lines) + "\n"


def _merge(rows: list[Types], new: Types) -> None:
    """Add a kernel; those that differ in one type variable are one row."""
    for row in rows:
        differ = [name for name in new if row.get(name) != new[name]]
        if row.keys() == new.keys() and len(differ) <= 1:
            rows.remove(row)
            return _merge(rows, new | {name: row[name] | new[name] for name in differ})
    rows.append(new)
    return None


# --- stand-ins of CUDA's libraries ------------------------------------------------------------

_OWN = r"""
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaGetDeviceProperties(char *p, int d) {  // of CUDA 13: all memory and the version's first number are told
  memset(p, 0, 1008); *(size_t *)(p + 288) = 8ull << 30; *(int *)(p + 360) = 9; return 0;
}
int cudaDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : 1; return 0; }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = *t = 8ull << 30; return 0; }
int cudaMalloc(void **p, size_t n) { *p = aligned_alloc(256, n / 256 * 256 + 256); return 0; }
int cudaMallocHost(void **p, size_t n) { return cudaMalloc(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return cudaMalloc(p, n); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *q, void *s) { return cudaMalloc(p, n); }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaFreeAsync(void *p, void *s) { free(p); return 0; }
int cudaMemcpy(void *d, void *s, size_t n, int k) { memcpy(d, s, n); return 0; }
int cudaMemcpyAsync(void *d, void *s, size_t n, int k, void *t) { memcpy(d, s, n); return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaStreamIsCapturing(void *s, int *c) { *c = 0; return 0; }
int cudaPointerGetAttributes(char *a, void *p) { memset(a, 0, 24); return 0; }
"""
_LIBRARIES = {"libcurand.so.10": "", "libcudnn.so.9": "cudnn", "libnvinfer.so.10": "Infer,getPluginRegistry",
              "libnvonnxparser.so.10": "Parser", "libcuda.so.1": "cu"}  # fmt: skip
_MAKERS = ("cublasCreate_v2", "cublasLtCreate", "cudaStreamCreate", "cudaEventCreate", "cudaMemPoolCreate")


def stand_ins(folder: Path, capi: Path) -> None:
    """Libraries in `folder` with every name that the CUDA and TensorRT providers in `capi` ask for."""
    wanted: dict[str, set[str]] = {library: set() for library in _LIBRARIES}
    for provider in ("cuda", "tensorrt"):
        file = capi / f"libonnxruntime_providers_{provider}.so"
        told = subprocess.run(
            ["nm", "-D", "--undefined-only", file], capture_output=True, text=True, check=True
        )
        for line in told.stdout.splitlines():
            name, _, library = line.split()[-1].partition("@")
            if library.startswith("libcu"):
                wanted.setdefault(library, set()).add(name)
            elif not library:
                owner = next(
                    (k for k, parts in _LIBRARIES.items() for p in parts.split(",") if p and p in name), None
                )
                wanted.setdefault(owner or "", set()).add(name)
    wanted.pop("", None)
    for library, names in wanted.items():
        own = _OWN if library.startswith("libcudart") else ""
        text = f"#include <stdlib.h>\n#include <string.h>\n{own}"
        for name in sorted(names):
            if f"int {name}(" in own:
                continue
            if name.startswith(_MAKERS):
                text += f"int {name}(void **p) {{ *p = malloc(64); return 0; }}\n"
            elif name.endswith(("String", "Name")) or name == "__cudaRegisterFatBinary":
                text += f'void *{name}() {{ return "stand-in"; }}\n'
            else:
                text += f"long {name}() {{ return 0; }}\n"
        source, versions = folder / f"{library}.c", folder / f"{library}.map"
        source.write_text(text)
        versions.write_text(f"{library} {{ global: *; }};\n")
        versioned = [f"-Wl,--version-script={versions}"] * library.startswith(
            ("libcudart", "libcubl", "libcudnn")
        )
        command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", source, "-o", folder / library]
        subprocess.run([*command, f"-Wl,-soname,{library}", *versioned], check=True)


def _run(python: str, code: str, *arguments: str) -> str:
    found = subprocess.run(
        [python, "-c", "import onnxruntime; print(onnxruntime.__path__[0])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        stand_ins(Path(folder), Path(found.stdout.strip()) / "capi")
        surroundings = os.environ | {"LD_LIBRARY_PATH": folder, "ORT_DISABLE_TELEMETRY": "1"}
        command = [python, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def main(command: str, python: str, *files: str) -> None:
    """Write the table, or tell where the nodes of these files go."""
    if command == "table":
        TABLE.write_text(table(python), "utf-8")
    else:
        print(_run(python, _PLACE, *files), end="")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("table", "place"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
