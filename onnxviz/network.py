"""A network that was opened: its layers, its input, its labels, and running it on images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnxviz._version import __version__
from onnxviz.errors import ModelUnsuitable, UnknownLayer, UsageError, at_least, judging, renamed, spelt, ways
from onnxviz.graph.open.load import Loaded
from onnxviz.graph.operators import QUANTISING
from onnxviz.inputs import ImageLike, Images, as_list
from onnxviz.provenance import note_tensor, note_view, of_layers
from onnxviz.running import Running
from onnxviz.runtime import providers
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.gradients import Gradients
    from onnxviz.graph.head import Head
    from onnxviz.meaning import Prediction
    from onnxviz.objectives import Objective


class Network(Running):
    """A convolutional network in ONNX form, ready to be looked into. Made by `onnxviz.load`.

    input           the image input: name, shape, dtype, layout
    preprocessing   how a picture becomes that input
    labels          the classes' names, or None
    provider        the provider that was asked for
    backend         what computes gradients, as it was asked for
    warnings        what was assumed or looks odd; also in every manifest
    chosen_output   the output that was chosen, or None
    worker          the process that an isolated network runs in, or None
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        name: str,
        labels: list[str] | None,
        barrier: str | None,
        output: str | None,
        fed: list[dict[str, Any]],
        **running: Any,
    ) -> None:
        super().__init__(loaded, **running)
        self.name = name
        self.labels = self._labels = labels
        self._barrier = barrier
        self._fed = fed  # what the other inputs hold, for manifests
        self.chosen_output = output
        self.reopening: Callable[[Network], tuple[Callable[..., Network], Any]] | None = (
            None  # `load` knows how
        )

    def __reduce__(self) -> Any:
        """Pickled and copied deeply, it opens itself again where it arrives, from its file or bytes, as it was opened.

        raises (there)  what `onnxviz.load` raises; ModelRejected where the file has changed since
        """
        if self.reopening is None:
            raise TypeError(
                f"{self!r} was not opened by onnxviz.load: it can't be opened again where it arrives"
            )
        return self.reopening(self)

    def __copy__(self) -> Network:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __repr__(self) -> str:
        own = ", isolated" if self.worker is not None else ""
        sides = "×".join(map(str, self.input.shape))
        return f"<Network {printable(self.name, 60)}: {printable(f'{self.input.name} {sides}', 80)}{own}>"

    def close(self) -> None:
        """End the process of an isolated network, and free what was compiled; it ends with the network, too.

        An isolated network cannot be run any more.
        """
        self._programs.clear()
        self._gradients.clear()
        if self.worker is not None:
            self.worker.close()

    def __enter__(self) -> Self:
        """The network itself; `with` closes it at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it is -----------------------------------------------------------------------------

    @cached_property
    @judging
    def end(self) -> Head:
        """What the output is that was chosen, or that comes nearest to class scores: classes, steps, numbers.

        raises   ModelUnsuitable where none comes near, or several do; UnknownLayer
        """
        from onnxviz import meaning

        if self._barrier is not None:
            raise ModelUnsuitable(
                f"at {self.size[1]}×{self.size[0]} pixels this network ends before {self._barrier!r}, which needs "
                f"its own input size" + ways("leave out --size", "choose an earlier --layer")
            )
        labels = self.labels
        found = meaning.conclude(self, self.chosen_output, None if labels is None else len(labels))
        self.labels = None if labels is None else meaning.fitting(self, found, labels)
        if not found.told:
            self.warn(meaning.assumption(found))
        return found

    @property
    @judging
    def outputs(self) -> list[Head]:
        """What each output of the file was found to be."""
        from onnxviz.graph.head import outputs

        return outputs(self.model, self.input.name, len(self.labels) if self.labels is not None else None)

    @cached_property
    def head(self) -> Head:
        """Where the class scores, the logits before Softmax and the last hidden features are.

        raises   ModelUnsuitable when the network is no classifier, naming what can be explained instead
        """
        if not self.end.scored:
            raise ModelUnsuitable(self.end.refusal())
        return self.end

    def at(self, output: str | None) -> Network:
        """The same network with another of its outputs as what is predicted and explained; None: as it is.

        raises   UnknownLayer for an output that the file does not have
        """
        if output is None or output == self.chosen_output:
            return self
        from onnxviz.graph.head import named_output

        named_output(self.model, output)
        other = copy.copy(self)
        for name in ("end", "head"):
            other.__dict__.pop(name, None)
        other.chosen_output, other.labels = output, self._labels
        return other

    def settled(self, objective: Objective) -> Objective:
        """The objective with "the class scores" replaced by the value that holds them here, and its channels found.

        raises   ModelUnsuitable where the network has none
        """
        from onnxviz.objectives import LOGITS

        objective = objective.laid_out(self._channels_last)
        if all(term.layer != LOGITS for _, term in objective.terms):
            return objective
        return objective.at(self.logits)

    def _channels_last(self, name: str) -> bool:
        try:
            return self.layer(name).channels_last
        except UnknownLayer:  # a value that is no layer
            return False

    @property
    def logits(self) -> str:
        """The value that class scores before the final activation are read from; of numbers, these themselves.

        raises   ModelUnsuitable where each picture has more than one row of them, or none
        """
        from onnxviz.graph.output import NUMBERS

        return self.end.logits if self.end.kind == NUMBERS else self.head.logits

    @property
    def digest(self) -> str:
        """The SHA-256 of the model file, 64 hexadecimal digits."""
        return self._loaded.digest

    def label(self, index: int) -> str:
        """What class `index` is called; 'class 7' where there are no labels."""
        if self.labels is None or index >= len(self.labels):
            return f"class {index}"
        return self.labels[index]

    def target(self, target: int | str) -> int:
        """The class index that an index or a label means.

        raises   UnknownLabel
        """
        end = self.end if self.end.kind == "sequence" else self.head
        from onnxviz.labels import find_label

        return find_label(target, self.labels, end.classes)

    # --- images in ------------------------------------------------------------------------------

    def pictures(self, images: Images) -> list[np.ndarray]:
        """Each image as the network sees it, before normalising: (h, w, 3) uint8.

        Where it takes other numbers of channels: (h, w, C) uint8 or float32; `preprocessing.shown` makes pictures of
        these.

        raises   ImageRejected
        """
        return [self._view(image) for image in as_list(images)]

    def _view(self, image: ImageLike) -> np.ndarray:
        picture = self.preprocessing.read(image)
        note_view(self.preprocessing, picture)
        return self.preprocessing.view(picture)

    def prepare(self, images: Images) -> np.ndarray:
        """The network's input tensor, float32, with one entry an image.

        raises   ImageRejected, UsageError
        """
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind == "f":
            if not len(images):
                raise UsageError(f"no picture was given: the tensor has shape {images.shape}")
            note_tensor(images)
            return np.ascontiguousarray(images, dtype=np.float32)
        tensors = [self.preprocessing.normalise(self._view(image)[None])[0] for image in as_list(images)]
        if not tensors:
            raise UsageError("no image was given; expected at least one")
        shapes = {tensor.shape for tensor in tensors}
        if len(shapes) > 1:
            raise UsageError(
                f"the images have {len(shapes)} different sizes and this network keeps each image's own"
                + ways("give --size WIDTHxHEIGHT", "give one image at a time")
            )
        return np.stack(tensors).astype(np.float32, copy=False)

    def check_size(self, size: tuple[int, int], layer: str | None = None) -> None:
        """Refuse pictures that are too small to go through: nothing is run for it.

        size     (height, width) in pixels, as the network sees them
        layer    as far as it is to be reached; None: the output that is predicted
        raises   ImageRejected, naming the smallest size where it is found
        """
        if None not in (self.input.height, self.input.width):  # any other size was refused before
            return
        name = self.end.scores if layer is None else self.layer(layer).name
        self.admit(name, {"N": 1, "C": self.preprocessing.count, "H": size[0], "W": size[1]})

    # --- scores and values ----------------------------------------------------------------------

    def probabilities(self, x: np.ndarray, *, batch: int | None = None) -> np.ndarray:
        """The class probabilities (N, classes) float32, summing to 1 unless the network ends in Sigmoid.

        raises   ModelUnsuitable when the network is no classifier; NotFinite
        """
        return self.to_probabilities(self.run(x, [self.head.scores], batch=batch)[self.head.scores], x)

    def to_probabilities(self, scores: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """Raw values of the network's score output (N, ...) as probabilities (N, classes).

        Of one score for two classes, class 1 is what the score speaks for and class 0 what it speaks against.

        x        the network's input tensor that they were computed for, to tell why they are not finite
        raises   NotFinite
        """
        from onnxviz.meaning import probabilities

        if not scores.size:
            raise ModelUnsuitable(
                f"the scores {self.head.scores!r} come out as {scores.shape}: without a number"
            )
        found = probabilities(self.head, scores.reshape(len(scores), -1))
        self.require_finite(found, "the scores", x)
        return found

    def steps(self, x: np.ndarray, *, batch: int | None = None) -> np.ndarray:
        """The class probabilities of each step of a sequence, (N, steps, classes) float32.

        raises   ModelUnsuitable where the output is no sequence; NotFinite
        """
        from onnxviz.meaning import step_probabilities

        end = self.end
        found = step_probabilities(end, self.run(x, [end.scores], batch=batch)[end.scores])
        self.require_finite(found, "the scores", x)
        return found

    def predict(self, images: Images, top: int = 5, *, output: str | None = None) -> list[list[Prediction]]:
        """The `top` most probable classes of each image, best first: one list an image.

        Of a sequence (a recogniser of text), one list an image too: the best class of each of its steps, in order.
        Which class is the blank of CTC does not stand in a file: steps are given as they are.

        output   which of the file's outputs; None: the one that looks like class scores
        raises   ImageRejected, ModelUnsuitable; NotFinite where the scores are NaN
        """
        from onnxviz import meaning

        if output is not None:
            return self.at(output).predict(images, top)
        top = at_least("top", top)
        listed = as_list(images)
        if len(listed) > 1 and self.preprocessing.fixed is None:  # each may have a size of its own
            return [self.predict([one], top)[0] for one in listed]
        x = self.prepare(images)
        if self.end.kind == "sequence":
            return meaning.best_steps(self.steps(x), self.label)
        return meaning.best(self.probabilities(x), top, self.label)

    @renamed
    def activations(
        self, images: Images, layers: Sequence[str] | str, *, batch: int | None = None, codes: bool = False
    ) -> dict[str, np.ndarray]:
        """The values of layers: {name as given: float32 array with one entry an image, mostly (N, C, H, W)}.

        Of a quantised file these are the real values, behind DequantizeLinear.

        codes    the integers that a quantised file holds instead: real = (code − zero point) × scale, as
                 `Layer.quantised` and the manifest tell them
        raises   UnknownLayer, ImageRejected; UsageError for the codes of a layer that has none
        """
        wanted = [layers] if isinstance(layers, str) else list(layers)
        values = {name: self._codes(name) if codes else self.layer(name).name for name in wanted}
        arrays = self.run(self.prepare(images), list(dict.fromkeys(values.values())), batch=batch)
        return {name: arrays[value].astype(np.float32, copy=False) for name, value in values.items()}

    def _codes(self, name: str) -> str:
        layer = self.layer(name)
        if layer.quantised is None:
            held = [one.name for one in self.layers if one.quantised is not None]
            some = f"; those with codes are {', '.join(map(repr, held[:3]))} …" if held else ""
            raise UsageError(
                f"layer {layer.name!r} is not held as integers in this file: it has no codes{some}"
            )
        return layer.quantised.codes

    def value_and_gradient(
        self, objective: Objective, *, wrt: str | None = None, rules: str = "plain"
    ) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """A function of the input tensor that gives an objective's value for each image, (N,), and its gradient.

        objective   see `onnxviz.objectives`; objectives add up and scale
        wrt         None: the gradient by the image, of x's shape; or the name of a layer
        rules       'plain', 'guided', 'deconvnet' or 'redirected'
        raises      UnknownLayer, UnknownLabel, ModelUnsuitable, UnsupportedOperator
        """
        source = wrt if wrt is not None else self.input.name
        gradients = self.gradients(objective, source, rules=rules)

        def evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            arrays = gradients(x)
            return arrays["objective"], arrays[f"{source}.gradient"]

        return evaluate

    def gradients(
        self,
        objective: Objective,
        wrt: str | Sequence[str] | None = None,
        *,
        also: Sequence[str] = (),
        rules: str = "plain",
        key: Hashable = None,
    ) -> Gradients:
        """An objective with its gradients by several values at once, and layers beside them, on arrays.

        objective   see `onnxviz.objectives`; those that are fed take arrays at every call
        wrt         None: the image input; or value names
        also        value names that are given out too
        rules       'plain', 'guided', 'deconvnet' or 'redirected'
        key         what the objective is kept under for the next call; None: it is built anew each time
        raises      UnknownLayer, UnknownLabel, ModelUnsuitable, UnsupportedOperator
        """
        from onnxviz.gradients import Gradients

        sources = (self.input.name,) if wrt is None else (wrt,) if isinstance(wrt, str) else tuple(wrt)
        objective = self.settled(objective)
        if key is None:
            return Gradients(self, objective, sources, also, rules)
        read = tuple(term.layer for _, term in objective.terms)
        full = (key, read, sources, tuple(also), rules)
        if full not in self._gradients:
            self._gradients[full] = Gradients(self, objective, sources, also, rules)
        found: Gradients = self._gradients[full]
        return found

    # --- on record ------------------------------------------------------------------------------

    def manifest(self, technique: str, **parameters: Any) -> dict[str, Any]:
        """The run manifest: everything that the same numbers need again, and nothing that changes by the clock."""
        self.heed_weights()
        quantised = any(node.op_type in QUANTISING for node in self.model.graph)
        # Of the backends that gradients came from, onnxruntime is named anyway.
        beside = {"torch": self._backends["torch"]} if "torch" in self._backends else {}
        return {
            "schema": f"onnxviz.{technique}/1",
            "technique": technique,
            "model": {
                "name": self.name,
                "sha256": self.digest,
                "opset": dict(self.model.opset_imports),
                "ir_version": self.model.ir_version,
                "producer": self.model.producer_name or None,
                "input": self.input.to_dict(),
            },
            "versions": {
                "onnxviz": __version__,
                "onnxruntime": providers.version(),
                "numpy": np.__version__,
                **beside,
            },
            "backend": ", ".join(sorted(self._backends)) or None,
            "provider": self._ran[0] if self._ran else providers.name(self.provider),
            **({"provider_options": options} if (options := providers.parted(self.provider)[1]) else {}),
            "threads": self.threads,
            **({"isolated": True} if self.worker is not None else {}),
            **({} if self.optimise else {"optimised": False}),
            "preprocessing": self.preprocessing.to_dict(),
            "output": self.__dict__["end"].to_dict() if "end" in self.__dict__ else None,
            "parameters": parameters,
            **({"fed": self._fed} if self._fed else {}),
            **of_layers(self, parameters, quantised),
            "limits": self.limits.to_dict(),
            "warnings": [spelt(text) for text in self.warnings],
        }
