import pytest
from hypothesis import HealthCheck, settings

from orchestrator.storage import Storage
from tests.stores import new_bucket, s3_server

# A slow machine is not a failure: no example has to be done in time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def s3():
    with s3_server() as ending:
        yield ending


@pytest.fixture(params=["file", "s3"])
def store_uri(request, tmp_path):
    """An empty place in a store, of each kind."""
    if request.param == "file":
        return (tmp_path / "the store" / "ß").as_uri()
    return new_bucket(request.getfixturevalue("s3"))


@pytest.fixture
def store(tmp_path, store_uri):
    """One folder in a store, as two machines see it."""
    return Storage(tmp_path / "one", store_uri), Storage(tmp_path / "two", store_uri)
