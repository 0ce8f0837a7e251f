"""Two files of one network: what changed between them, which layer did it, why, and what to do."""

from __future__ import annotations

import contextlib
import csv
import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from onnxviz import errors, isolate
from onnxviz.attribution.methods import METHODS, chosen
from onnxviz.attribution.sampled import at_least
from onnxviz.auditing.accept import read_text
from onnxviz.auditing.resume import RESTS
from onnxviz.auditing.truth import read_truth
from onnxviz.comparing.agree import agree, input_check
from onnxviz.comparing.answers import Answers, answers
from onnxviz.comparing.cause import in_question
from onnxviz.comparing.drift import Drift, drift, flips
from onnxviz.comparing.finite import Finite, finite, silent
from onnxviz.comparing.hybrids import Hybrids, ending, rewritten, whole_sums
from onnxviz.comparing.judge import judged
from onnxviz.comparing.local import HEALED, advise, local, split
from onnxviz.comparing.match import Matching, match
from onnxviz.comparing.result import Compared, made, rests, rows
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
from onnxviz.network import Network
from onnxviz.opening import load
from onnxviz.progress import Progress, Shown, told, until_interrupted
from onnxviz.provenance import recorded, recording, unnoted
from onnxviz.text import printable, quoted

# What a part of a comparison may fail with, while the others go on.
_FAILING: Final = (ModelRejected, LimitExceeded, WorkerCrashed, RuntimeFailed)
_LARGEST: Final = 2**24  # bytes of a table of pairs
# What a manifest tells of both networks at once.
_OF_BOTH: Final = frozenset({"schema", "technique", "versions", "parameters", "limits", "threads"})
#: The parts, in the order in which they are run.
_PARTS: Final = ("answers", "matching", "runtime", "why", "local", "split", "advice", "drift")
#: What another comparison may take over: all that is dear to measure. The rest is made anew of it.
_GROWN: Final = ("local", "split", "advice")
_TAKEN: Final = ("answers", "runtime", "why", *_GROWN, "explained")


class Comparison(Compared):
    """What changed between two files of one network; fields of `Compared`."""

    def lines(self, accepted: Mapping[str, str] | None = None) -> list[str]:
        """The whole of it in a screen: answers, the first layers with the reason, what to do.

        accepted   reasons, by fingerprint, of findings that somebody has accepted
        """
        from onnxviz.comparing.page import lines

        return lines(self, accepted)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(self.lines()))}</pre>"

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
    resume: str | os.PathLike[str] | None = None,
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
    resume    the folder of an earlier comparison: what it measured is taken over, where nothing has changed since
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
    parameters = {
        "layers": None if layers is None else list(layers),
        "methods": list(methods),
        "probes": probes,
        "restore": restore,
        "seed": seed,
    }
    work = _Work(one, other, images, truth, parameters, _pairs(match), progress)
    if resume is not None:
        work.resume(resume)
    with until_interrupted() as stopped, errors.judged(one.judge), errors.judged(other.judge):
        work.run()
    return stopped.given(work.result())


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


def read_pairs(path: str | os.PathLike[str]) -> dict[str, str]:
    """{A's name: B's name} from a CSV file with the columns a and b.

    raises   UsageError
    """
    rows = csv.DictReader(read_text(path, "matches", _LARGEST).splitlines())
    if not {"a", "b"} <= set(rows.fieldnames or ()):
        had = ", ".join(map(repr, rows.fieldnames or ())) or "nothing"
        wanted = "a table of pairs has a and b, a line for each pair"
        raise UsageError(f"{quoted(path)} has the columns {had}; {wanted}")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        a, b = (row["a"] or "").strip(), (row["b"] or "").strip()
        if not a or not b:
            raise UsageError(f"line {number} of {quoted(path)} lacks a name; each has A's and B's")
        if found.setdefault(a, b) != b:
            raise UsageError(f"{a!r} stands twice in {quoted(path)}, with {found[a]!r} and with {b!r}")
    return found


class _Work:
    """A comparison on its way: each part by itself, so that what fails or is interrupted leaves the others."""

    def __init__(
        self,
        a: Network,
        b: Network,
        images: Any,
        truth: Any,
        parameters: Mapping[str, Any],
        given: Mapping[str, str] | None,
        progress: Progress,
    ) -> None:
        self.a, self.b = a, b
        self.parameters, self.given, self.progress = parameters, given, progress
        self.seed: int = parameters["seed"]
        layers = parameters["layers"]
        self.layers = None if layers is None else [a.layer(name).name for name in layers]
        self.methods = [chosen(name, METHODS).name for name in parameters["methods"]]
        self.listing: Listing | None = None if images is None else sources(images, a).require()
        if truth is not None and self.listing is None:
            raise UsageError("true classes were given, but no pictures")
        self.truth: list[int | None] | None = None
        if truth is not None and self.listing is not None:
            end = ending(a)
            classes = None if end is None else end.classes
            self.truth = read_truth(truth, self.listing.images, a.labels or b.labels, classes, a.limits)
        self.parts: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        self.before: dict[str, Any] = {}
        pictures = () if self.listing is None else self.listing.images
        request = {**parameters, "given": given, "truth": self.truth}
        self.rests = rests((a, b), pictures, request)

    def resume(self, folder: str | os.PathLike[str]) -> None:
        found = made(folder, self.rests)
        if found is not None:
            self.parts, self.before = found
            grown = _GROWN if self.parameters["restore"] else _GROWN[:2]
            if not set(grown) <= set(self.parts):
                for name in _GROWN:  # they share what is found while one of them is run
                    self.parts.pop(name, None)

    def part(self, name: str, make: Callable[[], Any]) -> None:
        """A part that was not made before; it may fail, which is said, and the others go on."""
        if name in self.parts:
            return
        self.reasons[name] = "interrupted"
        try:
            with self.a.passing(), self.b.passing():
                self.parts[name] = make()
        except _FAILING as error:
            self.reasons[name] = str(error)
        else:
            del self.reasons[name]

    def run(self) -> None:
        """All parts: what both answer, then which layer, then where they look."""
        isolate.give_back()
        a, b, listing, seed, progress = self.a, self.b, self.listing, self.seed, self.progress
        self.parts["input"] = input_check(a, b)
        x, other = self.probed()
        if listing is not None:
            self.part(
                "answers", lambda: answers(a, b, listing, truth=self.truth, seed=seed, progress=progress)
            )
        self.part("finite", self._finite)
        self.part("matching", lambda: self._matching(x, other))
        matching = self.parts.get("matching")
        if listing is None and matching is not None:
            self._silent(matching)
        self.part("runtime", lambda: rewritten(b, other))
        if matching is not None:
            self.part("why", lambda: why(a, b, matching, x, other, layers=self.layers, progress=progress))
        if matching is not None and listing is not None:
            self._layers(matching, x, other, self.parts.get("answers"))
        self._cut(other)
        if listing is not None and "answers" in self.parts:
            self.part("flips", lambda: flips(a, b, listing.images, self.parts["answers"], self.methods, seed))
        if not self.methods:
            self.parts["drift"] = Drift("no attribution method was asked for")
        elif listing is not None:
            pairs = () if matching is None else matching.pairs
            known = {layer.name for layer in b.layers}
            twins = {pair.layer: pair.b for pair in pairs if pair.b in known}
            rows = self.parts.setdefault("explained", {})
            given: dict[str, Any] = {"methods": self.methods, "layers": twins, "seed": seed, "rows": rows}
            with recording():  # the pictures are on record
                self.part("drift", lambda: drift(a, b, listing, progress=progress, **given))

    def _cut(self, x: np.ndarray) -> None:
        """Whether it is this processor, or ONNX Runtime's rewriting, that B's answers lose by."""
        own = self.parts.get("why")
        if own is None or own.whole is not None or not in_question(self.parts):
            return
        self.part("sums", lambda: whole_sums(self.b, self.parts["matching"].b, x))
        told = self.parts.pop("sums", None)
        self.parts["why"] = replace(own, whole=told if told is not None and told.signal else None)

    def _finite(self) -> Finite:
        """What is no number in either file; of pictures, what they gave for them."""
        if self.listing is None:
            return finite(self.a, self.b, None)
        done = self.parts.get("answers")
        if done is None:
            return finite(self.a, self.b, self.listing.images, reason=self.reasons.get("answers", ""))
        seen = done.pictures + len(done.not_finite)
        return finite(self.a, self.b, self.listing.images, done.bad, seen)

    def _silent(self, matching: Matching) -> None:
        """Why B could not be judged by A's answers, where no pictures tell: two that are made do."""
        with contextlib.suppress(*_FAILING), self.a.passing():
            if told := silent(self.a, matching.a):
                self.reasons["answers"] = told

    def _matching(self, x: np.ndarray, other: np.ndarray) -> Matching:
        apart = slice(None, None, max(1, len(x) // 2))
        two = x[apart][:2], other[apart][:2]
        found = match(self.a, self.b, *two, given=self.given, seed=self.seed, progress=self.progress)
        found.require_same_network()
        return found

    def _layers(self, matching: Matching, x: np.ndarray, other: np.ndarray, given: Answers | None) -> None:
        """What each layer does, what it is made of, and what to do."""
        if "local" in self.parts:
            return
        if given is not None and given.silent and not any(one.signal for one in given.likeness.values()):
            self.reasons["local"] = given.silent
            return
        restore, progress = self.parameters["restore"], self.progress
        self.part("grown", lambda: Hybrids(self.a, self.b, matching, x, other))
        hybrids = self.parts.pop("grown", None)
        if hybrids is None:
            self.reasons["local"] = self.reasons.pop("grown")
            return
        self.part("local", lambda: local(hybrids, heal=min(HEALED, restore), progress=progress))
        if "local" not in self.parts:
            return
        self.part("split", lambda: split(hybrids))
        if restore:
            effects = self.parts["local"]
            self.part("advice", lambda: advise(hybrids, effects, restore=restore, progress=progress))

    def probed(self) -> tuple[np.ndarray, np.ndarray]:
        """Pictures spread over the set, as the inputs of A and of B; two that are made where none were given."""
        if self.listing is None:
            return self.a.samples(), self.b.samples()
        seen = []
        pictures = self.listing.images
        probes = min(self.parameters["probes"], len(pictures))
        spread = np.linspace(0, len(pictures) - 1, probes).round()
        with unnoted():
            for index in np.unique(spread.astype(int)).tolist():
                with contextlib.suppress(ImageRejected):
                    seen.append((self.a.prepare(pictures[index]), self.b.prepare(pictures[index])))
        if not seen:
            return self.a.samples(), self.b.samples()
        seen *= 2 if len(seen) == 1 else 1  # what is matched by values needs two pictures
        one, other = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
        return one, other

    def result(self) -> Comparison:
        parts = self.parts
        effects = parts["local"].effects if "local" in parts else ()
        manifest = self.a.manifest("compare", **self.parameters)
        own = self.b.manifest("compare")
        manifest["b"] = {name: own[name] for name in own if name not in _OF_BOTH}
        manifest["figures"] = {
            name: parts[name].to_dict()
            for name in _PARTS
            if name in parts and hasattr(parts[name], "to_dict")
        }
        manifest["not_run"] = dict(self.reasons)
        manifest[RESTS] = self.rests
        if "picture_sets" in self.before:  # which are not read again
            manifest["picture_sets"] = self.before["picture_sets"]
        if "answers" in parts:
            manifest["skipped"] = [one.to_dict() for one in parts["answers"].skipped]
        return Comparison(
            np.array([one.e for one in effects], np.float32),
            manifest,
            (self.a.name, self.b.name),
            judged(parts, self.reasons, self.listing is not None),
            rows(parts.get("why"), parts.get("local"), self.listing is not None, self.layers is None),
            **{name: parts.get(name) for name in _PARTS if name not in ("runtime", "why", "local")},
            effects=parts.get("local"),
            why=parts.get("why"),
            flips=parts.get("flips", ()),
            reasons=dict(self.reasons),
            pictured=self.listing is not None,
            measured={name: parts[name] for name in _TAKEN if name in parts},
        )
