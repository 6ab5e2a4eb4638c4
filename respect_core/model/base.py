"""Load base models; attach, load, save and identify adapters.

Deviations from the paper, numbered as they are cited elsewhere:
1. Adapter weights stay in fp32 over a bf16 base (PEFT's default; the paper says nothing): a step at 1e-5 would be
   lost in bf16.
2. LoRA A is drawn from a separate generator on the CPU, in order of module name, so that a seed gives the same adapter
   on every device.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from respect_core.model import attention, local, precision
from respect_core.model.lora import make_lean, view
from respect_core.model.text import TextProcessor
from respect_core.scenario import Scenario
from respect_core.variants import LoraConfig
from respect_core.versions import files_hash

_WHOLE = "2-"
"""The prefix of hashes over the whole folder of an adapter."""

WEIGHTS = ""
"""The kind of hash over the adapter's own files alone, for `adapter_hash(..., like=WEIGHTS)`."""


@dataclass(frozen=True)
class Base:
    """A frozen base model, set up for a scenario. Never adapted in place: adapters go onto a `view` of it.

    `fingerprint` identifies configuration, weights and processor: a content hash, or hub id and revision.
    """

    name: str
    model: Any
    processor: Any
    fingerprint: str
    scenario: Scenario

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def precision(self) -> str:
        """The precision of the model's products, for records; adapters are in float32 in any."""
        return str(self.model.dtype).removeprefix("torch.")


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_base(
    base: str,
    scenario: Scenario,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    image_size: int = 224,
) -> Base:
    """Load a base model and its processor.

    Args:
        base: "tiny" or "smollm2" for the embedded models, a directory, or a hub id. Images are optional.
        scenario: whose prompts the model answers.
        device: where to put it; the accelerator if there is one.
        dtype: by default as `precision.of_base` chooses.
        image_size: side in pixels for processors that would keep a picture's proportions, such as Idefics2's
            (published code: 224, no splitting). A processor with a fixed height and width keeps them.

    Raises:
        OSError: nothing to load under that name (from transformers).
    """
    place = torch.device(device) if device is not None else default_device()
    source = local.locate(base)
    config = AutoConfig.from_pretrained(source)
    dtype = dtype or precision.of_base(place, config)
    kind: Any = AutoModelForImageTextToText if _takes_images(config) else AutoModelForCausalLM
    model = freeze(kind.from_pretrained(source, dtype=dtype).to(place))
    processor = _processor(source, config)
    if (image_processor := getattr(processor, "image_processor", None)) is not None:
        if hasattr(image_processor, "do_image_splitting"):
            image_processor.do_image_splitting = False
        if not (image_processor.size["height"] and image_processor.size["width"]):
            image_processor.size = {"height": image_size, "width": image_size}
    fingerprint = local.base_sha256(base) or f"{source}@{model.config._commit_hash}"
    return Base(base, model, processor, fingerprint, scenario)


def freeze(model: Any) -> Any:
    """Return a transformers model as a base: without gradients, in evaluation mode, with its device's attention."""
    model.requires_grad_(False)
    if model.device.type == "cpu" and model.dtype == torch.bfloat16:
        model.set_attn_implementation(attention.BF16)
    return model.eval()


def load_processor(base: str) -> Any:
    """Load the processor of a base model, for texts alone. Raises OSError as `load_base` does."""
    source = local.locate(base)
    return _processor(source, AutoConfig.from_pretrained(source))


def _takes_images(config: Any) -> bool:
    return type(config) in AutoModelForImageTextToText._model_mapping


def _processor(source: str, config: Any) -> Any:
    """Load a processor and set the base's limit in it, which alone then tells how long a game may be.

    `chat.Chat.positions` reads the limit.
    """
    takes_images = _takes_images(config)
    processor: Any = (
        local.load_vision_processor(source) if takes_images else TextProcessor(AutoTokenizer.from_pretrained(source))
    )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        processor.tokenizer.model_max_length = min(processor.tokenizer.model_max_length, positions)
    return processor


def inner(model: Any) -> Any:
    """Return the transformers model with its head, without any adapters around it."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def attach_lora(base: Base, config: LoraConfig, *, seed: int) -> peft.PeftModel:
    """Return a trainable model: a view of the base with fresh LoRA layers (appendix B.3; Gaussian A, zero B).

    Raises:
        ValueError: no module matches `config.targets` (from PEFT).
    """
    model = peft.PeftModel(
        view(base.model),
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=config.targets,
            init_lora_weights="gaussian",
        ),
    )
    # The name, not the path on this machine: the same adapter has the same files everywhere.
    model.peft_config["default"].base_model_name_or_path = base.name
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, module in sorted(model.named_modules()):
            if isinstance(module, LoraLayer) and "default" in module.lora_A:
                weight: Any = module.lora_A["default"].weight
                weight.copy_(torch.randn(weight.shape, generator=generator) / config.rank)
            elif isinstance(module, LoraLayer):  # an embedding; PEFT starts it with zero A and random B
                weight = module.lora_embedding_B["default"]
                weight.copy_(torch.randn(weight.shape, generator=generator))
    make_lean(model)
    return model


def load_adapter(base: Base, adapter: Path, *, trainable: bool = False) -> peft.PeftModel:
    """Load a saved adapter onto a view of the base.

    Raises:
        FileNotFoundError: no adapter in that directory.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise FileNotFoundError(f"no adapter in {adapter}: adapter_config.json is missing")
    model = peft.PeftModel.from_pretrained(view(base.model), str(adapter), is_trainable=trainable)
    make_lean(model)
    return model if trainable else model.eval()


def grow_adapter(base: Base, adapter: Path, config: LoraConfig, *, seed: int) -> peft.PeftModel:
    """Load a saved adapter to train, with fresh layers where `config` has some that it lacks; its function is the same.

    An adapter with layers elsewhere, or of another rank, keeps its own placement and gets none (`load_adapter`).

    Raises:
        FileNotFoundError: no adapter in that directory.
    """
    saved = load_adapter(base, adapter, trainable=True)
    own: Any = saved.peft_config["default"]
    if own.target_modules == config.targets:
        return saved
    fresh = attach_lora(base, config, seed=seed)
    weights, places = (
        {name: weight for name, weight in model.named_parameters() if "lora_" in name} for model in (saved, fresh)
    )
    shapes = {name: weight.shape for name, weight in places.items()}
    if len(places) == len(weights) or any(shapes.get(name) != weight.shape for name, weight in weights.items()):
        return saved
    with torch.no_grad():
        for name, weight in weights.items():
            places[name].copy_(weight)
    return fresh


def save_adapter(model: peft.PeftModel, adapter: Path) -> None:
    """Write the adapter in PEFT's own layout, whole or not at all, and replace any that is there."""
    adapter.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=adapter.parent, prefix=f".{adapter.name}.") as scratch:
        model.save_pretrained(f"{scratch}/new", selected_adapters=["default"], save_embedding_layers=False)
        if adapter.exists():
            adapter.replace(f"{scratch}/old")
        shutil.move(f"{scratch}/new", adapter)


def adapter_hash(adapter: Path, like: str = _WHOLE) -> str:
    """Hash all that is loaded from an adapter's folder: weights, processor, template, profile.

    A model card among them does not count. Versions registered by earlier releases have a hash of the `adapter_*` files
    alone, without a prefix.

    Args:
        like: a recorded hash, of the kind to make; by default the kind that is recorded now.

    Raises:
        FileNotFoundError: no adapter in that directory.
    """
    weights = sorted(adapter.glob("adapter_*"))
    if not weights:
        raise FileNotFoundError(f"no adapter in {adapter}: no adapter_* files")
    if not like.startswith(_WHOLE):
        return files_hash(weights)
    files = (path for path in adapter.rglob("*") if path.is_file() and path != adapter / "README.md")
    return _WHOLE + files_hash(sorted(files), adapter)
