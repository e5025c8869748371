import pytest

from tests.stores import new_bucket, s3_server


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
