"""What the commands share that make pictures step by step: progress with the objective's value, checkpoints, an
animation, and keeping what there is on Ctrl-C or when the numbers run away.

A command declares `every: EveryOption = None, animate: AnimateOption = None` and ends with
`make(run, onnxviz.TECHNIQUE, net, *arguments, every=every, animate=animate, **options)`; the technique takes
`watch` and `progress` (synthesis/made.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxviz.cli.run import Run
from onnxviz.errors import UsageError

if TYPE_CHECKING:
    from onnxviz.results import Result
    from onnxviz.synthesis.made import Shot

EveryOption = Annotated[
    int | None,
    typer.Option(min=1, help="Also write the picture every so many steps: NAME.step00050.png."),
]
AnimateOption = Annotated[
    Path | None, typer.Option(help="Also write how the picture came about, as .gif or .webp.", metavar="FILE")
]

GramOption = Annotated[
    str,
    typer.Option(
        help="Gram matrices uncentred, as in the paper, or centred on the style's means.", metavar="FORM"
    ),
]

# Of an animation: no more frames than this, of this longest side in pixels, each so many milliseconds.
_FRAMES, _SIDE, _DURATION, _HOLD = 100, 448, 60, 1500


def make(
    run: Run,
    technique: Callable[..., Result],
    *arguments: Any,
    every: int | None = None,
    animate: Path | None = None,
    beside: Callable[[Result], Mapping[Path, bytes]] | None = None,
    **options: Any,
) -> Result:
    """Run the technique and write its result; whatever ends it early, what there is by then is written too.

    beside   more files of a result, and their bytes
    raises   what the technique raises
    """
    from onnxviz.errors import GradientNotFinite, LimitExceeded, WorkerCrashed
    from onnxviz.interrupted import Interrupted

    film = Film(run, every, animate)

    def keep(result: Result) -> None:
        more = beside(result) if beside else {}
        run.save(result, beside=more, checkpoints=film.checkpoints)
        for path in more:
            run.say(str(path))

    try:
        result = technique(*arguments, watch=film.watch, progress=run.progress, **options)
    except Interrupted as stop:
        keep(stop.partial)
        film.close()
        run.note("interrupted: the picture is what there was by then, and its manifest says incomplete")
        raise
    except (GradientNotFinite, LimitExceeded, WorkerCrashed) as error:
        if error.partial is not None:
            keep(error.partial)
            film.close()
        raise
    keep(result)
    film.close()
    return result


class Film:
    """Watches a technique: shows the objective's value, writes checkpoints, collects the frames of an animation."""

    def __init__(self, run: Run, every: int | None, animate: Path | None) -> None:
        if animate is not None and animate.suffix.lower() not in (".gif", ".webp"):
            raise UsageError(f"--animate writes .gif or .webp, got {str(animate)!r}")
        if animate is not None:
            if run.writes_to(animate):
                raise UsageError(
                    f"--animate and the result would both be {str(animate)!r}: give it another name"
                )
            run.claim(animate)
        self._run = run
        self._every = every
        self._path = animate
        self._frames: list[Any] = []
        self.checkpoints: list[Path] = []
        self._stride = 0

    def watch(self, shot: Shot) -> None:
        """Called after each step."""
        self._run.detail = f"objective {shot.value:.4g}"
        due = self._every is not None and (shot.index + 1) % self._every == 0
        if due:
            self._checkpoint(shot)
        if self._path is None:
            return
        if not self._stride:
            self._stride = self._every or max(1, -(-(shot.total or 1) // _FRAMES))
        last = shot.total is not None and shot.index == shot.total - 1
        if shot.index % self._stride == 0 or last:
            self._frame(shot)

    def _checkpoint(self, shot: Shot) -> None:
        from PIL import Image

        from onnxviz.files import picture_bytes, write_atomic

        out = self._run.output()
        name = f"{out.stem}.step{shot.index + 1:05d}{out.suffix}"
        picture = picture_bytes(Image.fromarray(shot.picture()), out.suffix.lower())
        self.checkpoints.append(write_atomic(out.with_name(name), picture))

    def _frame(self, shot: Shot) -> None:
        from PIL import Image

        frame = Image.fromarray(shot.picture())
        frame.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        self._frames.append(frame)
        if len(self._frames) > 2 * _FRAMES:  # nobody knew how long it would take: every other frame goes
            self._frames = self._frames[::2]
            self._stride *= 2

    def close(self) -> None:
        """Write the animation."""
        if self._path is None or not self._frames:
            return
        from onnxviz.files import write_atomic

        write_atomic(self._path, animation(self._frames, self._path.suffix.lower()))
        self._run.note(f"{len(self._frames)} frames in {self._path}")


def animation(frames: list[Any], kind: str) -> bytes:
    """An endless animation of PIL images of one size, the last of them held: '.gif' or '.webp'."""
    import io

    buffer = io.BytesIO()
    durations = [_DURATION] * (len(frames) - 1) + [_HOLD]
    settings: dict[str, Any] = {
        "save_all": True,
        "append_images": frames[1:],
        "duration": durations,
        "loop": 0,
    }
    if kind == ".webp":
        settings |= {"format": "WEBP", "quality": 85, "method": 3}
    else:
        settings |= {"format": "GIF", "optimize": False}
    frames[0].save(buffer, **settings)
    return buffer.getvalue()
