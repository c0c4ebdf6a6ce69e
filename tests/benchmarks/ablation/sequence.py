"""The older way to show a model its condition: tokens of their own, beside the noisy ones.

LCU++, the paper's, stacks a place's noise, pictures and mask in the channels of one token. LCU, of
the ACE before it, has units of [picture; mask] and a noise unit [X_t; mask] one after another
(ACE_SPEC 8). Here one place has two tokens, told apart by the first coordinate of their position:

    0    noise | 0    | 0      | mask
    1    0     | edit | change | mask

Nothing else differs: the weights are as many, and begin as the same numbers. LCU itself has no
noise unit for references; here they have one, so that the loss is the same, too.

Legend: B batch, N image tokens, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

_NOISE = 64  # features of the noise, which stand first
_MASK = 256  # of the mask, which stand last


class SequenceTransformer(FluxTransformer2DModel):  # type: ignore[misc]
    """A transformer that takes and gives what its parent does, and sees twice the tokens."""

    def forward(self, hidden_states: Tensor, img_ids: Tensor, **others: Any) -> tuple[Tensor]:
        """Return the velocity (B, N, 64) of (B, N, 448): noise, edit, change and mask."""
        tokens = hidden_states.shape[1]
        (velocity,) = super().forward(
            hidden_states=in_sequence(hidden_states),
            img_ids=torch.cat([img_ids, img_ids + img_ids.new_tensor([1, 0, 0])]),
            **others,
        )
        return (velocity[:, :tokens],)


def in_sequence(tokens_BND: Tensor) -> Tensor:
    """Noise tokens, then condition tokens: (B, 2N, D)."""
    noise, condition = tokens_BND.clone(), tokens_BND.clone()
    noise[..., _NOISE:-_MASK] = 0
    condition[..., :_NOISE] = 0
    return torch.cat([noise, condition], dim=1)
