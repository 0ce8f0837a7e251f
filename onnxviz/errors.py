"""The typed errors. Each message says what was given, what was expected and what to do.

Every error carries the exit code that the command line ends with (README, "Exit codes").
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class OnnxVizError(Exception):
    """The base of everything that onnxviz raises on purpose."""

    exit_code = 5


# --- 2: wrong usage ---------------------------------------------------------------------------


class UsageError(OnnxVizError, ValueError):
    """An argument that cannot be meant as given."""

    exit_code = 2


class UnknownLayer(UsageError):
    """No value of the graph has this name."""


class UnknownLabel(UsageError):
    """No class has this index or label."""


class ProviderUnavailable(UsageError):
    """The execution provider asked for cannot be used on this machine."""


class MissingDependency(UsageError):
    """An optional package is needed and not installed; the message names the extra."""


# --- 3: input refused -------------------------------------------------------------------------


class InputRefused(OnnxVizError):
    """A file that was given cannot or must not be used."""

    exit_code = 3


class ModelRejected(InputRefused):
    """Not a model, a broken one, or one that breaks a promise of safe loading."""


class ModelUnsuitable(ModelRejected):
    """A sound model that the technique cannot be applied to (several inputs, no float output...)."""


class UnsupportedOperator(ModelRejected):
    """An operator on the way to the wanted gradient has no rule."""


class GradientNotFinite(ModelRejected):
    """A gradient, or the value it belongs to, came out as NaN or infinite.

    partial   what a technique that makes pictures had made until then (a Result), or None
    """

    partial: Any = None


class ImageRejected(InputRefused):
    """Not an image that can be read, or one over the limits."""


class LabelsRejected(InputRefused):
    """A labels file that cannot be read, or whose count differs from the model's classes."""


class PreprocessingRejected(InputRefused):
    """A preprocessing name or file that cannot be used."""


class OutputRefused(InputRefused):
    """The result could not be written; what was there before is intact."""


# --- 4: limits and workers --------------------------------------------------------------------


class LimitExceeded(OnnxVizError):
    """A declared limit was hit; the message names the limit and the flag that raises it."""

    exit_code = 4


class WorkerCrashed(OnnxVizError):
    """Native code died, hung or ran out of memory; the caller survives."""

    exit_code = 4


# --- 5: the run itself ------------------------------------------------------------------------


class RuntimeFailed(OnnxVizError):
    """ONNX Runtime refused or failed to run a graph that was expected to run."""


def near(name: str, names: Iterable[str], limit: int = 3) -> str:
    """'; did you mean a, b?' for the names most like `name`, or the empty string.

    First those that hold it as a word ('tiger cat' for 'cat'), then as a part of one, then those spelt alike.
    """
    known = list(dict.fromkeys(names))
    word = name.strip().casefold()
    spelt = {one: one.casefold() for one in known}
    found = []
    if len(word) > 1:
        forms = {word, word.removesuffix("s")}
        found = [one for one in known if any(_holds(spelt[one], form) for form in forms)]
        found += [one for one in known if word in spelt[one] and one not in found and len(word) > 2]
    if len(found) < limit:
        alike = difflib.get_close_matches(word, list(dict.fromkeys(spelt.values())), n=limit, cutoff=0.5)
        close = [one for text in alike for one in known if spelt[one] == text and one not in found]
        # What is spelt almost the same was meant, rather than what holds the word.
        exact = [one for one in close if difflib.SequenceMatcher(None, word, spelt[one]).ratio() > 0.8]
        found = [*exact, *found] if exact else found or close
    return f"; did you mean {', '.join(map(repr, found[:limit]))}?" if found else ""


def _holds(text: str, word: str) -> bool:
    """Whether `word` stands in `text` with no letter or digit beside it."""
    at = text.find(word)
    while at >= 0:
        if not text[at - 1 : at].isalnum() and not text[at + len(word) : at + len(word) + 1].isalnum():
            return True
        at = text.find(word, at + 1)
    return False


# --- 130: Ctrl-C ------------------------------------------------------------------------------


class Stopped(OnnxVizError):
    """Ctrl-C on the command line, where there was nothing yet to keep."""

    exit_code = 130
