"""The three splits of the dataset. Which one a column holds is in its name (`schema.SPLIT_COLUMNS`).

`split_leakfree_by_prompt`  a prompt is on one side in every model, layer, attack and dose; the folder's train and test
`split_published_by_layer`  the published one, for comparison: it puts one prompt on both sides, at different layers
`split_heldout_layers`      bands of depth are held out: does what was learned at some layers hold at others?
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Sequence

from asabench.dataset.schema import Split

TRAIN_SHARE = 0.6
PUBLISHED_SEED = 42
BANDS = 5
HELD_OUT_BANDS = (1, 3)


def leakfree_split(prompt_sha256: str) -> Split:
    """The side of a prompt: a function of its digest alone, so the same in every model and in every later version.

    The first 8 bytes, big-endian, of sha256("leakfree:" + digest), divided by 2^64, lie below 0.6 for train.
    """
    drawn = hashlib.sha256(f"leakfree:{prompt_sha256}".encode()).digest()[:8]
    return "train" if int.from_bytes(drawn, "big") < TRAIN_SHARE * 2**64 else "test"


def published_split(layers: Sequence[Hashable]) -> list[Split]:
    """The published 60/40 split of one model's instances, given the layer of each, in the published order.

    Instances are grouped by layer, groups in the order in which their layer is first seen; one generator with seed 42
    shuffles one group after another; the first int(0.6 n) of each are train (reference-protocol, "Split").
    """
    groups: dict[Hashable, list[int]] = {}
    for place, layer in enumerate(layers):
        groups.setdefault(layer, []).append(place)
    stream = random.Random(PUBLISHED_SEED)
    sides: list[Split] = ["test"] * len(layers)
    for group in groups.values():
        stream.shuffle(group)
        for place in group[: int(len(group) * TRAIN_SHARE)]:
            sides[place] = "train"
    return sides


def heldout_split(layer: int, n_layers: int) -> Split:
    """The side of a layer: the depth is cut into five equal bands, and the second and the fourth are test.

    Bands, not single layers, because neighbours behave alike: most held-out layers lie among held-out ones.
    """
    return "test" if layer * BANDS // n_layers in HELD_OUT_BANDS else "train"
