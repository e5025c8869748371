"""A folder in a store, with a copy here of what is in use. file: URIs go the way that s3: and gs: URIs go."""

import pytest

from orchestrator.storage import Storage, join, open_storage, split


@pytest.fixture
def store(tmp_path):
    """Two machines' views of one folder in a store."""
    uri = (tmp_path / "the store" / "ß").as_uri()
    return Storage(tmp_path / "one", uri), Storage(tmp_path / "two", uri)


def write(storage, name, text):
    path = storage.local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_one_machine_publishes_another_fetches(store):
    one, two = store
    assert two.names() == [] and two.sub("trials").names() == []
    write(one, "trials/a/model/weights", "w")
    write(one, "trials/a/scores", "s")
    one.publish("trials/a/model")
    one.publish("trials/a/scores", keep_copy=False)
    assert two.names() == ["trials"] and two.sub("trials/a").names() == ["model", "scores"]
    assert (two.fetch("trials/a/model") / "weights").read_text() == "w"
    assert two.sub("trials").fetch("a/scores").read_text() == "s"
    assert not (one.local / "trials/a/scores").exists() and (one.local / "trials/a/model/weights").exists()
    assert one.fetch("trials/a/scores").read_text() == "s"


def test_a_copy_that_is_here_is_not_fetched_again_until_it_is_dropped(store):
    one, two = store
    write(one, "a", "first")
    one.publish("a")
    assert two.fetch("a").read_text() == "first"
    write(one, "a", "second")
    one.publish("a")
    assert two.fetch("a").read_text() == "first"
    two.drop_copy("a")
    assert two.fetch("a").read_text() == "second"


def test_what_is_removed_is_gone_here_and_there(store):
    one, two = store
    for name in ("folder/file", "file"):
        write(one, name, "x")
        one.publish(name)
    one.remove("folder")
    one.remove("file")
    one.remove("never was")
    assert two.names() == [] and list(one.local.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="No such file in the store"):
        two.fetch("file")


def test_a_folder_without_a_store_is_just_that(tmp_path):
    storage = Storage(tmp_path / "x")
    assert storage.names() == []
    write(storage, "sub/a", "1")
    storage.publish("sub", keep_copy=False)
    storage.drop_copy("sub")
    assert storage.sub("sub").fetch("a").read_text() == "1"
    assert storage.names() == ["sub"] and str(storage) == str(tmp_path / "x")
    storage.remove("sub")
    assert storage.names() == []


@pytest.mark.parametrize(
    ("place", "name", "inside"),
    [
        ("s3://bucket/lethe", "a/b", "s3://bucket/lethe/a/b"),
        ("s3://bucket", "a", "s3://bucket/a"),
        ("s3://b/x/?endpoint_override=127.0.0.1:9", "a", "s3://b/x/a?endpoint_override=127.0.0.1:9"),
        ("/data/lethe/", "a", "/data/lethe/a"),
    ],
)
def test_names_inside_of_places(place, name, inside):
    assert join(place, name) == inside
    if name == "a":
        assert split(inside)[1] == "a" and join(*split(inside)) == inside


def test_copies_of_a_store_lie_in_the_default_storage(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_storage("s3://bucket/lethe/run/") == Storage(tmp_path / "lethe" / "run", "s3://bucket/lethe/run")
    assert open_storage("~/x") == Storage(tmp_path / "x")
