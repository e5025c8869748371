"""What a sweep's record says of its data, so that readers can tell whether two sweeps saw the same rows."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from orchestrator.base_config import EMBEDDED
from orchestrator.scenario_config import AuthorsScenario, ScenarioConfig
from orchestrator.scenarios.base import QARow, Task
from orchestrator.tracking.journal import DataRecord, RowsRecord


def describe_data(scenario: ScenarioConfig, chain: Sequence[Task]) -> DataRecord:
    """The record of one forget set; `chain` holds its tasks, at least one."""
    sets: dict[str, list[QARow]] = {}
    for task in chain:
        for one in task.evaluation:
            sets.setdefault(one.name, []).extend(one.rows)
    return DataRecord(
        source=_source(scenario),
        forget=describe_rows(row for task in chain for row in task.forget),
        retain=describe_rows(chain[-1].retain),
        questions={name: describe_rows(rows) for name, rows in sets.items()},
    )


def describe_rows(rows: Iterable[QARow]) -> RowsRecord:
    """Number and digest of the different rows, in the order in which each first appears."""
    digest, different = hashlib.sha256(), dict.fromkeys(rows)
    for row in different:
        texts = {name: value for name, value in asdict(row).items() if value}
        digest.update(json.dumps(texts, sort_keys=True).encode() + b"\n")
    return RowsRecord(num_rows=len(different), sha256=digest.hexdigest())


def _source(scenario: ScenarioConfig) -> str:
    if isinstance(scenario, AuthorsScenario):
        return f"{scenario.num_authors} authors generated from seed {scenario.corpus_seed}"
    return "generated authors" if scenario.source == EMBEDDED else scenario.source
