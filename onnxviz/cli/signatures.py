"""What a technique takes, read from its source: parameters, types, defaults, the docstring; and what a shell offers.

Importing a technique takes half a second (onnx, SciPy), which `--help` must not cost; parsing its file takes
milliseconds. A docstring describes parameters in lines that begin with their names and two spaces or more; where
several share a line, they share its text. What follows "None:" there is the default in words.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.resources
import inspect
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onnxviz.network import Network

#: A default that no literal says, and that of a parameter that has to be given.
UNKNOWN: Final = object()
REQUIRED: Final = object()

_ENTRY = re.compile(r"^(\w+(?:, \w+)*)(?:\s{2,}(\S.*))?$")
_NONE = re.compile(r"(?:^|[;.] |, or )None: (.*?)(?=\. [A-Z]|; |\.?$)")
_HIDDEN = re.compile(r" ?\((?:see )?`[\w./]+`\)")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a technique.

    kind      its type as it is written: 'int | None', 'Sequence[str]'
    default   its value, REQUIRED or UNKNOWN
    text      what the docstring says, one paragraph; empty where it says nothing
    shared    whether other parameters share the text
    """

    name: str
    kind: str
    default: Any
    text: str
    shared: bool = False

    @property
    def meaning(self) -> str:
        """The text without what None stands for, and without references into the package."""
        return _HIDDEN.sub("", _NONE.sub("", self.text)).strip(" ;.")

    @property
    def otherwise(self) -> str:
        """What None stands for, where the text says it."""
        found = _NONE.search(self.text)
        return _HIDDEN.sub("", found[1]).rstrip(".") if found else ""


def summary(module: str, name: str) -> str:
    """The first paragraph of a function's docstring. Help on all commands needs no more, so nothing is parsed."""
    found = re.search(rf'^def {name}\(.*?"""(.*?)(?:\n\n|""")', _source(module), re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def decorated(module: str, decorator: str) -> list[str]:
    """The functions of a module that have this decorator, in their order."""
    return re.findall(rf"^@{decorator}\ndef (\w+)", _source(module), re.M)


@functools.cache
def read(module: str, name: str) -> dict[str, Parameter]:
    """The parameters of a function, or the fields of a dataclass, of a module of this package, which is not imported.

    raises   LookupError where there is none
    """
    tree = ast.parse(_source(module))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            doc = ast.get_docstring(node) or ""
            parts = list(_fields(node) if isinstance(node, ast.ClassDef) else _arguments(node.args))
            texts = described(doc, [part[0] for part in parts])
            found = {}
            for key, annotation, default in parts:
                text, shared = texts.get(key, ("", False))
                kind = ast.unparse(annotation) if annotation is not None else ""
                found[key] = Parameter(key, kind, _value(default, tree), text, shared)
            return found
    raise LookupError(f"onnxviz.{module} has no {name!r}")


def described(doc: str, names: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """What a docstring says of parameters: {name: (text, whether it is said of several)}."""
    texts: dict[str, tuple[str, bool]] = {}
    current: list[str] = []
    for line in inspect.cleandoc(doc).splitlines():
        entry = _ENTRY.match(line)
        if entry and set(entry[1].split(", ")) <= {*names, "returns", "raises"}:
            current = entry[1].split(", ")
            texts |= dict.fromkeys(current, (entry[2] or "", len(current) > 1))
        elif line.startswith(" ") and current:
            text = " ".join(f"{texts[current[0]][0]} {line}".split())
            texts |= dict.fromkeys(current, (text, len(current) > 1))
        else:
            current = []
    return texts


def _source(module: str) -> str:
    *folders, file = module.split(".")
    folder = importlib.resources.files("onnxviz").joinpath(*folders)
    source = folder.joinpath(f"{file}.py")
    return (source if source.is_file() else folder.joinpath(file, "__init__.py")).read_text("utf-8")


_Part = tuple[str, ast.expr | None, ast.expr | None]


def _arguments(given: ast.arguments) -> Iterator[_Part]:
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    for one, default in [
        *zip(plain, defaults, strict=True),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]:
        yield one.arg, one.annotation, default


def _fields(given: ast.ClassDef) -> Iterator[_Part]:
    for node in given.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation, node.value


def _value(node: ast.expr | None, tree: ast.Module) -> Any:
    """What a default is: a literal, or the name of one that the module assigns."""
    if node is None:
        return REQUIRED
    if isinstance(node, ast.Name):
        node = next((value for name, value in _assigned(tree) if name == node.id), node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        elif isinstance(node, ast.Assign):
            (target, *_), value = node.targets, node.value
            several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=True) if several else [(target, value)]  # type: ignore[attr-defined]
            yield from ((name.id, one) for name, one in pairs if isinstance(name, ast.Name))


# --- what the shell offers ------------------------------------------------------------------------
#
# What is known, and what the model that was given has in it. Nothing is imported before a tab is pressed; a model that
# cannot be opened offers nothing.

#: typer's way of asking what the shell may offer.
ASKED: Final = "_ONNXVIZ_COMPLETE"


def asked() -> list[str]:
    """The words behind `onnxviz` that are completed, as bash or another shell hands them over."""
    line = os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", ""))
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quotation that is not closed yet
        return line.split()[1:]


def offered(wanted: str | Sequence[str]) -> Callable[..., list[str]]:
    """A completion as typer takes it: of these words, or of what is called so in `_OFFERED`, or in the model."""

    def complete(ctx: Any, args: list[str], incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            known = map(str, _known(wanted, ctx.params) if isinstance(wanted, str) else wanted)
            kind = _Word if os.environ.get(ASKED) == "complete_bash" else str
            return [kind(name) for name in known if name.startswith(incomplete)]
        return []

    return complete


class _Word(str):
    """An offer that typer compares as it is, and writes as bash's line needs it: 'Egyptian cat' would be two words."""

    __slots__ = ()

    def __format__(self, _: str) -> str:
        try:
            shlex.split(os.environ.get("COMP_WORDS", ""))
        except ValueError:  # within a quotation, which bash closes
            return str(self)
        return re.sub(r"([^\w@%+=:,./-])", r"\\\1", self)


# What a module of the package lists; files are the shell's.
_OFFERED: Final[Mapping[str, tuple[str, Callable[[Any], Iterable[Any]]]]] = {
    "models": ("catalogue", lambda module: (entry.name for entry in module.entries())),
    "presets": ("image.preprocessing", lambda module: module.PRESETS),
    "recipes": ("synthesis.presets", lambda module: module.PRESETS),
    "providers": ("runtime.providers", lambda module: ["auto", *module.available()]),
    "limits": ("limits", lambda module: (f"{name}=" for name in module.Limits.__dataclass_fields__)),
}
_IN_MODEL: Final[Mapping[str, Callable[[Network], Iterable[Any]]]] = {
    "layers": lambda net: (layer.name for layer in net.layers),
    "labels": lambda net: net.labels or (),
    "inputs": lambda net: (value.name for value in net.model.graph.inputs),
    "outputs": lambda net: (value.name for value in net.model.graph.outputs),
}


def _known(wanted: str, given: Mapping[str, Any]) -> Iterable[Any]:
    if wanted in _OFFERED:
        module, names = _OFFERED[wanted]
        return names(importlib.import_module(f"onnxviz.{module}"))
    import onnxviz

    warnings.simplefilter("ignore")
    model = given.get("model") or given.get("a")
    # Behind an option whose value is typed just now, nothing has been read: the first word that can be opened.
    for word in [model] if model else [word for word in asked()[1:] if not word.startswith("-")]:
        with contextlib.suppress(onnxviz.errors.OnnxVizError):
            net = onnxviz.load(word, labels=given.get("labels"), input=given.get("input"))
            return _IN_MODEL[wanted](net)
    return ()
