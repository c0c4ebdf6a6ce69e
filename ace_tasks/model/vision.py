"""Small models that look at pictures: what to mask, how far things are, what fits a prompt.

Any model of `transformers`' classes can be used, in a folder as `save_pretrained` writes it, with
its `preprocessor_config.json`. It is loaded as strictly as a variant is. Masks also come from an
ONNX network (`saliency.py`). A picture is uint8 (H, W, 3) in sRGB. The models work in float32, and
the same picture gives the same answer.

Legend: L labels, h and w the model's own resolution, H and W the picture's.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    AutoModelForSemanticSegmentation,
    CLIPModel,
    CLIPTokenizer,
)

from ace_tasks.errors import BadMask, BadOutput, SettingsError, WeightsError
from ace_tasks.images.scores import ClipScore
from ace_tasks.model import sources, weights
from ace_tasks.model.places import read_json
from ace_tasks.model.saliency import Saliency, is_network
from ace_tasks.settings import VisionModel, VisionSettings, WeightsSettings
from ace_tasks.specs import Control

_BACKGROUND = "background"
_LINES = ("contour", "line", "edge")


@dataclass(frozen=True, eq=False)
class _Network:
    """A model, the processor that prepares pictures for it, and the folder of both."""

    model: Any
    processor: Any
    folder: Path

    def prepare(self, picture: np.ndarray) -> torch.Tensor:
        """Return a picture as (1, 3, h, w) float32 on the model's device."""
        made = self.processor(
            images=picture, input_data_format="channels_last", return_tensors="pt"
        )
        return made["pixel_values"].to(self.model.device)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray) -> Any:
        return self.model(pixel_values=self.prepare(picture))


class Segmenter:
    """A model of AutoModelForSemanticSegmentation, such as SegFormer."""

    kind: Any = AutoModelForSemanticSegmentation

    def __init__(self, network: _Network):
        _check_whole_picture(network)
        self._network = network
        named = network.model.config.id2label
        self.labels = tuple(str(named[number]) for number in sorted(named))

    @classmethod
    def load(cls, folder: Path, device: str) -> Self:
        """Load a model from its folder. Raises WeightsError."""
        return cls(_load(cls.kind, folder, device))

    def mask(self, picture: np.ndarray, label: str | None) -> np.ndarray:
        """Return the mask of a label, (H, W) uint8, 255 where it is likelier than every other.

        None selects everything but the background. Raises BadMask for a label that the model does
        not know.
        """
        wanted = self._which(_BACKGROUND if label is None else label)
        logits = self._logits(picture)
        found = _highest(logits[wanted], picture) > _highest(logits[~wanted], picture)
        return np.where((found != (label is None)).cpu().numpy(), 255, 0).astype(np.uint8)

    def probability(self, picture: np.ndarray, label: str) -> np.ndarray:
        """Return the probability of a label, (H, W) float32 in 0..1. Raises BadMask."""
        wanted = self._which(label)
        logits = self._logits(picture)
        odds_hw = _sum(logits[wanted]) - _sum(logits[~wanted])
        return _enlarged(torch.sigmoid(odds_hw), picture).cpu().numpy().clip(0, 1)  # type: ignore[no-any-return]

    def _which(self, label: str) -> torch.Tensor:
        wanted = torch.tensor([each == label for each in self.labels])
        if not wanted.any():
            known = ", ".join(dict.fromkeys(self.labels))
            raise BadMask(f"the segmentation model's labels: {known}; given {label!r}")
        return wanted

    def _logits(self, picture: np.ndarray) -> torch.Tensor:
        """Return the logits, (L, h, w) float32, on the model's device."""
        logits: torch.Tensor = self._network(picture).logits[0]
        _check_finite(logits, self._network)
        return logits


class Contour:
    """A segmentation model with a label `contour`, `line` or `edge`, which draws lines.

    The label's probability is drawn dark on white, like upstream's line drawings. `transformers`
    has no class that draws lines.
    """

    def __init__(self, segmenter: Segmenter, label: str):
        self._segmenter = segmenter
        self._label = label

    @classmethod
    def load(cls, folder: Path, device: str) -> Self:
        segmenter = Segmenter.load(folder, device)
        label = next((each for each in _LINES if each in segmenter.labels), None)
        if label is None:
            raise WeightsError(
                f"{folder / 'config.json'}: id2label: accepted: one of {', '.join(_LINES)}; "
                f"given {', '.join(segmenter.labels)}"
            )
        return cls(segmenter, label)

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """Draw the lines of a picture, (H, W, 3) uint8."""
        return _in_three_channels(1 - self._segmenter.probability(picture, self._label))


class DepthEstimator:
    """A model of AutoModelForDepthEstimation whose idea of near is known: DPT, Depth Anything."""

    def __init__(self, network: _Network):
        _check_whole_picture(network)
        self._network = network
        config = network.model.config
        if config.model_type not in {"dpt", "depth_anything"}:
            raise WeightsError(
                f"{network.folder / 'config.json'}: model_type: accepted: dpt, depth_anything; "
                f"given {config.model_type}"
            )
        # Relative depth is inverse: near things have large numbers. Depth in metres is not.
        self._in_metres = getattr(config, "depth_estimation_type", "relative") == "metric"

    @classmethod
    def load(cls, folder: Path, device: str) -> Self:
        return cls(_load(AutoModelForDepthEstimation, folder, device))

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """Draw the depth of a picture, (H, W, 3) uint8: the nearest white, the farthest black.

        If everything is equally far, all of it is black.
        """
        depth_hw: torch.Tensor = self._network(picture).predicted_depth[0]
        _check_finite(depth_hw, self._network)
        nearness = _enlarged(-depth_hw if self._in_metres else depth_hw, picture).cpu().numpy()
        nearness -= nearness.min()
        return _in_three_channels(nearness / (nearness.max() or 1))


class ClipScorer:
    """A CLIP model that scores how well a picture fits a prompt."""

    def __init__(self, network: _Network, tokenizer: Any):
        self._network = network
        self._tokenizer = tokenizer
        text = network.model.config.text_config
        self._tokens = text.max_position_embeddings
        if len(tokenizer) > text.vocab_size:
            where, rows = network.folder, text.vocab_size
            raise WeightsError(f"{where}: {len(tokenizer)} tokens, but {rows} embeddings")

    @classmethod
    def load(cls, folder: Path, device: str) -> Self:
        network = _load(CLIPModel, folder, device)
        return cls(network, weights.load_tokenizer(CLIPTokenizer, folder))

    @torch.inference_mode()
    def score(self, picture: np.ndarray, prompt: str) -> float:
        """Return the cosine of the angle between both, -1..1. A long prompt is cut off."""
        network = self._network
        text = self._tokenizer(
            prompt, truncation=True, max_length=self._tokens, return_tensors="pt"
        ).to(network.model.device)
        seen = network.model(
            input_ids=text.input_ids,
            attention_mask=text.attention_mask,
            pixel_values=network.prepare(picture),
        )
        cosine = (seen.image_embeds * seen.text_embeds).sum()
        _check_finite(cosine, network)
        return float(cosine)


_Kind = TypeVar("_Kind", Segmenter, Contour, DepthEstimator, ClipScorer)


class Vision:
    """The small models of one replica, each loaded when an item first needs it.

    Thread-safe: they work one at a time, since they share a device.
    """

    def __init__(self, settings: VisionSettings, weights_settings: WeightsSettings, device: str):
        self._settings = settings
        self._weights = weights_settings
        self._device = device
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def draw(self, control: Control, picture: np.ndarray) -> np.ndarray:
        """Draw the control `depth` or `contour` of a picture. Raises FatalError."""
        with self._lock:
            if control == "depth":
                return self._ready(DepthEstimator, self._settings.depth).draw(picture)
            return self._ready(Contour, self._settings.contour).draw(picture)

    def segment(self, picture: np.ndarray, label: str | None) -> np.ndarray:
        """Return a mask as `Segmenter.mask` or `Saliency.mask`. Raises FatalError and BadMask."""
        with self._lock:
            return self._ready(Segmenter, self._settings.segmenter).mask(picture, label)

    def score(self, picture: np.ndarray, prompt: str) -> float:
        """Return the score of `ClipScorer.score`. Raises FatalError."""
        with self._lock:
            return self._ready(ClipScorer, self._settings.clip).score(picture, prompt)

    @property
    def scorer(self) -> ClipScore | None:
        """The method `score`, if the run names a model for it."""
        return self.score if self._settings.clip else None

    def _ready(self, kind: type[_Kind], model: VisionModel | None) -> _Kind:
        if model is None:
            raise SettingsError(f"{kind.__name__}: the run names no model for it")
        if kind.__name__ not in self._loaded:
            folder = weights.ensure_vision(model, self._weights)
            hashes = weights.verify(folder)
            sources.check_planned(model, hashes)
            network = kind is Segmenter and is_network(hashes)
            self._loaded[kind.__name__] = (
                Saliency.load(folder) if network else kind.load(folder, self._device)
            )
        return self._loaded[kind.__name__]  # type: ignore[no-any-return]


def _load(kind: Any, folder: Path, device: str) -> _Network:
    for name in ("config.json", "preprocessor_config.json"):
        if "auto_map" in read_json(folder / name):
            raise WeightsError(
                f"{folder / name}: auto_map: accepted: classes of transformers, no code of its own"
            )
    model = weights.load_strict(kind, folder, torch.float32, device)
    try:
        # Pillow's resize: torchvision would be one more package to fit torch's version.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:  # its readers raise errors of any kind
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise WeightsError(f"{folder / 'preprocessor_config.json'}: {message}") from None
    return _Network(model, processor, folder)


def _check_whole_picture(network: _Network) -> None:
    """Raise WeightsError unless the model sees the whole picture, in one size.

    The map of a cropped or padded picture would show another part of it, and a picture that is not
    resized may have any size.
    """
    processor = network.processor
    for name, wanted in (("do_resize", True), ("do_center_crop", False), ("do_pad", False)):
        if bool(getattr(processor, name, False)) != wanted:
            where = network.folder / "preprocessor_config.json"
            raise WeightsError(f"{where}: {name}: accepted: {str(wanted).lower()}")


def _check_finite(values: torch.Tensor, network: _Network) -> None:
    if not torch.isfinite(values).all():
        raise BadOutput(f"{network.folder}: the model's output has NaN or infinite numbers")


def _highest(logits: torch.Tensor, picture: np.ndarray) -> torch.Tensor:
    """Return the highest logit of each pixel, (L, h, w) → (H, W).

    Labels are enlarged one by one, because 150 labels of a large photograph take 24 GB. Without
    any label the result is zero, so that a lone label is compared with zero, as in a sigmoid.
    """
    highest: torch.Tensor | None = None
    for each in logits:
        enlarged = _enlarged(each, picture)
        highest = enlarged if highest is None else torch.maximum(highest, enlarged)
    return logits.new_zeros(picture.shape[:2]) if highest is None else highest


def _sum(logits: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the sum of probabilities, (L, h, w) → (h, w)."""
    return logits.logsumexp(0) if len(logits) else logits.new_zeros(logits.shape[1:])


def _enlarged(values_hw: torch.Tensor, picture: np.ndarray) -> torch.Tensor:
    """Enlarge (h, w) to the picture's size, (H, W) float32."""
    scaled = F.interpolate(
        values_hw[None, None], size=picture.shape[:2], mode="bilinear", align_corners=False
    )
    return scaled[0, 0]


def _in_three_channels(values: np.ndarray) -> np.ndarray:
    """Convert (H, W) float in 0..1 to (H, W, 3) uint8."""
    levels = np.round(255 * values.clip(0, 1)).astype(np.uint8)
    return np.repeat(levels[:, :, None], 3, axis=2)
