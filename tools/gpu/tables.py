"""The figures of tools/gpu.sh as Markdown, and their place in docs/gpu.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
# In the order in which they are measured.
NETWORKS = (
    "EfficientNet-Lite0", "ResNet-50", "SqueezeNet", "ConvNeXt-T", "DenseNet-121", "GoogLeNet", "MobileNetV2", "VGG-16",
)  # fmt: skip
TECHNIQUES = ("occlusion", "rise", "ascent", "patches")
_TIMES = (
    "forward",
    "forward on the card",
    "torch forward",
    "torch compiled forward",
    "gradient",
    "gradient on the card",
    "torch gradient",
    "torch compiled gradient",
    "Captum gradient",
)


def render(figures: dict[str, Any]) -> str:
    """All figures as Markdown tables; what is missing is named."""
    lines = [", ".join(f"{key} {value}" for key, value in figures.get("machine", {}).items()), ""]
    nets = {name: figures[name] for name in NETWORKS if name in figures}
    lines += _agreement(nets) + _times(nets) + _techniques(figures)
    if "strided depthwise" in figures:
        lines += _forms(figures["strided depthwise"])
    if "TensorRT" in figures:
        lines += [f"- TensorRT: {_told(figures['TensorRT'])}"]
    if "CUDA graphs" in figures:
        lines += [f"- CUDA graphs: {_told(figures['CUDA graphs'])}"]
    lines += [f"- not measured: {line}" for line in figures.get("skipped", [])]
    return "\n".join(lines) + "\n"


def insert(text: str, table: str) -> str:
    """A page with the table between its markers; raises ValueError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN.strip()} … {END.strip()}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*columns: str) -> list[str]:
    return [_row(list(columns)), "|---" * len(columns) + "|"]


def _agreement(nets: dict[str, Any]) -> list[str]:
    lines = _head(
        "network", "logits, float32", "gradient, float32", "cosine", "gradient, TF32", "cosine", "on the CPU"
    )
    for name, found in nets.items():
        cells = [name]
        for kind in ("float32", "TF32"):
            told = found.get("agreement", {}).get(kind)
            wide = 3 if kind == "float32" else 2
            if told is None:
                cells += [""] * wide
                continue
            logits, gradient = told
            cells += [f"{logits['relative']:.1e}"] * (kind == "float32")
            cells += [f"{gradient['relative']:.1e}", f"{gradient['cosine']:.6f}"]
        left = found.get("on_cpu")
        told = "" if left is None else ", ".join(f"{n} {op}" for op, n in left.items()) or "nothing"
        lines.append(_row([*cells, told]))
    return [*lines, ""]


def _times(nets: dict[str, Any]) -> list[str]:
    """Milliseconds; columns that nobody has figures for are left out."""
    rows = [(name, b, row) for name, found in nets.items() for b, row in found.get("seconds", {}).items()]
    columns = [column for column in _TIMES if any(column in row for _, _, row in rows)]
    lines = _head("milliseconds", "pictures", *columns, "torch's gradient over ours")
    for name, batch, row in rows:
        cells = [f"{1e3 * row[column]:.2f}" if column in row else "" for column in columns]
        both = "torch gradient" in row and "gradient on the card" in row
        ratio = f"{row['torch gradient'] / row['gradient on the card']:.2f}×" if both else ""
        lines.append(_row([name, str(batch), *cells, ratio]))
    return [*lines, ""]


def _techniques(figures: dict[str, Any]) -> list[str]:
    """Seconds of each technique, by who did it."""
    rows = [(name, figures[name]) for name in TECHNIQUES if name in figures]
    if not rows:
        return []
    lines = _head("technique", "seconds")
    for name, found in rows:
        of = found.get("of", "")
        lines.append(
            _row([f"{name}{f', {of}' if of else ''}", _told({k: v for k, v in found.items() if k != "of"})])
        )
    return [*lines, ""]


def _told(found: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())


def _forms(found: dict[str, Any]) -> list[str]:
    """Which form of a strided depthwise convolution's adjoint is the faster one."""
    lines = _head("strided depthwise adjoint, milliseconds", "zeros, then Conv", "ConvTranspose")
    for name, row in found.items():
        cells = [f"{1e3 * row[form]:.3f}" if form in row else "" for form in ("stuffed", "transposed")]
        lines.append(_row([name, *cells]))
    return [*lines, ""]
