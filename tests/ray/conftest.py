import pytest

from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import chaos, tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return tiny.make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def slot_sweep(models, tmp_path_factory):
    """One whole sweep in a slot, which several tests look at: NPO+GD and IDK+AP, two trials each."""
    storage = tmp_path_factory.mktemp("with space")
    done = tiny.run(tiny.settings(models, storage, "methods=[NPO+GD,IDK+AP]", "search.trials_per_cell=2"))
    assert done.returncode == 0, done.stdout + done.stderr
    return done, tiny.sweep_folder(storage)


@pytest.fixture(scope="session")
def undisturbed(models, tmp_path_factory):
    """The sweep that is broken in many ways, when nothing happens to it."""
    storage = tmp_path_factory.mktemp("undisturbed")
    chaos.ends_with(chaos.start(models, storage), 0)
    folder = tiny.sweep_folder(storage)
    trial = load_sweep(folder).trials[chaos.key(0)]
    assert [step.step for step in trial.steps] == list(range(chaos.NUM_STEPS))
    return folder


@pytest.fixture
def no_sweep_is_left():
    yield
    chaos.stop_all()
