"""Checkpoints: written whole or not at all, damaged ones are passed over."""

import errno
import json

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file

from orchestrator.storage import Storage, StorageError
from orchestrator.worker import checkpoint
from orchestrator.worker.checkpoint import newest_checkpoint, save_checkpoint
from orchestrator.worker.engine import start_process_group


def weights(text):
    def fill(folder):
        (folder / "model.safetensors").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "more.json").write_text("{}")

    return fill


def found_in(root):
    found = newest_checkpoint(Storage(root))
    return found and found[0].state["n"]


def numbers_in(root):
    return sorted(int(path.name) for path in root.iterdir())


def test_the_newest_is_found_with_its_state_and_the_one_before_is_kept(tmp_path):
    assert newest_checkpoint(Storage(tmp_path / "not there")) is None
    for number in (8, 9, 10):
        made = save_checkpoint(Storage(tmp_path), number, weights(f"w{number}"), {"n": number})
    found, start = newest_checkpoint(Storage(tmp_path))
    assert start is None and found == made and found.state == {"n": 10}
    assert (found.part(0) / "model.safetensors").read_text() == "w10"
    assert numbers_in(tmp_path) == [9, 10]


def test_what_a_checkpoint_starts_from_is_kept_as_long_as_it_is_needed(tmp_path):
    first = save_checkpoint(Storage(tmp_path), 1, weights("one"), {"n": 1})
    for number in (2, 3, 4):
        save_checkpoint(Storage(tmp_path), number, weights("point"), {"n": number}, start=first)
    assert numbers_in(tmp_path) == [1, 3, 4]
    found, start = newest_checkpoint(Storage(tmp_path))
    assert found.state == {"n": 4} and start == first
    second = save_checkpoint(Storage(tmp_path), 5, weights("five"), {"n": 5})
    assert numbers_in(tmp_path) == [1, 4, 5]  # the one before it still needs the first
    save_checkpoint(Storage(tmp_path), 6, weights("point"), {"n": 6}, start=second)
    assert numbers_in(tmp_path) == [5, 6]
    (second.part(0) / "model.safetensors").write_text("changed")
    assert newest_checkpoint(Storage(tmp_path)) is None  # one cannot be read without the other


DAMAGE = {
    "changed byte": lambda folder: (folder / "rank0" / "model.safetensors").write_text("nime"),
    "lost file": lambda folder: (folder / "rank0" / "sub" / "more.json").unlink(),
    "cut off": lambda folder: (folder / "manifest.json").unlink(),
    "torn manifest": lambda folder: (folder / "manifest.json").write_text('{"files": {'),
    "manifest without checksums": lambda folder: (folder / "manifest.json").write_text('{"state": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_which_is_kept(damage, tmp_path, caplog):
    root = Storage(tmp_path)
    for number in (1, 2):
        save_checkpoint(root, number, weights(f"w{number}"), {"n": number})
    damage(tmp_path / "000002")
    found, _ = newest_checkpoint(root)
    assert found.state == {"n": 1}
    cut_off = not (tmp_path / "000002" / "manifest.json").exists()  # what a kill leaves behind is nothing to be told
    assert ("000002 is not whole" in caplog.text and "passed over" in caplog.text) != cut_off

    def dies(folder):
        assert 1 in numbers_in(tmp_path)  # while the next point is written, it is all there is
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(root, 3, dies, {"n": 3}, keep=found)
    assert found_in(tmp_path) == 1
    save_checkpoint(root, 3, weights("w3"), {"n": 3}, keep=found)
    save_checkpoint(root, 4, weights("w4"), {"n": 4})
    assert numbers_in(tmp_path) == [3, 4] and found_in(tmp_path) == 4


def test_a_checkpoint_that_the_disk_does_not_give_is_passed_over(tmp_path, monkeypatch, caplog):
    for number in (1, 2):
        save_checkpoint(Storage(tmp_path), number, weights(f"w{number}"), {"n": number})
    whole = checkpoint.sha256_of

    def broken(path):
        if "000002" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return whole(path)

    monkeypatch.setattr(checkpoint, "sha256_of", broken)
    assert found_in(tmp_path) == 1
    assert "passed over" in caplog.text and numbers_in(tmp_path) == [1, 2]


def test_a_store_that_is_away_is_an_error_and_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.storage.PATIENCE_SECONDS", 0.0)
    root = Storage(tmp_path / "here", (tmp_path / "store").as_uri())
    save_checkpoint(root, 1, weights("w1"), {"n": 1})
    assert not (tmp_path / "here" / "000001" / "rank0").exists()  # nothing is left on this machine
    found, _ = newest_checkpoint(root)
    assert (found.part(0) / "model.safetensors").read_text() == "w1"
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StorageError):
        newest_checkpoint(root)


@pytest.mark.parametrize("name", ["cut off", "torn manifest", "manifest without checksums"])
def test_one_without_a_readable_manifest_is_not_kept_in_place_of_the_one_before(name, tmp_path):
    for number in (1, 2):
        save_checkpoint(Storage(tmp_path), number, weights(f"w{number}"), {"n": number})
    DAMAGE[name](tmp_path / "000002")
    save_checkpoint(Storage(tmp_path), 3, weights("w3"), {"n": 3})
    assert numbers_in(tmp_path) == [1, 3]


def test_what_could_not_be_written_is_no_checkpoint(tmp_path):
    def fill(folder):
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    save_checkpoint(Storage(tmp_path), 1, weights("one"), {"n": 1})
    with pytest.raises(OSError, match=r"No space left on device \(rank 0\)"):
        save_checkpoint(Storage(tmp_path), 2, fill, {"n": 2})
    assert numbers_in(tmp_path) == [1] and found_in(tmp_path) == 1


def test_what_safetensors_could_not_write_is_an_error_of_the_disk(tmp_path):
    def fill(folder):
        save_file({"weights": torch.zeros(9)}, folder / "no such folder" / "weights")

    with pytest.raises(OSError, match=r"No such file.*\(rank 0\)"):
        save_checkpoint(Storage(tmp_path), 1, fill, {"n": 1})
    assert newest_checkpoint(Storage(tmp_path)) is None


def one_rank(rank, folder):
    """Three checkpoints of two ranks; rank 1 cannot write the second."""
    start_process_group(rank, 2, f"file://{folder}/store")

    def fill(place):
        (place / "state").write_text(f"rank {rank}")

    def fail(place):
        fill(place)
        if rank == 1:
            raise OSError(28, "No space left on device", str(place))

    told = [save_checkpoint(Storage(folder / "root"), 1, fill, {"n": 1}).name]
    try:
        save_checkpoint(Storage(folder / "root"), 2, fail, {"n": 2})
    except OSError as error:
        told += [str(error), found_in(folder / "root")]
    save_checkpoint(Storage(folder / "root"), 3, fill, {"n": 3})
    found, _ = newest_checkpoint(Storage(folder / "root"))
    told += [found.state["n"], found.part(rank).joinpath("state").read_text()]
    dist.barrier()  # both have read
    if rank == 0:
        (folder / "root" / "000003" / "rank1" / "state").write_text("rank x")
    dist.barrier()
    told.append(found_in(folder / "root"))
    (folder / f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_ranks_write_their_own_files_and_agree_on_what_could_not_be_written(tmp_path):
    mp.spawn(one_rank, args=(tmp_path,), nprocs=2, join=True)
    for rank in (0, 1):
        number, error, after, newest, own, last = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (number, after, newest, own, last) == ("000001", 1, 3, f"rank {rank}", 1)
        assert "No space left on device (rank 1)" in error
    assert numbers_in(tmp_path / "root") == [1, 3]
