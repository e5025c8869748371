"""A folder in a store, with a copy here of what is in use: behind a file: URI, and in S3."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator import storage
from orchestrator.storage import Storage, StorageError, join, open_storage, split
from tests.stores import new_bucket, s3_server


def write(place, name, text):
    path = place.local / name
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
    folder = Storage(tmp_path / "x")
    assert folder.names() == []
    write(folder, "sub/a", "1")
    folder.publish("sub", keep_copy=False)
    folder.drop_copy("sub")
    assert folder.sub("sub").fetch("a").read_text() == "1"
    assert folder.names() == ["sub"] and str(folder) == str(tmp_path / "x")
    folder.remove("sub")
    assert folder.names() == []


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


def test_copies_of_a_store_lie_in_the_default_storage_each_by_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("LETHE_COPIES", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    places = [open_storage(f"s3://{bucket}/lethe/run/") for bucket in ("one", "two")]
    assert places[0].uri == "s3://one/lethe/run"
    assert {place.local.parent for place in places} == {tmp_path / "lethe"} and places[0].local != places[1].local
    assert places[0].local.name.startswith("run-")
    assert open_storage("~/x") == Storage(tmp_path / "x")
    monkeypatch.setenv("LETHE_COPIES", str(tmp_path / "other"))
    assert open_storage("s3://one/lethe/run").local.parent == tmp_path / "other"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/x", "s3://key@bucket/x", "gs://token@bucket/x", "s3://bucket/x?secret_key=y",
        "abfss://c@a.dfs.core.windows.net/x?client_secret=y", "https://me:pass@host/x",
    ],
)  # fmt: skip
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri):
    with pytest.raises(ValueError, match="storage: a URI may hold no password") as error:
        open_storage(uri)
    assert not any(word in str(error.value) for word in ("secret@", "token@", "=y", "pass@"))


@pytest.mark.parametrize(
    "uri",
    ["abfss://container@account.dfs.core.windows.net/x", "s3://b/x?region=eu-1&scheme=http&endpoint_override=h:9"],
)
def test_what_is_no_password_is_taken(uri):
    assert open_storage(uri).uri == uri


def test_a_store_that_is_away_is_asked_again_for_a_while(store, monkeypatch):
    one, two = store
    write(one, "b", "y")
    put, pauses = storage._put, []

    def away(*_):
        raise OSError(errno.EHOSTUNREACH, "no route to the store")

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            monkeypatch.setattr(storage, "_put", put)

    monkeypatch.setattr(storage.time, "sleep", sleep)
    monkeypatch.setattr(storage, "_put", away)
    one.publish("b")
    assert pauses == [0.5, 1.0, 2.0] and two.fetch("b").read_text() == "y"
    monkeypatch.setattr(storage, "_put", away)
    with pytest.raises(StorageError, match="does not take b: .*no route to the store"):
        one.publish("b", patience_seconds=0.0, keep_copy=False)
    assert not (one.local / "b").exists() and len(pauses) == 3


def test_a_server_that_is_gone_is_an_error_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.0)
    with s3_server() as ending:
        gone = Storage(tmp_path, new_bucket(ending))
        assert gone.names() == []
    with pytest.raises(StorageError, match="cannot be listed: .*bucket"):
        gone.names()


def test_a_folder_that_is_fetched_by_several_processes_is_brought_once(store):
    one, two = store
    for number in range(20):
        write(one, f"folder/{number}", "x" * 1000)
    one.publish("folder")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: two.fetch("folder"), range(8)))
    assert set(found) == {two.local / "folder"} and len(list(found[0].iterdir())) == 20
    assert sorted(path.name for path in two.local.iterdir()) == [".fetch.lock", "folder"]


def test_many_files_are_fetched_side_by_side_and_those_that_are_here_are_left(store):
    one, two = store
    names = [f"{number:03d}" for number in range(40)]
    for name in names:
        write(one, name, name)
        one.publish(name)
    write(two, "007", "mine")
    two.fetch_files(names)
    assert [(two.local / name).read_text() for name in names] == [*names[:7], "mine", *names[8:]]
    assert len(list(two.local.iterdir())) == 40
    with pytest.raises(FileNotFoundError):
        two.fetch_files(["nothing"])


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A machine that loses power leaves nothing empty under the name: first all bytes, then the name and its folder."""
    synced = []

    def fsync(number):
        synced.append((os.readlink(f"/proc/self/fd/{number}"), (tmp_path / "trials/model").exists()))

    def write(folder):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "weights").write_bytes(b"x")

    monkeypatch.setattr(os, "fsync", fsync)
    Storage(tmp_path).put("trials/model", write)
    *before, last = synced
    assert last == (str(tmp_path / "trials"), True)
    assert [os.path.basename(path) for path, _ in before[:2]] == ["weights", "inner"] and len(before) == 3
    assert not any(named for _, named in before)
