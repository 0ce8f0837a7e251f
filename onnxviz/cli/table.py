"""The table of the commands: a row each, in the order of the help.

To add one: a row. Its options follow from the signature and the docstring of the technique; what these can't say
stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from onnxviz.cli import acts, completion
from onnxviz.cli.acts import FEATURES
from onnxviz.cli.command import Command
from onnxviz.cli.options import Option, both, weights
from onnxviz.files import PICTURES, TABLES

_ROWS: Final = (".json", *TABLES)


def _path(metavar: str, help: str) -> Option:
    return Option(kind=Path, metavar=metavar, help=help)


def _paths(metavar: str, help: str) -> Option:
    return Option(kind=list[Path], metavar=metavar, help=help)


IMAGE: Final = _path("IMAGE", "A picture.")
IMAGES: Final = _paths("IMAGE...", "Pictures or folders of them.")
FOLDERS: Final = _paths("DIR...", "Folders of pictures, or pictures.")
# Several targets: one for each picture, or a sheet of them.
TARGETS: Final = Option(kind=list[str], read=lambda texts, _: texts[0] if len(texts) == 1 else texts)
# Of a window; whether it may be none, the technique says.
PIXELS: Final = Option(kind=str, read=lambda text, option: both(text, option, 0))
FILM: Final = {
    "every": Option(
        kind=int, least=1, help="Also write the picture every so many steps: NAME.step00050.png."
    ),
    "animate": _path("FILE", "Also write how the picture came about, as .gif or .webp."),
}
SAVED: Final = {"features": _path("FILE", "What `embed` wrote of these pictures: nothing is computed twice.")}


# --- the table ----------------------------------------------------------------------------------

_LITE: Final = "efficientnet-lite0"
_A_FILE_EACH: Final = "Several pictures or folders give a file each: NAME-PICTURE.png."

COMMANDS: Final[Mapping[str, Command]] = {
    row.name: row
    for row in (
        Command("inspect", acts.inspect, _LITE, writes=_ROWS, alone=True),
        Command(
            "predict",
            acts.predict,
            f"{_LITE} cat.jpg",
            arguments={"images": IMAGES},
            options={"top": Option(help="Classes an image.")},
            writes=_ROWS,
            alone=True,
        ),
        Command(
            "expose", acts.expose, f"{_LITE} --layer stem -o exposed.onnx", images=False, writes=(".onnx",), alone=True
        ),
        Command("filters", acts.filters, f"{_LITE} -o filters.png"),
        Command(
            "activations",
            acts.map,
            f"{_LITE} cat.jpg --layer stem -o maps.png",
            arguments={"images": IMAGES},
            without=["image"],
            more=_A_FILE_EACH,
        ),
        Command(
            "occlusion",
            acts.map,
            f"{_LITE} cat.jpg --window 48 --stride 12 -o occlusion.png",
            arguments={"images": IMAGES},
            options={"window": PIXELS, "stride": PIXELS},
            without=["image"],
            more=_A_FILE_EACH,
        ),
        Command(
            "rise",
            acts.map,
            f'{_LITE} cat.jpg --target "Egyptian cat" --masks 4000 -o rise.png',
            arguments={"images": IMAGES},
            options={
                "masks": Option(least=1),
                "grid": Option(least=1),
                "divide": Option(help="By how often a pixel showed (coverage) or does on average (paper)."),
            },
            without=["image"],
            more=_A_FILE_EACH,
        ),
        Command(
            "saliency",
            acts.sheet,
            f"{_LITE} cat.jpg --method smoothgrad --method guided -o saliency.png",
            arguments={"images": IMAGES},
            options={
                "target": TARGETS,
                "method": Option(
                    kind=list[str],
                    help="{names}, those of the command cam, or all; several: a sheet.",
                    otherwise="saliency",
                    choices=lambda: acts.methods("saliency"),
                ),
                "samples": Option(least=1),
                "baseline": Option(kind=str),
                "baselines": Option(kind=Path),
            },
            without=["image"],
            gradients=True,
        ),
        Command(
            "segment",
            acts.map,
            f"{_LITE} cat.jpg -o object.png",
            arguments={"images": IMAGES},
            options={
                "rounds": Option(least=1),
                "method": Option(help="Where it starts: {names}.", choices=lambda: acts.methods("saliency")),
                "target": Option(kind=str, otherwise="the top class")},
            without=["image"],
            more=_A_FILE_EACH,
            gradients=True,
        ),
        Command(
            "cam",
            acts.sheet,
            f"{_LITE} cat.jpg --method grad-cam --method score-cam -o cam.png",
            arguments={"images": IMAGES},
            options={
                "target": TARGETS,
                "method": Option(
                    kind=list[str],
                    help="{names}, or all; several: a sheet.",
                    otherwise="grad-cam",
                    choices=lambda: acts.methods("cam"),
                ),
                "neuron": Option(metavar="STEP", help="Of a sequence (a recogniser of text): the step, such as 3."),
            },
            without=["image"],
            gradients=True,
        ),
        Command(
            "patches",
            acts.patches,
            f"{_LITE} photos/ --layer head.relu6 -o patches/",
            arguments={"images": FOLDERS},
            options={
                "layer": Option(kind=list[str]),
                "channel": Option(kind=list[int], least=0),
                "table": Option(kind=str, default="csv", help="csv, or parquet (needs pyarrow)."),
            },
            more="Writes a folder: overview.png, a sheet a channel (of all channels where they are up to 64, else of "
            "those asked for with --channel), the table patches.csv and patches.json, and manifest.json. An image "
            "counts once a channel.",
            writes=(),
        ),
        Command(
            "embed",
            acts.embed,
            f"{_LITE} photos/ -o features.npy",
            arguments={"images": FOLDERS},
            more="Writes .npy, .npz, .csv or .parquet, or a picture.",
            writes=(*FEATURES, *PICTURES),
        ),
        Command(
            "neighbours",
            acts.arranged,
            f"{_LITE} photos/ --query cat.jpg -o neighbours.png",
            arguments={"images": Option(default=None, help="Folders of pictures, or pictures; may be left out with "
                                        "--features.").over(FOLDERS)},
            options={
                "query": _paths("IMAGE", "A picture to find neighbours of; may be given again."),
                "queries": Option(
                    kind=int, default=8, least=1, help="How many to draw from the set where no --query is given."
                ),
                "k": Option(("--k", "-k"), least=1),
                **SAVED,
            },
            writes=(*PICTURES, *TABLES),
        ),
        Command(
            "map",
            acts.arranged,
            f"{_LITE} photos/ --method tsne -o map.png",
            arguments={"images": Option(default=None, help="Folders of pictures, or pictures; may be left out with "
                                        "--features.").over(FOLDERS)},
            options={
                "method": Option(("--method",), complete=completion.words("pca", "tsne", "umap")),
                "perplexity": Option(least=1),
                **SAVED,
            },
            writes=(*PICTURES, *TABLES),
        ),
        Command(
            "gradient",
            acts.gradient,
            f"{_LITE} -o gradient.onnx\n{_LITE} --technique grad-cam -o explainer.onnx",
            function="gradient_model",
            also=(("attribution.explainer", "explainer_model", Option(panel="With --technique, an explainer")),),
            options={
                "technique": Option(
                    metavar="NAME",
                    default=None,
                    help="Write an explainer instead: picture in, class and heat map out. {names}.",
                    choices=acts.methods,
                ),
                "target": Option(
                    otherwise="the top class", help="Class index or label, or 'fed': an input of the file."
                ),
            },
            summary="Write the gradient model: the model plus its vector-Jacobian product, in standard operators only.",
            more="With --technique it is an explainer: one file from picture to class and heat map, to ship beside the "
            "model.",
            writes=(".onnx",),
            alone=True,
        ),
        Command(
            "ascent",
            acts.ascent,
            f"{_LITE} --target volcano -o volcano.png",
            also=(("synthesis.presets", "Recipe", Option(panel="Recipe", otherwise="the preset's", default=None)),),
            options={
                "target": TARGETS,
                "layer": Option(help="With --channel, --neuron or alone: what answers."),
                "channel": Option(
                    kind=list[str],
                    read=lambda texts, _: "all" if texts == ["all"] else texts,
                    help="With --layer: a channel; may be given again; 'all' for every one.",
                ),
                "preset": Option(complete=completion.recipes),
                "copies": Option(least=1),
                "start": Option(kind=Path),
                "patches": Option(
                    kind=Path,
                    help="With --channel all: a folder that `onnxviz patches` wrote, for the page to link to.",
                ),
                **FILM,
                "draws": Option(least=1),
                "blur_every": Option(least=1),
                "stretch": Option(("--stretch/--no-stretch",)),
            },
            without=["size"],
            more="With --channel all, NAME.html beside the picture is a page of all channels.",
        ),
        Command(
            "dream",
            acts.dream,
            f"{_LITE} clouds.jpg --layer blocks.7.add -o dream.png",
            arguments={"image": IMAGE},
            options={
                "layers": Option(read=weights),
                "channels": Option(("--channel", "-c"), least=0),
                "guide": _path("IMAGE", ""),
                "octaves": Option(least=1),
                "jitter": Option(least=0),
                "zoom": Option(least=0, help="So many frames of a way into the picture, as NAME.webp."),
                **FILM,
            },
        ),
        Command(
            "invert",
            acts.picture,
            f"{_LITE} cat.jpg --layer stem --layer blocks.8.add -o inverted.png",
            arguments={"image": IMAGE},
            options={"jitter": Option(least=0), **FILM},
        ),
        Command(
            "style",
            acts.picture,
            f"{_LITE} photo.jpg painting.jpg --size 384 -o painted.png",
            arguments={
                "content": _path("CONTENT", "The picture to paint."),
                "styles": _paths("STYLE...", "A picture in the wanted style, or several."),
            },
            options={
                "style_weights": Option(("--weight", "-w"), otherwise="equal"),
                "layers": Option(read=weights),
                "content_layers": Option(read=weights),
                "start": Option(kind=str),
                "scales": Option(least=1),
                "spectrum": Option(
                    ("--pixels",), help="Move the pixels, as in the paper, not the spectrum."
                ),
                **FILM,
            },
        ),
        Command(
            "style-apply",
            acts.style_apply,
            "tissue photo.jpg -o painted.png",
            arguments={"image": IMAGE},
            more="How pictures become its input stands in the file, or is given with --preprocess (raw: 0 to 255, "
            "unit: 0 to 1), or is found by trying.",
        ),
        Command(
            "style-train",
            acts.style_train,
            f"{_LITE} style.jpg photos/ --size 256 -o painter.onnx",
            arguments={"style": _path("STYLE", "The picture whose style it is."), "images": FOLDERS},
            options={
                "style_weight": Option(least=0),
                "content_weight": Option(least=0),
                "colour_weight": Option(least=0),
                "tv_weight": Option(least=0),
                "style_size": Option(least=16),
                "width": Option(least=1),
                "blocks": Option(least=0),
            },
            more="MODEL is any network; --size is the size of the crops that it is trained on. Needs torch. Beside "
            "OUT.onnx: the losses, the manifest and a sheet.",
            writes=(".onnx",),
            gradients=True,
        ),
        Command(
            "texture",
            acts.texture,
            f"{_LITE} bricks.png --method nearest --size 192x192 -o texture.png",
            arguments={"image": IMAGE},
            options={
                "method": Option(complete=completion.words("gram", "nearest", "quilt")),
                "size": Option(read=both),
                
                "window": Option(least=3),
                "block": Option(least=3),
                "overlap": Option(least=1),
                "tolerance": Option(least=0),
                "evenness": Option(least=0),
                **FILM,
            },
        ),
        Command(
            "fool",
            acts.fool,
            f"{_LITE} cat.jpg --target toaster --confidence 0.9 -o fool.png",
            arguments={"images": IMAGES},
            options={"confidence": Option(least=0, most=1)},
            more="Writes the image before and after with their difference, and beside it NAME.fooled.png, which fools "
            "as it is saved (always PNG: JPEG would undo it). For several images or a folder: a sheet, the success "
            "rate, and a folder NAME.fooled.",
            gradients=True,
        ),
        Command(
            "models",
            acts.models,
            "",
            function=None,
            options={
                "fetch": Option(
                    kind=str, help="Bring this network onto this machine.", metavar="NAME", complete=completion.models
                ),
                "force": Option(kind=bool, help="Fetch it again even if it is here."),
            },
            summary="The catalogue: networks that are known by name.",
            writes=(".json",),
            alone=True,
            model=False,
            images=False,
        ),
        Command(
            "export",
            acts.export,
            "torchvision:resnet50 -o resnet50.onnx",
            arguments={"source": Option(kind=str, metavar="SOURCE", help="torchvision:NAME, timm:NAME, "
                                        "transformers:NAME, module:callable or file.py:callable.")},
            options={
                "option": Option(
                    kind=list[str],
                    help="Given on to whoever builds the network: weights=…, num_classes=10.",
                    metavar="NAME=VALUE",
                ),
                "size": Option(read=both),
                "opset": Option(least=18),
                "dynamic_batch": Option(("--fixed-batch",), help="Leave the batch at 1."),
                "dynamic_size": Option(
                    ("--fixed-size",), help="Leave height and width fixed."
                ),
                "expose": Option(
                    kind=list[str], help="A layer to make an output, or 'all'.", metavar="LAYER"
                ),
                "preprocessing": Option(
                    ("--preprocess",), str, "Written into the file: a preset or a JSON file.", metavar="NAME|FILE",
                    complete=completion.presets,
                ),
                "labels": Option(
                    kind=str, help="Written into the file: a labels file, or 'imagenet'.", metavar="FILE",
                    complete=completion.words("imagenet"),
                ),
            },
            without=["out", "channels", "licence", "verify"],
            more="Runs the code that SOURCE names.",
            writes=(".onnx",),
            alone=True,
            model=False,
            images=False,
        ),
        Command(
            "doctor",
            acts.doctor,
            "",
            more="Exit code 1 where something is wrong.",
            writes=(".json",),
            alone=True,
            model=False,
            images=False,
        ),
        Command(
            "demo",
            acts.demo,
            "-o demo",
            function=None,
            summary="Every technique on the bundled network and photos, as one HTML page.",
            writes=(),
            model=False,
            images=False,
        ),
    )
}  # fmt: skip
