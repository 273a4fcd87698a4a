"""KV-cached decoding with static shapes: a prompt, then any number of new tokens at a time.

Slots of the cache are shared by the batch: the prompt takes the first L, padding included on either side, and what is
generated follows from slot L on in every row. Masks and positions keep the rows apart, so one compiled step serves
prompts of all lengths. transformers' StaticCache copies by index, which XLA would run on the host; this one selects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raexla.models.mllm.model import MLLM, causal_inputs


@dataclass(frozen=True)
class DecodeState:
    """Where decoding stands. All tensors; shapes don't change from step to step.

    keys, values: one [B, heads, S, D] a layer. valid: bool [B, S], slots that may be looked at. position: int [B],
    the position of the next token. slot: int scalar, the next slot (a tensor, so that it doesn't recompile).
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor
    position: Tensor
    slot: Tensor


class _Recorder:
    """The cache that attention layers write to: puts new keys and values at `slot` and hands all slots back."""

    def __init__(self, state: DecodeState | None, capacity: int) -> None:
        self.state, self.capacity = state, capacity
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: object) -> tuple[Tensor, Tensor]:
        """New keys and values [B, heads, K, D] of a layer -> all of them [B, heads, S, D]."""
        del args
        if self.state is None:
            self.keys.append(self._pad(keys))
            self.values.append(self._pad(values))
            return keys, values
        self.keys.append(self._write(self.state.keys[layer_idx], keys, self.state.slot))
        self.values.append(self._write(self.state.values[layer_idx], values, self.state.slot))
        return self.keys[-1], self.values[-1]

    def _pad(self, new: Tensor) -> Tensor:
        batch, heads, length, channels = new.shape
        return torch.cat([new, new.new_zeros(batch, heads, self.capacity - length, channels)], dim=2)

    def _write(self, old: Tensor, new: Tensor, slot: Tensor) -> Tensor:
        offset = torch.arange(self.capacity, device=old.device) - slot
        inside = (offset >= 0) & (offset < new.shape[2])
        moved = torch.index_select(new, 2, offset.clamp(0, new.shape[2] - 1))
        return torch.where(inside[None, None, :, None], moved, old)


def prefill(mllm: MLLM, embedded: Tensor, valid: Tensor, capacity: int) -> tuple[Tensor, DecodeState]:
    """Read a prompt.

    Args:
        mllm: the model.
        embedded: prompt embeddings [B, L, h] from `MLLM.embed`.
        valid: bool [B, L], which of them are no padding (on the left or on the right).
        capacity: S, slots in all: L plus everything that will be generated.

    Returns:
        The final hidden state of each row's last valid token [B, h], and the state to go on from.
    """
    length = embedded.shape[1]
    if capacity < length:
        raise ValueError(f"a cache of {capacity} slots can't hold a prompt of {length}")
    recorder = _Recorder(None, capacity)
    hidden = mllm.hidden(embedded, *causal_inputs(embedded, valid), cache=recorder)
    index = torch.arange(length, device=embedded.device)
    last = torch.where(valid, index[None], torch.zeros_like(index)[None]).amax(dim=1)
    final = torch.gather(hidden, 1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
    padded = torch.cat([valid, valid.new_zeros(valid.shape[0], capacity - length)], dim=1)
    slot = torch.full((), length, dtype=torch.long, device=embedded.device)
    state = DecodeState(tuple(recorder.keys), tuple(recorder.values), padded, valid.long().sum(1), slot)
    return final, state


def extend(mllm: MLLM, embedded: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
    """Read K more tokens in every row: one sampled token, or the Q queries after `<im_start>`.

    Args:
        mllm: the model.
        embedded: [B, K, h] from `MLLM.embed`.
        state: from `prefill` or an earlier `extend`; rows that have ended are fed anything and ignored.

    Returns:
        Final hidden states [B, K, h] and the next state. Going past the capacity is not noticed here.
    """
    batch, count, _ = embedded.shape
    capacity = state.valid.shape[1]
    slots = torch.arange(capacity, device=embedded.device)
    step = torch.arange(count, device=embedded.device)
    new = (slots[None, :] >= state.slot) & (slots[None, :] <= state.slot + step[:, None])  # [K, S]
    mask = state.valid[:, None, None, :] | new[None, None]
    positions = state.position[:, None] + step[None]
    recorder = _Recorder(state, capacity)
    hidden = mllm.hidden(embedded, mask.expand(batch, 1, count, capacity), positions, cache=recorder)
    valid = state.valid | new[-1][None]
    return hidden, DecodeState(
        tuple(recorder.keys), tuple(recorder.values), valid, state.position + count, state.slot + count
    )
