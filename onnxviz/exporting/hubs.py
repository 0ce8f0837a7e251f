"""Networks of torchvision, timm and transformers, with their trained weights and what these packages know of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxviz.errors import InputRefused, UsageError, near, ways
from onnxviz.exporting.source import Source, Wanted, described, package, seeded, untrusted, would_run_code
from onnxviz.image.configs import from_hugging_face, from_timm
from onnxviz.image.preprocessing import PRESETS


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
    with seeded(wanted.seed):
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
    with seeded(wanted.seed):
        module = _built(
            lambda: library.create_model(name, pretrained=not wanted.random, **wanted.options), f"timm:{name}"
        )
    config = dict(getattr(module, "pretrained_cfg", None) or {})
    data = library.data.resolve_model_data_config(module)
    channels, height, width = data["input_size"]
    preprocessing, notes = described({**data, "architecture": "timm"}, from_timm)
    tag = (
        f"random weights, seed {wanted.seed}"
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


def _weights(listed: Any, chosen: str, name: str) -> Any:
    chosen = chosen.rpartition(".")[2]  # 'VGG16_Weights.IMAGENET1K_V1' or 'IMAGENET1K_V1'
    if chosen not in listed.__members__:
        raise UsageError(
            f"torchvision's {name} has no weights {chosen!r}; it has {', '.join(listed.__members__)}"
        )
    return listed[chosen]


def _torchvision_preprocessing(transforms: Any) -> dict[str, Any] | None:
    """What an `ImageClassification` preset does; None for the presets of other tasks."""
    known = ("crop_size", "resize_size", "mean", "std")
    crop, resize, mean, std = (getattr(transforms, name, None) for name in known)
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


# --- transformers --------------------------------------------------------------------------------


_CLASSIFIER = "AutoModelForImageClassification"


def transformers(name: str, wanted: Wanted) -> Source:
    """A network of transformers.

    name   an id of the hub or a local folder (trained), or with `wanted.random` a class
           (`ResNetForImageClassification`) or model type (`resnet`); options change fields of its configuration

    Code that comes with the weights runs only where `wanted.trusted`; nobody is asked.

    raises   UsageError, MissingDependency, InputRefused
    """
    library = package("transformers", 'pip install "onnxviz[export]"')
    if wanted.random:
        return _random(library, name, wanted)
    if _is_class(library, name) or name in _types(library):
        raise UsageError(
            f"transformers:{name} is an architecture without weights; give --random for random ones, "
            "or the id of a trained network, such as transformers:microsoft/resnet-50"
        )
    try:
        # Told each time: what is left open, transformers asks on the terminal.
        config = library.AutoConfig.from_pretrained(name, trust_remote_code=wanted.trusted, **wanted.options)
        if not wanted.trusted and _kernels(config):
            raise untrusted(f"transformers:{name} ({', '.join(_kernels(config))})")
        own = getattr(config, "auto_map", None) or {}
        automatic = _automatic(library, config, wanted.trusted and _CLASSIFIER in own)
        module = automatic.from_pretrained(name, config=config, trust_remote_code=wanted.trusted)
        # The reader of `preprocessor_config.json`; the processors themselves need torchvision.
        reader = library.image_processing_base.ImageProcessingMixin
        processor, _ = reader.get_image_processor_dict(name)
    except InputRefused:
        raise
    except OSError as error:
        raise InputRefused(f"transformers:{name} could not be had: {_first_line(error)}") from error
    except Exception as error:
        if not wanted.trusted and would_run_code(error):
            raise untrusted(f"transformers:{name}") from error
        raise UsageError(f"transformers:{name} could not be built: {_first_line(error)}") from error
    preprocessing, notes = described(processor, from_hugging_face)
    if own and not wanted.trusted:
        notes.append(
            f"the code that comes with {_public(name)} was not run, that of transformers was"
            + ways("give --trust-remote-code for the former")
        )
    return Source(
        module,
        name.rstrip("/").rpartition("/")[2],
        f"transformers {type(module).__name__}, weights {_public(name)}",
        size=_size(preprocessing and preprocessing["size"]) or _size(getattr(config, "image_size", None)),
        channels=int(getattr(config, "num_channels", 3)),
        preprocessing=preprocessing,
        labels=_labels(config),
        notes=notes,
    )


def _automatic(library: Any, config: Any, own: bool = False) -> Any:
    """What makes the classifier; where there is none, the network of its feature maps.

    own   whether the code that comes with it has one
    """
    classifier = getattr(library, _CLASSIFIER)
    return classifier if own or type(config) in classifier._model_mapping else library.AutoModel


def _random(library: Any, name: str, wanted: Wanted) -> Source:
    try:
        with seeded(wanted.seed):
            if _is_class(library, name):
                builder = getattr(library, name)
                config = builder.config_class(**wanted.options)
                module = builder(config)
            elif name in _types(library):
                config = library.AutoConfig.for_model(name, **wanted.options)
                module = _automatic(library, config).from_config(config)
            else:
                known = [*_types(library), *(listed for listed in dir(library) if _is_class_name(listed))]
                raise UsageError(
                    f"transformers has no architecture {name!r}{near(name, known)}; with --random give a class such as "
                    "ResNetForImageClassification or a model type such as resnet"
                )
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"transformers:{name} could not be built: {_first_line(error)}") from error
    size = _size(getattr(config, "image_size", None))
    channels = int(getattr(config, "num_channels", 3))
    usual = PRESETS["imagenet"].override(size=size or (224, 224))
    return Source(
        module,
        type(module).__name__,
        f"transformers {type(module).__name__}, random weights, seed {wanted.seed}",
        size=size,
        channels=channels,
        preprocessing=usual.to_dict() if channels == 3 else None,
        labels=_labels(config),
    )


def _kernels(config: Any) -> list[str]:
    """What the configuration would have fetched from the hub as code: 'owner/repository' for an attention."""
    named = (getattr(config, f"_{what}_implementation", None) for what in ("attn", "experts"))
    return [text[:100] for text in named if isinstance(text, str) and "/" in text]


def _size(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def _labels(config: Any) -> list[str] | None:
    """The classes' names, where they are more than LABEL_0, LABEL_1…"""
    names = getattr(config, "id2label", None) or {}
    try:
        labels = [str(names[index]) for index in range(len(names))]
    except KeyError:
        return None
    return None if not labels or all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels


def _types(library: Any) -> list[str]:
    return list(library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)


def _is_class(library: Any, name: str) -> bool:
    return _is_class_name(name) and hasattr(getattr(library, name, None), "config_class")


def _is_class_name(name: str) -> bool:
    return name.endswith(("Model", "ForImageClassification", "ForSemanticSegmentation", "Backbone"))


def _public(name: str) -> str:
    """An id of the hub as it is; of a local folder only its own name."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
