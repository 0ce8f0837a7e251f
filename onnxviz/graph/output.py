"""What an output of a file was found to be, in words and by names of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from onnxviz.errors import COMMAND, ways
from onnxviz.text import printable

CLASSES: Final = "classes"
BINARY: Final = "binary"
SEQUENCE: Final = "sequence"
NUMBERS: Final = "numbers"
DETECTIONS: Final = "detections"
MAP: Final = "map"
OTHER: Final = "other"


@dataclass(frozen=True)
class Head:
    """What one output is, by names of values."""

    scores: str
    """The value that probabilities are read from: the output; or `logits`, where the file writes its softmax so that it
    overflows."""
    logits: str
    """The value in front of the final activation; the output itself where there is none."""
    activation: str | None
    """'softmax', 'sigmoid', 'log_softmax' and 'log_sigmoid' (scores are then logarithms of probabilities), or None."""
    classes: int | None
    """How many classes (or numbers); of one score that stands for two classes, 2. None where the file does not tell."""
    features: str
    """What the last weight layer reads: (N, D), or feature maps (N, C, H, W) where `pooled`."""
    pooled: bool = False
    """The features are maps: their mean over places is the feature vector (a 1x1 convolution as classifier)."""
    output: str = field(default="", compare=False)
    """The output's name."""
    kind: str = field(default=CLASSES, compare=False)
    """CLASSES: a score for each class. BINARY: one score that tells two classes apart. SEQUENCE: classes for each step.
    NUMBERS: quantities (a regression, an embedding). DETECTIONS: as many rows as were found. MAP: places. OTHER."""
    batch: int | None = field(default=0, compare=False)
    """The axis of the pictures; None where the output has none."""
    shape: tuple[int | str, ...] = field(default=(), compare=False)
    """Of the output; 'N' for the pictures, '?' for what cannot be told."""
    steps: int | None = field(default=None, compare=False)
    """Of a sequence: how many; None where that hangs on the picture's size."""
    axis: int = field(default=1, compare=False)
    """The axis of the classes, when the pictures are brought to axis 0."""
    logits_axis: int = field(default=1, compare=False)
    """The same of the logits of a sequence."""
    told: bool = field(default=True, compare=False)
    """Whether the file tells that these are classes; else they are taken for that."""
    open: bool = field(default=False, compare=False)
    """The output ends in operators that say nothing here: only its values can tell whether they are probabilities."""
    reason: str = field(default="", compare=False)
    """What the conclusion rests on, in words."""
    example: str = field(default="", compare=False)
    """An objective text that explains a part of it."""

    def __repr__(self) -> str:
        return f"<Head {printable(self.describe(), 300)}>"

    @property
    def scored(self) -> bool:
        """Whether there is one score a class for each picture."""
        return self.kind in (CLASSES, BINARY)

    @property
    def spelled(self) -> str:
        """'prob' (N, 10)."""
        return f"{self.output!r} ({', '.join(map(str, self.shape))})" if self.shape else repr(self.output)

    def describe(self) -> str:
        """What it is, in one line."""
        count = "?" if self.classes is None else self.classes
        what = {
            CLASSES: f"{count} classes",
            BINARY: "one score for two classes",
            SEQUENCE: f"a sequence of {self.steps or '?'} steps, {count} classes each",
            NUMBERS: "one number" if self.classes == 1 else f"{count} numbers",
            DETECTIONS: "detections",
            MAP: "maps",
        }.get(self.kind, "no scores")
        assumed = "" if self.told or not self.scored else "taken for "
        axis = f", pictures on axis {self.batch}" if self.batch not in (0, None) else ""
        return f"{self.spelled}: {assumed}{what}{axis} ({self.reason})"

    def to_dict(self) -> dict[str, object]:
        """For manifests and JSON."""
        return {
            "name": self.output,
            "shape": list(self.shape),
            "kind": self.kind,
            "classes": self.classes,
            "steps": self.steps,
            "activation": self.activation,
            "logits": self.logits,
            "batch_axis": self.batch,
            "told": self.told,
            "reason": self.reason,
        }

    def refusal(self) -> str:
        """Why this is no row of class scores, and what can be explained instead, with an example from this file."""
        if self.kind == SEQUENCE:
            step = (self.steps or 2) // 2
            return (
                f"output {self.describe().replace(': ', ' is ', 1)}; say which step is explained"
                + explained(
                    [self.example],
                    f"for class 0 of step {step}",
                    f"--neuron {step} for the best class of that step",
                )
            )
        others = []
        if self.kind == NUMBERS:
            others = [f"--labels FILE with {self.classes or 'their'} names, if they are scores of classes"]
        elif self.kind == MAP and (len(self.shape) == 4 or not self.example):
            others = [
                f'--layer "{self.output if self.example else self.features}" --channel 0 for one of its maps'
            ]
        text = f"output {self.spelled} holds no class scores of a picture: {self.reason}"
        return text + explained([self.example] if self.example else [], "for one of its numbers", *others)


def explained(examples: list[str], what: str, *others: str) -> str:
    """The end of a message: objectives that explain a part of an output, then other ways on."""
    options = COMMAND.get()
    if examples and options is not None and "--objective" not in options:
        command = f'`onnxviz saliency MODEL IMAGE --objective "{examples[0]}"`'
        return f"; {command} explains it {what}" + (ways(*others) if others else "")
    given = " or ".join(f'--objective "{one}"' for one in examples)
    return ways(*([f"give {given} {what}"] if examples else []), *others)
