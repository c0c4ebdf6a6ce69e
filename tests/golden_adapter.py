"""The project's functions as the golden checker calls them: `run(case)` and `run_train(case)`.

Thin on purpose: whatever it did itself would not be tested. A case brings its inputs, its noise,
its weights (BFL's layout, tiny) and its text embeddings; the checker lies beside the cases.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel

from ace_tasks.lcu.canvas import LCU, Inputs
from ace_tasks.lcu.policies import build_canvas, restore_target
from ace_tasks.model import keymap, sampling
from ace_tasks.model.ace import AceModel, Noise
from ace_tasks.model.text import Text
from ace_tasks.model.variants import find_variant
from ace_tasks.model.weights import Parts
from ace_tasks.training import sample as training


@torch.inference_mode()
def run(case: dict[str, Any]) -> dict[str, Any]:
    """Inference: from uint8 inputs to the final uint8 picture, with every stop on the way."""
    params = case["params"]
    unit, geometry = build_canvas(_inputs(case))
    out: dict[str, Any] = {
        "out_image": unit.edit_CHW,
        "out_mask": unit.mask_1HW,
        "out_change": unit.change_CHW,
        "out_h": geometry.out_h,
        "out_w": geometry.out_w,
        "slice_w": geometry.slice_w,
    }
    if case["weights"] is None:
        return out
    model, text = _model(case), _text(case)
    noise = _noise(case)
    condition = model.condition(unit, noise)
    sigmas = sampling.sigmas(params["steps"], condition.shape[1])
    x = model.denoise(noise.start, condition, text, sigmas, params["guidance"])
    canvas = model.to_uint8(model.decode(x))
    if unit.change_CHW is not None and noise.eps_change is not None:
        out["z_change"] = model.encode_image(unit.change_CHW, noise.eps_change)
    return out | {
        "z_edit": model.encode_image(unit.edit_CHW, noise.eps_edit),
        "packed": torch.cat([sampling.pack(noise.start), condition], dim=-1)[0],
        "ids": sampling.position_ids(*noise.start.shape[2:]),
        "sigmas": sigmas,
        "v0": model.velocity(noise.start, condition, text, sigmas[0].item(), params["guidance"]),
        "x_final": x,
        "decoded": canvas,
        "final": restore_target(canvas, geometry),
    }


@torch.inference_mode()
def run_train(case: dict[str, Any]) -> dict[str, Any]:
    """Training: from uint8 inputs to the loss at the case's noise level."""
    params, inputs = case["params"], case["inputs"]
    sample = training.build(
        training.TrainingExample(
            inputs["target"], inputs.get("edit"), inputs.get("mask"), inputs.get("ref")
        ),
        max_seq_len=params["max_seq_len"],
        reference_h=params["ref_height"],
        repainting_scale=params["repainting_scale"],
        modify_mode=bool(params["modify_mode"]),  # one case has a remark here, and means True
    )
    model, noise = _model(case), _noise(case)
    sigma = case["random"]["sigma"].item()
    x0 = model.encode_image(sample.target_CHW, torch.tensor(case["random"]["eps_target"]))
    x_t = training.noisy(x0, noise.start, sigma)
    mask = sample.mask_1HW.to(torch.bfloat16).float()  # rounded, as upstream's is
    change = sample.change_CHW if case["channels"] == 448 else None
    condition = model.condition(LCU(sample.edit_CHW, mask, change), noise)
    v = model.velocity(x_t, condition, _text(case), sigma, training.GUIDANCE)
    return {
        "src": sample.edit_CHW,
        "src_mask": sample.mask_1HW,
        "modify": sample.change_CHW,
        "target": sample.target_CHW,
        "x0": x0,
        "x_t": x_t,
        "v": v,
        "loss": F.mse_loss(v, noise.start - x0).item(),
    }


def _inputs(case: dict[str, Any]) -> Inputs:
    params, inputs = case["params"], case["inputs"]
    return Inputs(
        image=inputs.get("edit"),
        mask=inputs.get("mask"),
        references=(inputs["ref"],) if "ref" in inputs else (),
        width=params["width"],
        height=params["height"],
        max_seq_len=params["max_seq_len"],
        repainting_scale=params["repainting_scale"],
        keep_pixels_rate=params["keep_pixels_rate"] if params["keep_pixels"] else None,
        use_change=params["use_change"],
        policy="reference",
    )


def _noise(case: dict[str, Any]) -> Noise:
    given = {name: torch.tensor(value) for name, value in case["random"].items()}
    return Noise(given["eps_edit"], given.get("eps_change"), given["noise"])


def _text(case: dict[str, Any]) -> Text:
    hidden, pooled = (torch.tensor(case["weights"][key]).float() for key in ("txt", "pooled"))
    return Text(hidden[None], pooled)


def _model(case: dict[str, Any]) -> AceModel:
    config = case["weights"]["cfg"]
    transformer = FluxTransformer2DModel(**config["transformer_config"])
    transformer.load_state_dict(keymap.from_bfl(_weights(case, "bfl/"), transformer.config))
    vae = AutoencoderKL(**config["vae_config"])
    vae.load_state_dict(_weights(case, "vae/"))
    # A variant gives the route only; text comes encoded with the case.
    variant = find_variant("toy-lora" if case["route"] == "lora" else "toy")
    parts = Parts(transformer.eval(), vae.eval(), *(None,) * 4)
    return AceModel(variant, parts, "cpu", variant.identity())


def _weights(case: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): torch.tensor(value).float()
        for key, value in case["weights"].items()
        if key.startswith(prefix)
    }
