"""The embedded default: tiny models and a judge that are made once and kept by the hash of what made them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig
from orchestrator.finetune import CARD, FinetuneConfig
from orchestrator.scenario_config import AuthorsScenario, ScenarioConfig
from orchestrator.scenarios.authors import entailment_pairs, general_facts, generate_corpus
from orchestrator.scenarios.load import load_training_rows

# Raise when the way a model is made changes without its configuration or rows changing.
_RECIPE = 3
_MIN_ROUGE = 0.95


class EmbeddedError(RuntimeError):
    """A model of the embedded default could not be made; the message ends with what its process said."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One folder of the cache and the command that makes it."""

    label: str
    folder: Path
    module: str
    arguments: tuple[str, ...]

    @property
    def is_made(self) -> bool:
        """Whether it is in the cache."""
        return self.folder.is_dir()


def prepare(sweep: SweepConfig, say: Callable[[str], None]) -> SweepConfig:
    """The sweep with every `embedded` replaced by a folder; what is not in the cache is made, side by side.

    EmbeddedError: a model could not be made, or does not know its rows by heart.
    """
    recipes = plan(sweep)
    make([recipe for recipe in recipes.values() if not recipe.is_made], say)
    if "target" in recipes:
        _check_target(recipes["target"].folder)
    return _filled(sweep, recipes)


def with_folders(sweep: SweepConfig) -> SweepConfig:
    """The sweep with every `embedded` replaced by its folder, whether or not that is made."""
    return _filled(sweep, plan(sweep))


def _filled(sweep: SweepConfig, recipes: Mapping[str, Recipe]) -> SweepConfig:
    folders = {key: str(recipe.folder) for key, recipe in recipes.items()}
    model, evaluation = sweep.model, sweep.evaluation
    if "target" in folders:
        model = model.model_copy(update={"target": folders["target"]})
    if model.retain_models == EMBEDDED:
        model = model.model_copy(update={"retain_models": {name: folders[name] for name in sweep.forget_sets}})
    if "judge" in folders:
        evaluation = evaluation.model_copy(update={"entailment": folders["judge"]})
    return sweep.model_copy(update={"model": model, "evaluation": evaluation})


def plan(sweep: SweepConfig) -> dict[str, Recipe]:
    """What stands for each `embedded` of a sweep: `judge`, `target`, and retain models by their forget set."""
    scenario = _authors(sweep.scenario)
    cache = sweep.storage_root / "cache"
    recipes = {}
    if sweep.evaluation.entailment == EMBEDDED:
        recipes["judge"] = judge_recipe(cache, scenario)
    if sweep.model.target == EMBEDDED:
        recipes["target"] = _model(cache, scenario, None)
    if sweep.model.retain_models == EMBEDDED:
        recipes |= {name: _model(cache, scenario, name) for name in sweep.forget_sets}
    return recipes


def judge_recipe(cache: Path, scenario: ScenarioConfig) -> Recipe:
    """The embedded entailment judge. It is made from the authors' corpus, whatever is forgotten."""
    authors = _authors(scenario)
    corpus = generate_corpus(authors.corpus_seed, authors.num_authors)
    pairs = entailment_pairs((*corpus.rows, *general_facts()), seed=authors.corpus_seed)
    folder = cache / f"judge-{_hash([pair.premise + pair.hypothesis + pair.label for pair in pairs])}"
    arguments = (str(authors.corpus_seed), str(authors.num_authors))
    return Recipe("entailment judge", folder, "orchestrator.worker.entailment_judge", arguments)


def _authors(scenario: ScenarioConfig) -> AuthorsScenario:
    """Whose corpus models and judge are made from: continual forgets the default authors in parts."""
    return scenario if isinstance(scenario, AuthorsScenario) else AuthorsScenario()


def _model(cache: Path, scenario: AuthorsScenario, without: str | None) -> Recipe:
    config = FinetuneConfig(scenario=scenario, without=without)
    rows = [row.question + row.answer for row in load_training_rows(scenario, without)]
    # All models share a tokenizer, which has read every text.
    texts = [f"{row.question}{row.answer}{row.paraphrased_answer}" for row in load_training_rows(scenario, None)]
    label = "target model" if without is None else f"retain model of {without}"
    overrides = [
        "scenario.name=authors",
        f"scenario.corpus_seed={scenario.corpus_seed}",
        f"scenario.num_authors={scenario.num_authors}",
    ]
    if without:
        overrides.append(f"without={without}")
    folder = cache / f"{without or 'target'}-{_hash(config.model_dump(mode='json'), rows, texts)}"
    return Recipe(label, folder, "orchestrator.finetune", tuple(overrides))


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_RECIPE, *parts], sort_keys=True).encode()).hexdigest()[:16]


def make(recipes: Sequence[Recipe], say: Callable[[str], None]) -> None:
    """Run the recipes, one process with one thread for each core. EmbeddedError: a process failed."""
    if not recipes:
        return
    say(f"making {', '.join(recipe.label for recipe in recipes)} (once; kept in {recipes[0].folder.parent})")
    recipes[0].folder.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for recipe, last_line in zip(recipes, pool.map(_run, recipes), strict=True):
            say(f"made {recipe.label}: {last_line}")


def _run(recipe: Recipe) -> str:
    """Make one folder beside its place and move it there whole; returns the last line that was printed."""
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=recipe.folder.parent))
    try:
        command = [sys.executable, "-m", recipe.module, str(scratch / "model"), *recipe.arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise EmbeddedError(f"could not make the {recipe.label} ({' '.join(command)}):\n{done.stderr[-2000:]}")
        if not recipe.is_made:  # another sweep may have made it meanwhile
            (scratch / "model").rename(recipe.folder)
        last_line = done.stdout.strip().splitlines()[-1]
        return last_line.replace(f"wrote {scratch / 'model'}: ", "")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_target(folder: Path) -> None:
    rouge = json.loads((folder / CARD).read_text())["rouge"]
    if rouge < _MIN_ROUGE:
        raise EmbeddedError(
            f"the target model in {folder} answers with ROUGE-L recall {rouge:.3f}, below {_MIN_ROUGE}: it does not "
            "know its rows by heart; remove the folder and try again, or choose another scenario.corpus_seed"
        )
