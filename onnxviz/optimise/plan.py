"""What a machine makes: how many pictures of what size, of what parameters, seen how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxviz.optimise.parametrise import Parametrisation
from onnxviz.optimise.transforms import Transform


@dataclass(frozen=True)
class Plan:
    """What is put together.

    count, height, width   how many pictures, and their size in pixels
    draws                  how often a step shows each picture to the network, differently transformed
    prune                  the percentage of pixels whose gradient, the smallest, is cleared
    planes                 3 colours, or 1 where the network sees grey
    """

    count: int
    height: int
    width: int
    parametrise: Parametrisation
    transforms: Sequence[Transform] = ()
    draws: int = 1
    prune: float = 0.0
    planes: int = 3

    def shown(self) -> tuple[int, int]:
        """(height, width) of what the network gets."""
        size = self.height, self.width
        for transform in self.transforms:
            size = transform.size(*size)
        return size

    def feeds(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What the transforms of one step are fed, by the names of the graph's inputs."""
        found: dict[str, np.ndarray] = {}
        for draw in range(self.draws):
            size = self.height, self.width
            for place, transform in enumerate(self.transforms):
                drawn = transform.draw(rng, *size)
                found |= {fed_name(draw, place, name): array for name, array in drawn.items()}
                size = transform.size(*size)
        return found


def fed_name(draw: int, place: int, name: str) -> str:
    """The graph input for what a transform is fed in one draw."""
    return f"draw{draw}.{place}.{name}"
