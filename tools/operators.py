"""Write docs/operators.md: every operator, what it is, and what onnxviz does with it.

python tools/operators.py     with torch installed; a test holds the page to the tables
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"
KERNELS = ROOT / "tools" / "cuda_kernels.txt"
HEAD = """# Operators

Made by `python tools/operators.py` from the program's tables: what an operator is (`onnxviz/graph/operators.py`),
its gradient (`onnxviz/grad/rules`) and its function on torch (`onnxviz/backends/torch`). How to read the columns:

- **does**: the kind of work and, in brackets, the word by which the program recognises what is computed, NumPy's where
  that has one; **place by place**, or **moves data** only; **keeps** its first input's shape.
- **gradient**: a rule of its own; *0* by declaration (indices, comparisons, shapes); *rewritten* into operators that
  have rules when the model is brought to its normal form. Empty: a gradient through it is refused, naming the node.
- **torch**: runs on the torch backend. **ort-training**: trusted with its gradient. **receptive field**: followed;
  empty: what it gives is taken to see all that it reads. **MACs**: counted.
- **CUDA**: ONNX Runtime's CUDA provider has a kernel for it, of some opset and type (`tools/cuda_kernels.txt`). Without
  one it is computed on the CPU, with a copy from the card and back. What a gradient adds has kernels wherever the
  operator has one (`tests/grad/test_cuda.py`).

| operator | does | gradient | torch | ort-training | receptive field | MACs | CUDA |
|---|---|---|---|---|---|---|---|
"""
_MICROSOFT = "com.microsoft"


def page() -> str:
    """The page's text."""
    from onnxviz.backends.torch.executor import OPERATORS
    from onnxviz.grad import overrides, table
    from onnxviz.graph import fused, lift
    from onnxviz.graph.analysis import cost
    from onnxviz.graph.analysis.receptive_rules import RULES
    from onnxviz.graph.operators import SPELLINGS, TABLE, TRAINED, Operator, computes, family, operator

    on_cuda = {line.split()[0] for line in KERNELS.read_text("utf-8").splitlines()}

    rewritten = {table.key(name, domain) for domain, name in fused.QUANTISED}
    rewritten |= {table.key(name, _MICROSOFT) for name in fused._STEPS}
    rewritten |= {*fused._EARLY} | lift.EXPANDED | {"If", "Scatter", "Upsample"} & {*lift._STEPS, "If"}

    def line(name: str, row: Operator, key: str = "", of: str = "") -> str:
        does = [f"as {of}"] if of else [family(name) if key else row.family]
        if not key:
            does[0] += f" ({computes(name)})" if computes(name) else ""
            does += ["place by place"] if row.sees in ("place", "own") else []
            does += ["moves data"] if row.moves else []
            does += ["keeps the shape"] if row.keeps == "shape" else []
        keys = {key or name} | (
            {name} if key and name in SPELLINGS and SPELLINGS[name].domain != "ort" else set()
        )
        rule, zero, made = keys & {*overrides.PLAIN}, keys & table.zero_operators(), keys & rewritten
        gradient = "rule" if rule else "0" if zero else "rewritten" if made else ""
        counted = row.macs or (key and name in cost._MICROSOFT)
        torch = keys & {*OPERATORS} or made  # torch runs the normal form
        cuda = {name, table.key(name, _MICROSOFT) if of else name} & on_cuda
        trained = not key and name in TRAINED
        rest = ["yes" if yes else "" for yes in (torch, trained, (of or name) in RULES, counted, cuda)]
        return "| " + " | ".join((name, ", ".join(does), gradient, *rest)) + " |"

    standard = {
        name for name in {*TABLE, *overrides.PLAIN, *table.zero_operators(), *OPERATORS} if "::" not in name
    }
    lines = [line(name, operator(name)) for name in sorted(standard - (set(SPELLINGS) - set(TABLE)))]
    lines += [
        "",
        "## Other spellings",
        "",
        "Fused, quantised and contributed: of `com.microsoft`, or the standard's own.",
    ]
    lines += ["", *HEAD.splitlines()[-2:]]
    for name, spelling in sorted(SPELLINGS.items()):
        lines.append(line(name, operator(spelling.of), table.key(name, _MICROSOFT), spelling.of))
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
