"""From a technique's signature to a command's options: one mechanism, and the words that all commands share.

An option is made of its parameter: the name, the type, the default, and what the docstring says of it. What a signature
can't say stands in an `Option`: in WORDS for a name that means the same everywhere, or in the command's own row.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from onnxviz.cli.signatures import REQUIRED, UNKNOWN, Parameter, decorated, offered
from onnxviz.errors import MOST_THREADS, UsageError, near

# What stands for a value in the help, where its row says nothing else; a flag has none.
_STANDS: Final[Mapping[Any, str]] = {bool: "", int: "N", float: "NUMBER", str: "TEXT", Path: "FILE"}


@dataclass(frozen=True)
class Option:
    """How a value is written on the command line, where this differs from what its parameter says.

    spelled     its spellings; none: --NAME. An argument has none that begins with a dash
    kind        the type that is read; None: the parameter's own
    help        what it is
    otherwise   the default, in words
    metavar     what stands for the value
    least       the smallest and
    most        the largest number
    default     the value where none is given
    complete    what the shell offers: words, or what they are called in `signatures.offered`
    choices     the names that it may be, for the shell, and for {names} in the help; called for the command alone
    read        (what was written, its spelling) -> what the technique takes
    panel       where it stands in the help
    firm        of WORDS: whether `help` stands before the docstring's own words
    """

    spelled: tuple[str, ...] = ()
    kind: Any = None
    help: str = ""
    otherwise: str = ""
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    default: Any = UNKNOWN
    complete: str | Sequence[str] | None = None
    choices: Callable[[], Sequence[str]] | None = None
    read: Callable[[Any, str], Any] | None = None
    panel: str | None = None
    firm: bool = False

    def over(self, other: Option) -> Option:
        """This option, with what it leaves open taken from another."""
        blank = Option()
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            other, **{name: value for name, value in said.items() if value != getattr(blank, name)}
        )

    @property
    def long(self) -> str:
        """The spelling that is told."""
        return next((one for one in self.spelled if one.startswith("--")), self.spelled[0])

    def value(self, written: Any) -> Any:
        """What the technique takes; raises UsageError."""
        return self.read(written, self.long) if self.read is not None and written is not None else written

    def parameter(self, name: str) -> inspect.Parameter:
        """As typer takes it."""
        argument = not self.spelled[0].startswith("-")
        many = getattr(self.kind, "__origin__", None) is list
        default = self.default if self.default is not UNKNOWN else False if self.kind is bool else None
        kind = self.kind if default not in (None, REQUIRED) or argument else self.kind | None
        more: dict[str, Any] = {"help": self.help.replace("[", "\\["), "metavar": self.metavar}
        if self.metavar is None and not argument:
            more["metavar"] = _STANDS.get(getattr(self.kind, "__args__", (self.kind,))[0])
        if self.least is not None or self.most is not None:
            more |= {"min": self.least, "max": self.most}
        if self.complete is not None:
            more["autocompletion"] = offered(self.complete)
        if self.otherwise:
            more["show_default"] = self.otherwise
        if argument:
            info: Any = typer.Argument(**more)
        else:
            info = typer.Option(*self.spelled, rich_help_panel=self.panel, **more)
        if default is REQUIRED:
            default, kind = inspect.Parameter.empty, self.kind
        elif many and not argument:
            kind = self.kind | None
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )


# --- reading ----------------------------------------------------------------------------------


def is_whole(text: str) -> bool:
    """Whether a text is a whole number from 0 that `int` reads; '²' is a digit too, and 5,000 digits are no size."""
    return text.strip().isdecimal() and len(text.strip()) < 10


def sides(text: str, option: str, least: int = 1) -> int | tuple[int, int]:
    """One number from '224'; (height, width), or (down, across), from '320x240', which is width x height.

    raises   UsageError, also for less than `least`
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(is_whole(part) and int(part) >= least for part in parts):
        raise UsageError(f"{option} takes a number of pixels such as 224, or WIDTHxHEIGHT; got {text!r}")
    return int(parts[0]) if len(parts) == 1 else (int(parts[1]), int(parts[0]))


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers separated by commas.

    raises   UsageError
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers separated by commas; got {text!r}") from None


def weights(texts: Sequence[str], option: str) -> dict[str, float]:
    """{layer: weight} from 'LAYER' (weight 1) and 'LAYER=WEIGHT'.

    raises   UsageError
    """
    found: dict[str, float] = {}
    for text in texts:
        name, separator, weight = text.rpartition("=")
        try:
            found[name if separator else text] = float(weight) if separator else 1.0
        except ValueError:
            raise UsageError(
                f"{option} takes LAYER or LAYER=WEIGHT, such as stem=0.5; got {text!r}"
            ) from None
    return found


def feeds(texts: Sequence[str], option: str) -> dict[str, Any]:
    """What is given to the other inputs, by name: numbers, or the path of a picture or a .npy file.

    raises   UsageError
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"{option} takes NAME=VALUE, such as scale=1,1; got {text!r}")
        found[name] = _fed(value, option)
    return found


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """{key: value} from 'KEY=VALUE' each.

    raises   UsageError
    """
    found = {}
    for text in texts:
        key, separator, found[key] = text.partition("=")
        if not (key and separator):
            raise UsageError(f"{option} takes KEY=VALUE, such as device_type=GPU; got {text!r}")
    return found


def _fed(value: str, option: str) -> Any:
    if Path(value).suffix or Path(value).exists():
        try:
            float(value.split(",", maxsplit=1)[0])
        except ValueError:
            return value  # a picture, or a .npy file
    found = numbers(value, option)
    return found[0] if len(found) == 1 else list(found)


#: What --fail-on takes.
LEVELS = ("high", "medium", "low", "never")


def switch(text: str, option: str) -> bool:
    """Whether it is 'on'; raises UsageError."""
    if text not in ("on", "off"):
        raise UsageError(f"{option} takes on or off, got {text!r}")
    return text == "on"


def listed(text: str, _: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def level(text: str, option: str) -> str:
    """A severity from which on a finding counts; raises UsageError."""
    if text not in LEVELS:
        raise UsageError(f"{option} takes {', '.join(LEVELS)}; got {text!r}{near(text, LEVELS)}")
    return text


# --- the words that all commands share --------------------------------------------------------


def objectives() -> list[str]:
    """What the text of an objective is made of; as long as nobody imported it, which takes long, it is read."""
    terms = sys.modules.get("onnxviz.objectives.terms")
    return decorated("objectives.terms", "written") if terms is None else list(terms.WRITTEN)


WORDS: Final[Mapping[str, Option]] = {
    "target": Option(("--target", "-t"), str, "Class index or label.", complete="labels"),
    "layer": Option(
        ("--layer", "-l"), help="A layer's name (onnxviz inspect lists them).", complete="layers"
    ),
    "layers": Option(("--layer", "--layers", "-l"), list[str], complete="layers"),
    "style_layers": Option(("--style-layer", "--style-layers"), list[str], complete="layers"),
    "content_layers": Option(("--content-layer", "--content-layers"), list[str], complete="layers"),
    "channel": Option(("--channel", "-c"), int, "With --layer: the channel to measure, not a class.", least=0),
    "neuron": Option(
        kind=str, metavar="Y,X", firm=True,
        help="With --layer and --channel: one neuron of the map, such as 3,5, or 'middle'. Of a sequence: the step, "
        "such as 3.",
    ),
    "objective": Option(
        kind=str, metavar="TEXT", firm=True, choices=objectives,
        help="Instead of a class: such as \"2*logit(285) - logit('tabby')\" or \"part('boxes', 0, 3)\"; of {names}.",
    ),
    "method": Option(("--method", "-m")),
    "methods": Option(kind=str, help="Attribution methods, with commas between.", read=listed, firm=True),
    "truth": Option(kind=str, metavar="CSV|folders", complete=("folders",)),
    "batch": Option(help="Pictures at once.", otherwise="what memory allows", least=1),
    "size": Option(kind=str, read=sides),
    "gram": Option(metavar="FORM"),
    "style_size": Option(least=16),
    "probes": Option(least=2),
    "blur_every": Option(least=1),
    **dict.fromkeys(("steps", "top", "k", "grid", "rounds", "samples", "copies", "draws"), Option(least=1)),
    **dict.fromkeys(("octaves", "scales", "width", "perplexity", "overlap", "sample", "most", "runs"), Option(least=1)),
    **dict.fromkeys(("zoom", "blocks", "jitter", "tolerance", "evenness", "explained", "restore"), Option(least=0)),
}  # fmt: skip

COMMON: Final[Mapping[str, Option]] = {
    "out": Option(("--out", "-o"), str, "Where the result goes: a file, or a folder.", metavar="PATH"),
    "as_json": Option(("--json",), bool, "Print one JSON object on stdout."),
    "provider": Option(complete="providers"),
    "provider_options": Option(
        ("--provider-option",), list[str], "Of that provider, such as device_type=GPU; may be given again.",
        metavar="KEY=VALUE", read=pairs, firm=True,
    ),
    "threads": Option(least=1, most=MOST_THREADS),
    "seed": Option(kind=int, help="Seed of every random choice.", default=0, least=0),
    "quiet": Option(("--quiet", "-q"), bool, "No progress, no notes."),
    "limit": Option(
        kind=list[str], help="Raise or lower a limit, such as nodes=2000000.", metavar="NAME=VALUE",
        complete="limits",
    ),
}  # fmt: skip
FONT: Final = Option(
    (), Path, "A font for letters that no installed one holds: .ttf, .otf or .ttc.", metavar="FILE"
)
# Of `onnxviz.load`, beside provider and threads: about the file, its pictures and its gradient.
MODEL: Final[Mapping[str, Option]] = {
    "input": Option(complete="inputs"),
    "output": Option(complete="outputs", metavar="NAME"),
    "feeds": Option(
        ("--feed",), list[str], "For another input: numbers, such as scale=1,1, a picture or a .npy file.",
        metavar="NAME=VALUE", read=feeds,
    ),
}  # fmt: skip
IMAGES: Final[Mapping[str, Option]] = {
    "size": Option(
        kind=str, read=sides, firm=True, help="Pixels the network sees, such as 224 or 320x240 (width x height)."
    ),
    "mean": Option(kind=str, read=numbers, help="Mean per channel, of 0..1 or 0..255, such as 0.5,0.5,0.5."),
    "std": Option(kind=str, read=numbers, help="Standard deviation per channel, same scale as --mean."),
    **dict.fromkeys(("resize", "layout", "channels"), Option()),
    "preprocess": Option(
        (), str, "A preset's name, or a JSON file (ours or Hugging Face's).", metavar="NAME|FILE",
        complete="presets",
    ),
    "labels": Option(
        (), str, "Class labels: a text file with one a line, JSON, or 'imagenet'.", metavar="FILE",
        complete=("imagenet",),
    ),
}  # fmt: skip
LIKE: Final = Option(
    kind=str, metavar="FILE", complete="models",
    help="Another file of this network, such as the float one: layers are called as in that.",
)  # fmt: skip
GRADIENTS: Final[Mapping[str, Option]] = {
    "backend": Option(complete=("auto", "native", "torch", "ort-training"))
}

MODEL_ARGUMENT: Final = Option(
    ("model",), str, "An .onnx file, or a name of the catalogue (onnxviz models).", metavar="MODEL",
    default=REQUIRED, complete="models",
)  # fmt: skip


# --- from parameters --------------------------------------------------------------------------

_KINDS: Final[Mapping[str, Any]] = {
    "bool": bool, "int": int, "float": float, "str": str,
    "Sequence[int]": list[int], "int | Sequence[int]": list[int], "Sequence[float]": list[float],
    "Sequence[str]": list[str], "str | Sequence[str]": list[str], "Targets": list[str], "Channel": int,
    "int | tuple[int, int]": str,
}  # fmt: skip


def described(name: str, row: Option, parameter: Parameter | None = None) -> Option:
    """The whole option: what its row says, then its parameter and WORDS; its words are the docstring's (`worded`).

    parameter  where a function has one
    """
    if parameter is None:
        return row.over(Option(_spelled(name)))
    words = WORDS.get(name, Option())
    if "tuple[int, int]" in parameter.kind:  # whether a window may be none, the technique says
        words = words.over(Option(read=lambda text, option: sides(text, option, 0), metavar="SIZE"))
    kind = row.kind or words.kind or _KINDS.get(parameter.kind.removesuffix(" | None"))
    if kind is None:
        raise TypeError(f"an option of type {parameter.kind!r}: {name} needs a row of its own")
    default = parameter.default
    if default is True:  # a flag that says what is not to be: --pixels for spectrum=True
        row = row.over(Option(default=False, read=lambda flag, _: not flag))
    elif default is not REQUIRED and type(default) is not kind:
        default = UNKNOWN
    text = parameter.meaning
    if text[:1] not in ("'", "`"):  # a word that is typed stays as it is
        text = text[:1].upper() + text[1:]
    if words.help and (words.firm or parameter.shared or not text):
        text = words.help
    otherwise = parameter.otherwise or (words.otherwise if default is UNKNOWN else "")
    words = replace(words, help=text, otherwise=otherwise)
    # It begins with what can be typed.
    if kind is str and parameter.text.startswith("'") and words.complete is None:
        words = replace(words, complete=tuple(dict.fromkeys(_WORD.findall(parameter.text))))
    return row.over(words).over(Option(_spelled(name), kind, default=default))


def _spelled(name: str) -> tuple[str, ...]:
    return (f"--{name.replace('_', '-')}",)


#: A word that is typed as it stands.
_WORD: Final = re.compile(r"(?<!\()'([\w.+-]+)'")
_TURNS: Final = (
    (re.compile(r"\((?:height, width)\)"), "WIDTHxHEIGHT"),
    (re.compile(r"\((?:vertical, horizontal)\)"), "ACROSSxDOWN"),
    (re.compile(r"\{name: weight\}"), "LAYER=WEIGHT"),
    (re.compile(r"`onnxviz\.(\w+)`"), r"onnxviz \1"),
    (_WORD, r"\1"),
    (re.compile(r" \(a path, PIL image or array\)"), ""),
)


def worded(text: str, spellings: Mapping[str, str]) -> str:
    """A docstring's words as help: parameters by their spellings, sizes as they are written."""
    text = re.sub(r"`(\w+)`", lambda m: spellings.get(m[1], m[1]), text)
    for pattern, turned in _TURNS:
        text = pattern.sub(turned, text)
    return text.replace("`", "")


def of_parameters(
    parameters: Mapping[str, Parameter], without: frozenset[str], rows: Mapping[str, Option]
) -> dict[str, Option]:
    """The options of a function's parameters, by their names; those in `without` are none.

    rows   what the command says of some of them
    """
    return {
        name: described(name, rows.get(name, Option()), parameter)
        for name, parameter in parameters.items()
        if name not in without
    }
