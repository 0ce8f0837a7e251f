"""What is explained: a class of each picture, a step of a sequence, a channel, a neuron, any objective.

Every technique says what it explains by the same arguments, `target`, `objective`, `layer`, `channel` and `neuron`.
`parse` reads them once, before any picture is read; `Target.settle` finds the top classes of pictures; techniques that
take gradients differentiate `Target.objective`, those that only run forwards read a `Measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.graph.output import SEQUENCE
from onnxviz.objectives import FED, Objective

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.gradients import Gradients
    from onnxviz.graph.layers import Layer
    from onnxviz.network import Network

#: All channels of a layer; the neuron in the middle of its map.
ALL: Final = "all"
MIDDLE: Final = "middle"


@dataclass(frozen=True)
class Target:
    """One objective for all pictures, and what is different for each of N.

    objective       one scalar a picture, its layers found in the network
    key             what its graph is kept under; None: used once
    labels          what is explained in each picture, in words; '' for a top class that is not known yet
    classes         each picture's class; None where it is no class, or the top one that is not known yet
    channels        each picture's channel, where it is fed; else None
    scored          whether it is the score of a class
    step            of a sequence, whose class is explained
    layer           the layer that is explained, or None
    probabilities   of the classes, (N,) float32, once pictures have told them
    function        in place of the objective: of probabilities (N, classes), that gives (N,) numbers
    """

    objective: Objective
    key: Hashable
    labels: tuple[str, ...]
    classes: tuple[int | None, ...] = (None,)
    channels: tuple[int | None, ...] = (None,)
    scored: bool = False
    step: int | None = None
    layer: str | None = None
    probabilities: np.ndarray | None = field(default=None, repr=False)
    function: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def feeds(self, index: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """What the objective is fed for the pictures `index` (numbers, repeated as often as they are run)."""
        given = {"target": self.classes if self.scored else (None,), "channel": self.channels}
        return {name: np.array(one, np.int64)[index] for name, one in given.items() if None not in one}

    def gradients(self, net: Network, wrt: str | Sequence[str] | None = None, **options: Any) -> Gradients:
        """The objective compiled with its gradients; `options` as for `Network.gradients`."""
        return net.gradients(self.objective, wrt, key=self.key, **options)

    def at(self, index: Sequence[int] | np.ndarray) -> Target:
        """The same for the pictures `index`, each as often as it stands there."""
        rows = [int(number) for number in index]
        return replace(
            self,
            labels=tuple(self.labels[i] for i in rows),
            classes=tuple(self.classes[i] for i in rows),
            channels=tuple(self.channels[i] for i in rows),
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def each(self, count: int) -> Target:
        """One for each of so many pictures; raises UsageError where several were given, and not as many."""
        if len(self) not in (1, count):
            raise UsageError(
                f"{len(self)} targets were given for {count} pictures; give one, or one for each"
            )
        return self if len(self) == count else self.at([0] * count)

    def settle(self, net: Network, x: np.ndarray) -> Target:
        """One for each of the pictures `x`, the network's input tensor: classes with their probabilities.

        raises   UsageError; NotFinite
        """
        known = self.each(len(x))
        return known.told(net, self.rows(net, x)) if self.scored and self.probabilities is None else known

    def rows(self, net: Network, x: np.ndarray) -> np.ndarray:
        """The probabilities (N, classes) for pictures, of the step where one is explained."""
        return net.probabilities(x) if self.step is None else _step_of(net.steps(x), self.step)

    def told(self, net: Network, probabilities: np.ndarray, scores: np.ndarray | None = None) -> Target:
        """With the top classes that rows (N, classes) of probabilities tell, or of `scores` in front of them."""
        rows = probabilities if scores is None else scores
        known = zip(self.classes, rows, strict=True)
        classes = [int(np.argmax(row)) if one is None else one for one, row in known]
        chosen = probabilities[np.arange(len(classes)), classes]
        return replace(_scores(net, tuple(classes), self.step), probabilities=chosen)


#: What `target=` takes: a class index or label, None for each picture's top class, or one of these for each picture.
Targets = Target | int | str | None | Sequence[int | str | None]
#: What `neuron=` takes: (y, x) of a layer's map or 'middle'; of a sequence, the step.
Neuron = int | str | tuple[int, ...] | None
#: What `channel=` takes.
Channel = int | str | Sequence[int | str] | None
#: What `objective=` takes of techniques that only run forwards: also a function of probabilities (N, classes) -> (N,).
Measured = Objective | str | Callable[[np.ndarray], np.ndarray]


def parse(
    net: Network,
    target: Targets = None,
    *,
    objective: Measured | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    direction: np.ndarray | None = None,
    power: float = 0.0,
    shown: bool = False,
    functions: bool = False,
) -> Target:
    """What the arguments of a technique mean.

    target      class index or label, or several, one for each picture; None, and nothing else given: the top class. A
                Target that was parsed comes back as it is
    objective   any objective (`onnxviz.objectives`), or its text
    layer       with `channel`: the mean activation of that channel; with `neuron` (y, x) too: that neuron's
    neuron      without a layer: the step of a sequence, whose best class (or `target`) is explained. Numbers, or text
                such as '3,5'
    direction   (C,) numbers in the layer's channels; `power` of the cosine beside it (`objectives.direction`)
    shown       pictures are made for it: `channel` may be several or 'all', and a layer alone is ½‖a‖² of it
    functions   whether `objective` may be a function of the probabilities
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable (no classifier)
    """
    if sum(one is not None for one in (target, objective, layer)) > 1:
        raise UsageError(
            "give one of --target, --layer and --objective: they are different things to explain"
        )
    if layer is not None:
        return _layer(net, net.layer(layer), channel, neuron, direction, power, shown)
    sequence = neuron is not None and objective is None and net.end.kind == SEQUENCE
    if channel is not None or direction is not None or (neuron is not None and not sequence):
        instead = "give --layer too" if objective is None else "give --layer instead of --objective"
        raise UsageError(f"--channel and --neuron belong to a layer: {instead}")
    if isinstance(target, Target):
        return target
    if objective is not None:
        return _objective(net, objective, functions)
    step = _step_number(net, neuron) if sequence else None
    if step is None:
        net.head  # noqa: B018 - raises where there are no classes
    several = not isinstance(target, str) and isinstance(target, (Sequence, np.ndarray))
    wanted: list[Any] = list(target) if several else [target]  # type: ignore[arg-type]
    if not wanted:
        raise UsageError("no target was given; expected at least one class index or label")
    return _scores(net, tuple(None if one is None else net.target(one) for one in wanted), step)


def _scores(net: Network, classes: tuple[int | None, ...], step: int | None) -> Target:
    """The scores of these classes; where none of them is known, the graph finds the top one."""
    top = all(one is None for one in classes)
    key: Hashable = "top class" if top else "class"
    if step is None:
        objective = objectives.logit(None if top else FED)
    else:
        end, key = net.end, (key, step)
        objective = objectives.step(end.logits, step, None if top else FED, axis=end.logits_axis)
    before = "" if step is None else f"step {step}: "
    return Target(
        net.settled(objective),
        key,
        tuple("" if one is None else before + net.label(one) for one in classes),
        classes,
        (None,) * len(classes),
        scored=True,
        step=step,
    )


def _objective(net: Network, objective: Any, functions: bool) -> Target:
    if functions and callable(objective) and not isinstance(objective, Objective):
        net.head  # noqa: B018 - as above
        name = str(getattr(objective, "__name__", "objective")).replace("<lambda>", "objective")
        return replace(_scores(net, (None,), None), labels=(name,), scored=False, function=objective)
    if isinstance(objective, str):
        from onnxviz.objectives.text import parse as read

        objective = read(objective, net)
    if not isinstance(objective, Objective):
        raise UsageError(
            f"an objective is made by onnxviz.objectives or written as text, such as 'logit(0)'; got a "
            f"{type(objective).__name__}"
        )
    objective = net.settled(objective)
    return Target(objective, None, (str(objective),))


# --- a layer ------------------------------------------------------------------------------------


def _layer(
    net: Network,
    layer: Layer,
    channel: Channel,
    neuron: Neuron,
    direction: np.ndarray | None,
    power: float,
    shown: bool,
) -> Target:
    """The channels of a layer, or what else of it a picture is made for."""
    if direction is not None:
        if channel is not None or neuron is not None:
            raise UsageError("a direction mixes all channels of a layer: leave channel and neuron out")
        mixed = objectives.direction(layer.name, direction, power)
        return Target(mixed, None, (f"{layer.name}, direction",), layer=layer.name)
    if channel is None and shown:
        if neuron is not None:
            raise UsageError("a neuron lies in a channel of a layer: give channel too")
        return Target(objectives.layer(layer.name), None, (layer.name,), layer=layer.name)
    if channel is None:
        raise UsageError(f"layer {layer.name!r} needs the channel to explain: give --channel, counted from 0")
    wanted = _channels(net, layer, channel)
    if len(wanted) > 1 and not shown:
        raise UsageError(f"one channel is explained at a time, got {len(wanted)}")
    place = _place(layer, neuron, shown)
    index: int | str = FED if shown else wanted[0]
    if place is None:
        objective = objectives.channel(layer.name, index, last=layer.channels_last)
    else:
        at = () if place == MIDDLE else place
        objective = objectives.neuron(layer.name, index, *at, last=layer.channels_last)
    where = "" if place is None else ", middle neuron" if place == MIDDLE else f" at ({place[0]}, {place[1]})"
    return Target(
        objective,
        ("layer", layer.name, index, place),
        tuple(f"{layer.name}, channel {one}{where}" for one in wanted),
        (None,) * len(wanted),
        tuple(wanted) if shown else (None,) * len(wanted),
        layer=layer.name,
    )


def _channels(net: Network, layer: Layer, channel: Channel) -> list[int]:
    """The channels that are meant; raises UsageError where the layer has no such channel."""
    if len(layer.shape) < 2:
        raise UsageError(
            f"layer {layer.name!r} has shape {layer.shape} and no channels; choose another --layer"
        )
    if net.pictures_axis(layer.name) != 0:
        raise UsageError(
            f"layer {layer.name!r} has its pictures on axis {net.pictures_axis(layer.name)} of {layer.shape}; which of "
            f"the others are channels is not known: give --objective \"part('{layer.name}', 0, {channel})\""
        )
    count = layer.shape[-1 if layer.channels_last else 1]
    listed = list(channel) if isinstance(channel, (list, tuple, np.ndarray, range)) else [channel]
    if listed == [ALL]:
        if not isinstance(count, int):
            raise ModelUnsuitable(
                f"how many channels layer {layer.name!r} has cannot be told: name them with channel"
            )
        return list(range(count))
    wanted = [_whole(one) for one in listed]
    if None in wanted or not wanted:
        raise UsageError(
            f"--channel takes a number from 0, several times, or 'all'; got {', '.join(map(repr, listed)) or 'none'}"
        )
    numbers = [one for one in wanted if one is not None]
    outside = [one for one in numbers if one < 0 or (isinstance(count, int) and one >= count)]
    if outside:
        told = ", ".join(map(str, outside[:5]))
        raise UsageError(f"layer {layer.name!r} has {count} channels, from 0; got channel {told}")
    return numbers


def _place(layer: Layer, neuron: Neuron, shown: bool) -> Any:
    """(y, x) of a neuron of the layer's map, or MIDDLE.

    shown    pictures are made, which may be larger: the graph tells whether it lies in the map
    raises   UsageError where it has no map, or no such place
    """
    if neuron is None:
        return None
    place = place_of(neuron)
    if place != MIDDLE and len(place) != 2:
        raise _no_place(neuron)
    sizes = layer.shape[1:-1] if layer.channels_last else layer.shape[2:]
    if len(sizes) != 2:
        raise UsageError(
            f"layer {layer.name!r} has no map of neurons (shape {layer.shape}); leave --neuron out"
        )
    pairs = zip(() if shown or place == MIDDLE else place, sizes, strict=False)
    if any(at < 0 or (isinstance(size, int) and at >= size) for at, size in pairs):
        raise UsageError(f"layer {layer.name!r} has {sizes[0]}×{sizes[1]} neurons, from (0, 0); got {place}")
    return place


def place_of(neuron: int | str | tuple[int, ...]) -> Any:
    """Numbers, also written as '3,5', as (row, column) or (step,); or 'middle'; raises UsageError."""
    if isinstance(neuron, str) and neuron.strip() == MIDDLE:
        return MIDDLE
    parts: Any = neuron.split(",") if isinstance(neuron, str) else neuron
    numbers = tuple(map(_whole, parts if isinstance(parts, (list, tuple, np.ndarray)) else [parts]))
    if None in numbers or len(numbers) not in (1, 2):
        raise _no_place(neuron)
    return numbers


def _no_place(neuron: Any) -> UsageError:
    return UsageError(
        "--neuron takes a row and a column of a layer's map, such as 3,5, or 'middle', or the step of a sequence, such "
        f"as 3; got {neuron!r}"
    )


def _whole(value: Any) -> int | None:
    """A whole number, or its text; '²' is a digit too, and 5,000 digits are no number of anything."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and len(text) < 10 else None
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


# --- a step of a sequence -----------------------------------------------------------------------


def _step_number(net: Network, neuron: Any) -> int:
    """The step that is meant; raises UsageError."""
    place, steps = place_of(neuron), net.end.steps
    if place == MIDDLE or len(place) != 1 or not 0 <= place[0] < (steps or place[0] + 1):
        raise UsageError(
            f"output {net.end.spelled} is a sequence of {steps or 'some'} steps, from 0, such as --neuron "
            f"{(steps or 2) // 2}; got {neuron!r}"
        )
    return int(place[0])


def _step_of(whole: np.ndarray, step: int) -> np.ndarray:
    """One step's probabilities, (N, classes), of (N, steps, classes)."""
    if step >= whole.shape[1]:
        raise UsageError(f"these pictures have {whole.shape[1]} steps, from 0; got step {step}")
    return whole[:, step]


# --- running forwards alone ---------------------------------------------------------------------


class Measure:
    """A target as one number for each image that goes through a network.

    Of a class it is the probability, whose top class the first image tells; else the objective's value.

    key      what distinguishes its graph from others
    output   the graph's output that `read` takes
    target   what is measured, settled by the first image of the first call: the whole one
    """

    def __init__(self, net: Network, target: Target, *, probable: bool = True) -> None:
        from onnxviz.grad.model import VALUE

        self._probable = probable and (target.scored or target.function is not None)
        self._net, self.target = net, target.each(1) if self._probable else target
        self.output = net.end.scores if self._probable else VALUE
        key = target.objective if target.key is None else (target.key, target.objective)
        self.key: Hashable = ("scores", self.output) if self._probable else key

    def graph(self) -> ir.Model:
        """The network, ending in `output`."""
        from onnxviz.grad.model import value_model
        from onnxviz.graph.surgery import cut

        if self._probable:
            return cut(self._net.batched[0], [self.output])
        return value_model(self._net.batched[0], self.target.objective, self._net.input.name)

    def read(self, array: np.ndarray) -> np.ndarray:
        """The numbers (N,) float32 in `output`'s array (N, ...)."""
        if not self._probable:
            return array.astype(np.float32, copy=False)
        if self.target.step is None:
            rows = self._net.to_probabilities(array)
        else:
            from onnxviz.meaning import step_probabilities

            rows = _step_of(step_probabilities(self._net.end, array), self.target.step)
        if self.target.function is not None:
            values = np.asarray(self.target.function(rows), dtype=np.float32)
            if values.shape != (len(rows),):
                raise UsageError(
                    f"the objective gave an array of shape {values.shape} for probabilities of {len(rows)} images; "
                    f"expected one number an image, ({len(rows)},)"
                )
            return values
        if self.target.probabilities is None:
            self.target = self.target.told(self._net, rows[:1])
        return rows[:, self.target.classes[0]]

    @property
    def known(self) -> dict[str, Any]:
        """The class, or None where it is none, and what is measured in words: for manifests and results."""
        return {"target": self.target.classes[0], "label": self.target.labels[0]}
