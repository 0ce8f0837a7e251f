"""Two files of one network: what changed between them, which layer did it, why, and what to do."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.attribution.methods import METHODS, chosen
from onnxviz.attribution.sampled import at_least
from onnxviz.auditing.statistics import Likeness
from onnxviz.auditing.truth import read_truth
from onnxviz.comparing.advice import advise
from onnxviz.comparing.agree import agree, input_check
from onnxviz.comparing.answers import answers
from onnxviz.comparing.drift import Drift, drift
from onnxviz.comparing.flips import flips
from onnxviz.comparing.hybrids import Hybrids, ending
from onnxviz.comparing.judge import judged
from onnxviz.comparing.local import HEALED, local
from onnxviz.comparing.match import Matching, match, read_pairs
from onnxviz.comparing.result import Compared
from onnxviz.comparing.split import split
from onnxviz.comparing.table import rows
from onnxviz.comparing.why import why
from onnxviz.errors import (
    ImageRejected,
    LimitExceeded,
    ModelRejected,
    RuntimeFailed,
    UsageError,
    WorkerCrashed,
)
from onnxviz.features.stream import sources
from onnxviz.image.folder import Listing
from onnxviz.interrupted import until_interrupted
from onnxviz.network import Network
from onnxviz.opening import load
from onnxviz.progress import Progress, Shown, told
from onnxviz.provenance import recorded, unnoted
from onnxviz.text import printable

if TYPE_CHECKING:
    pass

# What a part of a comparison may fail with, while the others go on.
_FAILING: Final = (ModelRejected, LimitExceeded, WorkerCrashed, RuntimeFailed)
# What a manifest tells of both networks at once.
_OF_BOTH: Final = frozenset({"schema", "technique", "versions", "parameters", "limits", "threads"})
#: The parts, in the order in which they are run.
_PARTS: Final = ("answers", "matching", "runtime", "why", "local", "split", "advice", "drift")


class Comparison(Compared):
    """What changed between two files of one network; fields of `Compared`."""

    def lines(self) -> list[str]:
        """The whole of it in a screen: answers, the first layers with the reason, what to do."""
        from onnxviz.comparing.page import lines

        return lines(self)

    def to_dict(self, *, fail_on: str = "high", accepted: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Findings, checks and figures as plain values, see `save`."""
        from onnxviz.auditing.report.write import to_dict
        from onnxviz.comparing.page import page

        return {**to_dict(page(self, fail_on, accepted)), "manifest": self.manifest}

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        fail_on: str = "high",
        accepted: Mapping[str, str] | None = None,
        model: str = "",
    ) -> Path:
        """Write a folder: report.html, report.json, layers.csv, flips.csv, exclude.json, SARIF, JUnit, manifest.json.

        fail_on    from which severity on a finding counts for the verdict: 'high', 'medium', 'low' or 'never'
        accepted   reasons, by fingerprint, of findings that somebody has accepted
        model      where B's file lies, for SARIF; '': what it is called
        returns    the path of report.html
        raises     OutputRefused
        """
        from onnxviz.auditing.report.write import write
        from onnxviz.comparing.page import files, page

        return write(page(self, fail_on, accepted, model), path, self.manifest, files=files(self))


@recorded
def compare(
    a: Network | str | os.PathLike[str],
    b: Network | str | os.PathLike[str],
    images: Any = None,
    *,
    truth: Any = None,
    match: Any = None,
    layers: Sequence[str] | None = None,
    methods: Sequence[str] = ("grad-cam",),
    probes: int = 16,
    restore: int = 8,
    seed: int = 0,
    progress: Shown = "auto",
) -> Comparison:
    """What changed between two files of one network, which layer did it, why, and what to do.

    A is the network as it should be, B what became of it: quantised, pruned, exported anew, converted. Layers are found
    by their weights and values, not by their names; each layer's own part is measured by putting it alone into A.

    a, b      networks, or files that are opened as they are; B's recipe for pictures may be another
    images    pictures, files or folders; None: weights, ranges and structure alone
    truth     true classes: a CSV file of picture and class, 'folders' (a picture's folder is its class), a list or a
              dictionary; None: only whether both agree
    match     layers that belong together, A's name: B's name, or a CSV file of both; None: all is found by itself
    layers    the layers of A that are looked at, or one; None: all
    methods   attribution methods whose maps are compared, or one; none: no maps
    probes    how many of the pictures the layers are measured on
    restore   up to so many layers are put back to float, to tell what that gains; 0: none
    returns   Comparison
    raises    UsageError where these are no files of one network; UnknownLayer, UnknownLabel, ImageRejected; what
              opening raises; Interrupted with what was done so far
    """
    progress = told(progress)
    probes, restore, seed = (
        at_least("probes", probes, 2),
        at_least("restore", restore, 0),
        at_least("seed", seed, 0),
    )
    layers = [layers] if isinstance(layers, str) else layers
    methods = [methods] if isinstance(methods, str) else methods or ()
    one, other = (_opened(given, name) for given, name in ((a, "a"), (b, "b")))
    agree(one, other)
    work = _Work(one, other, images, truth, probes, seed, progress)
    with until_interrupted() as stopped:
        work.run(_pairs(match), layers, methods, restore)
    parameters = {
        "layers": None if layers is None else list(layers),
        "methods": list(methods),
        "probes": probes,
        "restore": restore,
        "seed": seed,
    }
    return stopped.given(work.result(parameters))


def _opened(given: Any, name: str) -> Network:
    if isinstance(given, Network):
        return given
    if isinstance(given, (str, os.PathLike)):
        return load(given)
    raise UsageError(f"{name} is a network or a file, not an object of type {type(given).__name__}")


def _pairs(given: Any) -> dict[str, str] | None:
    """{A's name: B's name} of a dictionary, or of a CSV file.

    raises   UsageError
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        if not all(isinstance(name, str) for pair in given.items() for name in pair):
            raise UsageError(f"matches are names, A's name: B's name; got {printable(given, 80)}")
        return dict(given)
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(
            f"matches are a dictionary or a CSV file, not an object of type {type(given).__name__}"
        )
    return read_pairs(given)


class _Work:
    """A comparison on its way: each part by itself, so that what fails or is interrupted leaves the others."""

    def __init__(
        self, a: Network, b: Network, images: Any, truth: Any, probes: int, seed: int, progress: Progress
    ) -> None:
        self.a, self.b = a, b
        self.seed, self.progress = seed, progress
        self.listing: Listing | None = None if images is None else sources(images, a).require()
        if truth is not None and self.listing is None:
            raise UsageError("true classes were given, but no pictures")
        self.truth: list[int | None] | None = None
        if truth is not None and self.listing is not None:
            end = ending(a)
            classes = None if end is None else end.classes
            self.truth = read_truth(truth, self.listing.images, a.labels or b.labels, classes, a.limits)
        self.probes = probes
        self.parts: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that may fail, which is said, and the others go on."""
        self.reasons[name] = "interrupted"
        try:
            yield
        except _FAILING as error:
            self.reasons[name] = str(error)
        else:
            del self.reasons[name]

    def run(
        self,
        given: Mapping[str, str] | None,
        layers: Sequence[str] | None,
        methods: Sequence[str],
        restore: int,
    ) -> None:
        """All parts: what both answer, then which layer, then where they look."""
        wanted = None if layers is None else [self.a.layer(name).name for name in layers]
        named = [chosen(name, METHODS).name for name in methods]
        self.parts["input"] = input_check(self.a, self.b)
        x, other = self.probed()
        if self.listing is not None:
            with self.part("answers"):
                self.parts["answers"] = answers(
                    self.a, self.b, self.listing, truth=self.truth, seed=self.seed, progress=self.progress
                )
        with self.part("matching"):
            apart = slice(None, None, max(1, len(x) // 2))
            two = x[apart][:2], other[apart][:2]
            found = match(self.a, self.b, *two, given=given, seed=self.seed, progress=self.progress)
            found.require_same_network()
            self.parts["matching"] = found
        with self.part("runtime"):
            self.parts["runtime"] = rewritten(self.b, other)
        matching = self.parts.get("matching")
        if matching is not None:
            with self.part("why"):
                self.parts["why"] = why(
                    self.a, self.b, matching, x, other, layers=wanted, progress=self.progress
                )
        if matching is not None and self.listing is not None:
            self._layers(matching, x, other, restore)
        if self.listing is not None and "answers" in self.parts:
            with self.part("flips"):
                self.parts["flips"] = flips(
                    self.a, self.b, self.listing.images, self.parts["answers"], named, self.seed
                )
        if not named:
            self.parts["drift"] = Drift("no attribution method was asked for")
        elif self.listing is not None:
            with self.part("drift"):
                pairs = () if matching is None else matching.pairs
                twins = {pair.layer: pair.b for pair in pairs if pair.b in self._named_in_b}
                self.parts["drift"] = drift(
                    self.a,
                    self.b,
                    self.listing,
                    methods=named,
                    layers=twins,
                    seed=self.seed,
                    progress=self.progress,
                )

    def _layers(self, matching: Matching, x: np.ndarray, other: np.ndarray, restore: int) -> None:
        """What each layer does, what it is made of, and what to do."""
        with self.part("local"):
            hybrids = Hybrids(self.a, self.b, matching, x, other)
            effects = local(hybrids, heal=min(HEALED, restore), progress=self.progress)
            self.parts["local"] = effects
        if "local" not in self.parts:
            return
        with self.part("split"):
            self.parts["split"] = split(hybrids)
        if restore:
            with self.part("advice"):
                self.parts["advice"] = advise(hybrids, effects, restore=restore, progress=self.progress)

    @property
    def _named_in_b(self) -> set[str]:
        return {layer.name for layer in self.b.layers}

    def probed(self) -> tuple[np.ndarray, np.ndarray]:
        """Pictures spread over the set, as the inputs of A and of B; two that are made where none were given."""
        if self.listing is None:
            return self.a.samples(), self.b.samples()
        seen = []
        pictures = self.listing.images
        spread = np.linspace(0, len(pictures) - 1, min(self.probes, len(pictures))).round()
        with unnoted():
            for index in np.unique(spread.astype(int)).tolist():
                with contextlib.suppress(ImageRejected):
                    seen.append((self.a.prepare(pictures[index]), self.b.prepare(pictures[index])))
        if not seen:
            return self.a.samples(), self.b.samples()
        seen *= 2 if len(seen) == 1 else 1  # what is matched by values needs two pictures
        one, other = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
        return one, other

    def result(self, parameters: dict[str, Any]) -> Comparison:
        """What there is by now."""
        parts = self.parts
        effects = parts["local"].effects if "local" in parts else ()
        manifest = self.a.manifest("compare", **parameters)
        own = self.b.manifest("compare")
        manifest["b"] = {name: own[name] for name in own if name not in _OF_BOTH}
        manifest["figures"] = {
            name: parts[name].to_dict()
            for name in _PARTS
            if name in parts and hasattr(parts[name], "to_dict")
        }
        manifest["not_run"] = dict(self.reasons)
        if "answers" in parts:
            manifest["skipped"] = [one.to_dict() for one in parts["answers"].skipped]
        return Comparison(
            np.array([one.e for one in effects], np.float32),
            manifest,
            (self.a.name, self.b.name),
            judged(parts, self.reasons, self.listing is not None),
            rows(
                parts.get("why"), parts.get("local"), self.listing is not None, parameters["layers"] is None
            ),
            **{name: parts.get(name) for name in _PARTS if name not in ("runtime", "why", "local")},
            effects=parts.get("local"),
            why=parts.get("why"),
            flips=parts.get("flips", ()),
            reasons=dict(self.reasons),
            pictured=self.listing is not None,
        )


def rewritten(net: Network, x: np.ndarray) -> Likeness | None:
    """How far ONNX Runtime's rewriting of the graph moves the outputs: the file as it stands against what is run.

    None where nothing is rewritten, as it was opened.
    """
    if not net.optimise:
        return None
    end = ending(net)
    names = [end.logits] if end is not None else [value.name or "" for value in net.model.graph.outputs]
    plain = copy.copy(net)
    plain.optimise = False
    found = Likeness()
    for place in range(len(x)):
        one, other = (each.run(x[place : place + 1], names) for each in (plain, net))
        for name in names:
            y, z = one[name], other[name]
            if y.dtype.kind == "f" and y.shape == z.shape:
                mean = y.mean() if end is not None and end.scored and y.size > 1 else 0.0
                found.add(y - mean, z - mean)
    return found
