"""Networks of torchvision and timm, with their trained weights and what these packages know about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxviz.errors import InputRefused, UsageError, near
from onnxviz.exporting.source import Source, Wanted, described, package, torch, untrusted, would_run_code
from onnxviz.image.configs import from_timm


def torchvision(name: str, wanted: Wanted) -> Source:
    """A network of torchvision; `weights` among the options names a set other than its default.

    raises   UsageError for an unknown name, MissingDependency, InputRefused
    """
    models = package("torchvision", "pip install torchvision (the release that belongs to your torch)").models
    options = dict(wanted.options)
    chosen = options.pop("weights", "DEFAULT")
    known = list(models.list_models())
    if name not in known:
        raise UsageError(f"torchvision has no network {name!r}{near(name, known)}")
    weights = None if wanted.random else _weights(models.get_model_weights(name), str(chosen), name)
    with _seeded(wanted.seed):
        module = _built(lambda: models.get_model(name, weights=weights, **options), f"torchvision:{name}")
    if weights is None:
        return Source(module, name, f"torchvision {name}, random weights, seed {wanted.seed}", channels=3)
    preprocessing = _torchvision_preprocessing(weights.transforms())
    return Source(
        module,
        name,
        f"torchvision {name}, weights {type(weights).__name__}.{weights.name}",
        size=None if preprocessing is None else tuple(preprocessing["size"]),
        preprocessing=preprocessing,
        labels=weights.meta.get("categories"),
        licence="BSD-3-Clause",
    )


def timm(name: str, wanted: Wanted) -> Source:
    """A network of timm.

    raises   UsageError for an unknown name, MissingDependency, InputRefused
    """
    library = package("timm", "pip install timm torchvision (the release that belongs to your torch)")
    if ":" not in name and not library.is_model(name):
        raise UsageError(f"timm has no network {name!r}{near(name, library.list_models())}")
    with _seeded(wanted.seed):
        module = _built(
            lambda: library.create_model(name, pretrained=not wanted.random, **wanted.options), f"timm:{name}"
        )
    config = dict(getattr(module, "pretrained_cfg", None) or {})
    data = library.data.resolve_model_data_config(module)
    channels, height, width = data["input_size"]
    preprocessing, notes = described({**data, "architecture": "timm"}, from_timm)
    tag = (
        "random weights, seed " + str(wanted.seed)
        if wanted.random
        else f"weights {config.get('tag') or 'default'}"
    )
    return Source(
        module,
        name,
        f"timm {name}, {tag}",
        size=(height, width),
        channels=channels,
        preprocessing=preprocessing,
        labels=None if wanted.random else _timm_labels(library, module, config),
        licence=None if wanted.random else config.get("license"),
        notes=notes,
    )


def _built(make: Any, what: str) -> Any:
    """Call `make`; a failed download and a wrong option each become one line."""
    try:
        return make()
    except TypeError as error:
        raise UsageError(f"{what} does not take these options: {error}") from error
    except OSError as error:  # URLError and HTTPError too
        raise InputRefused(
            f"the weights of {what} could not be had: {error}; check the connection, or give --random"
        ) from error
    except Exception as error:
        if would_run_code(error):
            raise untrusted(what) from error
        raise UsageError(f"{what} could not be built: {type(error).__name__}: {error}") from error


def _seeded(seed: int) -> Any:
    """Draw initial weights from `seed`, and leave the caller's random state as it was."""
    library = torch()

    class Seeded:
        def __enter__(self) -> None:
            self.state = library.random.get_rng_state()
            library.manual_seed(seed)

        def __exit__(self, *exception: object) -> None:
            library.random.set_rng_state(self.state)

    return Seeded()


def _weights(listed: Any, chosen: str, name: str) -> Any:
    chosen = chosen.rpartition(".")[2]  # 'VGG16_Weights.IMAGENET1K_V1' or 'IMAGENET1K_V1'
    if chosen not in listed.__members__:
        raise UsageError(
            f"torchvision's {name} has no weights {chosen!r}; it has {', '.join(listed.__members__)}"
        )
    return listed[chosen]


def _torchvision_preprocessing(transforms: Any) -> dict[str, Any] | None:
    """What an `ImageClassification` preset does; None for the presets of other tasks."""
    crop, resize = getattr(transforms, "crop_size", None), getattr(transforms, "resize_size", None)
    mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    if crop is None or mean is None or std is None:
        return None
    height, width = _pair(crop)
    side = min(_pair(resize)) if resize is not None else min(height, width)
    interpolation = getattr(transforms, "interpolation", None)
    return {
        "name": "torchvision",
        "size": [height, width],
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "channels": "RGB",
        "layout": "NCHW",
        "resize": "crop",
        "crop_fraction": min(1.0, min(height, width) / side),
        "interpolation": str(getattr(interpolation, "value", interpolation) or "bilinear"),
        "dtype": "float32",
    }


def _timm_labels(library: Any, module: Any, config: dict[str, Any]) -> Sequence[str] | None:
    names, texts = config.get("label_names"), config.get("label_descriptions") or {}
    if names:
        return [str(texts.get(name, name)) for name in names]
    subset = library.data.infer_imagenet_subset(module)
    if subset is None:
        return None
    if subset == "imagenet-1k":
        from onnxviz.labels import read_labels

        return read_labels("imagenet")  # the same classes, with names that are short and unique
    return list(library.data.ImageNetInfo(subset).label_descriptions())


def _pair(size: Any) -> tuple[int, int]:
    values = [int(value) for value in size] if isinstance(size, Sequence) else [int(size)]
    return values[0], values[-1]
