import errno
import os
import shutil
import subprocess

import pytest
import torch

from effnlp.model.storage import Deployed, save_whole, stored_bytes


def test_what_is_deployed_gives_the_same_answers_when_it_is_loaded(make_classifier, make_batch, tmp_path):
    model, batch = make_classifier(), make_batch()
    Deployed(model, tokenizer={"a": 1}, labels=("x", "y", "z")).save(tmp_path / "deployed.pt")
    loaded = Deployed.load(tmp_path / "deployed.pt")
    assert torch.equal(loaded.model(batch), model(batch))
    assert (loaded.tokenizer, loaded.labels) == ({"a": 1}, ("x", "y", "z"))
    assert [path.name for path in tmp_path.iterdir()] == ["deployed.pt"]


def test_another_file_is_not_taken_for_a_model(tmp_path):
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(TypeError, match=r"other\.pt holds a dict, not a deployed model"):
        Deployed.load(tmp_path / "other.pt")


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "effnlp-test", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system of one megabyte")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_old_file_whole(tiny_disk):
    path = tiny_disk / "thing.pt"
    save_whole(torch.ones(10), path)
    with pytest.raises(OSError, match="No space left") as caught:
        save_whole(torch.ones(1_000_000), path)
    assert caught.value.errno == errno.ENOSPC
    assert torch.equal(torch.load(path), torch.ones(10))
    assert [found.name for found in tiny_disk.iterdir()] == ["thing.pt"]


def test_a_failure_before_the_rename_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "thing.pt"
    save_whole(torch.ones(10), path)

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("effnlp.model.storage.os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_whole(torch.zeros(10), path)
    assert torch.equal(torch.load(path), torch.ones(10))
    assert [found.name for found in tmp_path.iterdir()] == ["thing.pt"]


def test_zeros_cost_less_than_weights_and_only_what_is_named_counts(make_classifier):
    model = make_classifier()
    dense = stored_bytes(model)
    head = frozenset({"head.weight", "head.bias"})
    assert stored_bytes(model, only=head) == 4 * (model.head.weight.numel() + model.head.bias.numel())
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight[:, : layer.weight.shape[1] * 9 // 10] = 0
    assert stored_bytes(model) < dense
