"""One run of a command: opening the model, progress on stderr, results on stdout or in files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz import isolate
from onnxviz.errors import LONGEST_MESSAGE, UsageError, spelt
from onnxviz.files import PICTURES, TABLES, destination, json_bytes, write_atomic
from onnxviz.progress import Bar
from onnxviz.text import printable, quoted

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.limits import Limits
    from onnxviz.network import Network
    from onnxviz.results import Result
    from onnxviz.tables import Columns


_FONTS = "onnxviz.figures.style"


@dataclass(eq=False)
class Run:
    """What every command gets: the common options and the ways to say something.

    command   its name
    writes    the endings of the files that --out may name, the usual one first; none: it writes a folder
    alone     whether it writes one file, without a manifest beside it
    font      what --font names
    model     the options that `load` takes, by their names in Python, as they were given
    each      those of one of several models: {'preprocess_a': ...} is the `preprocess` of A
    reads     the files that are read; --out must be none of them
    """

    command: str
    _: KW_ONLY
    out: str | None = None
    as_json: bool = False
    provider: str = "auto"
    provider_options: Mapping[str, str] | None = None
    threads: int | None = None
    seed: int = 0
    quiet: bool = False
    limit: Sequence[str] | None = None
    writes: Sequence[str] = PICTURES
    alone: bool = False
    font: Path | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    reads: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        if self.provider_options is not None:
            from onnxviz.runtime.providers import asked

            self.provider = asked(self.provider, self.provider_options)
        self.bar = Bar(self.command, complain, enabled=not self.quiet)
        self._claims = contextlib.ExitStack()
        self._claimed: set[Path] = set()
        self._networks: list[tuple[Network, int]] = []
        self._letters: frozenset[str] = frozenset()

    def __enter__(self) -> Run:
        if isolate.watched():
            isolate.allow(self.limits.load_seconds)
            if isolate.memory_is_guarded():
                isolate.limit_memory(self.limits.memory)
        out = self.output()  # a name that cannot be written is told before any work
        # `os.path.isfile` is False, where Path.is_file raises, for what is too long for a name.
        if out.is_file() and any(os.path.isfile(one) and out.samefile(one) for one in self.reads):  # noqa: PTH113
            raise UsageError(f"--out {quoted(out)} is a file that {self.command} reads; give another name")
        # What a folder of pictures holds is a picture the next time, the evidence of a report too.
        folders = self.reads if self.out is not None and not self.writes else ()
        for one in folders:
            if os.path.isdir(one) and out.resolve().is_relative_to(Path(one).resolve()):  # noqa: PTH112
                raise UsageError(
                    f"--out {quoted(out)} lies in {quoted(one)}, which {self.command} reads: what it writes would be "
                    "taken for pictures the next time; give a folder beside it"
                )
        if self.font is not None:
            from onnxviz.figures.style import use_font

            use_font(self.font)
        self._letters = _undrawn()  # by what was drawn before, in a process that runs several commands
        return self

    def __exit__(self, *_: object) -> None:
        self._warn()
        if lacking := _undrawn() - self._letters:
            self.note(sys.modules[_FONTS].said(*sorted(lacking)))
        self.bar.close()
        self._claims.close()

    # --- in -------------------------------------------------------------------------------------

    def load(
        self, model: str, *, each: bool = False, warned: bool = False, name: str = "", **options: Any
    ) -> Network:
        """Open the model with the options given on the command line; notes go to stderr.

        each     what is written has names of its own for each picture, which `saving.each` looks at
        warned   whether the command says itself what the network warns of
        name     which of several models it is: 'a' or 'b'
        """
        from onnxviz.opening import load

        if self.out is not None or self.writes[:1] not in ((".json",), (".onnx",)):
            self.hold(self.output()) if each else self.claim(self.output())
        ending = f"_{name}"
        own = {key.removesuffix(ending): value for key, value in self.each.items() if key.endswith(ending)}
        common = {"provider": self.provider, "threads": self.threads, "limits": self.limits}
        settings = {**common, **self.model, **own, **options}
        other = settings.pop("like", None)
        if other is None:
            network = load(model, **settings)
        else:
            from onnxviz.comparing.like import like

            network = like(model, other, progress=self.progress, **settings)
        if not warned:
            self._networks.append((network, 0))
        self._warn()
        return network

    @cached_property
    def limits(self) -> Limits:
        """What `--limit` says, and the defaults; raises UsageError."""
        from onnxviz.limits import Limits

        return Limits.parse(list(self.limit or ()))

    def _warn(self) -> None:
        """Say what the networks have come to warn of since the last time: some of it shows only when they run."""
        for i, (network, said) in enumerate(self._networks):
            for warning in network.warnings[said:]:
                self.note(warning)
            self._networks[i] = (network, len(network.warnings))

    def heed(self, graph: ir.Model) -> None:
        """Tell of weights that hold NaN or infinities, of a graph that belongs to no network."""
        from onnxviz.graph.open.weights import odd, told

        for text in told(odd(graph)):
            self.note(text)

    # --- out ------------------------------------------------------------------------------------

    def progress(self, done: int, total: int | None, what: str) -> None:
        """How far the command is; shown on a terminal once it has taken longer than a second."""
        isolate.keeps(done > 0)
        self.bar(done, total, what)

    def note(self, text: str) -> None:
        """One line for the reader, on stderr."""
        if not self.quiet:
            self.bar.close()
            complain(printable(spelt(text), LONGEST_MESSAGE))

    def say(self, text: str = "") -> None:
        """One line of the result, on stdout, unless --json was given."""
        if not self.as_json:
            self.bar.close()
            print("\n".join(printable(line) for line in text.split("\n")))

    def emit(self, value: dict[str, Any]) -> None:
        """The result as one JSON object on stdout, if --json was given."""
        if self.as_json:
            self.bar.close()
            sys.stdout.write(self._json(value).decode("utf-8"))

    def _json(self, value: dict[str, Any]) -> bytes:
        return json_bytes({"schema": f"onnxviz.{self.command}/1", **value})

    def output(self, default: str | None = None) -> Path:
        """Where the result goes: --out, or `default` in the current folder; in --out where that is a folder.

        default  a file name; None: the command's, with the first ending that it writes
        raises   UsageError for an ending that this command does not write, OutputRefused
        """
        name = default or self.command + (self.writes[0] if self.writes else "")
        return Path(name) if self.out is None else destination(self.out or ".", name, self.writes)

    def record(self, value: dict[str, Any], rows: Columns | None = None) -> None:
        """The result of a command that draws nothing: as JSON or a table where --out asks for a file; see `emit`.

        rows   the columns of a table
        raises OutputRefused, MissingDependency
        """
        if self.out is not None:
            target = self.output()
            ending = target.suffix.lower()
            if rows is not None and ending in TABLES:
                from onnxviz.tables import encoder

                write_atomic(target, encoder(ending[1:])(rows))
            else:
                write_atomic(target, self._json(value))
        self.emit(value)

    def claim(self, target: Path, *beside: Path) -> None:
        """Hold `target` until the command ends, so that a second run with the same --out is told so at once.

        beside   what is written besides `target` and its array
        raises   OutputRefused, also where what this command writes is of another technique, or the user's; before any
                 work
        """
        if target not in self._claimed:
            self._claimed.update((target, *beside))
            self.hold(target)
            self.refuse_foreign(target, *beside)

    def hold(self, target: Path) -> None:
        """`claim`, whatever lies there."""
        from onnxviz.claims import claimed, hidden

        if (all_endings := hidden(target, "")) not in self._claimed:
            self._claims.enter_context(claimed(target))
            self._claimed.add(all_endings)

    def writes_to(self, path: Path) -> bool:
        """Whether a file is among those that were claimed, by any spelling of its folder."""
        return any(
            path.name == one.name and path.parent.resolve() == one.parent.resolve() for one in self._claimed
        )

    def refuse_foreign(self, target: Path, *beside: Path) -> None:
        """Refuse where the result of another technique, or something else, has the names that this command writes to.

        raises   OutputRefused
        """
        from onnxviz.file_set import FOLDER_HEAD, refuse_foreign

        schema = f"onnxviz.{self.command}/1"
        if not self.writes:
            refuse_foreign(target / FOLDER_HEAD, [target / f"{self.command}.npy", *beside], schema)
        elif target.suffix.lower() not in self.writes or self.alone:
            refuse_foreign(target, [target], None, target)
        else:
            names = [target, target.with_suffix(".npy"), *beside]
            refuse_foreign(target.with_suffix(".json"), names, schema, target)

    def save(
        self,
        result: Result,
        default: str | None = None,
        beside: Mapping[Path, bytes] | None = None,
        checkpoints: Sequence[Path] = (),
        **more: Any,
    ) -> Path:
        """Write a result's picture, values and manifest, and say where; see `results.write`."""
        target = self.output(default)
        html = target.suffix.lower() == ".html"
        self.claim(target, *([target.with_suffix(".png")] if html else []))
        if html:
            from onnxviz.cli.pages import attribution_page
            from onnxviz.results import write

            write(result, target.with_suffix(".png"), {target: attribution_page(result)}, checkpoints, target)
            path = target
        elif beside or checkpoints:
            from onnxviz.results import write

            path = write(result, target, beside, checkpoints)
        else:
            path = result.save(target)
        self.say(str(path))
        self.emit({"out": str(path), **more, "manifest": result.manifest})
        return path


def complain(text: str) -> None:
    """One line on stderr; where that is closed or full, nobody reads it."""
    try:
        print(f"onnxviz: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: Any) -> None:
    """Let what a stream still holds, and could not be written, go nowhere: Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _undrawn() -> frozenset[str]:
    """The letters that no font held so far; where nothing was drawn, the fonts were not even loaded."""
    fonts = sys.modules.get(_FONTS)
    return fonts.undrawn() if fonts is not None else frozenset()
