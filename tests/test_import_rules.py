"""Who may import whom, and how long files and functions may be, read from the source without importing it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("methods", "metrics", "orchestrator")

# A place is a file, or a folder with everything below it. The first place that matches a file holds.
# All that the file may import besides the standard library:
MAY_IMPORT = {
    "methods/config.py": ("pydantic",),
    "methods/": ("torch", "methods"),
    "metrics/": ("numpy", "scipy", "rouge_score", "metrics"),
}
# What only these places may import; `a.b` means a.b and all below it:
ONLY_IN = {
    "mlflow": (
        "orchestrator/tracking/mlflow_view.py",
        "orchestrator/tracking/mlflow_entities.py",
        "orchestrator/tracking/mlflow_registry.py",
        "orchestrator/tracking/mlflow_evaluation.py",
    ),
    "optuna": ("orchestrator/tuning/",),
    "ray.tune": ("orchestrator/tuning/",),
    "ray": ("orchestrator/tuning/", "orchestrator/worker/entry.py"),
    "deepspeed": ("orchestrator/worker/",),
    "orchestrator.worker": (
        "orchestrator/worker/",
        "orchestrator/tuning/",
        "orchestrator/finetune.py",
        "orchestrator/evaluate.py",
        "orchestrator/export.py",
        "orchestrator/preflight.py",
        "orchestrator/registered.py",
    ),
}
# Places that must open fast and anywhere: nothing of HEAVY, not even inside a function.
LIGHT = (
    "orchestrator/base_config.py",
    "orchestrator/config.py",
    "orchestrator/space.py",
    "orchestrator/load_config.py",
    "orchestrator/report.py",
    "orchestrator/sync.py",
    "orchestrator/scenarios/",
    "orchestrator/analysis/",
    "orchestrator/tracking/",
)
HEAVY = (
    "torch", "ray", "deepspeed", "transformers", "peft", "accelerate", "sentence_transformers",
    "methods.batch", "methods.losses", "methods.method", "methods.outputs",
    "orchestrator.worker", "orchestrator.tuning",
)  # fmt: skip

MAX_FILE_LINES = 420
MAX_FUNCTION_LINES = 60


def imports(source: str, path: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of every import at any depth, of `import_module("...")`, and of `package.part` uses.

    `from a import b` counts as `a.b`; a relative import is resolved from `path`.
    """
    tree = ast.parse(source)
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = list(Path(path).parts[: -node.level]) if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, module if alias.name == "*" else f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and _is_dynamic_import(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
            yield node.lineno, f"{bound[node.value.id]}.{node.attr}"


def _is_dynamic_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in ("import_module", "__import__")


def import_violations(source: str, path: str) -> list[str]:
    """One line for each import in `source` that a file at `path` (relative to the project) may not have."""
    found: dict[str, None] = {}
    allowed = next((names for place, names in MAY_IMPORT.items() if _within(path, (place,))), None)
    for line, name in imports(source, path):
        top = name.partition(".")[0]
        if allowed is not None and top not in (*allowed, *sys.stdlib_module_names):
            found[f"{path}:{line}: imports {top}; may import only {', '.join(allowed)}"] = None
        for module, places in ONLY_IN.items():
            if _is_or_below(name, module) and not _within(path, places):
                found[f"{path}:{line}: imports {module}; only {', '.join(places)} may"] = None
        for module in HEAVY:
            if _is_or_below(name, module) and _within(path, LIGHT):
                found[f"{path}:{line}: imports {module}; it must work without"] = None
    return list(found)


def length_violations(source: str, path: str) -> list[str]:
    """One line if the file is too long, and one for each function that is."""
    num_lines = source.count("\n")
    too_long = [f"{path}: {num_lines} lines; at most {MAX_FILE_LINES}"] if num_lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                too_long.append(f"{path}:{node.lineno}: {node.name} has {length} lines; at most {MAX_FUNCTION_LINES}")
    return too_long


def _within(path: str, places: tuple[str, ...]) -> bool:
    return any(path.startswith(place) if place.endswith("/") else path == place for place in places)


def _is_or_below(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def project_files() -> dict[str, str]:
    """Source by path relative to the project."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def modules_below(place: str) -> list[str]:
    """Dotted names of the modules in a file or folder."""
    paths = sorted((ROOT / place).rglob("*.py")) if place.endswith("/") else [ROOT / place]
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
        if path.is_file()
    ]


def test_every_file_imports_only_what_its_room_may():
    files = project_files()
    assert {"methods/losses.py", "metrics/text.py", "orchestrator/worker/entry.py"} <= files.keys()
    assert [line for path, source in files.items() for line in import_violations(source, path)] == []


def test_package_markers_are_empty():
    files = project_files()
    assert [path for path, source in files.items() if path.endswith("/__init__.py") and source] == []
    folders = {str(Path(path).parent) for path in files}
    assert [folder for folder in sorted(folders) if f"{folder}/__init__.py" not in files] == []


def test_files_and_functions_stay_short():
    assert [line for path, source in project_files().items() for line in length_violations(source, path)] == []


@pytest.mark.parametrize("place", ["methods/config.py", "metrics/", *LIGHT])
def test_light_places_load_neither_torch_nor_ray(place: str):
    modules = modules_below(place)
    assert modules
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program, *modules], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    assert set(modules) <= set(loaded)
    assert {"torch", "ray", "deepspeed", "transformers"} & set(loaded) == set()


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("methods/losses.py", "import numpy as np", "imports numpy"),
        ("methods/losses.py", "from orchestrator.config import Config", "imports orchestrator"),
        ("methods/losses.py", "from metrics.text import rouge_l_recall", "imports metrics"),
        ("methods/config.py", "from torch import Tensor", "imports torch"),
        ("methods/config.py", "from methods.batch import TokenBatch", "imports methods"),
        ("methods/config.py", "from . import batch", "imports methods"),
        ("methods/new/deep.py", "import ray", "imports ray"),
        ("metrics/text.py", "def f():\n    import torch", "metrics/text.py:2: imports torch"),
        ("metrics/text.py", "import methods.config", "imports methods"),
        ("metrics/text.py", "try:\n    import mlflow.pytorch\nexcept ImportError: pass", "imports mlflow"),
        ("orchestrator/report.py", "def f():\n    import torch.nn as nn", "imports torch"),
        ("orchestrator/config.py", "from methods import batch", "imports methods.batch"),
        ("orchestrator/load_config.py", "import_module('ray.train')", "imports ray"),
        ("orchestrator/sync.py", "from orchestrator import worker", "imports orchestrator.worker"),
        ("orchestrator/sync.py", "import mlflow", "imports mlflow"),
        ("orchestrator/scenarios/tofu.py", "from transformers import AutoTokenizer", "imports transformers"),
        ("orchestrator/analysis/plots.py", "from ..worker.score import Score", "imports orchestrator.worker"),
        ("orchestrator/tracking/journal.py", "from mlflow import MlflowClient", "imports mlflow"),
        ("orchestrator/tuning/slot.py", "import mlflow", "imports mlflow"),
        ("orchestrator/tuning/slot.py", "import deepspeed", "imports deepspeed"),
        ("orchestrator/worker/entry.py", "import optuna", "imports optuna"),
        ("orchestrator/worker/entry.py", "from ray import tune", "imports ray.tune"),
        ("orchestrator/worker/entry.py", "from ray.tune import report", "imports ray.tune"),
        ("orchestrator/worker/entry.py", "import ray\nray.tune.report({})", "entry.py:2: imports ray.tune"),
        ("orchestrator/worker/entry.py", "import ray as r\nr.tune.report({})", "imports ray.tune"),
        ("orchestrator/worker/loop.py", "import ray.train", "imports ray"),
        ("orchestrator/worker/loop.py", "if TYPE_CHECKING:\n    import ray", "imports ray"),
        ("orchestrator/worker/loop.py", "__import__('mlflow')", "imports mlflow"),
        ("orchestrator/sweep.py", "from orchestrator.worker.trial import run_trial", "imports orchestrator.worker"),
        ("orchestrator/sweep.py", "from orchestrator.worker import *", "imports orchestrator.worker"),
        ("orchestrator/sweep.py", "import importlib\nimportlib.import_module('orchestrator.worker.model')", "worker"),
    ],
)  # fmt: skip
def test_a_planted_import_is_caught(path: str, source: str, words: str):
    assert any(words in line for line in import_violations(source, path))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("methods/losses.py", "import math\nimport torch.nn.functional as F\nfrom methods.batch import TokenBatch"),
        ("metrics/text.py", "from rouge_score.rouge_scorer import RougeScorer\nfrom metrics import aggregate"),
        ("orchestrator/config.py", "from methods.config import MethodConfig"),
        ("orchestrator/scenarios/tofu.py", "def f():\n    from datasets import load_dataset"),
        ("orchestrator/tracking/mlflow_view.py", "from mlflow import MlflowClient"),
        ("orchestrator/tuning/slot.py", "import optuna\nfrom ray import train, tune\nimport orchestrator.worker.entry"),
        ("orchestrator/worker/entry.py", "import ray\nimport ray.train\nray.train.report({})"),
        ("orchestrator/worker/loop.py", "import rays\nimport torch\nfrom .engine import DeepSpeedEngine"),
        ("orchestrator/evaluate.py", "def f():\n    from orchestrator.worker.score import score_questions"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str):
    assert import_violations(source, path) == []


def test_length_is_measured_in_lines_of_file_and_function():
    longest = "def f():\n" + "    pass\n" * 59
    too_long = "class C:\n    async def f(self):\n" + "        pass\n" * 60
    assert length_violations(longest, "a.py") == []
    assert length_violations(too_long, "a.py") == ["a.py:2: f has 61 lines; at most 60"]
    assert length_violations("#\n" * 420, "a.py") == []
    assert length_violations("#\n" * 421, "a.py") == ["a.py: 421 lines; at most 420"]
