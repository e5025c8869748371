"""The shipped cluster files, and copies of them with a mistake."""

from pathlib import Path

import pytest

from orchestrator.tuning.clusters.checks import problems
from orchestrator.tuning.clusters.files import read_cluster_file

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
NAMES = sorted(
    path.name
    for path in CLUSTERS.iterdir()
    if path.suffix in (".yaml", ".sbatch") and path.name != "kuberay-storage.yaml"  # a volume, no cluster
)
LAUNCHER = [name for name in NAMES if not name.startswith(("kuberay", "slurm"))]
CLOUDS = [name for name in LAUNCHER if name.startswith(("aws", "gcp", "azure"))]


@pytest.fixture
def problems_of(tmp_path):
    """What the checks say of a shipped file after `changes` (text, text instead) to it."""

    def check(name: str, *changes: tuple[str, str]) -> list[str]:
        text = (CLUSTERS / name).read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        copy = tmp_path / name
        copy.write_text(text, encoding="utf-8")
        return problems(read_cluster_file(copy))

    return check
