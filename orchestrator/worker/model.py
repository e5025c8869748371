"""Load and save causal language models and adapters; hidden states instead of logits where the head allows it.

Adapters (LoRA, arXiv 2106.09685) sit beside linear layers of a frozen model. A folder with adapters names its base
model, and can stand wherever a model folder can.
"""

import errno
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from methods.batch import TokenBatch
from methods.outputs import FullLogits, HiddenStates, Outputs, PackedStates, piece_size
from orchestrator.trial_config import LoraConfig, ModelConfig
from orchestrator.worker.hub import hub_errors
from orchestrator.worker.packing import consecutive, pack, pack_shared, run_packed, use_packed_attention
from orchestrator.worker.template import load_tokenizer

# Families whose logits are exactly head(last hidden state): no soft cap, no scale.
_PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma"}
_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return cast(torch.dtype, getattr(torch, name))


def load_model(config: ModelConfig, device: torch.device, lora: LoraConfig | None = None) -> Any:
    """The model at config.target on `device`, in training mode; from safetensors only.

    With `lora` it has adapters, and only these can be trained: fresh ones, or those of a folder with adapters, which go
    on being trained. Without, a folder's adapters are merged into the weights. Code that comes with a model runs only
    with config.trust_remote_code. ValueError: the adapters do not fit their base model, or `lora` does not fit them.
    """
    folder = Path(config.target)
    adapter = _adapter_config(folder) if is_adapter_folder(folder) else None
    settings = {
        "dtype": compute_dtype(config.dtype, device),
        "attn_implementation": config.attention,
        "trust_remote_code": config.trust_remote_code,
    }
    base = _load_base(adapter, folder, settings) if adapter else _load_plain(config.target, settings)
    base.config.use_cache = False
    base = base.to(device)
    if adapter is None:
        return (add_adapters(base, lora) if lora else base).train()
    if lora is None:
        return _with_adapters_of(base, folder, adapter).merge_and_unload().train()
    return _with_adapters_of(base, folder, adapter, lora).train()


@dataclass(frozen=True, slots=True)
class Merge:
    """How adapters became part of the weights: summed in float32, then rounded once to `dtype`, the base's own type.

    `rounding`: norm of what that changes in the adapted layers, as a share of the norm of what the adapters add; 0 in
    float32.
    """

    dtype: str
    rounding: float


def export_merged(adapter_folder: Path, out: Path, *, trust_remote_code: bool = False) -> Merge:
    """Write base model and adapters as one plain model folder, in the base's own type; computed on the CPU.

    ValueError: the folder has no adapters, or their base model is not where they say.
    """
    if not is_adapter_folder(adapter_folder):
        raise ValueError(f"{adapter_folder} has no adapters: there is no {_ADAPTER_CONFIG}")
    adapter = _adapter_config(adapter_folder)
    base = _load_base(adapter, adapter_folder, {"dtype": "auto", "trust_remote_code": trust_remote_code})
    model = _with_adapters_of(base, adapter_folder, adapter)
    merge = Merge(str(base.dtype).removeprefix("torch."), _rounding(model))
    save_model(model.merge_and_unload(), load_tokenizer(str(adapter_folder), trust_remote_code=trust_remote_code), out)
    return merge


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds adapters and not a model."""
    return (folder / _ADAPTER_CONFIG).is_file()


def base_of(adapter_folder: Path) -> str:
    """Folder or hub name of the model that adapters belong to. ValueError: none, or a folder where no model is."""
    return _base_of(_adapter_config(adapter_folder), adapter_folder)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a folder that load_model reads: weights (safetensors only), configuration and tokenizer.

    Of a model with adapters only the adapters are written, and where its base was loaded from. OSError: the disk.
    """
    _silence_progress_bars()
    try:
        if has_adapters(model):
            # False: otherwise the hub is asked whether embeddings were resized.
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            (folder / "README.md").unlink()  # a form to fill in
        else:
            model.config.use_cache = True
            model.save_pretrained(folder, safe_serialization=True)
    except SafetensorError as error:  # what it makes of an OSError
        raise OSError(errno.EIO, str(error)) from error
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # a bare one is what tokenizers makes of an OSError
        if type(error) is not Exception:
            raise
        raise OSError(errno.EIO, str(error)) from error


def weights_digest(model: Any) -> str:
    """SHA-256 of names, shapes and values of all weights as they were loaded, whichever files they came from."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def add_adapters(model: Any, lora: LoraConfig) -> Any:
    """The model with fresh adapters and all else frozen; as B = 0, they add exactly nothing yet.

    A is drawn from torch's global generator. ValueError: lora.target_modules has a name that no linear layer but the
    head has.
    """
    import peft  # noqa: PLC0415  (seconds to import)

    layers = _target_layers(model, lora)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules or sorted(layers)),
    )
    return wrap(model, config)


def wrap(model: Any, config: Any) -> Any:
    """The model with fresh adapters as a PEFT configuration describes them, in the type of the weights beside them.

    PEFT would make them float32 beside bfloat16, for optimizers that update weights in their own type. DeepSpeed casts
    the whole model to bfloat16 anyway, and updates float32 copies of what is trained.
    """
    import peft  # noqa: PLC0415

    return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def has_adapters(model: Any) -> bool:
    """Whether the model is wrapped by PEFT."""
    return hasattr(model, "get_base_model")


def without_wrapper(model: Any) -> Any:
    """The transformers model itself, which knows its head; adapters stay in its layers."""
    return model.get_base_model() if has_adapters(model) else model


def _load_plain(target: str, settings: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (seconds to import)

    _silence_progress_bars()
    # Adapters remember this path; it must mean the same elsewhere.
    path = str(Path(target).absolute()) if Path(target).is_dir() else target
    with hub_errors("model", path):
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, low_cpu_mem_usage=True, **settings
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(f"{target} has adapters itself; merge them first, or download them and name their folder")
    return model


def _load_base(adapter: Any, folder: Path, settings: dict[str, Any]) -> Any:
    base = _base_of(adapter, folder)
    try:
        return _load_plain(base, settings)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{_base_entry(adapter, folder)}, which cannot be loaded: {error}") from error


def _base_entry(adapter: Any, folder: Path) -> str:
    return f"base_model_name_or_path in {folder / _ADAPTER_CONFIG} is {adapter.base_model_name_or_path!r}"


def _base_of(adapter: Any, folder: Path) -> str:
    base, what = adapter.base_model_name_or_path, _base_entry(adapter, folder)
    if not base:
        raise ValueError(f"{what}; write the folder (absolute) or hub name of the base model")
    if not Path(base).is_absolute() and (base.startswith(".") or Path(base).exists() or (folder / base).exists()):
        raise ValueError(f"{what}, a relative path; write the absolute one")
    if Path(base).is_absolute() and not (Path(base) / "config.json").is_file():
        raise ValueError(f"{what}, where no model is; move it there or correct the path")
    return str(base)


def _adapter_config(folder: Path) -> Any:
    import peft  # noqa: PLC0415

    adapter = peft.PeftConfig.from_pretrained(str(folder))
    if adapter.peft_type != peft.PeftType.LORA:
        raise ValueError(f"{folder / _ADAPTER_CONFIG}: peft_type is {adapter.peft_type}, but only LORA is supported")
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{folder} has {_ADAPTER_CONFIG} but not {_ADAPTER_WEIGHTS}; other formats are not read")
    return adapter


def _with_adapters_of(base: Any, folder: Path, adapter: Any, lora: LoraConfig | None = None) -> Any:
    """The base with a folder's adapters, to be trained as `lora` says or else to be merged."""
    import peft  # noqa: PLC0415
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415

    if lora is not None:
        found, asked = (adapter.r, float(adapter.lora_alpha)), (lora.r, lora.alpha)
        if found != asked:
            raise ValueError(f"lora.r and lora.alpha are {asked}, but {found} of the adapters in {folder}; use these")
        adapter.lora_dropout = lora.dropout
        layers = _target_layers(base, lora)
    wrapped = peft.PeftModel.from_pretrained(
        base,
        str(folder),
        config=adapter,
        is_trainable=lora is not None,
        autocast_adapter_dtype=lora is None,  # merging is computed in float32; for training see `wrap`
        torch_device=str(base.device),
    )
    adapted = {name for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    if lora is not None and adapted != layers:
        some = sorted(adapted ^ layers)[0]
        raise ValueError(f"lora.target_modules are other layers than those with adapters in {folder}, such as {some}")
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if any(isinstance(end, LoraLayer) for end in ends):
        raise ValueError(f"{folder} has adapters on embeddings or on the output head, which is not supported")
    return wrapped


@torch.no_grad()
def _rounding(model: Any) -> float:
    """See Merge; of a model whose adapters, in float32, are not merged yet."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415

    lost = added = 0.0
    layers: list[Any] = [part for part in model.modules() if isinstance(part, LoraLayer)]
    for layer in layers:
        weight, (adapter,) = layer.get_base_layer().weight, layer.active_adapters
        change = layer.get_delta_weight(adapter)
        exact = weight.float() + change
        lost += float((exact.to(weight.dtype) - exact).square().sum())
        added += float(change.square().sum())
    return math.sqrt(lost / added) if added else 0.0


def _target_layers(model: Any, lora: LoraConfig) -> set[str]:
    """Full names of the linear layers that get adapters; never the head, which is taken as frozen elsewhere."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    head = model.get_output_embeddings()
    linear = {
        name for name, part in model.named_modules() if isinstance(part, (nn.Linear, Conv1D)) and part is not head
    }
    if lora.target_modules is None:
        return linear
    chosen: set[str] = set()
    for target in lora.target_modules:
        named = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not named:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ValueError(f"lora.target_modules: no linear layer but the head is called {target!r}; use {known}")
        chosen |= named
    return chosen


def _silence_progress_bars() -> None:
    from transformers.utils import logging  # noqa: PLC0415

    cast(Any, logging).disable_progress_bar()


class Policy(nn.Module):
    """The model as the losses see it. One forward may run it on several parts of a batch, which is what ZeRO needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.predict = Predictions(model)

    def forward(self, run: "Callable[[Predictions], Tensor]") -> Tensor:
        """Whatever `run` makes of the model's outputs."""
        return run(self.predict)


class Predictions:
    """What a model says to tokens: a Forward, and one that takes several batches in one pass."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._plain_head = getattr(model.config, "model_type", None) in _PLAIN_HEADS
        self._packs = self._plain_head and use_packed_attention(without_wrapper(model))

    def __call__(self, tokens: TokenBatch) -> Outputs:
        """Predictions at every position."""
        inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "use_cache": False}
        model = without_wrapper(self._model)
        if self._plain_head:
            head = model.get_output_embeddings()
            return HiddenStates(model.base_model(**inputs).last_hidden_state, head, _piece(head))
        return FullLogits(model(**inputs).logits)

    def together(self, batches: Sequence[TokenBatch], *, share_prefixes: bool = False) -> list[Outputs]:
        """Predictions on rows padded on their right, at attended positions: of all batches in one pass, if it can be.

        The number of passes depends on the model and on how many batches there are, and so is the same on all ranks.
        With `share_prefixes` tokens with which a row begins like the row before it are run once.
        """
        if not self._packs or not batches:
            return [self(tokens) for tokens in batches]
        model = without_wrapper(self._model)
        attended = [tokens.attention_mask.bool() for tokens in batches]
        ids = torch.cat([tokens.input_ids[mask] for tokens, mask in zip(batches, attended, strict=True)])
        lengths = [length for mask in attended for length in mask.sum(-1).tolist()]
        rows, kept = pack_shared(torch.split(ids.cpu(), lengths)) if share_prefixes else (consecutive(lengths), None)
        packed_ids = ids if kept is None else ids[kept.to(ids.device)]
        hidden = run_packed(model.base_model, packed_ids, pack(rows, len(packed_ids)).to(ids.device))
        numbers = torch.split(torch.cat(rows).to(ids.device), [int(mask.sum()) for mask in attended])
        head = model.get_output_embeddings()
        piece = _piece(head)
        return [PackedStates(hidden, mask, own, head, piece) for mask, own in zip(attended, numbers, strict=True)]


def _piece(head: Any) -> int | None:
    """See Outputs. ZeRO 3 gathers a head's weights from all ranks each time that it is run."""
    return None if hasattr(head.weight, "ds_id") else piece_size(len(head.weight))
