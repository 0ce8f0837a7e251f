"""The options that commands share, declared once.

`@command(app)` gives a function every common option, `@command(app, images=True)` the image options too, and
`gradients=True` the choice of a backend; the function receives them as one `Run`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from onnxviz.cli.run import Run
from onnxviz.errors import COMMAND, MOST_THREADS, Stopped
from onnxviz.files import PICTURES
from onnxviz.interrupted import Interrupted

_COMMON: dict[str, tuple[Any, Any]] = {
    "out": (
        Annotated[
            str | None,
            typer.Option("--out", "-o", help="Where the result goes: a file, or a folder.", metavar="PATH"),
        ],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")], False),
    "provider": (
        Annotated[str, typer.Option(help="auto, cpu, cuda, or any name that ONNX Runtime knows.")],
        "auto",
    ),
    "threads": (
        Annotated[
            int | None,
            typer.Option(min=1, max=MOST_THREADS, help="Threads in an operator.", show_default="all"),
        ],
        None,
    ),
    "seed": (Annotated[int, typer.Option(min=0, help="Seed of every random choice.")], 0),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")], False),
    "limit": (
        Annotated[
            list[str] | None,
            typer.Option(help="Raise or lower a limit, such as nodes=2000000.", metavar="NAME=VALUE"),
        ],
        None,
    ),
}
_DRAWN: dict[str, tuple[Any, Any]] = {
    "font": (
        Annotated[
            Path | None,
            typer.Option(
                help="A font for letters that no installed one holds: .ttf, .otf or .ttc.", metavar="FILE"
            ),
        ],
        None,
    ),
}
_MODEL: dict[str, tuple[Any, Any]] = {
    "input_name": (
        Annotated[str | None, typer.Option("--input", help="The image input, where there are several.")],
        None,
    ),
    "output": (
        Annotated[
            str | None,
            typer.Option(
                help="The output that is predicted and explained, where there are several.",
                metavar="NAME",
                show_default="what looks like class scores",
            ),
        ],
        None,
    ),
    "feed": (
        Annotated[
            list[str] | None,
            typer.Option(
                help="For another input: numbers, such as scale=1,1, a picture or a .npy file.",
                metavar="NAME=VALUE",
            ),
        ],
        None,
    ),
}
_IMAGES: dict[str, tuple[Any, Any]] = {
    "size": (
        Annotated[
            str | None, typer.Option(help="Pixels the network sees, such as 224 or 320x240 (width x height).")
        ],
        None,
    ),
    "mean": (
        Annotated[str | None, typer.Option(help="Mean per channel, of 0..1 or 0..255, such as 0.5,0.5,0.5.")],
        None,
    ),
    "std": (
        Annotated[str | None, typer.Option(help="Standard deviation per channel, same scale as --mean.")],
        None,
    ),
    "resize": (
        Annotated[
            str | None,
            typer.Option(
                help="How pictures are brought to that size: crop, stretch, letterbox (grey around), or keep theirs."
            ),
        ],
        None,
    ),
    "layout": (Annotated[str | None, typer.Option(help="NCHW or NHWC.")], None),
    "channels": (
        Annotated[str | None, typer.Option(help="RGB, BGR, L or RGBA; a number: arrays of so many.")],
        None,
    ),
    "preprocess": (
        Annotated[
            str | None,
            typer.Option(
                help="A preset's name, or a JSON file (ours or Hugging Face's).", metavar="NAME|FILE"
            ),
        ],
        None,
    ),
    "labels": (
        Annotated[
            str | None,
            typer.Option(
                help="Class labels: a text file with one a line, JSON, or 'imagenet'.", metavar="FILE"
            ),
        ],
        None,
    ),
}


_GRADIENTS: dict[str, tuple[Any, Any]] = {
    "backend": (
        Annotated[
            str,
            typer.Option(
                help="What computes gradients: auto (native, and torch for what native lacks), native, torch or "
                "ort-training."
            ),
        ],
        "auto",
    ),
}


def command(
    app: typer.Typer,
    name: str | None = None,
    *,
    model: bool = True,
    images: bool = False,
    gradients: bool = False,
    writes: Sequence[str] = PICTURES,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function whose first parameter is a `Run` as a command with the shared options.

    gradients   it takes gradients by `net.gradients`, so that --backend has a meaning
    writes      the endings of the files that --out may name, the usual one first; none: it writes a folder
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        ]
        # A command's own option stands before a shared one of its name: --size of a texture is what it makes.
        shared = {
            **_COMMON,
            **(_DRAWN if model and (not writes or set(writes) & set(PICTURES)) else {}),
            **(_GRADIENTS if gradients else {}),
            **(_MODEL if model else {}),
            **(_IMAGES if images else {}),
        }
        shared = {key: option for key, option in shared.items() if key not in {p.name for p in own}}
        added = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for key, (annotation, default) in shared.items()
        ]

        @functools.wraps(function)
        def wrapper(**values: Any) -> None:
            COMMAND.set(known)
            options = {key: values.pop(key) for key in shared}
            try:
                with Run(
                    command=name or function.__name__.replace("_", "-"), writes=writes, **options
                ) as run:
                    function(run, **values)
            except KeyboardInterrupt as stop:
                # Whoever raised `Interrupted` has saved what was done and said so.
                raise (typer.Exit(130) if isinstance(stop, Interrupted) else Stopped("interrupted")) from stop

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
        known = frozenset(name for parameter in parameters for name in _spellings(parameter))
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        del wrapper.__wrapped__  # typer would look through it, at the wrong signature
        app.command(name, help=inspect.getdoc(function))(wrapper)
        return function

    return register


def _spellings(parameter: inspect.Parameter) -> list[str]:
    """How an option is written; nothing for an argument."""
    declared = next(
        (one for one in getattr(parameter.annotation, "__metadata__", ()) if isinstance(one, OptionInfo)),
        None,
    )
    if declared is None:
        return []
    return [name for name in declared.param_decls or () if name.startswith("--")] or [
        f"--{parameter.name.replace('_', '-')}"
    ]


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="An .onnx file, or a name of the catalogue (onnxviz models).")
]
ImageArgument = Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture.")]
ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="Pictures or folders of them.")
]
FolderArgument = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders of pictures, or pictures.")
]
LayerOption = Annotated[
    str | None, typer.Option("--layer", "-l", help="A layer's name (onnxviz inspect lists them).")
]
TargetOption = Annotated[
    str | None, typer.Option("--target", "-t", help="Class index or label.", show_default="the top class")
]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Images a run.", show_default="what memory allows")
]
