"""The synthetic sweep as fixtures."""

import pytest
from synthetic_sweep import write_sweep

from orchestrator.tracking.sweep_log import load_sweep


@pytest.fixture
def sweep_dir(tmp_path):
    return write_sweep(tmp_path / "sweep")


@pytest.fixture
def log(sweep_dir):
    return load_sweep(sweep_dir)
