"""Mutations of a model: each knows the structure of the file, and breaks or bends one thing about it.

A mutation takes the parsed message and a source of chance and changes the message in place; it raises `Misses` where
the network has nothing for it. `mutant(seed)` is what one seed gives, always the same.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence

from fuzzing import networks
from fuzzing.of_nodes import (
    attribute_broken,
    attribute_set,
    body_changed,
    branch_made,
    inputs_edited,
    node_moved,
    operator_inserted,
    operator_swapped,
    outputs_edited,
    types_swapped,
)
from fuzzing.of_values import (
    interface_changed,
    interface_typed,
    metadata_added,
    names_changed,
    values_declared,
    versions_changed,
    weight_lies,
    weight_moved,
    weight_shaped,
    weight_typed,
    weight_valued,
)
from fuzzing.parts import BROKEN, MARK, Misses, Model

MUTATIONS: tuple[Callable[[Model, random.Random], None], ...] = (
    inputs_edited, inputs_edited, inputs_edited, outputs_edited, attribute_set, attribute_set, attribute_set,
    attribute_broken, operator_swapped, operator_inserted, operator_inserted, operator_inserted, types_swapped,
    weight_shaped, weight_shaped, weight_typed, weight_valued, weight_valued, weight_lies, weight_moved,
    interface_typed, interface_typed, values_declared, versions_changed, interface_changed, node_moved, node_moved,
    branch_made, branch_made, body_changed, names_changed, metadata_added,
)  # fmt: skip


def base(seed: int) -> str:
    """The name of the network that the seed's mutant is made of."""
    return networks.draw(random.Random(f"{seed}/network"))


def mutant(seed: int, keep: Sequence[int] | None = None) -> tuple[bytes, list[str]]:
    """The mutant of a seed as a file's bytes, and what was done to it; the same for the same seed.

    keep   which of its mutations are made, by number; None: all of them
    """
    model = Model.FromString(networks.content(base(seed)))
    chance = random.Random(f"{seed}/count")
    number = chance.choice((1, 1, 1, 2, 2, 3, 4))
    flips = chance.random() < 0.06
    done: list[str] = []
    for place in range(number):
        if keep is not None and place not in keep:
            continue
        own = random.Random(f"{seed}/{place}")
        for _ in range(20):
            mutation = own.choice(MUTATIONS)
            with contextlib.suppress(Misses):
                mutation(model, own)
                done.append(f"{place}: {mutation.__name__}")
                break
    content = model.SerializeToString()
    content = content.replace(MARK.encode(), BROKEN)
    if flips and (keep is None or number in keep):
        content = flipped(content, random.Random(f"{seed}/bytes"))
        done.append(f"{number}: flipped")
    return content, done


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Bits turned over, away from the weights mostly (places of zero bytes are few there), or a piece cut out."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        near = chance.random() < 0.8
        at = chance.randrange(min(len(changed), 3000) if near else len(changed))
        changed[at] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        at = chance.randrange(len(changed))
        del changed[at : at + chance.randrange(200)]
    return bytes(changed)
