"""What the measurements of one model share: its shape, random weights, a tokenizer, the rows of TOFU, trials.

Weights are random and made on the device; nothing of them touches the disk. The tokenizer is trained on the corpus and
given as many tokens as make its rows as long as Llama-2's tokenizer makes them: in the published log of Llama-2-7B on
forget10 the 300 answers have 43.4 tokens on average, and as many by ours. Embeddings and head keep all 32,000 rows.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.fidelity import SHARED
from benchmarks.gpu.flops import LLAMA2_7B, Shape
from orchestrator.scenario_config import AuthorsScenario, ScenarioConfig, TofuScenario
from orchestrator.scenarios.base import QARow, Task
from orchestrator.scenarios.load import load_tasks, load_training_rows
from orchestrator.trial_config import EvaluationConfig, LoraConfig, ModelConfig

FORGET_SET = "forget10"
VOCABULARY = 3800
SHAPES = {"llama2-7b": LLAMA2_7B, "tiny": Shape(32, 2, 64, 2, 4000)}
DATA = "folder of TOFU, or authors: generated ones"
_FORGET_SETS = ("forget01", "forget05", "forget10")


def default_data() -> Path | None:
    """TOFU beside the checkout, if it is there."""
    folder = SHARED / "data" / "tofu"
    return folder if folder.is_dir() else None


def data_folder(text: str) -> Path | None:
    """Of a command line: a folder, or `authors` for generated ones."""
    return None if text == "authors" else Path(text)


def scenario(data: Path | None, *, num_authors: int = 200) -> ScenarioConfig:
    """TOFU from a folder, or as many generated authors.

    A folder without retain99.json is one of tasks: its first ones are TOFU's own splits, and the rows of the other
    tasks are retained too.
    """
    if data is None:
        return AuthorsScenario(num_authors=num_authors)
    if (data / "retain99.json").is_file():
        return TofuScenario(name="tofu", source=str(data))
    sets = dict(zip(_FORGET_SETS, ("retain90", "retain50", "retain10"), strict=True))
    return TofuScenario(name="tofu", source=str(data), task_id="1", retain_sets=sets)


def prepare(work: Path, rows: ScenarioConfig) -> None:
    """Write what the processes of the measurements read: `work/model` (tokenizer) and `work/rows` (JSON lines)."""
    from orchestrator.worker.tiny import train_tokenizer  # noqa: PLC0415  (seconds to import)

    tokenizer = train_tokenizer(load_training_rows(rows, None), "llama2-chat", VOCABULARY)
    tokenizer.save_pretrained(work / "model")
    (task,) = load_tasks(rows, EvaluationConfig(), FORGET_SET)
    folder = work / "rows"
    folder.mkdir(exist_ok=True)
    for name, part in (("forget01", task.forget), ("retain90", task.retain)):  # the names that the naive loop reads
        (folder / f"{name}.json").write_text("".join(json.dumps(plain_row(row)) + "\n" for row in part))
    (folder / "refusals.txt").write_text("\n".join(task.refusals) + "\n")


def plain_row(row: QARow) -> dict[str, Any]:
    """A row with the keys of TOFU's files."""
    values = asdict(row)
    values["perturbed_answer"] = list(values.pop("perturbed_answers"))
    return {key: value for key, value in values.items() if value is not None}


def device() -> torch.device:
    """The GPU if there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)


def make_model(shape: Shape, tokenizer: Any, place: torch.device, *, lora: bool = False, target: str = "") -> Any:
    """Random weights in the type that a trial computes in, or the model of a folder; with the paper's adapters."""
    from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: PLC0415  (seconds to import)

    from orchestrator.worker.model import add_adapters, compute_dtype, load_model  # noqa: PLC0415

    torch.manual_seed(0)
    if target:
        return load_model(ModelConfig(target=target), place, LoraConfig() if lora else None)
    assert len(tokenizer) <= shape.vocab_size, len(tokenizer)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    with place:
        dtype = compute_dtype("auto", place)
        model: Any = cast(Any, AutoModelForCausalLM).from_config(config, dtype=dtype, attn_implementation="sdpa")
    return (add_adapters(model, LoraConfig()) if lora else model).train()


@contextmanager
def process_group() -> Iterator[None]:
    """A process group of this process alone, if it is in none yet: DeepSpeed does not survive a second one."""
    import torch.distributed as dist  # noqa: PLC0415

    from orchestrator.worker.engine import start_process_group  # noqa: PLC0415

    if dist.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        start_process_group(0, 1, f"file://{folder}/store")
        try:
            yield
        finally:
            dist.destroy_process_group()


def now(place: torch.device) -> float:
    """Seconds, after everything that was asked of the device is done."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter()


def memory(place: torch.device) -> dict[str, float]:
    """GiB of the device's memory at the peak of this process: in tensors, and taken from the device."""
    if place.type != "cuda":
        return {}
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated(place) / 2**30, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved(place) / 2**30, 2),
    }


def average_tokens(task: Task, tokenizer: Any) -> dict[str, float]:
    """Tokens of the forget rows and of their answers, on average: to be compared with other tokenizers."""
    whole = [len(tokenizer(f"[INST] {row.question} [/INST]{row.answer}").input_ids) for row in task.forget]
    answers = [len(tokenizer(row.answer, add_special_tokens=False).input_ids) for row in task.forget]
    return {"row_tokens": round(sum(whole) / len(whole), 1), "answer_tokens": round(sum(answers) / len(answers), 1)}
