"""Do both networks answer alike: agreement, calibration, fixed and broken, and how much noise would do the same.

A bare rate of agreement frightens for nothing: where a network is not sure of its answer, noise that nobody sees
changes it too. So agreement is told by how sure A was, with limits, and beside it stands the noise in the pixels that
moves A's scores as far as B does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from onnxviz.auditing.statistics import Calibration, Likeness, Share, mcnemar
from onnxviz.comparing.dense import Detections, Pixels, detections, inferred, pixels
from onnxviz.comparing.finite import Seen
from onnxviz.comparing.hybrids import answers as answering
from onnxviz.comparing.hybrids import picks
from onnxviz.comparing.noise import Noise, centred, level, moved, noise_equivalent, together, whole
from onnxviz.errors import ImageRejected, ModelUnsuitable
from onnxviz.features.stream import none_used, refusal, source_name, sources, stream
from onnxviz.graph.output import Head
from onnxviz.graph.surgery import cut
from onnxviz.image.folder import Skipped
from onnxviz.meaning import probabilities
from onnxviz.network import Network
from onnxviz.progress import Progress, silent
from onnxviz.provenance import note_set, recording, unnoted
from onnxviz.runtime import providers
from onnxviz.tables import Columns
from onnxviz.text import amount, printable

#: Agreement is told of the pictures where A's best class leads by so much.
MARGINS: Final = (0.0, 0.1, 0.3)
#: And judged where it leads by so much.
MARGIN: Final = 0.1
# Pictures a run on a CPU: two networks run at once here, and more of them are no faster.
_ON_CPU: Final = 2
_SAME: Final = 0.0005  # of a probability


@dataclass(frozen=True)
class Truth:
    """Both networks held against labels.

    pictures          those that have a label
    right_a, right_b  how many each has right
    fixed, broken     those that B alone, and A alone, has right
    p                 McNemar's exact p-value: how likely such a difference is where both are equally good
    ece_a, ece_b      expected calibration errors, 15 bins, 0 to 1
    """

    pictures: int
    right_a: Share
    right_b: Share
    fixed: int
    broken: int
    p: float
    ece_a: float | None
    ece_b: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "right_a": self.right_a.to_dict(), "right_b": self.right_b.to_dict()}


@dataclass(frozen=True)
class Answers:
    """What both networks answered.

    pictures     how many were compared
    reason       why there are no classes to compare; '' where there are
    agreement    by the margin of A's two best classes from which on pictures count
    shift        mean over pictures of B's highest probability less A's; None without classes
    likeness     of the logits less their mean; without classes, of each output: by its name in A
    truth        against labels, where there are any
    noise        the noise equivalent; None where it was not measured
    flips        a row for each picture with another class, where A was surest first
    not_finite   pictures left out since A or B gives NaN or infinities
    bad          'A' and 'B': the places of those pictures that it gives them for
    silent       why B cannot be judged by A's answers: these hold no signal; '' where they do
    skipped      pictures that could not be used
    by_logits    agreement from a margin of 0.1 on, were B's logits its answer; None: they are
    scores       what A calls its answer
    pixels       of a segmenter the classes of places, of a detector what it finds; None of any other network
    """

    pictures: int
    reason: str = ""
    agreement: Mapping[float, Share] = field(default_factory=dict)
    shift: float | None = None
    likeness: Mapping[str, Likeness] = field(default_factory=dict)
    truth: Truth | None = None
    noise: Noise | None = None
    flips: Columns = field(default_factory=dict)
    not_finite: Sequence[str] = ()
    bad: Mapping[str, Sequence[int]] = field(default_factory=dict)
    silent: str = ""
    skipped: Sequence[Skipped] = ()
    by_logits: Share | None = None
    scores: str = ""
    pixels: Pixels | Detections | None = None

    @property
    def behind(self) -> str:
        """That B's logits, which layers are held against, keep most of the answers that it loses; '' elsewhere."""
        own, kept = self.agreement.get(MARGIN), self.by_logits
        if own is None or kept is None or own.count == own.of or 2 * kept.count <= own.of + own.count:
            return ""
        return f"what differs stands behind the logits, at which layers are measured: {printable(self.scores, 60)}"

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, without the rows."""
        truth, noise = self.truth, self.noise
        return {
            "pictures": self.pictures,
            "reason": self.reason,
            "agreement": {f"margin>={margin:g}": one.to_dict() for margin, one in self.agreement.items()},
            "confidence_shift": self.shift,
            "outputs": {name: one.figures() for name, one in self.likeness.items()},
            "pixels": None if self.pixels is None else self.pixels.to_dict(),
            "truth": None if truth is None else truth.to_dict(),
            "by_logits": None if self.by_logits is None else self.by_logits.to_dict(),
            "noise_equivalent": None if noise is None else noise.to_dict(),
            "not_finite": len(self.not_finite),
            "silent": self.silent,
            "skipped": len(self.skipped),
        }

    def sentences(self) -> list[str]:
        """The same for a reader."""
        told: list[str] = [self.silent] if self.silent else []
        if not self.pictures:
            told.append("no picture could be compared")
        elif self.pixels is not None:
            told += self.pixels.sentences()
        elif self.reason:
            told.append(f"answers are not compared: {self.reason}")
        agreement = self.agreement if self.pictures else {}
        for margin, one in sorted(agreement.items(), key=lambda item: item[0] or 1):
            if not margin:
                told.append(f"over all pictures the same class in {one}")
            elif one.of:
                leads = f"where A's best class leads by {margin:g} or more"
                told.append(f"{leads}, B gives the same class in {one}")
            else:
                told.append(
                    f"A's best class leads by {margin:g} or more in none of {amount(self.pictures, 'picture')}"
                )
        if self.behind:
            told.append(f"{self.behind}; by B's logits alone the class is A's in {self.by_logits}")
        if self.noise is not None:
            told.append(str(self.noise))
        if self.shift is not None:
            way = "higher" if self.shift > 0 else "lower"
            told.append(
                "B is as confident as A on average"
                if abs(self.shift) < _SAME
                else f"B's highest probability is {abs(self.shift):.3f} {way} than A's on average"
            )
        if self.truth is not None:
            held = self.truth
            told.append(
                f"of {amount(held.pictures, 'picture')} with a label A has {held.right_a.share or 0:.1%} right and B "
                f"{held.right_b.share or 0:.1%}: {held.fixed} fixed, {held.broken} broken (McNemar p = {held.p:.2g}); "
                f"calibration error {held.ece_a or 0:.3f} and {held.ece_b or 0:.3f}"
            )
        told += [
            f"{printable(name, 60)}: {_likeness(one, self.pictures)}" for name, one in self.likeness.items()
        ]
        if self.not_finite:
            told.append(
                f"left out, since A or B gives NaN or infinities: {amount(len(self.not_finite), 'picture')}"
            )
        if self.skipped:
            told.append(f"left out, since they could not be used: {amount(len(self.skipped), 'picture')}")
        return told


def _likeness(one: Likeness, pictures: int) -> str:
    if not one.signal:
        return "A gives no signal that B could be held against"
    if not one.noise:
        return f"the same numbers over {amount(pictures, 'picture')}"
    return (
        f"signal to noise {one.sqnr:.1f} dB over {amount(pictures, 'picture')}, cosine {one.cosine or 0:.4f}"
    )


def answers(
    a: Network,
    b: Network,
    images: Any,
    *,
    truth: Sequence[int | None] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Answers:
    """What both networks answer for pictures, one chunk of them in memory at a time.

    a, b       each sees the pictures by its own recipe
    images     a folder, files, PIL images, (H, W, 3) uint8 arrays, a list of these, or a `Listing`
    truth      the class of each of them, None where it is not known; as long as the pictures that are found
    seed       of the noise
    raises     ImageRejected where no picture can be used; what running raises
    """
    listing = sources(images, a).require()
    pictures = listing.images
    try:
        heads = a.head, b.head
    except ModelUnsuitable as error:
        return _outputs(a, b, pictures, list(listing.skipped), str(error), seed, progress)
    table, skipped = _Table(a, b, truth), list(listing.skipped)
    both = _paired(
        _rows(a, pictures, [heads[0].scores, heads[0].logits], skipped, progress),
        _rows(b, pictures, [heads[1].scores, heads[1].logits], None, silent),
    )
    with a.passing(), b.passing():
        _tabled(table, pictures, heads, both)
    if not table.count and not table.seen.names:
        raise none_used(len(pictures), skipped)
    noise = noise_equivalent(a, pictures, table.moved, seed) if table.moved else None
    return table.result(noise, skipped)


@np.errstate(invalid="ignore")  # what is not finite is left out
def _tabled(table: _Table, pictures: Sequence[Any], heads: tuple[Head, Head], both: Iterator[_Pair]) -> None:
    """Put all rows into the table.

    In a frame of its own: the last row is memory of the sessions, which would outlive them.
    """
    for index, digest, *rows in both:
        name = source_name(pictures[index], index)
        paired = list(zip(rows, heads, strict=True))
        logits = [row[head.logits].reshape(-1).astype(np.float64) for row, head in paired]
        scores = [probabilities(head, row[head.scores].reshape(1, -1))[0] for row, head in paired]
        if table.seen.finite(index, name, *zip(logits, scores, strict=True)):
            table.add(index, name, digest, scores, [centred(z, heads[0]) for z in logits])


# --- streaming --------------------------------------------------------------------------------------

_Row = tuple[int, str, dict[str, np.ndarray]]
_Pair = tuple[int, str, dict[str, np.ndarray], dict[str, np.ndarray]]


def _rows(
    net: Network,
    pictures: Sequence[Any],
    names: Sequence[str],
    skipped: list[Skipped] | None,
    progress: Progress,
) -> Iterator[_Row]:
    """(place, digest or '', values by name) of each picture that can be used, in order."""
    wanted = list(dict.fromkeys(names))
    chunks = stream(
        net,
        pictures,
        lambda: cut(net.batched[0], wanted),
        key=("compared", *wanted),
        batch=_ON_CPU if providers.name(net.provider) == providers.CPU else None,
        progress=progress,
    )
    for chunk in chunks:
        if skipped is not None:
            skipped += chunk.skipped
        digests = list(chunk.digests) or [""] * len(chunk.index)
        for place, index in enumerate(chunk.index.tolist()):
            yield index, digests[place], {name: chunk.arrays[name][place] for name in wanted}


def _paired(first: Iterator[_Row], second: Iterator[_Row]) -> Iterator[_Pair]:
    """What both give for the pictures that both can use: both come in order."""
    one = next(first, None)
    with unnoted():  # the same pictures: they are on record already
        other = next(second, None)
    while one is not None and other is not None:
        if one[0] == other[0]:
            yield one[0], one[1], one[2], other[2]
            one, other = next(first, None), next(second, None)
        elif one[0] < other[0]:
            one = next(first, None)
        else:
            other = next(second, None)


def _outputs(
    a: Network,
    b: Network,
    pictures: Sequence[Any],
    skipped: list[Skipped],
    reason: str,
    seed: int,
    progress: Progress,
) -> Answers:
    """Networks without classes: how like their outputs are, each with the one at its place.

    One picture a run: outputs of full size would pile up, and not all have an entry for each picture (detections).
    """
    names = _told(a, b)
    found = {name: Likeness() for name in names[0]}
    count, seen, taken = 0, Seen(), note_set()
    by_b: dict[int, float] = {}
    places = pixels(a)
    boxes = detections(a, names[0]) if places is None else None
    for index, source in enumerate(pictures):
        try:
            with recording() as record:
                arrays = whole(a, a.prepare(source), names[0])
            with unnoted():
                others = whole(b, b.prepare(source), names[1])
        except ImageRejected as error:
            skipped.append(refusal(source, index, error))
            continue
        if taken is not None:
            taken.add([one["sha256"] for one in record.pictures])
        pairs = [
            (name, arrays[name], others[twin])
            for name, twin in zip(*names, strict=False)
            if name in arrays and twin in others and arrays[name].shape == others[twin].shape
        ]
        ours, theirs = ({name: both[side] for name, *both in pairs} for side in (0, 1))
        if seen.finite(index, source_name(source, index), list(ours.values()), list(theirs.values())):
            count += 1
            for name, x, y in pairs:
                found[name].add(x, y)
                if places is not None and name == places[0].output:
                    one, other = (np.moveaxis(array, places[1], 1)[0] for array in (x, y))
                    places[0].add(one, other, MARGINS)
            signals = [level(x) for x in ours.values()]
            if seen.holds(signals, record.pictures[0]["sha256"] if record.pictures else ""):
                by_b[index] = together(signals, [level(y) for y in theirs.values()])
            if boxes is not None:
                boxes.add(ours, theirs)
        progress(index + 1, len(pictures), "images")
    if not count and not seen.names:
        raise none_used(len(pictures), skipped)
    measured = {name: one for name, one in found.items() if one.signal or one.other}
    return Answers(
        count,
        reason,
        likeness=measured,
        noise=noise_equivalent(a, pictures, by_b, seed, list(measured)) if by_b and measured else None,
        **seen.told(),
        skipped=tuple(skipped),
        pixels=boxes if places is None else places[0],
    )


def _told(a: Network, b: Network) -> list[list[str]]:
    """Names of the values of A and of B that are told of: the outputs, or what these were picked out of."""
    if any(map(picks, a.model.graph)):
        with contextlib.suppress(ModelUnsuitable):
            found = [answering(net, inferred(net)) for net in (a, b)]
            if len(found[0]) == len(found[1]):
                return found
    return [[value.name or "" for value in net.model.graph.outputs] for net in (a, b)]


# --- the table of answers ---------------------------------------------------------------------------


class _Table:
    """What came of the pictures so far: a few numbers each."""

    def __init__(self, a: Network, b: Network, truth: Sequence[int | None] | None) -> None:
        self._a, self._b, self._truth = a, b, truth
        self._likeness = Likeness()
        self._agreement, self._by_logits = {margin: [0, 0] for margin in MARGINS}, [0, 0]
        self._shift = 0.0
        self._right = np.zeros((2, 2), np.int64)  # A wrong or right, B wrong or right
        self._calibration = Calibration(), Calibration()
        self._flips: list[dict[str, Any]] = []
        self.count = 0
        self.seen = Seen()
        self.moved: dict[int, float] = {}  # ‖z_B − z_A‖ / ‖z_A‖ by picture

    def add(
        self, index: int, name: str, digest: str, scores: list[np.ndarray], logits: list[np.ndarray]
    ) -> None:
        self.count += 1
        self._likeness.add(*logits)
        if self.seen.holds(logits[:1], digest):
            self.moved[index] = moved(*logits)
        classes = [int(np.argmax(row)) for row in scores]
        best = [float(row[one]) for row, one in zip(scores, classes, strict=True)]
        margin = _margin(scores[0])
        self._shift += best[1] - best[0]
        same = classes[0] == classes[1]
        for least, counts in self._agreement.items():
            if margin >= least:
                counts[0] += same
                counts[1] += 1
        if margin >= MARGIN and logits[1].size == scores[1].size > 1:
            self._by_logits[0] += int(np.argmax(logits[1])) == classes[0]
            self._by_logits[1] += 1
        known = self._truth[index] if self._truth is not None else None
        if known is not None:
            right = [one == known for one in classes]
            self._right[int(right[0]), int(right[1])] += 1
            for calibration, confidence, one in zip(self._calibration, best, right, strict=True):
                calibration.add(confidence, one)
        if not same:
            row: dict[str, Any] = {"picture": printable(name), "sha256": digest or None}
            for letter, net, place, share in zip("ab", (self._a, self._b), classes, best, strict=True):
                row |= {letter: place, f"{letter}_label": net.label(place), f"{letter}_probability": share}
            row["margin"] = margin
            row["a_probability_of_b"] = float(scores[0][classes[1]])
            row["b_probability_of_a"] = float(scores[1][classes[0]])
            if self._truth is not None:
                row |= {"truth": known, "truth_label": None if known is None else self._a.label(known)}
            self._flips.append(row)

    def result(self, noise: Noise | None, skipped: Sequence[Skipped]) -> Answers:
        flips = sorted(self._flips, key=lambda row: -row["margin"])
        columns = list(flips[0]) if flips else ["picture", "sha256", "a", "b", "margin"]
        return Answers(
            self.count,
            agreement={margin: Share(*counts) for margin, counts in self._agreement.items()},
            shift=self._shift / self.count if self.count else None,
            likeness={self._a.head.logits: self._likeness} if self.count else {},
            truth=self._against(),
            noise=noise,
            flips={name: [row[name] for row in flips] for name in columns},
            **self.seen.told(),
            skipped=tuple(skipped),
            by_logits=None if self._b.head.scores == self._b.head.logits else Share(*self._by_logits),
            scores=self._a.head.scores,
        )

    def _against(self) -> Truth | None:
        total = int(self._right.sum())
        if not total:
            return None
        (_, fixed), (broken, both) = self._right.tolist()
        shares = Share(broken + both, total), Share(fixed + both, total)
        errors = (one.error for one in self._calibration)
        return Truth(total, *shares, fixed, broken, mcnemar(fixed, broken), *errors)


def _margin(scores: np.ndarray) -> float:
    second, first = np.partition(scores, -2)[-2:] if scores.size > 1 else (0.0, scores[0])
    return float(first) - float(second)
