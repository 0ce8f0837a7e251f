"""What is frozen: every technique, method, exporter and command, on the bundled network and on small ones.

A group is a generator of (name, call); each runs in a process of its own. Only what users may call is called, and the
names of methods, presets and rules are read from the refusal of a name that there is not: so a freeze outlives the
rooms that the code lies in, and a method that is added is seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LITE0 = "efficientnet-lite0"
DEEP, MIDDLE = "blocks.15.project", "blocks.2.add"
Cases = Iterator[tuple[str, Callable[[], Any]]]
COMMANDS = (
    "inspect", "predict", "expose", "filters", "activations", "occlusion", "rise", "saliency", "segment", "cam",
    "patches", "embed", "neighbours", "map", "gradient", "ascent", "dream", "invert", "style", "fool", "texture",
    "style-apply", "style-train", "models", "export", "doctor", "demo",
)  # fmt: skip
# Of the fuzzer's networks, those that hold no operator and no form that others do not hold.
ALIKE = (
    "inception_v1-4", "inception_v2-9", "resnet50-9", "squeezenet-28", "vgg19-4", "zfnet512-4", "squeezenet-bare",
)  # fmt: skip
# Objectives as text, in which {layer} stands for a layer with a map of four channels or more.
OBJECTIVES = (
    "logit(1)", "logit()", "2*logit(1) - logit(0)", "channel('{layer}', 2)", "neuron('{layer}', 2, 1, 2)",
    "layer('{layer}')", "part('{layer}', 0, slice(0, 2))", "logit(1) - 0.1*tv('{layer}')", "logit(1) - l2('{layer}')",
)  # fmt: skip


class Place:
    """A folder of one group's own, photos in it, and networks that are opened once."""

    def __init__(self, folder: Path, extra: Path | None) -> None:
        from PIL import Image
        from skimage import data

        self.folder, self.extra = folder, extra
        self.cat = data.chelsea()
        self.photos: list[Path] = []
        for name in ("chelsea", "coffee", "astronaut", "rocket"):
            path = folder / "photos" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(getattr(data, name)()[::2, ::2]).save(path, compress_level=0)
            self.photos.append(path)
        self._runs = 0

    def net(self, model: Any = LITE0, **options: Any) -> Any:
        import onnxviz

        return onnxviz.load(model, provider="cpu", threads=1, **options)

    def made(self, name: str) -> bytes:
        """A small network, as the fuzzer has it."""
        from fuzzing.networks import content

        return content(name)

    def written(self, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        path.write_bytes(self.made(name))
        return path

    def command(self, *arguments: Any, out: str = "") -> dict[str, Any]:
        """A command in a process of its own: exit code, texts, and the files that it wrote."""
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        folder.mkdir()
        line = [str(one) for one in arguments] + (["-o", str(folder / out)] if out else [])
        if line[-1] != "--help" and line[0] not in ("models", "doctor", "--version"):
            line += ["--provider", "cpu", "--threads", "1"]
        done = subprocess.run(
            [sys.executable, "-m", "onnxviz", *line],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=300,
        )
        text = done.stdout.replace(str(folder), "<out>")
        shown = json.loads(text) if "--json" in line and done.returncode == 0 else text
        error = done.stderr.replace(str(folder), "<out>")
        return {"exit": done.returncode, "stdout": shown, "stderr": error, "files": folder}


def registry(call: Callable[[str], Any]) -> list[str]:
    """The names that a call takes, from its refusal of one that there is not."""
    import onnxviz

    try:
        call("nosuch")
    except onnxviz.errors.OnnxVizError as error:
        text = re.split(r"; got|, got", re.sub(r"; did you mean [^?]*\?", "", str(error)))[0]
        found = re.split(
            r"there are |one pass: |the presets are |must be one of |must be |one of |expected ", text
        )
        if len(found) > 1:
            return [name for name in re.split(r", | or ", found[-1]) if re.fullmatch(r"[\w+.-]+", name)]
        raise RuntimeError(f"no names in: {error} (mend `registry` in {__file__})") from error
    raise RuntimeError("'nosuch' was taken")


def saved(result: Any, folder: Path, *names: str) -> list[Path]:
    """The folders that a result was saved in, one for each name."""
    made = []
    for name in names:
        target = folder / f"saved-{len(list(folder.iterdir()))}"
        target.mkdir()
        result.save(target / name)
        made.append(target)
    return made


# --- the bundled network --------------------------------------------------------------------------


def saliency(place: Place) -> Cases:
    import onnxviz

    net, few = place.net(), {"samples": 3}
    options: dict[str, Any] = {"integrated-gradients": {"steps": 4}}
    options |= {name: few for name in ("smoothgrad", "smoothgrad-squared", "vargrad")}
    options["expected-gradients"] = few | {"baselines": place.photos[1:]}
    run = partial(onnxviz.saliency, net, place.cat)
    for method in registry(lambda name: run(method=name)):
        yield method, partial(run, method=method, **options.get(method, {}))
    for baseline in registry(lambda name: run(method="integrated-gradients", baseline=name)):
        yield f"baseline {baseline}", partial(run, method="integrated-gradients", steps=2, baseline=baseline)
    yield "several", lambda: onnxviz.saliency(net, place.photos, target=[285, 967, "tench", 0], batch=3)
    yield "channel", partial(run, layer=DEEP, channel=3)
    yield "neuron", partial(run, layer=DEEP, channel=3, neuron=(2, 4))
    yield "noise", partial(run, method="smoothgrad", samples=2, noise=0.3, seed=7, percentile=95.0)
    for text in OBJECTIVES:
        yield f"objective {text}", partial(run, objective=text.format(layer=DEEP))
    x = net.prepare(place.photos[:2])
    yield "prepared", lambda: x
    yield "tensor", lambda: onnxviz.saliency(net, x)
    yield "saved", lambda: saved(run(), place.folder, "a.png", "a.jpg", "a.webp")
    sheet = partial(onnxviz.attributions, net, place.photos[:2])
    many = ["saliency", "smoothgrad", "integrated-gradients", "grad-cam"]
    yield "sheet", lambda: sheet(many, samples=2, steps=2)
    yield "sheet saved", lambda: saved(sheet(["saliency", "grad-cam"]), place.folder, "sheet.png")


def cam(place: Place) -> Cases:
    import onnxviz

    net, small = place.net(), place.net(size=96)
    run = partial(onnxviz.cam, net, place.cat)
    for method in registry(lambda name: run(method=name)):
        of = partial(onnxviz.cam, small, place.cat, layer=MIDDLE) if method == "score-cam" else run
        yield method, partial(of, method=method)
        yield f"{method} signed", partial(of, method=method, signed=True)
    for align in registry(lambda name: run(align=name)):
        yield f"align {align}", partial(run, align=align, layer=MIDDLE)
    yield "layers", partial(run, layer=[MIDDLE, DEEP], percentile=97.0)
    yield "several", lambda: onnxviz.cam(net, place.photos, target=285)
    yield "objective", partial(run, objective="logit(285) - logit(281)")
    for method in registry(lambda name: onnxviz.segment(net, place.cat, cut=name)):
        yield f"segment {method}", partial(onnxviz.segment, net, place.photos[0], cut=method)
    yield "segment by saliency", lambda: onnxviz.segment(net, place.photos[3], method="saliency", rounds=2)
    yield "segment saved", lambda: saved(onnxviz.segment(net, place.photos[0]), place.folder, "a.png")


def masks(place: Place) -> Cases:
    import onnxviz

    net = place.net(size=96)
    occlusion = partial(onnxviz.occlusion, net, place.cat, window=32, stride=32)
    for fill in registry(lambda name: occlusion(fill=name)):
        yield f"occlusion {fill}", partial(occlusion, fill=fill, seed=2)
    yield "occlusion default", partial(onnxviz.occlusion, net, place.cat)
    yield "occlusion oblong", partial(onnxviz.occlusion, net, place.cat, window=(16, 40), stride=(24, 40))
    yield "occlusion channel", partial(occlusion, layer=DEEP, channel=3)
    yield "occlusion objective", partial(occlusion, objective="logit(285) - logit(281)", batch=4)
    rise = partial(onnxviz.rise, net, place.cat, masks=12, seed=3)
    for fill in registry(lambda name: rise(fill=name)):
        yield f"rise {fill}", partial(rise, fill=fill)
    for divide in registry(lambda name: rise(divide=name)):
        yield f"rise {divide}", partial(rise, divide=divide, grid=5, probability=0.3)
    yield "rise several", lambda: onnxviz.rise(net, place.photos[:2], masks=6, target=[285, 0])
    yield "occlusion saved", lambda: saved(occlusion(), place.folder, "a.png")
    for method in registry(lambda name: onnxviz.fool(net, place.cat, method=name)):
        fool = partial(onnxviz.fool, net, method=method, steps=3)
        yield f"fool {method}", partial(fool, place.cat, target="toaster", seed=1)
        yield f"fool several {method}", partial(fool, place.photos[:2])
        for norm in registry(lambda name: onnxviz.fool(net, place.cat, norm=name)):
            yield f"fool {method} {norm}", partial(fool, place.cat, norm=norm, bound=6.0)


def features(place: Place) -> Cases:
    import onnxviz

    net = place.net()
    yield "inspect", lambda: onnxviz.inspect(net)
    yield "predict", lambda: net.predict(place.photos, top=3)
    yield "filters", lambda: onnxviz.filters(net)
    yield "filters of a layer", lambda: onnxviz.filters(net, "blocks.2.depthwise")
    yield "activations", lambda: onnxviz.activations(net, place.cat, "stem")
    yield "activations of several", lambda: net.activations(place.photos, ["stem", DEEP, "logits"], batch=3)
    yield "probabilities", lambda: net.probabilities(net.prepare(place.photos))
    yield "embed", lambda: onnxviz.embed(net, place.photos, batch=3)
    yield "embed layer", lambda: onnxviz.embed(net, place.photos, layer=MIDDLE)
    embedded = onnxviz.embed(net, place.photos)
    yield "embed saved", lambda: saved(embedded, place.folder, "a.npy", "a.npz", "a.csv")
    for metric in registry(lambda name: onnxviz.neighbours(net, place.photos, metric=name)):
        yield f"neighbours {metric}", partial(onnxviz.neighbours, net, place.photos, k=2, metric=metric)
    crowd = [place.cat[y : y + 100, x : x + 100] for y in (0, 90, 180) for x in (0, 90, 180, 270)]
    yield "neighbours of", lambda: onnxviz.neighbours(net, crowd, queries=place.photos[:1], k=3)
    yield "map pca", lambda: onnxviz.map(net, crowd, method="pca", seed=1)
    yield "map tsne", lambda: onnxviz.map(net, crowd, method="tsne", perplexity=3.0, seed=1)
    yield "patches", lambda: onnxviz.patches(net, place.photos, ["stem", MIDDLE], top=3, batch=3)
    found = onnxviz.patches(net, place.photos, "stem", channel=[1, 5], top=2)
    yield "patches channels", lambda: found
    yield "patches saved", lambda: saved(found, place.folder, "")


def synthesis(place: Place) -> Cases:
    import onnxviz

    net = place.net()
    ascent = partial(onnxviz.ascent, net, size=64, seed=3)
    for preset in registry(lambda name: ascent(target=1, preset=name)):
        yield f"ascent {preset}", partial(ascent, target=285, preset=preset, steps=5)
    for norm in registry(lambda name: ascent(target=1, preset="lecture", norm=name)):
        yield (
            f"ascent norm {norm}",
            partial(ascent, target=7, preset="simonyan", norm=norm, steps=2, momentum=0.5),
        )
    yield "ascent classes", partial(ascent, target=[285, "tench"], steps=2, batch=1)
    yield "ascent channel", partial(ascent, layer=MIDDLE, channel=[1, 4], steps=2, copies=2, diversity=1.0)
    yield "ascent neuron", partial(ascent, layer=MIDDLE, channel=1, neuron=(1, 2), steps=2)
    yield "ascent middle", partial(ascent, layer=MIDDLE, channel=1, neuron="middle", steps=2, alignment=0.1)
    yield (
        "ascent direction",
        partial(ascent, layer=MIDDLE, direction=np.arange(24, dtype=np.float32), cosine=1.0, steps=2),
    )
    yield "ascent start", partial(ascent, target=285, start=place.cat, steps=2)
    yield (
        "ascent pieces",
        partial(ascent, target=1, steps=3, pad=4, jitter=5, turn=6.0, scale_low=0.8, blur_high=1.0, draws=2, tv=0.1,
                l2=0.1, margin=9, taper=0.5, keep="best", stretch=True),
    )  # fmt: skip
    yield (
        "ascent pixels",
        partial(ascent, target=1, preset="lecture", steps=5, pad=4, turn=6.0, scale_high=1.2, blur_high=1.0, decay=0.1,
                blur_radius=0.7, blur_every=2, small_pixels=5, small_contributions=5, small_gradients=10, redirected=1),
    )  # fmt: skip
    dream = partial(onnxviz.dream, net, place.cat, size=96, octaves=2, steps=2, seed=3)
    yield "dream", dream
    yield "dream layers", partial(dream, {MIDDLE: 0.5, DEEP: 1.0}, jitter=4)
    yield "dream channels", partial(dream, MIDDLE, channels=[1, 2], zoom=2)
    yield "dream guide", partial(dream, MIDDLE, guide=place.photos[1])
    invert = partial(onnxviz.invert, net, place.cat, steps=3, seed=3)
    yield "invert", partial(invert, ["stem", MIDDLE])
    yield "invert jitter", partial(invert, MIDDLE, jitter=3, alpha=4.0, beta=1.5)


def styles(place: Place) -> Cases:
    import onnxviz

    net, (content, paint, *more) = place.net(), place.photos
    style = partial(onnxviz.style, net, content, paint, size=64, steps=2, seed=3)
    yield "style", style
    for option in ("colour", "optimiser", "gram"):
        for name in registry(lambda name, option=option: style(**{option: name})):  # type: ignore[misc]
            yield f"style {option} {name}", partial(style, scales=1, **{option: name})
    yield "style noise", partial(style, start="noise", spectrum=False, scales=1)
    yield "style several", lambda: onnxviz.style(
        net, content, [paint, *more], style_weights=[1, 2, 3], size=64, steps=2, layers=["stem", MIDDLE],
        content_layers={MIDDLE: 2.0}, style_scale=0.8, tv=0.2,
    )  # fmt: skip
    texture = partial(onnxviz.texture, net, place.cat[100:160, 100:170], seed=3)
    options = {"gram": {"steps": 3, "size": 64}, "nearest": {"size": 24, "window": 5}, "quilt": {"size": 90}}
    for method in registry(texture):
        yield f"texture {method}", partial(texture, method, **options.get(method, {"size": 64}))
    for gram in registry(lambda name: texture("gram", gram=name)):
        yield f"texture {gram}", partial(texture, gram=gram, steps=2, size=64, layers=["stem", MIDDLE])
    yield "texture blocks", partial(texture, "quilt", size=(60, 80), block=16, overlap=4, evenness=0.0)
    tissue = place.net("tissue")
    yield "style-apply", lambda: onnxviz.style_apply(tissue, place.cat[:96, :128])
    yield "style-apply resized", lambda: onnxviz.style_apply(tissue, content, size=(48, 64))
    yield (
        "style-train",
        lambda: onnxviz.style_train(
            place.net(size=64), paint, place.photos, steps=2, batch=2, width=4, blocks=1, seed=3
        ),
    )


# --- files that are written -----------------------------------------------------------------------


def exporters(place: Place) -> Cases:
    import onnxviz

    lite0 = ROOT / "models" / f"{LITE0}.onnx"
    for rules in registry(lambda name: onnxviz.gradient_model(place.made("tiny"), rules=name)):
        yield f"gradient {rules}", partial(onnxviz.gradient_model, lite0, rules=rules)
    yield "gradient by a layer", lambda: onnxviz.gradient_model(lite0, of="logits", wrt=DEEP)
    yield "gradient of a layer", lambda: onnxviz.gradient_model(lite0, of=MIDDLE)
    net = place.net()
    for technique in registry(lambda name: onnxviz.explainer_model(net, name)):
        yield f"explainer {technique}", partial(onnxviz.explainer_model, net, technique)
    explainer = partial(onnxviz.explainer_model, place.net(place.made("tiny"), preprocess="imagenet"))
    for technique in registry(lambda name: onnxviz.explainer_model(net, name)):
        yield f"explainer fed {technique}", partial(explainer, technique, target="fed")
    yield "explainer fixed", partial(explainer, fixed=True)
    yield "explainer over", partial(explainer, "grad-cam", over="picture", layer="relu2", target=3)
    yield "expose", lambda: onnxviz.expose(place.made("tiny"))
    yield "expose layers", lambda: onnxviz.expose(lite0, ["stem", DEEP])
    (place.folder / "made.py").write_text(
        "import torch\ndef net(width=4):\n    return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.ReLU(),"
        " torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, 5))\n"
    )
    yield "export", lambda: (
        onnxviz.export(f"{place.folder}/made.py:net", place.folder / "torch.onnx", size=32, random=True, seed=1),
        onnxviz.inspect(place.net(place.folder / "torch.onnx", preprocess="unit")),
    )  # fmt: skip


# --- every kind of network ------------------------------------------------------------------------


class _One:
    """One network, opened when it is first asked for, and what is given to it."""

    def __init__(self, place: Place, content: Any, **options: Any) -> None:
        self.place, self.content, self._options = place, content, options
        self.few = place.photos[:2]

    @cached_property
    def net(self) -> Any:
        return self.place.net(self.content, **self._options)

    @property
    def side(self) -> int:
        return min(self.net.size)

    @property
    def photo(self) -> np.ndarray:
        return np.ascontiguousarray(self.place.cat[: self.side * 2, : self.side * 3])

    @property
    def map(self) -> list[str]:
        """The last layer with a map."""
        shapes = {layer.name: layer.shape or () for layer in self.net.layers}
        return [name for name, shape in shapes.items() if len(shape) == 4 and shape[2] != 1][-1:]

    @property
    def score(self) -> str:
        return str(next(iter(self.net.outputs)).output)

    def gradient(self, rules: str) -> Any:
        from onnxviz.objectives import layer

        x = self.net.prepare([self.photo, self.place.cat])
        return self.net.value_and_gradient(layer(self.score), rules=rules)(x)


# Technique -> of onnxviz and one network, a result.
EVERYTHING: dict[str, Callable[[Any, _One], Any]] = {
    "inspect": lambda viz, one: viz.inspect(one.net).to_dict(),
    "predict": lambda viz, one: one.net.predict([one.photo, *one.few], top=3),
    "layers": lambda viz, one: one.net.activations(one.photo, [layer.name for layer in one.net.layers]),
    "gradient": lambda viz, one: one.gradient("plain"),
    "guided": lambda viz, one: one.gradient("guided"),
    "saliency": lambda viz, one: viz.saliency(one.net, [one.photo, one.place.cat]),
    "full": lambda viz, one: viz.saliency(one.net, one.photo, method="full-gradient"),
    "output part": lambda viz, one: viz.saliency(one.net, one.photo, objective=f"part('{one.score}', 0)"),
    "cam": lambda viz, one: viz.cam(one.net, [one.photo, one.place.cat]),
    "layercam": lambda viz, one: viz.cam(one.net, one.photo, method="layercam", layer=one.map or None),
    "occlusion": lambda viz, one: viz.occlusion(
        one.net, one.photo, window=one.side // 2, stride=one.side // 2
    ),
    "rise": lambda viz, one: viz.rise(one.net, one.photo, masks=4, grid=3),
    "filters": lambda viz, one: viz.filters(one.net),
    "embed": lambda viz, one: viz.embed(one.net, one.few),
    "patches": lambda viz, one: viz.patches(one.net, one.few, one.map, top=1),
    "ascent": lambda viz, one: viz.ascent(one.net, target=1, preset="simonyan", steps=2),
    "fool": lambda viz, one: viz.fool(one.net, one.photo, method="fgsm"),
    "gradient model": lambda viz, one: viz.gradient_model(one.content),
    "explainer": lambda viz, one: viz.explainer_model(one.net),
    "expose": lambda viz, one: viz.expose(one.content),
}


def networks(part: int, parts: int, place: Place) -> Cases:
    from fuzzing.networks import NAMES

    for name in [name for name in NAMES if name not in ALIKE][part::parts]:
        feeds = {"age": 0.5} if name == "two-inputs" else None
        yield from _of_file(place, name, place.made(name), preprocess="unit", feeds=feeds)


def _of_file(place: Place, name: str, content: Any, **options: Any) -> Cases:
    """Everything of one file; where it is refused, the refusal."""
    import onnxviz

    one = _One(place, content, **options)
    for technique, call in EVERYTHING.items():
        yield f"{name} {technique}", partial(_brief, partial(call, onnxviz, one))


def _brief(call: Callable[[], Any]) -> Any:
    """Of results that are told whole elsewhere: the numbers, and what the manifest says of this network."""

    def of(result: Any) -> Any:
        if isinstance(result, list):
            return [of(one) for one in result]
        if not hasattr(result, "manifest"):
            return result
        manifest = result.manifest
        told = {name: manifest[name] for name in ("parameters", "figures", "output")}
        return {"values": result.values, "warnings": manifest["warnings"], **told}

    return of(call())


def operators(part: int, parts: int, place: Place) -> Cases:
    import importlib

    import onnxviz

    found = next((ROOT / "tests").rglob("operator_cases.py")).relative_to(ROOT).with_suffix("")
    made = importlib.import_module(".".join(found.parts))

    def gradient(name: str, backend: str) -> Any:
        model, y = made.network(name)
        net = place.net(model, preprocess="unit", backend=backend)
        x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
        value = net.run(x, [y])[y]
        wanted = np.random.default_rng(1).standard_normal(value.shape[1:]).astype(np.float32)[None]
        found = {
            "value": value,
            "layers": [(one.name, one.receptive_field, one.stride) for one in net.layers],
        }
        found["gradient"] = net.value_and_gradient(onnxviz.objectives.match(y, wanted))(x)
        return found

    for name in list(made.CASES)[part::parts]:
        yield name, partial(gradient, name, "native")
        yield f"{name} by torch", partial(gradient, name, "torch")


def opening(place: Place) -> Cases:
    import onnxviz

    tiny = place.made("tiny-open")

    def seen(model: Any, **options: Any) -> Any:
        net = place.net(model, **options)
        return {"x": net.prepare(place.photos[:1]), "as": net.preprocessing, "warnings": net.warnings,
                "top": net.predict(place.photos[0])}  # fmt: skip

    three = place.made("tiny")
    for preset in registry(lambda name: place.net(three, preprocess=name)):
        yield f"preprocess {preset}", partial(seen, three, preprocess=preset)
    for resize in registry(lambda name: place.net(three, resize=name)):
        yield f"resize {resize}", partial(seen, LITE0, resize=resize, size=(96, 128))
        yield f"resize {resize} open", partial(seen, tiny, resize=resize, preprocess="unit", size=24)
    for channels in registry(lambda name: place.net(three, channels=name)):
        yield f"channels {channels}", partial(seen, three, channels=channels)
    yield "mean and std", partial(seen, three, mean=(1, 2, 3), std=(50, 60, 70))
    yield "assumed", partial(seen, three)
    yield "labels", partial(seen, three, labels=list("abcdefghij"))
    yield "isolated", partial(seen, three, isolate=True)
    for name in ("nhwc", "tiny-uint8", "fp16", "qdq"):
        yield f"form {name}", partial(seen, place.made(name))
    for name in ("resnet", "nosuch", "tiny.onnx"):
        yield f"refused {name}", partial(onnxviz.load, name)
    yield "refused bytes", lambda: onnxviz.load(b"\x08\x07")
    yield "refused labels", lambda: onnxviz.load(three, labels=["a"])
    yield "refused limit", lambda: onnxviz.load(three, limits=onnxviz.Limits(nodes=3))


def files(place: Place) -> Cases:
    """The .onnx files of the folder of the caller's, such as hostile ones."""
    paths = sorted((place.extra or ROOT / "nowhere").rglob("*.onnx"))
    for path in paths:
        if not re.match(r"hang|mem_|segv|sigfpe", path.name):  # those have a process of their own
            yield from islice(_of_file(place, path.name, path, preprocess="unit"), 8)
        for command in ("inspect", "predict") if path.stat().st_size < 1 << 20 else ():
            line = [command, path, *place.photos[: command == "predict"], "--limit", "run_seconds=5"]
            yield f"{path.name} by {command}", partial(place.command, *line, "--limit", "load_seconds=20")


# --- the command line -----------------------------------------------------------------------------


def helps(place: Place) -> Cases:
    yield "onnxviz", partial(place.command, "--help")
    for command in COMMANDS:
        yield command, partial(place.command, command, "--help")


def commands(place: Place) -> Cases:
    (cat, coffee, *_), folder, run = place.photos, place.photos[0].parent, place.command
    few = ["--steps", "2", "--size", "64"]
    yield "version", partial(run, "--version")
    for line in (["inspect"], ["predict", cat, coffee, "--top", "3"]):
        yield f"{line[0]} json", partial(run, line[0], LITE0, *line[1:], "--json")
    made = place.written("tiny")
    for name, line, out in (
        ("inspect", ["inspect", LITE0], ""),
        ("inspect small", ["inspect", made], "a.json"),
        ("predict", ["predict", LITE0, folder], ""),
        ("predict csv", ["predict", LITE0, folder], "a.csv"),
        ("expose", ["expose", made, "-l", "relu1"], "a.onnx"),
        ("filters", ["filters", LITE0], "a.png"),
        ("activations", ["activations", LITE0, cat, coffee, "-l", "stem"], "a.png"),
        ("occlusion", ["occlusion", LITE0, cat, "--size", "64", "--json"], "a.png"),
        ("rise", ["rise", LITE0, cat, "--masks", "8", "--target", "tabby"], "a.png"),
        ("saliency", ["saliency", LITE0, cat, "--json"], "a.png"),
        ("saliency all", ["saliency", LITE0, cat, coffee, "-m", "saliency", "-m", "guided"], "a.png"),
        ("saliency objective", ["saliency", LITE0, cat, "--objective", "logit(285)-logit(281)"], "a.jpg"),
        ("segment", ["segment", LITE0, cat], "a.png"),
        ("cam", ["cam", LITE0, cat, "-m", "grad-cam", "-m", "layercam"], "a.png"),
        ("patches", ["patches", LITE0, folder, "-l", "stem", "-c", "1", "--top", "2"], "patches"),
        ("embed", ["embed", LITE0, folder], "a.csv"),
        ("neighbours", ["neighbours", LITE0, folder, "-k", "2", "--query", cat], "a.png"),
        ("map", ["map", LITE0, folder, "--method", "pca"], "a.png"),
        ("gradient", ["gradient", made], "a.onnx"),
        ("explainer", ["gradient", LITE0, "--technique", "grad-cam"], "a.onnx"),
        ("ascent", ["ascent", LITE0, "-t", "285", "--every", "1", "--animate", "a.gif", *few], "a.png"),
        ("ascent all", ["ascent", made, "--preprocess", "unit", "-l", "relu1", "-c", "all", "--steps", "2"], "a.png"),
        ("dream", ["dream", LITE0, cat, "-l", MIDDLE, "--octaves", "1", *few], "a.png"),
        ("invert", ["invert", LITE0, cat, "-l", "stem", "--steps", "2"], "a.png"),
        ("style", ["style", LITE0, cat, coffee, *few], "a.png"),
        ("fool", ["fool", LITE0, cat, "-m", "fgsm"], "a.png"),
        ("texture", ["texture", LITE0, cat, "-m", "quilt", "--size", "64"], "a.png"),
        ("style-apply", ["style-apply", "tissue", cat], "a.png"),
        ("models", ["models"], ""),
        ("models json", ["models", "--json"], ""),
    ):  # fmt: skip
        yield name, partial(run, *line, out=out)


def refusals(place: Place) -> Cases:
    cat, made = place.photos[0], place.written("tiny")
    (place.folder / "empty.onnx").write_bytes(b"")
    for name, line in {
        "no command": ["nosuch"], "no model": ["predict"], "unknown model": ["predict", "nosuch", cat],
        "no file": ["predict", "none.onnx", cat], "empty": ["predict", place.folder / "empty.onnx", cat],
        "picture for model": ["predict", cat, cat], "no picture": ["predict", LITE0, "none.jpg"],
        "top": ["predict", LITE0, cat, "--top", "0"], "provider": ["predict", LITE0, cat, "--provider", "abacus"],
        "size": ["predict", LITE0, cat, "--size", "0"], "mean": ["predict", LITE0, cat, "--mean", "a,b"],
        "layout": ["predict", LITE0, cat, "--layout", "CHWN"], "limit": ["predict", LITE0, cat, "--limit", "node=1"],
        "nodes": ["predict", LITE0, cat, "--limit", "nodes=3"], "label": ["saliency", LITE0, cat, "-t", "egyptain cat"],
        "class": ["saliency", LITE0, cat, "-t", "1000"], "layer": ["activations", LITE0, cat, "-l", "stemm"],
        "method": ["saliency", LITE0, cat, "-m", "salency"], "cam layer": ["cam", LITE0, cat, "-l", "logits"],
        "objective": ["saliency", LITE0, cat, "--objective", "logit(1"],
        "unit": ["ascent", LITE0, "-l", "stem", "-c", "99"],
        "preset": ["ascent", LITE0, "-t", "1", "--preset", "lucy"], "ending": ["saliency", LITE0, cat, "-o", "a.doc"],
        "output": ["predict", LITE0, cat, "--output", "nosuch"], "feed": ["predict", made, cat, "--feed", "a=1"],
        "labels": ["predict", LITE0, cat, "--labels", "none.txt"], "wrt": ["gradient", LITE0, "--wrt", "nosuch"],
        "technique": ["gradient", LITE0, "--technique", "smoothgrad"], "option": ["predict", LITE0, cat, "--tpo", "3"],
        "source": ["export", "nosuch:thing", "-o", "a.onnx"], "neuron": ["saliency", LITE0, cat, "--neuron", "a"],
    }.items():  # fmt: skip
        yield name, partial(place.command, *line)


GROUPS: dict[str, Callable[[Place], Cases]] = {
    **{
        f.__name__: f
        for f in (synthesis, styles, features, commands, masks, saliency, cam, exporters, refusals)
    },
    **{f"operators{k}": partial(operators, k, 2) for k in range(2)},
    **{f"networks{k}": partial(networks, k, 4) for k in range(4)},
    **{f.__name__: f for f in (helps, opening, files)},
}


def environment() -> dict[str, str]:
    """What a group's process gets, so that no setting of the caller's changes what is told."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ONNXVIZ", "PYTHON", "OMP"))
    }
    return kept | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8", "ORT_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
