"""A key-value cache with room to grow, so that a decoding step writes one position and copies nothing.

transformers' own dynamic cache concatenates: with hundreds of rows, that copy costs as much as the step's arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

Cache: TypeAlias = DynamicCache
"""What a forward takes as its past."""

KeysAndValues: TypeAlias = tuple[Tensor, Tensor]
"""(row, head, position, head_dim) each."""


class GrowingLayer(DynamicLayer):
    """One block's keys and values, (row, head, position, head_dim), in buffers allocated for `capacity` positions.

    Masks, not the cache, keep a sliding window: so one class serves windowed and full attention.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def fill(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        """Starts from rows `rows` of another cache's keys and values."""
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device
        self.length = keys.shape[2]
        rows = rows.to(keys.device)
        self._key_buffer, self._value_buffer = (self._buffer(t, len(rows)) for t in (keys, values))
        self._key_buffer[:, :, : self.length] = keys.index_select(0, rows)
        self._value_buffer[:, :, : self.length] = values.index_select(0, rows)
        self._expose()

    def _buffer(self, like: Tensor, rows: int) -> Tensor:
        return like.new_empty(rows, like.shape[1], self.capacity, like.shape[3])

    def _expose(self) -> None:
        self.keys = self._key_buffer[:, :, : self.length]
        self.values = self._value_buffer[:, :, : self.length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends (row, head, new, head_dim) and returns all keys and values."""
        if not self.is_initialized:
            self.fill(key_states[:, :, :0], value_states[:, :, :0], torch.arange(len(key_states)))
        end = self.length + key_states.shape[2]
        self._key_buffer[:, :, self.length : end] = key_states
        self._value_buffer[:, :, self.length : end] = value_states
        self.length = end
        self._expose()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length

    def keep(self, rows: Tensor) -> None:
        """Drops every row but `rows` (ascending indices)."""
        if self.is_initialized:
            rows = rows.to(self._key_buffer.device)
            self._key_buffer = self._key_buffer.index_select(0, rows)
            self._value_buffer = self._value_buffer.index_select(0, rows)
            self._expose()


def growing_cache(n_layers: int, capacity: int) -> Cache:
    """An empty cache for `n_layers` blocks and at most `capacity` positions."""
    return _cache_of([GrowingLayer(capacity) for _ in range(n_layers)])


def _cache_of(layers: Sequence[DynamicLayer]) -> Cache:
    cache = DynamicCache()
    cache.layers = list(layers)
    cache.layer_class_to_replicate = None
    return cache


def plain_cache(cached: Sequence[KeysAndValues | None] = ()) -> Cache:
    """A cache that concatenates, for gradients: the growing one writes in place, over what a backward still needs.

    cached: by block, the past that it starts from (None: the block keeps nothing); without any, blocks are added as the
    model asks. Without the model's configuration: masks, not the cache, keep a sliding window.
    """
    return _cache_of([_plain_layer(each) for each in cached]) if cached else DynamicCache()


def _plain_layer(cached: KeysAndValues | None) -> DynamicLayer:
    layer = DynamicLayer()
    if cached is not None:
        layer.keys, layer.values = cached
        layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
        layer.is_initialized = True
    return layer


def keys_and_values(cache: Cache) -> list[KeysAndValues | None]:
    """By block, what it has kept; None for a block that has none of its own."""
    return [(layer.keys, layer.values) if layer.is_initialized else None for layer in cache.layers]


def cached_positions(cache: Cache) -> int:
    """How many positions a cache holds; 0 when nothing was written to it."""
    return max((keys.shape[2] for keys, _ in filter(None, keys_and_values(cache))), default=0)


def expand(cache: Cache, rows: Tensor, capacity: int) -> Cache:
    """A growing cache whose row i starts as row `rows[i]` of `cache`."""
    expanded = growing_cache(len(cache.layers), capacity)
    for source, layer in zip(cache.layers, expanded.layers, strict=True):
        if source.is_initialized:
            layer.fill(source.keys, source.values, rows)
    return expanded


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Drops every row of a growing cache but `rows`."""
    for layer in cache.layers:
        layer.keep(rows)


def bytes_per_position(cache: Cache) -> float:
    """Measured bytes that one row takes per position, over all blocks."""
    used = [t for kept in filter(None, keys_and_values(cache)) for t in kept]
    positions = used[0].shape[0] * used[0].shape[2]
    return sum(t.numel() * t.element_size() for t in used) / positions
