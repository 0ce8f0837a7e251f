"""The table of the commands: a row each, in the order of the help.

To add one: a row. Its options follow from the signature and the docstring of the technique; what these can't say
stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from onnxviz.cli.command import Command
from onnxviz.cli.options import LEVELS, LIKE, Option, level, listed, switch, weights
from onnxviz.files import FEATURES, PICTURES, TABLES


def _path(metavar: str, help: str = "") -> Option:
    return Option(kind=Path, metavar=metavar, help=help)


def _paths(metavar: str, help: str) -> Option:
    return Option(kind=list[Path], metavar=metavar, help=help)


def _maybe(metavar: str, help: str) -> Option:
    """Pictures that may be left out."""
    return replace(_paths(metavar, help), default=None)


def _methods(help: str, technique: str | None, kind: Any = str, otherwise: str = "") -> Option:

    def named() -> list[str]:
        from onnxviz.cli.acts import methods

        return methods(technique)

    return Option((), kind, help, otherwise, choices=named)


_IMAGE: Final = {"image": _path("IMAGE", "A picture.")}
_IMAGES: Final = {"images": _paths("IMAGE", "Pictures or folders of them.")}
_FOLDERS: Final = {"images": _paths("DIR", "Folders of pictures, or pictures.")}
_SET: Final = {"images": _maybe("DIR", "Folders of pictures, or pictures; may be left out with --features.")}
# Several targets: one for each picture, or a sheet of them.
_TARGETS: Final = Option(kind=list[str], read=lambda texts, _: texts[0] if len(texts) == 1 else texts)
_FILM: Final = {
    "every": Option((), int, "Also write the picture every so many steps: NAME.step00050.png.", least=1),
    "animate": _path("FILE", "Also write how the picture came about, as .gif or .webp."),
}
_SAVED: Final = {
    "features": _path("FILE", "What `embed` wrote of these pictures: nothing is computed twice.")
}
_LITE: Final = "efficientnet-lite0"
_A_FILE_EACH: Final = "Several pictures or folders give a file each: NAME-PICTURE.png."
_A_PAGE: Final = "-o NAME.html writes a page too: each map over its photo, to be faded in and out."
# What is written, and what the command is about.
_ROWS: Final[Any] = {"writes": (".json", *TABLES), "alone": True}
_RESUME: Final = Option(
    kind=bool,
    help="Take over what the report in --out has measured, where nothing has changed since.",
    default=False,
)
_GRAPH: Final[Any] = {"writes": (".onnx",), "alone": True}
_NO_MODEL: Final[Any] = {"models": (), "images": False}

# fmt: off
_LISTED: Final = (
    Command("inspect", "command.inspecting", _LITE, **_ROWS),
    Command(
        "predict", "command.predicting", f"{_LITE} cat.jpg", arguments=_IMAGES,
        options={"top": Option(help="Classes an image.")}, **_ROWS,
    ),
    Command(
        "expose", "acts.expose", f"{_LITE} --layer stem -o exposed.onnx", images=False, options={"like": LIKE},
        **_GRAPH,
    ),
    Command("filters", "acts.filters", f"{_LITE} -o filters.png"),
    Command(
        "activations", "saving.map", f"{_LITE} cat.jpg --layer stem -o maps.png", arguments=_IMAGES, more=_A_FILE_EACH,
    ),
    Command(
        "occlusion", "saving.map", f"{_LITE} cat.jpg --window 48 --stride 12 -o occlusion.png", arguments=_IMAGES,
        more=_A_FILE_EACH,
    ),
    Command(
        "rise", "saving.map", f'{_LITE} cat.jpg --target "Egyptian cat" --masks 4000 -o rise.png', arguments=_IMAGES,
        options={
            "divide": Option(help="By how often a pixel showed (coverage) or does on average (paper)."),
            "masks": Option(least=1),
        },
        more=_A_FILE_EACH,
    ),
    Command(
        "saliency", "saving.sheet", f"{_LITE} cat.jpg --method smoothgrad --method guided -o saliency.png",
        arguments=_IMAGES, gradients=True,
        options={
            "target": _TARGETS,
            "method": _methods(
                "{names}, those of the command cam, or all; several: a sheet.", "saliency", list[str], "saliency"
            ),
            "baseline": Option(kind=str),
            "baselines": _path("DIR"),
        },
        writes=(*PICTURES, ".html"), more=_A_PAGE,
    ),
    Command(
        "segment", "saving.map", f"{_LITE} cat.jpg -o object.png", arguments=_IMAGES, gradients=True, more=_A_FILE_EACH,
        options={
            "target": Option(kind=str, otherwise="the top class"),
            "method": _methods("Where it starts: {names}.", "saliency"),
        },
    ),
    Command(
        "cam", "saving.sheet", f"{_LITE} cat.jpg --method grad-cam --method score-cam -o cam.png", arguments=_IMAGES,
        gradients=True,
        options={
            "target": _TARGETS,
            "method": _methods("{names}, or all; several: a sheet.", "cam", list[str], "grad-cam"),
            "neuron": Option(metavar="STEP", help="Of a sequence (a recogniser of text): the step, such as 3."),
        },
        writes=(*PICTURES, ".html"), more=_A_PAGE,
    ),
    Command(
        "faithfulness", "saving.whole", f"{_LITE} photos/ --methods occlusion,grad-cam,saliency -o faithfulness.png",
        arguments=_IMAGES, gradients=True,
        options={
            "measures": Option(
                kind=str, help="srg, deletion, insertion, pixel-flipping, road, or all; with commas between.",
                read=listed, default="srg", complete=("srg", "all"),
            ),
            "target": Option(kind=str, otherwise="each picture's top class"),
        },
        writes=(*PICTURES, *TABLES),
    ),
    Command(
        "patches", "acts.patches", f"{_LITE} photos/ --layer head.relu6 -o patches/", arguments=_FOLDERS, writes=(),
        options={
            "channel": Option(kind=list[int]),
            "table": Option((), str, "csv, or parquet (needs pyarrow).", default="csv"),
        },
        more="Writes a folder: overview.png, a sheet a channel (of all channels where they are up to 64, else of those "
        "asked for with --channel), the table patches.csv and patches.json, and manifest.json. An image counts once a "
        "channel.",
    ),
    Command(
        "embed", "acts.embed", f"{_LITE} photos/ -o features.npy", arguments=_FOLDERS, writes=(*FEATURES, *PICTURES),
        more="Writes .npy, .npz, .csv or .parquet, or a picture.",
    ),
    Command(
        "neighbours", "acts.arranged", f"{_LITE} photos/ --query cat.jpg -o neighbours.png", arguments=_SET,
        options={
            "query": _paths("IMAGE", "A picture to find neighbours of; may be given again."),
            "queries": Option((), int, "How many to draw from the set where no --query is given.", default=8, least=1),
            "k": Option(("--k", "-k")),
            **_SAVED,
        },
        writes=(*PICTURES, *TABLES),
    ),
    Command(
        "map", "acts.arranged", f"{_LITE} photos/ --method tsne -o map.png", arguments=_SET,
        options={"method": Option(("--method",)), **_SAVED},
        writes=(*PICTURES, *TABLES),
    ),
    Command(
        "gradient", "acts.gradient", f"{_LITE} -o gradient.onnx\n{_LITE} --technique grad-cam -o explainer.onnx",
        function="gradient_model",
        also=(("attribution.explainer", "explainer_model", Option(panel="With --technique, an explainer")),),
        options={
            "technique": replace(
                _methods("Write an explainer instead: picture in, class and heat map out. {names}.", None),
                metavar="NAME", default=None,
            ),
            "target": Option(
                help="Class index or label, or 'fed': an input of the file.", otherwise="the top class"
            ),
            "like": LIKE,
        },
        summary="Write the gradient model: the model plus its vector-Jacobian product, in standard operators only.",
        more="With --technique it is an explainer: one file from picture to class and heat map, to ship beside the "
        "model.",
        **_GRAPH,
    ),
    Command(
        "ascent", "acts.ascent", f"{_LITE} --target volcano -o volcano.png", without=("size",),
        also=(("synthesis.presets", "Recipe", Option(panel="Recipe", otherwise="the preset's", default=None)),),
        options={
            "target": _TARGETS,
            "layer": Option(help="With --channel, --neuron or alone: what answers."),
            "channel": Option(
                kind=list[str], read=lambda texts, _: "all" if texts == ["all"] else texts,
                help="With --layer: a channel; may be given again; 'all' for every one.",
            ),
            "preset": Option(complete="recipes"),
            "start": _path("IMAGE"),
            "patches": _path(
                "DIR", "With --channel all: a folder that `onnxviz patches` wrote, for the page to link to."
            ),
            **_FILM,
            "stretch": Option(("--stretch/--no-stretch",)),
        },
        more="With --channel all, NAME.html beside the picture is a page of all channels.",
    ),
    Command(
        "dream", "acts.dream", f"{_LITE} clouds.jpg --layer blocks.7.add -o dream.png", arguments=_IMAGE,
        options={
            "layers": Option(read=weights),
            "channels": Option(("--channel", "-c"), least=0),
            "guide": _path("IMAGE"),
            "zoom": Option(help="So many frames of a way into the picture, as NAME.webp."),
            **_FILM,
        },
    ),
    Command(
        "invert", "saving.picture", f"{_LITE} cat.jpg --layer stem --layer blocks.8.add -o inverted.png",
        arguments=_IMAGE, options=_FILM,
    ),
    Command(
        "style", "saving.picture", f"{_LITE} photo.jpg painting.jpg --size 384 -o painted.png",
        arguments={
            "content": _path("CONTENT", "The picture to paint."),
            "styles": _paths("STYLE...", "A picture in the wanted style, or several."),
        },
        options={
            "style_weights": Option(("--weight", "-w")),
            "layers": Option(read=weights),
            "content_layers": Option(read=weights),
            "start": Option(kind=str),
            "spectrum": Option(("--pixels",), help="Move the pixels, as in the paper, not the spectrum."),
            **_FILM,
        },
    ),
    Command(
        "style-apply", "acts.style_apply", "tissue photo.jpg -o painted.png", arguments=_IMAGE,
        more="How pictures become its input stands in the file, or is given with --preprocess (raw: 0 to 255, unit: "
        "0 to 1), or is found by trying.",
    ),
    Command(
        "style-train", "acts.style_train", f"{_LITE} style.jpg photos/ --size 256 -o painter.onnx", gradients=True,
        arguments={"style": _path("STYLE", "The picture whose style it is."), **_FOLDERS},
        options={
            name: Option(least=0) for name in ("style_weight", "content_weight", "colour_weight", "tv_weight")
        },
        more="MODEL is any network; --size is the size of the crops that it is trained on. Needs torch. Beside "
        "OUT.onnx: the losses, the manifest and a sheet.",
        writes=(".onnx",),
    ),
    Command(
        "texture", "acts.texture", f"{_LITE} bricks.png --method nearest --size 192x192 -o texture.png",
        arguments=_IMAGE,
        options={
            "window": Option(least=3),
            "block": Option(least=3),
            **_FILM,
        },
    ),
    Command(
        "fool", "acts.fool", f"{_LITE} cat.jpg --target toaster --confidence 0.9 -o fool.png", arguments=_IMAGES,
        options={"confidence": Option(least=0, most=1)}, gradients=True,
        more="Writes the image before and after with their difference, and beside it NAME.fooled.png, which fools as "
        "it is saved (always PNG: JPEG would undo it). For several images or a folder: a sheet, the success rate, and "
        "a folder NAME.fooled.",
    ),
    Command(
        "audit", "reports.audit", f"{_LITE}\n{_LITE} photos/ --fail-on high -o audit/", gradients=True, writes=(),
        arguments={"images": _maybe("IMAGE", "Pictures or folders of them; none: what the file alone tells.")},
        options={
            "masks": _path("DIR"),
            "policy": _path("FILE"),
            "accept": _path("FILE"),
            "only": Option(metavar="ID"),
            "skip": Option(metavar="ID"),
            "fail_on": Option(metavar="SEVERITY"),
            "by": Option(metavar="NAME"),
            "resume": _RESUME,
            "write_accept": _path("FILE", "Write the findings there, as entries of --accept that lack their reasons."),
        },
        more="Writes a folder: report.html, report.json, audit.sarif, junit.xml, findings.csv, evidence/, SHA256SUMS. "
        "Exit code 1 where the verdict is no pass.",
    ),
    Command(
        "report", "reports.report", f"{_LITE} photos/ --truth folders -o report/", arguments=_FOLDERS, gradients=True,
        writes=(),
        options={
            "methods": Option(default="grad-cam"),
            "look_into": Option(metavar="LAYER"),
            "method": Option(("--map",), complete=("pca", "tsne", "umap")),
            "one_file": Option(kind=bool, help="Put the photos inside the page, as far as 15 MB go.", default=False),
        },
        more="Writes a folder: report.html, the photos that it loads, photos.parquet (with the features), layers.csv.",
    ),
    Command(
        "compare", "reports.compare", f"{_LITE} int8.onnx photos/ -o compared/", models=("a", "b"), gradients=True,
        arguments={"images": _maybe("IMAGES...", "Pictures or folders; none: weights, ranges and structure alone.")},
        options={
            "truth": Option(
                help="True classes: a table of picture and class, or 'folders': a picture's folder is its class."
            ),
            "match": _path("FILE.csv", "Layers that belong together: A's name, B's name."),
            "methods": Option(default="grad-cam"),
            "fail_on": Option(
                kind=str, help="From which severity on a finding is exit code 1: high, medium, low or never.",
                default="high", read=level, complete=LEVELS,
            ),
            "resume": _RESUME,
            "accept": _path("FILE.toml", "Findings that are accepted, each with a reason and a date."),
        },
        apart={
            "preprocess": Option(),
            "provider": Option(),
            "provider_options": Option(),
            "optimise": Option(
                kind=str, metavar="on|off", read=switch, complete=("on", "off"),
                help="Whether ONNX Runtime may rewrite the graph.",
            ),
        },
        more="Writes a folder: report.html, report.json, layers.csv, flips.csv, exclude.json, SARIF, JUnit. "
        "Exit code 1 where a finding counts, or what was to be compared could not be.",
        writes=(),
    ),
    Command(
        "models", "acts.models", "", None, summary="The catalogue: networks that are known by name.",
        options={
            "fetch": Option(
                (), str, "Bring this network onto this machine.", metavar="NAME", complete="models"
            ),
            "force": Option((), bool, "Fetch it again even if it is here."),
        },
        writes=(".json",), alone=True, **_NO_MODEL,
    ),
    Command(
        "export", "acts.export", "torchvision:resnet50 -o resnet50.onnx", more="Runs the code that SOURCE names.",
        arguments={
            "source": Option(
                (), str, "torchvision:NAME, timm:NAME, transformers:NAME, module:callable or file.py:callable.",
                metavar="SOURCE",
            )
        },
        options={
            "option": Option(
                (), list[str], "Given on to whoever builds the network: weights=…, num_classes=10.",
                metavar="NAME=VALUE",
            ),
            "opset": Option(least=18),
            "dynamic_batch": Option(("--fixed-batch",), help="Leave the batch at 1."),
            "dynamic_size": Option(("--fixed-size",), help="Leave height and width fixed."),
            "expose": Option((), list[str], "A layer to make an output, or 'all'.", metavar="LAYER"),
            "preprocess": Option(
                ("--preprocess",), str, "Written into the file: a preset or a JSON file.", metavar="NAME|FILE",
                complete="presets",
            ),
            "labels": Option(
                (), str, "Written into the file: a labels file, or 'imagenet'.", metavar="FILE",
                complete=("imagenet",),
            ),
        },
        without=("out", "channels", "licence", "verify"), **_GRAPH, **_NO_MODEL,
    ),
    Command(
        "doctor", "acts.doctor", "", more="Exit code 1 where something is wrong.", writes=(".json",), alone=True,
        **_NO_MODEL,
    ),
    Command(
        "providers", "acts.providers", f"{_LITE} cat.jpg",
        arguments={"image": replace(_IMAGE["image"], default=None)},
        more="Exit code 1 where one departs by more than --tolerance, or fails. --provider names one to be run alone.",
        **_ROWS,
    ),
    Command(
        "demo", "acts.demo", "-o demo", None, writes=(), **_NO_MODEL,
        summary="Every technique on the bundled network and photos, as one HTML page.",
    ),
)
# fmt: on

COMMANDS: Final[Mapping[str, Command]] = {row.name: row for row in _LISTED}
