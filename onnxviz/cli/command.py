"""What a command is: a row, from which typer's function is made, and the call that its action is given.

With the two whose actions tell something of a network and draw nothing.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

import onnxviz
from onnxviz import _PUBLIC
from onnxviz.cli.options import (
    COMMON,
    FONT,
    GRADIENTS,
    IMAGES,
    LIKE,
    MODEL,
    MODEL_ARGUMENT,
    Option,
    described,
    of_parameters,
    worded,
)
from onnxviz.cli.run import Run
from onnxviz.cli.signatures import REQUIRED, UNKNOWN, Parameter, read, summary
from onnxviz.errors import COMMAND, ImageRejected, NotFinite, Stopped
from onnxviz.files import PICTURES
from onnxviz.progress import Interrupted
from onnxviz.text import printable

# Parameters that are no options: the network, what every command has, and what Python alone can give.
_NO_OPTIONS: Final = frozenset(
    {"net", "model", "image", "images", "seed", "progress", "watch", "limits", "output", "input", "feeds"}
    | {"options", "direction", "cosine", "alignment"}
)
# Parameters that name layers.
_LAYERS: Final = frozenset({"layer", "layers", "content_layers"})


@dataclass(frozen=True)
class Command:
    """A row of the table.

    name        as it is typed
    act         what it does: a function of this folder, `file.name`, which is imported when it is called
    example     its arguments and options, without `onnxviz NAME`; several: one a line
    function    the public function whose parameters are options; '': its name, None: none
    also        more signatures whose fields are options: (module, name, what is said of all of them)
    arguments   beside MODEL, by the names of the parameters that they are
    options     what is said of the technique's options, and options of the command's own
    without     more parameters that are no options
    summary     what it does, where the docstring's first paragraph does not tell; and
    more        what else there is to say
    writes      the endings of the files that --out may name, the usual one first; none: it writes a folder
    alone       whether that is one file, without a manifest beside it
    models      the arguments that are models: MODEL; A and B; none
    apart       the options of `load` that each of several models may have its own of: --preprocess-a
    images      whether it takes pictures, so that the options about them have a meaning, and
    gradients   whether it takes gradients by `net.gradients`, so that --backend has one
    """

    name: str
    act: str
    example: str
    function: str | None = ""
    also: tuple[tuple[str, str, Option], ...] = ()
    arguments: Mapping[str, Option] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    without: Sequence[str] = ()
    summary: str = ""
    more: str = ""
    writes: Sequence[str] = PICTURES
    alone: bool = False
    models: Sequence[str] = ("model",)
    apart: Mapping[str, Option] = field(default_factory=dict)
    images: bool = True
    gradients: bool = False

    @property
    def source(self) -> tuple[str, str]:
        """Module and name of the technique."""
        name = self.function or self.name.replace("-", "_")
        return _PUBLIC[name], name

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The technique's; none where there is none."""
        return {} if self.function is None else read(*self.source)

    def of_technique(self) -> dict[str, Option]:
        """The options that are parameters of the technique, by their names."""
        without = (_NO_OPTIONS | {*self.models, *self.arguments, *self.without}) - set(self.options)
        found = of_parameters(self.parameters, without, self.options)
        for module, name, said in self.also:
            fields = read(module, name)
            rows = {key: self.options.get(key, Option()).over(said) for key in fields}
            found |= of_parameters(fields, without, rows)
        return found

    def of_command(self) -> dict[str, Option]:
        """The options of its own."""
        technique = self.of_technique()
        return {name: described(name, one) for name, one in self.options.items() if name not in technique}

    def of_load(self) -> dict[str, Option]:
        """The options about the model: `onnxviz.load` takes them."""
        if not self.models:
            return {}
        rows = {**MODEL, **(IMAGES if self.images else {}), **(GRADIENTS if self.gradients else {})}
        load = read(_PUBLIC["load"], "load")
        found = of_parameters(load, frozenset(load) - set(rows), rows)
        named = self.images and len(self.models) == 1 and not _LAYERS.isdisjoint(self.parameters)
        return found | ({"like": described("like", LIKE)} if named else {})

    def of_each(self) -> dict[str, Option]:
        """The options about one of several models: `preprocess_a` is what `load` takes as `preprocess`, of A alone."""
        load = read(_PUBLIC["load"], "load")
        found = {}
        for name, said in self.apart.items():
            shared = IMAGES.get(name, COMMON.get(name, Option()))
            one = described(name, said.over(shared), load.get(name))
            for model in self.models:
                spelled = (f"{one.long}-{model}",)
                help = f"Of {model.upper()} alone: {one.help}"
                own = replace(one, spelled=spelled, help=help, default=UNKNOWN, otherwise="")
                found[f"{name}_{model}"] = own
        return found

    def of_all(self) -> dict[str, Option]:
        """The options that every command has; a font where it draws."""
        load = read(_PUBLIC["load"], "load")
        found = {name: described(name, one, load.get(name)) for name, one in COMMON.items()}
        drawn = self.models and (not self.writes or set(self.writes) & set(PICTURES))
        return found | ({"font": described("font", FONT)} if drawn else {})

    def positional(self) -> dict[str, Option]:
        """The arguments."""
        models = {
            name: MODEL_ARGUMENT if name == "model" else replace(MODEL_ARGUMENT, metavar=name.upper())
            for name in self.models
        }
        listed = {**models, **self.arguments}
        return {
            name: one.over(Option((name,), default=None if one.otherwise else REQUIRED))
            for name, one in listed.items()
        }

    def help(self) -> str:
        """Its help: what it does, and examples."""
        examples = [f"Example: onnxviz {self.name} {one}".rstrip() for one in self.example.split("\n")]
        told = worded(self.summary or summary(*self.source), {})
        return "\n\n".join(filter(None, [told, self.more, *examples]))


@dataclass
class Call:
    """A command as it was called: the technique with the options that were given, which is called like itself.

    arguments   by name: paths, and names of models
    options     those of the technique that were given, as it takes them
    own         the values of the command's own options, given or not
    """

    command: Command
    run: Run
    arguments: dict[str, Any]
    options: dict[str, Any]
    own: dict[str, Any]

    @property
    def model(self) -> str:
        """MODEL."""
        return str(self.arguments["model"])

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """The technique's result; its defaults stand for what was not given."""
        always = {"seed": self.run.seed, "progress": self.run.progress, "limits": self.run.limits}
        takes = self.command.parameters
        always = {name: value for name, value in always.items() if name in takes}
        return getattr(onnxviz, self.command.source[1])(*arguments, **{**always, **self.options, **more})


class _Quick:
    """What passes texts, paths and defaults on as they were typed.

    typer has pydantic make a validator for each of some forty options, given or not: a tenth of a short command's
    time. What is to be checked (numbers, texts that no encoding holds, files that cannot be read) is checked by it.
    """

    callback: Any
    get_params: Any

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = inspect.signature(self.callback).parameters if self.callback is not None else {}
        for one in self.get_params(ctx):
            kind = known[one.name].annotation if one.name in known else None
            one.process_value = _quickly(one, getattr(kind, "__origin__", kind), one.process_value)
        return super().parse_args(ctx, args)  # type: ignore[misc]


class AsTyped(_Quick, TyperCommand):
    """A command that does."""


class Program(_Quick, TyperGroup):
    """The program itself."""


_MADE: Final[Mapping[Any, Callable[[str], Any]]] = {
    kind: one
    for one in (str, Path)
    for kind in (one, one | None, list[one], list[one] | None)  # type: ignore[valid-type]
}


def _quickly(parameter: Any, kind: Any, checked: Callable[..., Any]) -> Callable[..., Any]:
    """`process_value` of a parameter of this kind, which is asked only where there is something to check."""
    many = parameter.multiple or parameter.nargs == -1

    def value_of(ctx: typer.Context, value: Any) -> Any:
        texts = value if many else [value]
        if value is None and not parameter.required:
            found: Any = () if many else None
        elif kind in (int, float) and type(value) is kind:  # the default
            found = value
        elif kind in _MADE and texts and all(map(_whole, texts)):
            made = [_MADE[kind](text) for text in texts]
            found = made if many else made[0]
        else:
            return checked(ctx, value)
        return found if parameter.callback is None else parameter.callback(ctx, parameter, found)

    return value_of


def _whole(text: Any) -> bool:
    """Whether it is a text without half a letter, and no file that cannot be read."""
    try:
        return bool(text.encode()) and (os.access(text, os.R_OK) or not os.path.exists(text))  # noqa: PTH110
    except (AttributeError, ValueError):
        return False


def _files(*groups: Mapping[str, Any]) -> list[str | Path]:
    values = [value for group in groups for value in group.values()]
    each = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [one for one in each if isinstance(one, (str, Path)) and one]


def typed(command: Command) -> Callable[..., None]:
    """A command as a function whose signature typer reads."""
    technique, own = command.of_technique(), command.of_command()
    # A command's own option stands before a shared one of its spelling: --size of a texture is what it makes.
    taken = {one.long for one in (*technique.values(), *own.values())}
    load = {name: one for name, one in command.of_load().items() if one.long not in taken}
    groups = {
        "arguments": command.positional(),
        "technique": technique,
        "own": own,
        "common": command.of_all(),
        "load": load,
        "each": command.of_each(),
    }
    spellings = {name: one.long for group in reversed(groups.values()) for name, one in group.items()}
    # --channel of a dream is called `channels` in Python, as is --channels of its pictures.
    keys = {
        (group, name): f"{name}_" if group == "technique" and name in load else name
        for group, named in groups.items()
        for name in named
    }

    def call(ctx: typer.Context, **written: Any) -> None:
        COMMAND.set(known)
        values: dict[str, dict[str, Any]] = {group: {} for group in groups}
        for (group, name), key in keys.items():
            source = ctx.get_parameter_source(key)
            given = source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
            if given or group not in ("technique", "load", "each"):
                values[group][name] = groups[group][name].value(written[key])
        try:
            with Run(
                command.name,
                writes=command.writes,
                alone=command.alone,
                model=values["load"],
                each=values["each"],
                reads=_files(*(values[group] for group in ("arguments", "technique", "load", "each"))),
                **values["common"],
            ) as run:
                module, act = command.act.split(".")
                action = getattr(importlib.import_module(f"onnxviz.cli.{module}"), act)
                action(run, Call(command, run, values["arguments"], values["technique"], values["own"]))
        except KeyboardInterrupt as stop:
            # Whoever raised `Interrupted` has saved what was done and said so.
            raise Stopped("" if isinstance(stop, Interrupted) else "interrupted") from stop

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context]
    known = frozenset[str]()
    for (group, name), key in keys.items():
        one = groups[group][name]
        if group != "arguments":
            known |= {text for text in one.spelled if text.startswith("--")}
        help = worded(one.help, spellings).rstrip(".")
        if one.choices is not None:
            names = one.choices()
            help = help.replace("{names}", ", ".join(names))
            one = replace(one, complete=names)
        one = replace(one, help=f"{help}." if help else "", otherwise=worded(one.otherwise, {}))
        parameters.append(one.parameter(key))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


# --- commands that tell ---------------------------------------------------------------------------


def inspecting(run: Run, call: Call) -> None:
    """What the network is made of."""
    found = call(run.load(call.model, warned=not run.as_json))
    for line in found.lines():
        run.say(printable(line))
    run.record(found.to_dict(), found.table())


def predicting(run: Run, call: Call) -> None:
    """The classes of each picture, and what could not be read."""
    from onnxviz.graph.output import SEQUENCE
    from onnxviz.image.folder import find
    from onnxviz.provenance import command, recording

    net = run.load(call.model)
    top = call.options.get("top", call.command.parameters["top"].default)
    listing = find(call.arguments["images"], endings=net.preprocessing.endings)
    skipped = [(item.path, item.reason) for item in listing.skipped]
    rows = []
    for done, path in enumerate(listing.images, 1):
        try:
            with recording() as record:
                best = net.predict(path, top=top)[0]
        except (ImageRejected, NotFinite) as error:
            broken = isinstance(error, NotFinite) and bool(net.findings)  # every picture would come out so
            if broken or (len(listing.images) == 1 and not skipped):
                raise
            skipped.append((path, str(error)))
            continue
        steps = net.end.kind == SEQUENCE  # the best class of each
        listed = [({"step": i} if steps else {}) | item._asdict() for i, item in enumerate(best)]
        # The path as it was given, and what identifies the picture.
        rows.append({**record.pictures[0], "path": str(path), "steps" if steps else "top": listed})
        run.say(printable(str(path)))
        for number, item in enumerate(best):
            before = f"  step {number:3d}" if steps else ""
            run.say(f"{before}  {item.probability:7.2%}  {item.index:5d}  {printable(item.label, 200)}")
        run.progress(done, len(listing.images), "images")
    if not rows:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        raise ImageRejected(f"none of the pictures could be used ({reasons or 'no picture was found'})")
    for path, reason in skipped:
        run.note(f"skipped {path}: {reason}")
    value = {
        "images": rows,
        "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped],
        "manifest": {**net.manifest("predict", top=top), **command()},
    }
    run.record(value, _predictions(rows))


def _predictions(images: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of a table with a row for each picture and class, or for each picture and step of a sequence."""
    key, number, first = ("steps", "step", 0) if images and "steps" in images[0] else ("top", "rank", 1)
    rows = [
        (one["path"], count, best["index"], best["label"], best["probability"])
        for one in images
        for count, best in enumerate(one[key], first)
    ]
    names = ("file", number, "index", "label", "probability")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
