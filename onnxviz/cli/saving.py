"""How commands write what they made: one result, a file for each picture, or a picture made step by step.

Whatever ends a command early, what there is by then is written too, and marked incomplete.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import onnxviz
from onnxviz.cli.command import Call
from onnxviz.cli.run import Run
from onnxviz.errors import GradientNotFinite, ImageRejected, LimitExceeded, UsageError, WorkerCrashed
from onnxviz.files import picture_bytes, write_atomic
from onnxviz.progress import Interrupted
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.network import Network
    from onnxviz.results import Result
    from onnxviz.synthesis.made import Shot

R = TypeVar("R")

# Words of the warnings that are about a map, not about the network.
_OF_MAPS = (" map is ", "add up to", "the cut is ")
# Of an animation: no more frames than this, of this longest side in pixels, each so many milliseconds.
_FRAMES, _SIDE, _DURATION, _HOLD = 100, 448, 60, 1500


def finish(run: Run, compute: Callable[[], R], save: Callable[[Any], None], note: str) -> R:
    """Compute a result and save it; whatever ends it early, save what was done so far, and let the end go on.

    note   what is said after Ctrl-C, behind "interrupted"
    """
    try:
        result = compute()
    except Interrupted as stop:
        save(stop.partial)
        run.note(f"interrupted{note}")
        raise
    except (GradientNotFinite, LimitExceeded, WorkerCrashed) as error:
        if error.partial is not None:
            save(error.partial)
        raise
    save(result)
    return result


def readable(
    run: Run, net: Network, images: Sequence[Path], layer: str | None = None
) -> tuple[list[Path], list[str]]:
    """The pictures of files and folders, and what was left out of them with reasons, which is told too.

    layer    how far they have to go through the network; None: all the way
    raises   ImageRejected where there is none that can be used, or the only one cannot
    """
    from onnxviz.image.folder import find

    listing = find(images, endings=net.preprocessing.endings).require()
    skipped = [f"{item.path}: {item.reason}" for item in listing.skipped]
    files: list[Path] = []
    for path in listing.images:
        if len(listing.images) == 1:
            files.append(path)
            break
        try:
            picture = net.preprocessing.read(path)
            if net.preprocessing.fixed is None:
                net.check_size(net.preprocessing.view(picture).shape[:2], layer)
        except ImageRejected as reason:
            skipped.append(f"{path}: {reason}")
        else:
            files.append(path)
    for text in skipped:
        run.note(f"skipped {text}")
    if not files:
        raise ImageRejected(f"none of the {len(skipped)} pictures could be used")
    return files, skipped


def save(run: Run, compute: Callable[[], Any], skipped: Sequence[str] = ()) -> None:
    """Compute and write one result, and tell its warnings.

    skipped   the pictures that were left out, for the manifest
    """

    def write(result: Any) -> None:
        if skipped:
            result.manifest["skipped"] = list(skipped)
        run.save(result)

    note = ": the map holds what was done so far, and its manifest says incomplete"
    for text in _warnings(finish(run, compute, write, note).manifest):
        run.note(text)


def each(run: Run, net: Network, images: Sequence[Path], compute: Callable[[Path], Any]) -> None:
    """One result for each picture: of one picture --out itself, of several NAME-PICTURE.png beside it or in its folder.

    What cannot be read is told and left out; on Ctrl-C what was done so far is kept.

    raises   ImageRejected where there is no picture that can be read, or the only one cannot
    """
    from onnxviz.image.folder import find

    listing = find(images, endings=net.preprocessing.endings).require()
    if len(listing.images) == 1 and not listing.skipped:
        run.refuse_foreign(run.output())
        save(run, lambda: compute(listing.images[0]))
        return
    skipped = [(printable(one.path), one.reason) for one in listing.skipped]
    written: list[dict[str, Any]] = []
    taken: set[str] = set()
    targets = [_named(run.output(), path, taken) for path in listing.images]
    for target in targets:
        run.refuse_foreign(target)
    for done, (path, target) in enumerate(zip(listing.images, targets, strict=True), 1):
        stopped = None
        try:
            result = compute(path)
        except ImageRejected as reason:
            skipped.append((printable(path), str(reason)))
            continue
        except Interrupted as stop:
            stopped, result = stop, stop.partial
        run.say(str(result.save(target)))
        written.append({"image": printable(path), "out": str(target), "manifest": result.manifest})
        for text in _warnings(result.manifest):
            run.note(f"{printable(path)}: {text}")
        if stopped is not None:
            run.note("interrupted: what was done so far is written, and the last manifest says incomplete")
            raise stopped
        run.progress(done, len(listing.images), "images")
    for name, why in skipped:
        run.note(f"skipped {name}: {why}")
    if not written:
        raise ImageRejected(f"none of the {len(skipped)} pictures could be used")
    left_out = [{"path": name, "reason": why} for name, why in skipped]
    run.emit({"out": [one["out"] for one in written], "images": written, "skipped": left_out})


def _named(target: Path, picture: Path, taken: set[str]) -> Path:
    """NAME-PICTURE.png for NAME.png; of pictures of one name in several folders, the later ones are numbered."""
    stem = f"{target.stem}-{printable(picture.stem, 100)}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 2)))
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return target.with_name(f"{name}{target.suffix}")


def _warnings(manifest: dict[str, Any]) -> list[str]:
    """What is odd about the maps; what is odd about the network was told when it was opened."""
    pictures = manifest["figures"].get("pictures")
    if pictures is None:
        return [text for text in manifest["warnings"] if any(part in text for part in _OF_MAPS)]
    return [
        f"{picture['name'] or 'a picture'}, {method}: {text}"
        for picture in pictures
        for method, found in picture["methods"].items()
        for text in found["warnings"]
    ]


# --- pictures that are made step by step ---------------------------------------------------------


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
    film = Film(run, every, animate)

    def keep(result: Result) -> None:
        more = beside(result) if beside else {}
        run.save(result, beside=more, checkpoints=film.checkpoints)
        for path in more:
            run.say(str(path))
        film.close()

    def compute() -> Result:
        return technique(*arguments, watch=film.watch, progress=run.progress, **options)

    note = ": the picture is what there was by then, and its manifest says incomplete"
    return finish(run, compute, keep, note)


class Film:
    """Watches a technique: shows the objective's value, writes checkpoints, collects the frames of an animation."""

    def __init__(self, run: Run, every: int | None, animate: Path | None) -> None:
        if animate is not None:
            if animate.suffix.lower() not in (".gif", ".webp"):
                raise UsageError(f"--animate writes .gif or .webp, got {str(animate)!r}")
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
        self._run.bar.detail = f"objective {shot.value:.4g}"
        if self._every is not None and (shot.index + 1) % self._every == 0:
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
        write_atomic(self._path, animation(self._frames, self._path.suffix.lower()))
        self._run.note(f"{len(self._frames)} frames in {self._path}")


def animation(frames: list[Any], kind: str) -> bytes:
    """An endless animation of PIL images of one size, the last of them held: '.gif' or '.webp'."""
    buffer = io.BytesIO()
    durations = [_DURATION] * (len(frames) - 1) + [_HOLD]
    webp, gif = {"format": "WEBP", "quality": 85, "method": 3}, {"format": "GIF", "optimize": False}
    settings: dict[str, Any] = webp if kind == ".webp" else gif
    frames[0].save(buffer, save_all=True, append_images=frames[1:], duration=durations, loop=0, **settings)
    return buffer.getvalue()


# --- what many commands do ----------------------------------------------------------------------


def map(run: Run, call: Call) -> None:
    """One result for each picture."""
    net = run.load(call.model, each=True)
    each(run, net, call.arguments["images"], lambda image: call(net, image))


def sheet(run: Run, call: Call) -> None:
    """One result, or of several pictures or methods a sheet."""
    from onnxviz.attribution.methods import METHODS, chosen, of

    net = run.load(call.model)
    name, images = call.command.name, call.arguments["images"]
    known = of(name)
    files, skipped = readable(run, net, images, call.options.get("layer") if name == "saliency" else None)
    methods = call.options.pop("method", [call.command.parameters["method"].default])
    methods = list(METHODS if name == "saliency" else known) if methods == ["all"] else methods
    if len(files) == len(methods) == 1 and methods[0] in known:
        save(run, lambda: call(net, files[0], method=methods[0]), skipped)
        return
    for one in methods if name == "cam" else ():
        chosen(one, known)
    more: dict[str, Any] = {"progress": run.progress, "seed": run.seed, **call.options}
    save(run, lambda: onnxviz.attributions(net, files, methods, **more), skipped)


def whole(run: Run, call: Call) -> None:
    """One result of all pictures."""
    net = run.load(call.model)
    files, skipped = readable(run, net, call.arguments["images"])
    save(run, lambda: call(net, files), skipped)


def picture(run: Run, call: Call, beside: Callable[[Any], Mapping[Path, bytes]] | None = None) -> Any:
    """One picture, made step by step."""
    net = run.load(call.model)
    given = [call.arguments[name] for name in call.command.arguments]
    return make(run, call, net, *given, beside=beside, **call.own)
