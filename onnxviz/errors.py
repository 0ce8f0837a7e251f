"""The typed errors. Each message says what was given, what was expected and what to do.

Every error carries the exit code that the command line ends with (README, "Exit codes").
"""

from __future__ import annotations

import difflib
import functools
import heapq
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from numbers import Integral
from typing import Any, Final, TypeVar, cast

from onnxviz.isolate import memory_is_limited, on
from onnxviz.text import shorten

# --- the caller's own spelling ----------------------------------------------------------------

#: The options of the command that runs, such as '--size'; None: the library is called from Python.
COMMAND: ContextVar[frozenset[str] | None] = ContextVar("command", default=None)

# Around the ways on that `ways` puts into a message, and between them: nobody types these characters.
_OPEN, _NEXT, _CLOSE = "\ue0f0", "\ue0f1", "\ue0f2"
_WAYS: Final = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")
_OPTION: Final = re.compile(
    r"(?<![\w-])(--[a-z][a-z-]*)"  # the option, and what it is given: in quotes, in capitals, a number, a name of ours
    r"((?: |=)(?:\"[^\"]*\"|[A-Z][A-Zx|=]*(?![a-zA-Z])|[A-Z]\b|\d[\dx.]*|(?<=--backend )(?:native|torch)"
    r"|(?<=--provider )(?:auto|cpu)|(?<=--align )(?:stretch|field)|(?<=--limit )[a-z_]+=[\w.…]+))?"
    r"(?: \([a-z_]+=[^()]*\))?"  # the same for Python, where somebody wrote both
)
# What is called otherwise in Python than on the command line.
_IN_PYTHON: Final = {
    "--feed": "feeds={name: array}",
    "--neuron": "neuron=(y, x)",
    "--out": "path",
    "--query": "queries=",
    "--features": "an Embedding",
    "--font": "onnxviz.use_font(path)",
    "--trust-remote-code": "trust_remote_code=True",
}


def ways(*alternatives: str) -> str:
    """'; this, or that': what the caller can do, for the end of a message. Options are written as on the command line.

    Where the message is shown, an alternative with an option that the running command lacks is left out, and in Python
    the options are spelt as keywords.
    """
    return f"{_OPEN}{_NEXT.join(alternatives)}{_CLOSE}" if alternatives else ""


def spelt(text: str) -> str:
    """A message as the caller would write it: `--of NAME` on the command line, `of=` in Python; see `ways`."""
    if _OPEN not in text and "--" not in text:
        return text
    options = COMMAND.get()

    def possible(way: str) -> bool:
        if "--limit memory" in way and not memory_is_limited():
            return False
        return options is None or {option[1] for option in _OPTION.finditer(way)} <= options

    def chosen(match: re.Match[str]) -> str:
        left = list(filter(possible, match[1].split(_NEXT)))
        return f"; {', or '.join(left)}" if left else ""

    spell = _keyword if options is None else lambda option: option[1] + (option[2] or "")
    parts = _WAYS.sub(chosen, text).split("`")  # a command line in backticks stays one
    return "`".join(part if i % 2 else _OPTION.sub(spell, part) for i, part in enumerate(parts))


def _keyword(option: re.Match[str]) -> str:
    name, value = option[1], (option[2] or "")[1:]
    if name == "--limit" and "=" in value and value != "NAME=VALUE":
        plain = re.fullmatch(r"\d+|…", value.partition("=")[2])
        return f"limits=onnxviz.Limits({value})" if plain else f"limits=onnxviz.Limits.parse([{value!r}])"
    if name == "--neuron" and value.isdigit():  # the step of a sequence
        return f"neuron={value}"
    if name in _IN_PYTHON:
        return _IN_PYTHON[name]
    if value.startswith('"'):
        return f"{name[2:].replace('-', '_')}={value}"
    shown = f"{value!r}" if value.islower() else value if value.isdigit() else ""
    return f"{name[2:].replace('-', '_')}={shown}"


#: A message is cut to so many characters: it may quote names of any length.
LONGEST_MESSAGE: Final = 4000
#: More threads than any machine has cores: ONNX Runtime would start each of them, and never come to run.
MOST_THREADS: Final = 1024
#: What to do where memory runs out.
SMALLER: Final = ways("give a smaller --batch", "take a smaller image", "let it take more: --limit memory=…")


class OnnxVizError(Exception):
    """The base of everything that onnxviz raises on purpose; its text spells options as the caller does (`ways`).

    partial   what a technique that makes pictures had made until then, or some seconds before (a Result), or None
    """

    exit_code = 5
    partial: Any = None

    def __str__(self) -> str:
        return spelt(shorten(super().__str__(), LONGEST_MESSAGE))


class UndrawnText(UserWarning):
    """Letters in labels or names that no font at hand holds; pictures show their numbers instead."""


class PreprocessingAssumed(UserWarning):
    """How pictures become the network's input is a guess: the file does not say, and the caller did not."""


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
    """An operator on the way to the wanted gradient has no rule.

    operator   what it is called, 'Det' or 'com.example.Secret'; None where it is no single one
    what       the message without what to do
    """

    def __init__(self, what: str, remedy: str = "", operator: str | None = None) -> None:
        super().__init__(what + remedy)
        self.what = what
        self.operator = operator


class NotFinite(ModelRejected):
    """What a network gives for a picture came out as NaN or infinite, so that it says nothing."""


class GradientNotFinite(NotFinite):
    """A gradient, or the value it belongs to, came out as NaN or infinite; what was made until then is `partial`."""


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
    """A graph that was expected to run did not. Of this kind itself it is our mistake: a graph that onnxviz wrote."""


# Also 3, since the model was given.
class ModelFailed(ModelRejected, RuntimeFailed):
    """The network fails when it is run on this input; the message names operator, node and layer."""


class Stopped(OnnxVizError):
    """Ctrl-C on the command line, where there was nothing yet to keep."""

    exit_code = 130


# --- which name was meant -----------------------------------------------------------------------

_LONGEST_NAME: Final = 200
_MOST_NAMES: Final = 25_000  # the whole of ImageNet has 21,841 classes
# What many call by another name, letters and digits alone: methods, preprocessing, providers, classes. Only what is
# among the names at hand is told, so one table does for all of them.
_SYNONYMS: Final = {
    **dict.fromkeys(("ig", "intgrad", "intgrads"), ("integrated-gradients",)),
    **dict.fromkeys(("vanilla", "vanillagradient", "backprop", "sensitivity"), ("saliency", "gradient")),
    **dict.fromkeys(("guidedbackprop", "guidedbackpropagation", "gbp"), ("guided",)),
    **dict.fromkeys(("gradientinput", "gradientxinput", "inputgradient"), ("input-x-gradient",)),
    **dict.fromkeys(("shap", "gradientshap", "eg"), ("expected-gradients",)),
    **dict.fromkeys(("pytorch", "torch", "torchvision", "timm", "resnet", "vgg", "densenet"), ("imagenet",)),
    **dict.fromkeys(("keras", "tf", "inception", "mobilenet", "11"), ("tensorflow",)),
    **dict.fromkeys(("01", "float", "scale"), ("unit",)),
    **dict.fromkeys(("none", "identity", "255"), ("raw", "uint8")),
    **dict.fromkeys(("cat", "kitten", "housecat"), ("cat", "tabby")),
    **dict.fromkeys(("gpu", "nvidia"), ("cuda",)),
    **dict.fromkeys(("mps", "metal", "apple"), ("coreml",)),
    **dict.fromkeys(("dml", "directx"), ("directml",)),
    **dict.fromkeys(("amd", "radeon"), ("migraphx", "rocm")),
    **dict.fromkeys(("expires", "expiry", "expiration", "end", "date"), ("until",)),
    **dict.fromkeys(("why", "because", "comment", "note"), ("reason",)),
    "trt": ("tensorrt",),
    "intel": ("openvino",),
    "puppy": ("dog",),
    **dict.fromkeys(("plane", "airplane", "aeroplane", "jet"), ("airliner", "warplane")),
    **dict.fromkeys(("automobile", "auto"), ("car", "convertible")),
    **dict.fromkeys(("tv", "telly"), ("television",)),
    **dict.fromkeys(("phone", "mobile"), ("telephone", "cellular telephone")),
    **dict.fromkeys(("bike", "bicycle"), ("mountain bike", "bicycle-built-for-two")),
}


def one_of(what: str, value: Any, choices: Collection[str]) -> str:
    """The value, which is one of these texts.

    raises   UsageError
    """
    if not isinstance(value, str) or value not in choices:
        told = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
        raise UsageError(f"unknown {what} {value!r}; {what} must be {told}{near(str(value), choices)}")
    return value


def at_least(name: str, value: Any, least: int = 1) -> int:
    """A whole number from `least` on, of Python or NumPy.

    raises   UsageError
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UsageError(f"{name} must be at least {least}, a whole number; got {value!r}")
    return int(value)


def near(name: str, names: Iterable[str], limit: int = 3) -> str:
    """'; did you mean a, b?' for the names most like `name`, or the empty string.

    What is spelt with the same letters and digits ('grad-cam' for 'GradCAM') is told alone. Else first what it is also
    called, then those that hold it as a word ('tiger cat' for 'cat'), then as a part of one, then those spelt alike.
    """
    word = name[:_LONGEST_NAME].strip().casefold()
    # What is cut could be shown by nobody, and comparing spellings takes the square of a name's length.
    known = [one for one in islice(dict.fromkeys(names), _MOST_NAMES) if len(one) <= _LONGEST_NAME]
    spelt = {one: one.casefold() for one in known}
    bare = _bare(word) if len(name) <= _LONGEST_NAME else ""
    if same := [one for one in known if bare and _bare(spelt[one]) == bare]:
        return f"; did you mean {', '.join(map(repr, same[:limit]))}?"
    also = _SYNONYMS.get(bare, _SYNONYMS.get(bare.removesuffix("s"), ()))
    found = [one for one in known if spelt[one] in also]
    found += [one for one in known if one not in found and any(_holds(spelt[one], other) for other in also)]
    if len(word) > 1 and len(name) <= _LONGEST_NAME and len(found) < limit:
        forms = {word, word.removesuffix("s")}
        holding = (one for one in known if any(_holds(spelt[one], form) for form in forms))
        found += islice((one for one in holding if one not in found), limit)
        if len(word) > 2 and len(found) < limit:
            found += islice((one for one in known if word in spelt[one] and one not in found), limit)
    if len(found) < limit:
        alike = difflib.get_close_matches(word, _likeliest(word, set(spelt.values())), n=limit, cutoff=0.5)
        close = [one for text in alike for one in known if spelt[one] == text and one not in found]
        # What is spelt almost the same was meant, rather than what holds the word.
        exact = [one for one in close if difflib.SequenceMatcher(None, word, spelt[one]).ratio() > 0.8]
        found = [*exact, *found] if exact else found or close
    return f"; did you mean {', '.join(map(repr, found[:limit]))}?" if found else ""


def _bare(word: str) -> str:
    """Letters, digits and + alone: of 'Grad-CAM++' 'gradcam++'."""
    return "".join(c for c in word if c.isalnum() or c == "+")


def _likeliest(word: str, texts: Iterable[str]) -> list[str]:
    """The texts that have the most letters in common with the word, in any order: those worth a closer look.

    That look takes the cube of a text's length at worst, half a second for one of 200 letters; so the longer they are,
    the fewer are given.
    """
    matcher = difflib.SequenceMatcher(None, "", word)

    def common(text: str) -> float:
        matcher.set_seq1(text)
        return matcher.real_quick_ratio() if matcher.real_quick_ratio() < 0.5 else matcher.quick_ratio()

    most = max(5, min(50, 200_000 // max(1, len(word)) ** 2))
    return heapq.nlargest(most, sorted(texts), key=common)


def _holds(text: str, word: str) -> bool:
    """Whether `word` stands in `text` with no letter or digit beside it."""
    return word in text and re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text) is not None


# --- one vocabulary of arguments --------------------------------------------------------------

_T = TypeVar("_T", bound=Callable[..., Any])

#: A technique that takes the second, and not the first, takes the first for it, too.
_OTHERWISE: Final = (
    ("layer", "layers"),
    ("names", "layers"),
    ("layers", "look_into"),
    ("layers", "style_layers"),
    ("channel", "channels"),
    ("preprocessing", "preprocess"),
    ("position", "neuron"),
)
_OLDER: Final = frozenset({"position", "names"})


def renamed(technique: _T) -> _T:
    """A technique that takes arguments by their other names, too (`_OTHERWISE`); older ones with a DeprecationWarning.

    raises   UsageError where one argument is given by both
    """
    import inspect

    taken = inspect.signature(technique).parameters
    names = {other: name for other, name in _OTHERWISE if name in taken and other not in taken}

    @functools.wraps(technique)
    def wrapper(*args: Any, **options: Any) -> Any:
        for other in names.keys() & options.keys():
            if names[other] in options:
                raise UsageError(f"{other}= is another name of {names[other]}=: give one of them")
            if other in _OLDER:
                warn(f"{other}= is called {names[other]}= now", DeprecationWarning)
            options[names[other]] = options.pop(other)
        return technique(*args, **options)

    return cast("_T", wrapper) if names else technique


def warn(text: str, kind: type[Warning]) -> None:
    """A Python warning at the line that called the library."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "onnxviz":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=level)


# --- whose mistake an unexpected exception is: the file's where ONNX Runtime refuses it, too; otherwise ours ------
#
# When a file is opened, what can be told of each operator by itself is checked; not what only inference over the whole
# graph, or a run, can tell, since ONNX Runtime checks that anyway and opening must not wait for it. So an analysis may
# stumble over a graph that nothing can run. Then, and only then, ONNX Runtime is asked for its verdict on the file.


_R = TypeVar("_R")
_OURS: Final = 5  # the exit code of internal errors


@contextmanager
def judged(judge: Callable[[], object]) -> Iterator[None]:
    """Around an analysis of a graph.

    judge    runs the file as it is, see `Network.judge`
    raises   what the analysis raised, where that is a typed error, or where the file runs: then it is a mistake of
             onnxviz; in its place ModelRejected where ONNX Runtime refuses the file, ModelFailed where it fails to run,
             LimitExceeded and WorkerCrashed where it takes too much or dies over it
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OnnxVizError) and error.exit_code != _OURS:
            raise
        try:
            judge()
        except OnnxVizError as refusal:
            if refusal.exit_code != _OURS:
                raise refusal from error
        raise


def judging(analysis: Callable[[Any], _R]) -> Callable[[Any], _R]:
    """A method of a network, `judged`; shapes are inferred where the network's graph belongs (`isolate.on`)."""

    @functools.wraps(analysis)
    def wrapped(net: Any) -> _R:
        with on(net.worker), judged(net.judge):
            return analysis(net)

    return wrapped
