"""Compute the frozen vision tower's output once for each image.

Deviations from the paper, numbered as they are cited elsewhere:
1. The vision tower runs once per image, not once per image, turn and epoch. It is frozen under the paper's adapter
   placement, so no value changes. The tower's output is cached; the connector after it has LoRA and runs every time.
2. Within one batch the connector runs once per distinct image, so that two games with the same image share its
   dropout mask.
Under the enhanced placement (appendix D) the tower belongs to the policy; then it runs every time, on cached pixels.

Shapes: U distinct images, P patches an image, D tower width, L image tokens, H text width,
N image tokens of a batch.
"""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPooling

from respect_core.model import threads
from respect_core.model.base import Base, inner


class VisionFeatures:
    """Image features for a base model and any adapters on it.

    Args:
        base: whose tower to use.
        images: picture by image id; read when first needed.
        cache_dir: folder to cache tower outputs in too, one file per image, named by a hash of base and picture.
        batch_size: images in one pass of the tower.
    """

    def __init__(
        self, base: Base, images: Mapping[str, Image.Image], *, cache_dir: Path | None = None, batch_size: int = 64
    ) -> None:
        if images and not hasattr(inner(base.model).model, "vision_model"):
            raise ValueError(f"base {base.name!r} has no `vision_model` and `connector`; Idefics2 models have both")
        self._base = base
        self._images = images
        self._cache_dir = cache_dir
        self._batch_size = batch_size
        self._tower: dict[str, Tensor] = {}  # id -> [P, D], on the model's device
        self._pixels: dict[str, Tensor] = {}  # id -> [3, height, width], only where the tower is trained
        self._connected: dict[str, Tensor] = {}  # id -> [L, H], only where `connected` made this

    def arguments(self, model: Any, images: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Return the arguments of the model's forward for a batch of image ids in prompt order; none without images.

        Differentiable with respect to the adapters of `model`, a view of the base.

        Raises:
            KeyError: an unknown image id.
            ValueError: an image that the model would take for padding.
        """
        distinct = list(dict.fromkeys(image for row in images for image in row))
        if not distinct:
            return {}
        if self._connected:
            tokens_ULH = torch.stack([self._connected[image] for image in distinct])
        else:
            tokens_ULH = self._connect(model, distinct)
        place = {image: index for index, image in enumerate(distinct)}
        order = torch.tensor([place[image] for row in images for image in row], device=tokens_ULH.device)
        tokens_NH = tokens_ULH[order].flatten(0, 1)
        if "mm_encoder_outputs" not in signature(inner(model).forward).parameters:
            return {"image_hidden_states": tokens_NH}  # transformers 5.17, which would leave out what it does not know
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=tokens_NH)}}

    @torch.no_grad()
    def connected(self, model: Any, images: Iterable[str]) -> VisionFeatures:
        """Return the features of these images for this model alone, as long as its weights do not change.

        The connector runs here, once for each image, and no more after that.
        """
        distinct = list(dict.fromkeys(images))
        if not distinct:
            return self
        tokens: dict[str, Tensor] = {}
        batches = list(threads.split_across_cores(distinct, self._batch_size, self._base.device))
        self.ready(model, distinct)
        for batch, tokens_ULH in zip(
            batches, threads.map_parallel(partial(self._connect, model), batches, self._base.device), strict=True
        ):
            tokens.update(zip(batch, tokens_ULH, strict=True))
        result = copy.copy(self)
        result._connected = tokens
        return result

    def ready(self, model: Any, images: Iterable[str]) -> None:
        """Prepare the tower outputs that `model` will use: none where it trains the tower."""
        if (images := list(images)) and not self._differs(inner(model).model.vision_model):
            self.prepare(images)

    def _connect(self, model: Any, distinct: Sequence[str]) -> Tensor:
        """Return image tokens [U, L, H] under this model's connector."""
        backbone = inner(model).model
        if self._differs(backbone.vision_model):
            tower = self._run(backbone.vision_model, distinct)
        else:
            self.prepare(distinct)
            tower = [self._tower[image] for image in distinct]
        patches_UPD = pad_sequence(tower, batch_first=True)
        lengths_U = torch.tensor([len(one) for one in tower], device=patches_UPD.device)
        real_UP = torch.arange(patches_UPD.shape[1], device=patches_UPD.device) < lengths_U[:, None]
        tokens_ULH: Tensor = backbone.connector(patches_UPD, attention_mask=real_UP)
        return tokens_ULH

    @torch.no_grad()
    def prepare(self, images: Iterable[str]) -> None:
        """Compute the missing tower outputs, or read them from the cache directory."""
        missing = [image for image in dict.fromkeys(images) if image not in self._tower]
        device = self._base.device
        files = {image: self._file(image) for image in missing} if self._cache_dir else {}
        for image, file in files.items():
            if file.is_file():
                self._tower[image] = load_file(file, device=str(device))["tower"]
        missing = [image for image in missing if image not in self._tower]
        tower = inner(self._base.model).model.vision_model
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            for image, output_PD in zip(batch, self._run(tower, batch, keep_pixels=False), strict=True):
                self._tower[image] = output_PD.clone()
                if image in files:
                    _write(files[image], output_PD)

    def pooled(self, images: Iterable[str]) -> dict[str, Tensor]:
        """Average the frozen tower's output over each image's patches [D], for metrics of how alike images look.

        Raises:
            KeyError: an unknown image id.
        """
        distinct = list(dict.fromkeys(images))
        self.prepare(distinct)
        return {image: self._tower[image].float().mean(0).cpu() for image in distinct}

    def _run(self, tower: Any, images: Sequence[str], *, keep_pixels: bool = True) -> list[Tensor]:
        """Return tower outputs [P, D] in order; images of one size share a pass, so that none needs padding."""
        pixels = {image: self._load(image, keep_pixels) for image in images}
        outputs: dict[str, Tensor] = {}
        for group in _by_shape(pixels):
            batch = torch.stack([pixels[image] for image in group]).to(self._base.device, self._base.model.dtype)
            outputs.update(zip(group, tower(pixel_values=batch).last_hidden_state, strict=True))
        return [outputs[image] for image in images]

    def _load(self, image: str, keep: bool) -> Tensor:
        if image in self._pixels:
            return self._pixels[image]
        encoded = self._base.processor.image_processor([[self._picture(image)]], return_tensors="pt")
        pixels = encoded["pixel_values"][0, 0]
        if not pixels.any():
            # Idefics2 drops such images from its batch, and each later one would move up a place.
            raise ValueError(f"image {image!r} is all zero after preprocessing; the model takes it for padding")
        if keep:
            self._pixels[image] = pixels
        return pixels

    def _differs(self, tower: Any) -> bool:
        """Tell whether a view's tower is not the base's own: it has adapters, also folded in (`lora.merged`)."""
        own, its = (list(each.parameters()) for each in (inner(self._base.model).model.vision_model, tower))
        return len(own) != len(its) or any(one is not other for one, other in zip(own, its, strict=True))

    def _picture(self, image: str) -> Image.Image:
        try:
            return self._images[image]
        except KeyError:
            raise KeyError(f"no image {image!r} among the {len(self._images)} known") from None

    def _file(self, image: str) -> Path:
        picture = self._picture(image).convert("RGB")
        content = hashlib.sha256(f"{self._base.fingerprint} {self._base.model.dtype} {picture.size}".encode())
        content.update(str(self._base.processor.image_processor.to_dict()).encode())
        content.update(picture.tobytes())
        assert self._cache_dir is not None
        return self._cache_dir / f"{content.hexdigest()}.safetensors"


def _by_shape(pixels: Mapping[str, Tensor]) -> Iterator[list[str]]:
    groups: dict[torch.Size, list[str]] = {}
    for image, values in pixels.items():
        groups.setdefault(values.shape, []).append(image)
    yield from groups.values()


def _write(file: Path, tower: Tensor) -> None:
    """Write a file whole or not at all: several processes may fill one cache."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent)
    os.close(handle)
    save_file({"tower": tower.contiguous()}, scratch)
    Path(scratch).replace(file)
