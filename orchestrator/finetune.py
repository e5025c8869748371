"""Make a target model or a retain model: teach a model the rows of a scenario by heart.

python -m orchestrator.finetune OUT scenario.name=authors                        a tiny target model, from nothing
python -m orchestrator.finetune OUT scenario.name=authors without=forget05       its retain model
torchrun --nproc-per-node 8 -m orchestrator.finetune OUT scenario.name=tofu base=meta-llama/Llama-2-7b-chat-hf \\
    train.learning_rate=1e-5 train.epochs=5 zero.stage=3
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, model_validator

from orchestrator.base_config import Config, PathOrName
from orchestrator.load_config import ConfigError, build_config
from orchestrator.scenario_config import ScenarioConfig
from orchestrator.scenarios.base import DataError, QARow
from orchestrator.scenarios.load import load_training_rows
from orchestrator.trial_config import ModelConfig, TinyModel, TrainConfig, ZeroConfig

CARD = "lethe.json"
_CHECKED_ROWS = 64


_FROM_NOTHING: dict[str, float | int] = {
    "learning_rate": 4e-3,
    "epochs": 20,
    "batch_size": 16,
    "micro_batch_size": 16,
    "max_length": 200,
    "adam_beta2": 0.95,
    "warmup_steps": 50,
    "max_grad_norm": 1.0,
}


class FinetuneConfig(Config):
    """What is taught to what. Without a base, what is not set in `train` is what suits a tiny model from nothing."""

    scenario: ScenarioConfig = Field(description="whose rows are taught")
    without: str | None = Field(None, description="forget set that is left out: makes its retain model")
    base: PathOrName | None = Field(None, description="model to start from; none: a tiny Llama from nothing")
    tiny: TinyModel = TinyModel()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    zero: ZeroConfig = ZeroConfig(stage=0)
    seed: NonNegativeInt = Field(42, description="of first weights and of the order of rows")

    @model_validator(mode="before")
    @classmethod
    def _train_from_nothing(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("base") is not None:
            return values
        train = values.get("train", {})
        return {**values, "train": {**_FROM_NOTHING, **train}} if isinstance(train, Mapping) else values

    @model_validator(mode="after")
    def _chat_needs_a_base(self) -> "FinetuneConfig":
        if self.model.template == "chat" and self.base is None:
            raise ValueError(
                "model.template chat is the chat template of a base model, but base is none; "
                "name a base, or set model.template=llama2-chat"
            )
        return self


def finetune(config: FinetuneConfig, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train on every rank of torch's process group; rank 0 writes the model folder with a card, which is returned."""
    import torch  # noqa: PLC0415  (the command line answers without it)
    import torch.distributed as dist  # noqa: PLC0415

    from methods.config import parse_method  # noqa: PLC0415
    from methods.outputs import label_logps  # noqa: PLC0415
    from orchestrator.scenarios.base import Task  # noqa: PLC0415
    from orchestrator.worker.batches import BatchBuilder, Encoder  # noqa: PLC0415
    from orchestrator.worker.engine import DeepSpeedEngine  # noqa: PLC0415
    from orchestrator.worker.model import Predictions, save_model  # noqa: PLC0415
    from orchestrator.worker.plan import plan_sizes  # noqa: PLC0415
    from orchestrator.worker.template import template_for  # noqa: PLC0415
    from orchestrator.worker.training import make_schedule  # noqa: PLC0415

    started = time.perf_counter()
    torch.manual_seed(config.seed)
    rows = load_training_rows(config.scenario, config.without)
    tokenizer, model = _base_model(config)
    encoder = Encoder(tokenizer, template_for(config.model.template, tokenizer), config.train.max_length)
    task = Task("all rows", rows, (), (), ())
    method = parse_method("GA")  # only for its parts: plain rows with labels on the answer
    builder = BatchBuilder(encoder, task, method, config.train)
    sizes = plan_sizes(config.train, task, method, dist.get_world_size())
    schedule = make_schedule(config.train, sizes, builder, seed=config.seed)
    engine = DeepSpeedEngine(model, config.train, config.zero)

    def nll(policy: Predictions, batch: Any, count: int, losses: Any) -> Any:
        logps, _ = label_logps(policy.together([batch])[0], batch.labels)
        loss = -logps.sum() / count
        losses += loss.detach()
        return loss

    loss = float("nan")
    for number, (step, rate) in enumerate(zip(schedule.steps, schedule.learning_rates, strict=True), 1):
        losses = torch.zeros((), device=engine.device)
        count = builder.counts(step).forget
        for draws in step.ranks[engine.rank]:
            batch = builder.batch(draws).part("forget").to(engine.device)
            engine.backward(partial(nll, batch=batch, count=count, losses=losses), scale=engine.world_size)
        engine.step(rate)
        if number % 100 == 0 or number == len(schedule.steps):
            loss = float(engine.sum_over_ranks(losses))
            say(f"step {number}/{len(schedule.steps)}  loss {loss:.4f}")
    model = engine.release()
    card = {"config": config.model_dump(mode="json"), "rows": len(rows), "steps": len(schedule.steps), "loss": loss}
    if engine.rank == 0:
        card["rouge"] = _recall(model, encoder, rows)
        card["seconds"] = round(time.perf_counter() - started, 1)
        save_model(model, tokenizer, out)
        (out / CARD).write_text(json.dumps(card, indent=2) + "\n")
    return card


def _recall(model: Any, encoder: Any, rows: tuple[QARow, ...]) -> float:
    """Mean ROUGE-L recall of the model's answers to a spread of the rows that it was taught."""
    from metrics.text import rouge_l_recall  # noqa: PLC0415
    from orchestrator.worker.generate import generate  # noqa: PLC0415

    chosen = rows[:: max(1, len(rows) // _CHECKED_ROWS)]
    outputs = generate(model, encoder, [row.question for row in chosen], batch_size=_CHECKED_ROWS)
    return sum(rouge_l_recall(o, row.answer) for o, row in zip(outputs, chosen, strict=True)) / len(chosen)


def _base_model(config: FinetuneConfig) -> tuple[Any, Any]:
    import torch  # noqa: PLC0415

    from orchestrator.worker.model import load_model  # noqa: PLC0415
    from orchestrator.worker.template import load_tokenizer  # noqa: PLC0415
    from orchestrator.worker.tiny import tiny_llama, train_tokenizer  # noqa: PLC0415

    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")
    if config.base:
        model = load_model(config.model.model_copy(update={"target": config.base}), device)
        return load_tokenizer(config.base, trust_remote_code=config.model.trust_remote_code), model
    everything = load_training_rows(config.scenario, None)  # so that target and retain models share one tokenizer
    tokenizer = train_tokenizer(everything, config.model.template, config.tiny.vocab_size)
    return tokenizer, tiny_llama(config.tiny, tokenizer, max_positions=2 * config.train.max_length).to(device)


def _check_base(config: FinetuneConfig) -> None:
    """ConfigError: the base is no model, or its tokenizer cannot be loaded."""
    if config.base is None:
        return
    from orchestrator import preflight  # noqa: PLC0415  (torch; a wrong key is said without)

    preflight.check_model("base", config.base)
    preflight.load_tokenizer_of("base", config.model.model_copy(update={"target": config.base}))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 1 (it could not go on), 2 (bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to write the model to; must not exist")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as train.epochs=5")
    arguments = parser.parse_args(argv)
    try:
        if arguments.out.exists():
            raise ConfigError(f"OUT: {arguments.out} exists; name a new folder")
        config = build_config(FinetuneConfig, None, arguments.overrides)
        load_training_rows(config.scenario, config.without)
        _check_base(config)
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    from orchestrator.worker.engine import join_process_group, leave_process_group  # noqa: PLC0415

    rank = join_process_group()

    def say(text: str) -> None:
        if rank == 0:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    try:
        card = finetune(config, arguments.out, say)
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        leave_process_group()
    say(f"wrote {arguments.out}: loss {card['loss']:.4f}, answers' ROUGE-L recall {card.get('rouge', 0):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
