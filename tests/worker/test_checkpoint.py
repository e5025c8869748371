"""Checkpoints: written whole or not at all, damaged ones are passed over."""

import pytest

from orchestrator.worker.checkpoint import newest_checkpoint, save_checkpoint


def weights(text):
    def fill(folder):
        (folder / "model.safetensors").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "more.json").write_text("{}")

    return fill


def test_the_newest_is_found_with_its_state_and_older_ones_are_removed(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 9, weights("nine"), {"tasks": [1]})
    save_checkpoint(tmp_path, 10, weights("ten"), {"tasks": [1, 2]})
    found = newest_checkpoint(tmp_path)
    assert found.state == {"tasks": [1, 2]}
    assert (found.folder / "model.safetensors").read_text() == "ten"
    assert [path.name for path in tmp_path.iterdir()] == ["000010"]


def test_a_checkpoint_of_the_same_number_is_replaced(tmp_path):
    save_checkpoint(tmp_path, 1, weights("old"), {})
    save_checkpoint(tmp_path, 1, lambda folder: (folder / "new").touch(), {})
    assert sorted(path.name for path in newest_checkpoint(tmp_path).folder.iterdir()) == ["manifest.json", "new"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_text("nime"),
        lambda folder: (folder / "sub" / "more.json").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"files": {'),
        lambda folder: (folder / "manifest.json").write_text('{"state": {}}'),
    ],
    ids=["changed byte", "lost file", "cut off", "torn manifest", "manifest without checksums"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said_so(damage, tmp_path, caplog):
    older = tmp_path / "kept"
    save_checkpoint(older, 1, weights("one"), {"tasks": [1]})
    save_checkpoint(tmp_path / "root", 2, weights("two"), {"tasks": [1, 2]})
    (older / "000001").rename(tmp_path / "root" / "000001")
    damage(tmp_path / "root" / "000002")
    assert newest_checkpoint(tmp_path / "root").state == {"tasks": [1]}
    assert "000002" in caplog.text and "passed over" in caplog.text


def test_what_could_not_be_written_is_no_checkpoint(tmp_path):
    def fill(folder):
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    save_checkpoint(tmp_path, 1, weights("one"), {"tasks": [1]})
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, fill, {"tasks": [1, 2]})
    assert newest_checkpoint(tmp_path).state == {"tasks": [1]}
