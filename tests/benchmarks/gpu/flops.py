"""The floating-point operations of a step: FLUX's matrix products, counted by geometry.

A product of (m, k) and (k, n) is 2·m·k·n operations. Norms, activations and additions are not
counted: they are under a thousandth, and no matrix unit does them. T5, CLIP and the VAE together
are 1.2 % of an item and are left out.

Legend: N image tokens, T text tokens, W width (heads × head dimension).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SINUSOID = 256  # width of the embedded time and guidance, before their linears


def step_flop(config: Mapping[str, Any], image_tokens: int, text_tokens: int) -> float:
    """Return the floating-point operations of one pass of the transformer for one picture."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    tokens = image_tokens + text_tokens
    # In either kind of block each token meets 12·W² weights: queries, keys, values and the
    # attention's output 4·W², the MLP 8·W².
    attention = 4 * tokens**2 * width
    block = 24 * tokens * width**2 + attention
    double, single = config["num_layers"], config["num_single_layers"]
    modulations = 2 * width**2 * (12 * double + 3 * single + 2)  # once a picture; 2: the last norm
    embedders = 2 * width * (2 * (_SINUSOID + width) + config["pooled_projection_dim"] + width)
    ends = 2 * width * (
        image_tokens * (config["in_channels"] + config["out_channels"])
        + text_tokens * config["joint_attention_dim"]
    )  # fmt: skip
    return float((double + single) * block + modulations + embedders + ends)
