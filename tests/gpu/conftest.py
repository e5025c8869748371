"""What the tests on a GPU share: one process group, and small models."""

import pytest
import torch


@pytest.fixture(scope="session")
def group():
    from orchestrator.worker.engine import join_process_group, leave_process_group

    torch.cuda.set_device(0)
    join_process_group()
    yield
    leave_process_group()


@pytest.fixture(scope="session")
def parts(group):
    from orchestrator.worker.parts import WorkerParts

    return WorkerParts(torch.device("cuda", 0))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    from tests.ray import tiny

    return tiny.make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def make_config(models, tmp_path):
    """A trial of the small models by method and settings of its sweep; without a method it only scores."""
    from orchestrator.config import MethodEntry, baseline_config, trial_config
    from orchestrator.load_config import load_config
    from tests.ray import tiny

    def make(method, *settings):
        sweep_name, *overrides = tiny.settings(models, tmp_path, *settings)
        sweep = load_config(sweep_name, overrides)
        if method is None:
            return baseline_config(sweep, "forget10", sweep.model.target)
        return trial_config(sweep, MethodEntry(name=method), "forget10", {})

    return make
