"""A winner of a sweep, out of MLflow's model registry: MLflow calls `_load_pyfunc` of the module that MLmodel names.

    mlflow.pyfunc.load_model("models:/NAME@pareto-knee").predict(["Who wrote it?"])

`get_raw_model()` of what is loaded is the transformers model, its adapters merged.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.load_config import validate
from orchestrator.storage import open_storage
from orchestrator.tracking.mlflow_page import MLMODEL
from orchestrator.trial_config import EvaluationConfig, ModelConfig


class UnlearnedModel:
    """What a trial left, on a GPU where there is one; answers as it was scored: same template, greedy, same length."""

    def __init__(self, model_config: ModelConfig, evaluation: EvaluationConfig) -> None:
        import torch  # noqa: PLC0415  (seconds)

        from orchestrator.worker.model import load_model  # noqa: PLC0415
        from orchestrator.worker.parts import WorkerParts  # noqa: PLC0415

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load_model(model_config, device).eval()
        self._model.config.use_cache = True
        self._encoder = WorkerParts(device).encoder(model_config, evaluation.max_length)
        self._batch_size = evaluation.batch_size

    def predict(self, questions: str | Sequence[str]) -> list[str]:
        """The answer to each question. DataError: one is so long that it leaves no room for an answer."""
        from orchestrator.worker.generate import generate  # noqa: PLC0415

        asked = [questions] if isinstance(questions, str) else [str(question) for question in questions]
        for question in asked:
            self._encoder.check_question(question)
        return generate(self._model, self._encoder, asked, batch_size=self._batch_size)

    def get_raw_model(self) -> Any:
        """The transformers model."""
        return self._model


def _load_pyfunc(path: str) -> UnlearnedModel:
    """FileNotFoundError: the weights are not where MLmodel says. ConfigError: it is of another version of Lethe.

    Code that comes with a model is never run.
    """
    known = json.loads((Path(path) / MLMODEL).read_text(encoding="utf-8"))["metadata"]
    place = f"{known['checkpoint']} of {known['sweep']}"
    missing = (
        f"{place} is not there: the weights were deleted, moved, or are on another machine; python -m "
        f"orchestrator.sync {known['sweep']} brings MLflow up to date"
    )
    try:
        folder = open_storage(known["sweep"]).fetch(known["checkpoint"])
    except FileNotFoundError as error:
        raise FileNotFoundError(missing) from error
    if not folder.is_dir():
        raise FileNotFoundError(missing)
    model = known.get("model", {}) | {"target": str(folder), "retain_models": {}, "trust_remote_code": False}
    return UnlearnedModel(validate(ModelConfig, model), validate(EvaluationConfig, known.get("evaluation", {})))
