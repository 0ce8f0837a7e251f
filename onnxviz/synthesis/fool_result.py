"""What `fool` gives back: fooling images, what became of each, and the sheet that shows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.files import PICTURES, destination, png_bytes
from onnxviz.results import Result, write

if TYPE_CHECKING:
    from PIL import Image

_ROWS = 12
_FACTORS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Outcome:
    """What became of one image. Probabilities are 0 to 1; changes are over all its values, in grey levels of 0 to 255.

    source, target, top   class indices: what the image was taken for, was to be taken for, and is taken for now
    already    it was taken for the target from the start, and was left as it is
    fooled     the target is on top now, with the confidence that was asked for
    l2, linf, rms   the Euclidean length of the change, its largest value, its root mean square
    changed    the share of values that changed at all
    """

    name: str
    source: int
    source_label: str
    source_before: float
    source_after: float
    target: int
    target_label: str
    target_before: float
    target_after: float
    top: int
    top_label: str
    top_after: float
    already: bool
    fooled: bool
    steps: int
    l2: float
    linf: float
    rms: float
    changed: float

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return asdict(self)


@dataclass
class Fooled(Result):
    """Fooling images.

    values      (N, h, w, 3) float32, whole grey levels: the images as the network sees them
    originals   each (h, w, 3) uint8: what it saw before
    images      each (H, W, 3) uint8: the whole image in the size that the network resizes it to, so that the network
                sees exactly `values` when it is read again
    outcomes    one an image
    """

    originals: list[np.ndarray] = field(repr=False)
    images: list[np.ndarray] = field(repr=False)
    outcomes: list[Outcome]

    def picture(self) -> Image.Image:
        """Each image before and after, with what the network says, and the difference magnified."""
        after = self.values.astype(np.uint8)
        if len(self.outcomes) == 1:
            return _one(self.originals[0], after[0], self.outcomes[0], self.manifest)
        return _several(self.originals, after, self.outcomes, self.manifest)

    def files(self, path: str | os.PathLike[str]) -> list[Path]:
        """Where `save(path)` writes the fooling images: NAME.fooled.png, or NAME.fooled/NUMBER-NAME.png of several."""
        target = Path(path)
        stem = target.with_suffix("") if target.suffix.lower() in PICTURES else target
        beside = stem.with_name(stem.name + ".fooled")
        if len(self.images) == 1:
            return [beside.with_name(beside.name + ".png")]
        digits = len(str(len(self.images) - 1))
        stems = [_plain(Path(one.name).stem) for one in self.outcomes]
        return [beside / f"{number:0{digits}d}-{stem}.png" for number, stem in enumerate(stems)]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet, the values and the manifest, and the fooling images themselves (`files`).

        raises   UsageError, OutputRefused
        """
        from PIL import Image

        target = destination(path, "fool.png")
        images = {
            file: png_bytes(Image.fromarray(image))
            for file, image in zip(self.files(target), self.images, strict=True)
        }
        names = [file.relative_to(target.parent).as_posix() for file in images]
        return write(replace(self, manifest={**self.manifest, "files": names}), target, images)


def _plain(name: str) -> str:
    """A file name of letters, digits and hyphens."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:60] or "image"


def magnified(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, int]:
    """The difference on middle grey, (h, w, 3) uint8, and by how much it is magnified.

    Of 1, 2, 5, 10, ..., 100 the largest factor under which 99.5 % of the values stay within black and white.
    """
    change = after.astype(np.int32) - before.astype(np.int32)
    most = float(np.percentile(np.abs(change), 99.5)) or float(np.abs(change).max())
    factor = max((f for f in _FACTORS if f * most <= 127), default=1)
    return np.clip(128 + factor * change, 0, 255).astype(np.uint8), factor


def percent(value: float) -> str:
    """A probability as a reader wants it: 38.9%, 0.052%, 99.98%, <0.0001%."""
    if 0 < value < 1e-6:
        return "<0.0001%"
    digits = 1 if 0.001 <= value <= 0.999 else 4 if value < 0.001 else 2
    return f"{100 * value:.{digits}f}%"


def _said(outcome: Outcome, after: bool) -> str:
    """What the network says: its top class, then the other of the two that matter."""
    source = outcome.source_after if after else outcome.source_before
    target = outcome.target_after if after else outcome.target_before
    if not after:
        return f"{outcome.source_label}  {percent(source)}\n{outcome.target_label} {percent(target)}"
    if outcome.top == outcome.target:
        return f"{outcome.target_label}  {percent(target)}\n{outcome.source_label} {percent(source)}"
    return f"{outcome.top_label}  {percent(outcome.top_after)}\n{outcome.target_label} {percent(target)}"


def _levels(value: float) -> str:
    return "1 grey level" if value == 1 else f"{value:.3g} grey levels"


def _how(manifest: dict[str, Any], steps: int) -> str:
    given = manifest["parameters"]
    counted = f"{steps} {{}}step{'s' if steps != 1 else ''}"
    name = {"gradient": counted.format("gradient "), "fgsm": "FGSM", "pgd": f"{counted.format('')} of PGD"}
    norm = {"l2": "L2", "linf": "L∞"}[given["norm"]]
    bound = "" if given["bound"] is None else f" of at most {_levels(given['bound'])}"
    return f"{name[given['method']]}, {norm} norm{bound}"


def _one(before: np.ndarray, after: np.ndarray, outcome: Outcome, manifest: dict[str, Any]) -> Image.Image:
    from onnxviz.figures.grids import side_by_side

    difference, factor = magnified(before, after)
    change = f"largest {_levels(outcome.linf)} of 255, {outcome.rms:.2g} root mean square"
    taken = outcome.steps if outcome.fooled else manifest["parameters"]["steps"]
    cards = [
        (before, _said(outcome, after=False)),
        (after, _said(outcome, after=True)),
        (difference, f"the difference, {factor} times\n{change}"),
    ]
    state = "fooled" if outcome.fooled else "not fooled"
    return side_by_side(cards, height=336, title=f"{state} by {_how(manifest, taken)}")


def _several(
    before: Sequence[np.ndarray], after: np.ndarray, outcomes: Sequence[Outcome], manifest: dict[str, Any]
) -> Image.Image:
    from onnxviz.figures.grids import Row, rows

    table = []
    for old, new, outcome in list(zip(before, after, outcomes, strict=True))[:_ROWS]:
        difference, factor = magnified(old, new)
        state = "was it already" if outcome.already else "fooled" if outcome.fooled else "not fooled"
        texts = [_said(outcome, after=False), _said(outcome, after=True)]
        texts.append(f"{factor} times\nlargest {_levels(outcome.linf)}")
        table.append(Row(f"{Path(outcome.name).name}\n{state}", [old, new, difference], texts))
    figures = manifest["figures"]
    rate = figures["success_rate"]
    subtitle = f"up to {_how(manifest, manifest['parameters']['steps'])}"
    if len(outcomes) > _ROWS:
        subtitle += f"; the first {_ROWS} images are shown"
    return rows(
        table,
        side=224,
        heads=["before", "after", "difference, magnified"],
        title=f"{figures['fooled']} of {figures['images'] - figures['already']} images fooled"
        + (f" ({rate:.0%})" if rate is not None else ""),
        subtitle=subtitle,
    )
