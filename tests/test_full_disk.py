"""A disk that is really full: an error with the reason, what was there stays, and when there is room it works."""

import os
import subprocess

import pytest

from orchestrator.storage import Storage, StorageError
from orchestrator.tracking.journal import Journal, JournalError, StepRecord, StepsReported, read_records
from orchestrator.worker.checkpoint import newest_checkpoint, save_checkpoint
from orchestrator.worker.model import save_model
from tests.worker.toy import toy_model, toy_tokenizer

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk, *, room=0):
    """Leave that much room."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(bytes(free - room))


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


def text(size):
    return lambda path: path.write_text("x" * size)


def test_a_file_is_kept_whole_or_not_at_all(disk):
    storage = Storage(disk / "sweep")
    storage.put("trials/a/scores", text(10))
    fill(disk, room=8192)
    with pytest.raises(StorageError, match=f"{disk}/sweep/trials/a/scores cannot be written: No space left on device"):
        storage.put("trials/a/scores", text(100_000))
    assert files(disk / "sweep") == ["a", "scores", "trials"]
    assert (disk / "sweep/trials/a/scores").read_text() == "x" * 10
    (disk / "ballast").unlink()
    storage.put("trials/a/scores", text(100_000))
    assert storage.fetch("trials/a/scores").stat().st_size == 100_000


def test_what_cannot_be_cleaned_up_does_not_hide_the_reason(tmp_path):
    (tmp_path / "trials").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="trials/a cannot be written: "):
        Storage(tmp_path).put("trials/a", text(10))


def test_weights_are_kept_whole_or_not_at_all(disk):
    storage, model, tokenizer = Storage(disk / "sweep"), toy_model(), toy_tokenizer()
    fill(disk, room=8192)
    with pytest.raises(StorageError, match=r"trials/a/model cannot be written: .*No space left on device"):
        storage.put("trials/a/model", lambda path: save_model(model, tokenizer, path))
    assert files(disk / "sweep") == ["a", "trials"]
    (disk / "ballast").unlink()
    storage.put("trials/a/model", lambda path: save_model(model, tokenizer, path))
    assert "model.safetensors" in files(disk / "sweep/trials/a/model")
    needed = sum(path.stat().st_blocks * 512 for path in (disk / "sweep").rglob("*") if path.is_file())
    fill(disk, room=needed - 4096)  # for the weights, and not for all of the tokenizer
    with pytest.raises(StorageError, match=r"trials/b/model cannot be written: .*No space left on device"):
        storage.put("trials/b/model", lambda path: save_model(model, tokenizer, path))
    assert not (disk / "sweep/trials/b/model").exists()


def test_a_point_that_does_not_fit_leaves_the_one_before(disk):
    root = Storage(disk / "resume")
    save_checkpoint(root, 1, lambda folder: text(10)(folder / "state"), {"n": 1})
    fill(disk, room=8192)
    with pytest.raises(StorageError, match=r"No space left on device \(rank 0\)"):
        save_checkpoint(root, 2, lambda folder: text(100_000)(folder / "state"), {"n": 2})
    assert newest_checkpoint(root)[0].state == {"n": 1}


def test_a_journal_without_room_is_read_to_its_last_whole_record(disk):
    step = StepRecord(step=0, loss=0.0, forget_loss=0.0, retain_loss=None, learning_rate=0.0, grad_norm=None)
    records = [StepsReported(key=f"{number}" * 500, steps=(step,)) for number in range(10)]
    journal = Journal(disk / "journal")
    journal.append(records[0])
    fill(disk)
    kept = 1
    with pytest.raises(JournalError, match="cannot be written: No space left on device"):
        for record in records[1:]:  # the page that it is in has some room
            journal.append(record)
            kept += 1
    journal.close()
    assert 1 <= kept < len(records)
    (disk / "ballast").unlink()
    again = Journal(disk / "journal")
    again.append(records[-1])
    again.close()
    assert list(read_records(disk / "journal")) == [*records[:kept], records[-1]]
