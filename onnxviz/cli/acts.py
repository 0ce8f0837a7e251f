"""What the commands do beside the technique itself: what is opened, told, and written where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxviz.cli import saving
from onnxviz.cli.command import Call
from onnxviz.cli.run import Run
from onnxviz.errors import UsageError
from onnxviz.files import FEATURES
from onnxviz.text import printable

if TYPE_CHECKING:
    import onnx_ir as ir


def methods(technique: str | None = None) -> list[str]:
    """The methods of 'saliency' or 'cam'; None: those that an explainer can hold."""
    from onnxviz.attribution.methods import METHODS, of

    return list(of(technique)) if technique else [name for name, one in METHODS.items() if one.one_pass]


def expose(run: Run, call: Call) -> None:
    """The model with more outputs, as a file."""
    from onnxviz.features.graphs import exposed
    from onnxviz.graph.metadata import save

    target = run.output("exposed.onnx")
    run.claim(target)
    layers, other = call.options.get("layers"), call.own["like"]
    if other is None:
        graph = exposed(call.model, layers, limits=run.limits)
    else:
        from onnxviz.comparing.like import exposed as exposed_like

        graph = exposed_like(call.model, other, layers, limits=run.limits)
    run.heed(graph)
    path = save(graph, target)
    names = [str(value.name) for value in graph.graph.outputs]
    run.say(f"{path}: {len(names)} outputs")
    run.emit({"out": str(path), "outputs": names})


def filters(run: Run, call: Call) -> None:
    """The filters of one layer."""
    run.save(call(run.load(call.model)))


def gradient(run: Run, call: Call) -> None:
    """The gradient model, or with --technique an explainer."""
    plain = ("of", "wrt", "rules")
    technique = call.options.pop("technique", None)
    if technique is None:
        others = [name for name in (*call.options, *run.model) if name not in (*plain, "input", "feeds")]
        _unused(others, "only an explainer takes that; give --technique too")
        _gradient_model(run, call, call.own["like"])
        return
    needless = [name for name in call.options if name in plain]
    _unused(needless, "only the gradient model takes that; leave it or --technique out")
    from onnxviz.attribution.explainer import explainer_graph

    out = run.output("explainer.onnx")
    run.claim(out)
    graph = explainer_graph(run.load(call.model, like=call.own["like"]), technique, **call.options)
    _write(run, graph, out, technique=technique)


def _gradient_model(run: Run, call: Call, other: str | None) -> None:
    from onnxviz.features.graphs import gradient_graph

    target = run.output("gradient.onnx")
    run.claim(target)
    rules = call.options.get("rules", "plain")
    asked = {key: call.options[key] for key in ("of", "wrt") if key in call.options}
    if other is not None and asked:
        from onnxviz.comparing.like import own_names

        names = own_names(call.model, other, list(asked.values()), limits=run.limits)
        call.options |= dict(zip(asked, names, strict=True))
    graph = gradient_graph(call.model, **call.options, **run.model, limits=run.limits)
    run.heed(graph)
    rectifiers = graph.meta["rectifiers"]
    if rectifiers == 0:
        from onnxviz.graph.rectifiers import without_rectifiers

        run.note(without_rectifiers(rules, [str(graph.graph.outputs[-1].name).removesuffix(".gradient")]))
    more = {} if rectifiers is None else {"rectifiers": rectifiers}
    _write(run, graph, target, rules=rules, **more)


def _write(run: Run, graph: ir.Model, target: Path, **more: Any) -> None:
    from onnxviz.graph.metadata import save

    path = save(graph, target)
    inputs = [str(value.name) for value in graph.graph.inputs]
    outputs = [str(value.name) for value in graph.graph.outputs]
    shown = (", ".join(printable(name, 120) for name in names) for names in (inputs, outputs))
    run.say(f"{path}: {' -> '.join(shown)}")
    run.emit({"out": str(path), "inputs": inputs, "outputs": outputs, **more})


def _unused(names: Sequence[str], what: str) -> None:
    if names:
        raise UsageError(f"{', '.join(f'--{name}' for name in names)}: {what}")


def patches(run: Run, call: Call) -> None:
    """A folder of sheets and tables."""
    from onnxviz.features.patch_pictures import describe
    from onnxviz.tables import encoder

    table = call.own["table"]
    if table not in ("csv", "parquet"):
        raise UsageError(f"--table takes csv or parquet; got {table!r}")
    encoder(table)  # a missing pyarrow is told before the work, not after it
    target = run.output()
    run.claim(target, *(target / name for name in ("overview.png", f"patches.{table}", "patches.json")))

    def save(result: Any) -> None:
        _tell(run, result.skipped, "manifest.json", 10)
        result.save(target, table=table, progress=run.progress)
        for line in [printable(str(target)), *describe(result)]:
            run.say(line)
        run.emit({"out": str(target), "manifest": result.manifest})

    net = run.load(call.model)
    saving.finish(run, lambda: call(net, call.arguments["images"]), save, "; what was found so far is saved")


def embed(run: Run, call: Call) -> None:
    """Features as a file."""
    from onnxviz.features.embedding import check_ending

    if run.output().suffix.lower() in FEATURES:
        check_ending(run.output())  # a missing pyarrow is told before the work
    net = run.load(call.model)

    def save(found: Any) -> None:
        _tell(run, found.skipped)
        run.save(found)

    note = ": the features so far were saved, and their manifest says incomplete"
    saving.finish(run, lambda: call(net, call.arguments["images"]), save, note)


def arranged(run: Run, call: Call) -> None:
    """Neighbours, and maps: of pictures, or of features that were saved."""
    net = run.load(call.model)
    features = call.own["features"]
    images = _set(call.arguments["images"], features)
    more = {"queries": call.own["query"]} if call.own.get("query") else {}

    def save(found: Any) -> None:
        if not hasattr(found, "embedding"):  # interrupted: the features, which took long
            target = run.output()
            run.out, run.writes = str(target.with_name(f"{target.stem}-features.npy")), FEATURES
        elif features is None:
            _tell(run, found.embedding.skipped)
        for note in found.manifest.get("notes", ()):
            run.note(note)
        run.save(found)

    note = ": the features so far were saved; --features takes them back"
    saving.finish(run, lambda: call(net, images, **more), save, note)


def _set(folders: list[Path] | None, features: Path | None) -> Any:
    """The pictures, or their features where a file of them is given."""
    from onnxviz.features.embedding import Embedding
    from onnxviz.image.folder import find

    if features is None:
        if not folders:
            raise UsageError("no picture was given; expected folders or pictures, or --features FILE")
        return folders
    found = Embedding.load(features)
    known = {*found.files, *(str(one.path) for one in found.skipped)}
    new = [path for path in find(folders or []).images if printable(path) not in known]
    if new:
        raise UsageError(
            f"{len(new)} of the pictures given are not in {printable(features)} ({printable(new[0])}...); "
            "run `onnxviz embed` again, or leave out --features"
        )
    return found


def _skipped(run: Run, result: Any) -> None:
    for one in result.manifest["skipped"]:
        run.note(f"skipped {one['path']}: {one['reason']}")


def _tell(
    run: Run, skipped: Sequence[Any], where: str = "the JSON file beside the result", most: int = 5
) -> None:
    for one in skipped[:most]:
        run.note(f"skipped {one}")
    if len(skipped) > most:
        run.note(f"skipped {len(skipped) - most} more; {where} lists them all")


def ascent(run: Run, call: Call) -> None:
    """Pictures of what answers; of all channels a page, too."""
    whole, patches = call.options.get("channel") == "all", call.own.pop("patches")
    if patches is not None and not whole:
        raise UsageError("--patches belongs to --channel all: the page of all channels links to them")
    page = run.output().with_suffix(".html")
    run.claim(run.output(), *([page] if whole else []))

    def beside(result: Any) -> dict[Path, bytes]:
        from onnxviz.synthesis.ascent import page_bytes

        return {page: page_bytes(result, page, patches)} if whole else {}

    saving.picture(run, call, beside)


def dream(run: Run, call: Call) -> None:
    """The dream, and with --zoom a way into it."""
    out = run.output()
    # A picture that is itself a .webp keeps its name.
    way = out.with_suffix(".zoom.webp" if out.suffix.lower() == ".webp" else ".webp")
    run.claim(out, *([way] if call.options.get("zoom") else []))

    def beside(result: Any) -> dict[Path, bytes]:
        from PIL import Image

        frames = [Image.fromarray(frame) for frame in result.frames]
        return {way: saving.animation(frames, ".webp")} if frames else {}

    result = saving.picture(run, call, beside)
    if result.frames:
        run.note(f"{len(result.frames)} frames in {way}")


def texture(run: Run, call: Call) -> None:
    """A texture, of a network's or of pixels alone."""
    run.claim(run.output())
    # The methods that need no network open none: the name may be any.
    net = None if call.options.get("method") in ("nearest", "quilt") else run.load(call.model)
    result = saving.make(run, call, net, call.arguments["image"], **call.own)
    if net is None:
        for warning in result.manifest["warnings"]:
            run.note(warning)


def fool(run: Run, call: Call) -> None:
    """Fooling images, and what each is taken for."""
    from onnxviz.synthesis.fool_result import percent

    def save(result: Any) -> None:
        _skipped(run, result)
        for one in result.outcomes[:40]:
            said = (
                f"{printable(one.source_label, 80)} {percent(one.source_before)} -> "
                f"{printable(one.top_label, 80)} {percent(one.top_after)}"
            )
            state = "already" if one.already else "fooled" if one.fooled else "not fooled"
            run.say(f"{one.name}: {state}: {said}, largest change {one.linf:g} of 255")
        if len(result.outcomes) > 1:
            figures = result.manifest["figures"]
            run.say(f"{figures['fooled']} of {figures['images'] - figures['already']} images fooled")
        files = result.files(run.save(result))
        run.say(str(files[0].parent if len(files) > 1 else files[0]))

    out = run.output()
    run.claim(out, out.with_suffix(".fooled.png"))
    net = run.load(call.model)
    note = ": this is what was done so far, and its manifest says incomplete"
    saving.finish(run, lambda: call(net, call.arguments["images"]), save, note)


def style_apply(run: Run, call: Call) -> None:
    """The painted picture, and how it went in and came out."""
    result = call(run.load(call.model), call.arguments["image"])
    run.note(
        f"pictures go in as {result.manifest['preprocessing']['name']!r} "
        f"({result.manifest['preprocessing_from']}) and come out as {result.manifest['parameters']['output_range']}"
    )
    run.save(result)


def style_train(run: Run, call: Call) -> None:
    """The style network, its losses and a sheet."""
    out = run.output("style.onnx")
    run.claim(out, out.with_suffix(".png"))
    net = run.load(call.model)

    def save(result: Any) -> None:
        _skipped(run, result)
        figures = result.manifest["figures"]
        run.say(
            f"loss {figures['loss_start']:.4g} -> {figures['loss_end']:.4g} in {figures['steps_done']} steps"
        )
        run.save(result, "style.onnx")

    note = ": the network has learned so far, and its manifest says incomplete"
    saving.finish(run, lambda: call(net, call.arguments["style"], call.arguments["images"]), save, note)


def models(run: Run, call: Call) -> None:
    """The catalogue, or with --fetch one of it."""
    from onnxviz import catalogue

    name = call.own["fetch"]
    if name is not None:
        from onnxviz.exporting.fetch import fetch

        path = fetch(name, force=call.own["force"], progress=run.progress)
        run.say(str(path))
        run.record({"name": name, "path": str(path)})
        return
    listed = catalogue.entries()
    width = max(len(entry.name) for entry in listed)
    for entry in listed:
        state = "here" if entry.path is not None else entry.how
        run.say(f"{entry.name.ljust(width)}  {entry.task}, {entry.licence}; {state}")
    run.say()
    run.say("Fetch one with: onnxviz models --fetch NAME")
    run.record({"networks": [{**asdict(entry), "path": entry.path and str(entry.path)} for entry in listed]})


def export(run: Run, call: Call) -> None:
    """The network as a file, and what is odd about it."""
    from onnxviz.exporting.source import parse_options

    target = run.output("model.onnx")
    run.claim(target)
    exposed = call.options.pop("expose", [])
    more = {"expose": True if exposed == ["all"] else exposed} if exposed else {}
    found = call(call.arguments["source"], target, options=parse_options(call.own["option"] or []), **more)
    for warning in found.warnings:
        run.note(warning)
    run.say(str(found.path))
    run.emit(found.to_dict())


def doctor(run: Run, call: Call) -> None:
    """What is there and what is not; exit code 1 where something is wrong."""
    checks = call()
    for line in checks.lines():
        run.say(line)
    healthy = all(check.state != "problem" for check in checks)
    run.record({"healthy": healthy, "checks": [vars(check) for check in checks]})
    if not healthy:
        raise typer.Exit(1)


def providers(run: Run, call: Call) -> None:
    """A row for each provider and part; exit code 1 where one departs."""
    found = call(run.load(call.model), call.arguments["image"])
    for line in found.lines():
        run.say(line)
    for text in found.notes:
        run.note(text)
    rows = [one.to_dict() for one in found.trials]
    told = {name: getattr(found, name) for name in ("tolerance", "departing", "notes", "manifest")}
    run.record({**told, "providers": rows}, found.table())
    if found.departing:
        raise typer.Exit(1)


def demo(run: Run, _: Call) -> None:
    """The demo's page."""
    from onnxviz.demo import demo

    settings: dict[str, Any] = {"provider": run.provider, "threads": run.threads, "seed": run.seed}
    page = demo(run.output(), progress=run.progress, say=run.note, **settings)
    run.say(str(page.resolve()))
    run.emit({"out": str(page.resolve())})
