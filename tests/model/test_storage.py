import copy
import errno
import os
import shutil
import subprocess
from functools import partial

import pytest
import torch
from torch import nn

from effnlp.compression.pruning.magnitude import prune_by_magnitude
from effnlp.compression.quantization.int8_weight_only import quantize_weights
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


def bytes_beside_the_weights(deployed, path):
    """Of a file with ``deployed``: what the tokenizer and the structure take."""
    bare = copy.deepcopy(deployed)
    for tensor in (*bare.model.parameters(), *bare.model.buffers()):
        tensor.data = tensor.data[..., :0].clone()
    bare.save(path)
    return path.stat().st_size


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("quantize", [False, True])
def test_the_file_is_as_large_as_the_bytes_of_the_model_say(sparsity, quantize, make_classifier, tmp_path):
    model = prune_by_magnitude(make_classifier(width=256), sparsity)
    deployed = Deployed(quantize_weights(model) if quantize else model, {"a": 1}, ("x", "y", "z"))
    deployed.save(tmp_path / "deployed.pt")
    size = (tmp_path / "deployed.pt").stat().st_size
    beside = bytes_beside_the_weights(deployed, tmp_path / "bare.pt")
    assert size - beside == pytest.approx(stored_bytes(deployed.model), rel=0.06)


CHANGES = {
    "int8": quantize_weights,
    "pruned": partial(prune_by_magnitude, sparsity=0.8),
    "none": nn.Identity(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.inference_mode()
def test_a_packed_model_is_loaded_bit_for_bit_with_all_that_its_parameters_carry(
    change, make_classifier, make_batch, tmp_path
):
    model, batch = change(make_classifier()), make_batch()
    model.head.weight.learning_rate_factor = 3.0
    model.head.bias.requires_grad_(False)
    Deployed(model, {}, ("x", "y", "z"), is_pair=True).save(tmp_path / "deployed.pt")
    loaded = Deployed.load(tmp_path / "deployed.pt")
    assert torch.equal(loaded.model(batch), model(batch))
    assert loaded.is_pair
    assert loaded.model.head.weight.learning_rate_factor == 3.0
    flags = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    assert [(name, parameter.requires_grad) for name, parameter in loaded.model.named_parameters()] == flags
    for name, tensor in model.state_dict().items():
        other = loaded.model.state_dict()[name]
        assert torch.equal(tensor, other), name
        assert (tensor.dtype, tensor.stride()) == (other.dtype, other.stride())


def test_tensors_that_are_one_stay_one_and_minus_zero_stays_minus_zero(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(64, 64), "b": nn.Linear(64, 64)})
    with torch.no_grad():
        model["a"].weight.zero_()[0, :3] = -0.0
    model["b"].weight = model["a"].weight
    Deployed(model, {}, ()).save(tmp_path / "deployed.pt")
    loaded = Deployed.load(tmp_path / "deployed.pt").model
    assert loaded["a"].weight is loaded["b"].weight
    assert loaded["a"].weight.signbit().nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]


def test_a_file_of_before_there_were_pairs_reads_single_texts(make_classifier, tmp_path):
    deployed = Deployed(make_classifier(), {}, ("x",))
    del deployed.is_pair
    torch.save(deployed, tmp_path / "deployed.pt")
    assert Deployed.load(tmp_path / "deployed.pt").is_pair is False


def test_a_weight_that_two_modules_share_is_counted_once():
    model = nn.ModuleDict({"a": nn.Linear(3, 5, bias=False), "b": nn.Linear(3, 5, bias=False)})
    nn.init.ones_(model["a"].weight), nn.init.ones_(model["b"].weight)
    assert stored_bytes(model) == 2 * 4 * 15
    model["b"].weight = model["a"].weight
    assert stored_bytes(model) == 4 * 15
    assert stored_bytes(model, only=frozenset({"b.weight"})) == 4 * 15
