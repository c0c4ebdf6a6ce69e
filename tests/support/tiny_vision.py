"""Small models that look at pictures, of the very classes, with random weights: a moment to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ace_tasks.model import places, toy

SIDE = 64
_SQUARE = {"height": SIDE, "width": SIDE}
_NECK = {
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 8,
    "reassemble_factors": [4, 2, 1, 0.5],
}
_BLOCK = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}


def _save(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    places.pin(folder)
    return folder


def make_segmenter(folder: Path, *labels: str, seed: int = 5) -> Path:
    """SegFormer. Its classifier is made loud, so that regions differ in more than noise."""
    torch.manual_seed(seed)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.weight.data.normal_(0, 100)
    return _save(folder, model, SegformerImageProcessorPil(size=_SQUARE))


def make_dpt(folder: Path, seed: int = 2) -> Path:
    torch.manual_seed(seed)
    config = DPTConfig(
        **_BLOCK,
        **_NECK,
        num_hidden_layers=4,
        image_size=SIDE,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
    )
    model = DPTForDepthEstimation(config)
    return _save(folder, _not_flat(model), DPTImageProcessorPil(size=_SQUARE))


def make_depth_anything(folder: Path, estimates: str = "relative", seed: int = 3) -> Path:
    torch.manual_seed(seed)
    backbone = Dinov2Config(
        hidden_size=16,
        num_attention_heads=2,
        mlp_ratio=1,
        num_hidden_layers=4,
        image_size=SIDE,
        patch_size=16,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        **_NECK,
        backbone_config=backbone,
        patch_size=16,
        reassemble_hidden_size=16,
        head_hidden_size=8,
        depth_estimation_type=estimates,
        max_depth=20,
    )
    model = DepthAnythingForDepthEstimation(config)
    return _save(folder, _not_flat(model), DPTImageProcessorPil(size=_SQUARE))


def make_clip(folder: Path, seed: int = 4) -> Path:
    """Make a CLIP with the toy's tokenizer."""
    torch.manual_seed(seed)
    tokenizer = toy.letter_tokenizer()
    text = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**_BLOCK, **text, "num_hidden_layers": 1},
        vision_config={**_BLOCK, "num_hidden_layers": 1, "image_size": SIDE, "patch_size": 16},
        projection_dim=8,
    )
    tokenizer.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE)
    return _save(folder, CLIPModel(config), processor)


def _not_flat(model: Any) -> Any:
    """Random depth is one level to the fifth digit: larger weights, and none below zero."""
    for name, value in model.named_parameters():
        if "head" in name or "neck" in name:
            value.data = value.data * 10 if value.ndim > 1 else value.data + 0.1
    return model
