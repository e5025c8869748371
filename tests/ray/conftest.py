import pytest

from tests.ray import tiny


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
