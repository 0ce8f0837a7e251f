"""Write docs/methods.md: every attribution method and every objective that can be typed, from where they are defined.

python tools/methods.py     a test holds the page to the rows
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
HEAD = """# Methods

Made by `python tools/methods.py` from the rows of `onnxviz/attribution/methods.py`. How to read the columns:

- **map**: *signed* ones have what speaks for the score and what speaks against it; *both*: with `--signed`; the others
  are magnitudes.
- **explainer**: it is a few operators behind the network and its gradient, so it can be put into
  [a file that explains by itself](explainer.md); the others take gradients at samples, or run the network many times.
"""
TITLES = {
    "saliency": "`onnxviz saliency`: by the gradient at the picture",
    "cam": "`onnxviz cam`: by a layer",
}
OBJECTIVES = """A sum of these, with numbers, `+`, `-`, `*`, `/` and brackets: `2*logit(285) - logit('tabby')`. What
stands in square brackets may be left out; `...` is any number of indices, `None` or `slice(start, stop)`. Python has
more, of arrays, in `onnxviz.objectives`."""


def page() -> str:
    """The page's text."""
    from onnxviz.attribution.methods import of

    lines = []
    for technique, title in TITLES.items():
        lines += ["", f"## {title}", "", "| method | what it shows | map | explainer | options | paper |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, row in of(technique).items():
            signed = "signed" if row.signed else "both" if row.caption.either else ""
            options = ", ".join(
                key if value is None else f"{key} ({value})" for key, value in row.options.items()
            )
            cells = [
                f"`{name}`",
                row.summary,
                signed,
                "yes" if row.one_pass else "",
                options,
                row.paper,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join([*lines, *objectives()]) + "\n"


def objectives() -> list[str]:
    """What can be explained instead of a class."""
    from onnxviz.objectives.terms import WRITTEN
    from onnxviz.objectives.text import forms

    head = [
        "",
        "## `--objective`: what is explained instead of a class",
        "",
        OBJECTIVES,
        "",
        "| text | value |",
    ]
    rows = [
        f"| `{form}` | {' '.join((WRITTEN[name].__doc__ or '').split(chr(10) * 2)[0].split())} |"
        for name, form in forms().items()
    ]
    return [*head, "|---|---|", *rows]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
