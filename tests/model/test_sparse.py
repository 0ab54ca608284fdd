import pytest
import torch

from effnlp.compression.pruning.magnitude import prune_by_magnitude
from effnlp.model.sparse import pack, stored_bytes, unpack


def with_zeros(dtype, fraction=0.6, shape=(13, 7)):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(1, 100, shape, generator=generator).to(dtype)
    values.view(-1)[torch.randperm(values.numel(), generator=generator)[: int(fraction * values.numel())]] = 0
    return values


def as_bytes(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64])
def test_unpacked_equals_packed_to_the_byte(dtype):
    state = {"weight": with_zeros(dtype)}
    packed = pack(state)
    assert not isinstance(packed["weight"], torch.Tensor)
    back = unpack(packed)["weight"]
    assert back.dtype == dtype
    assert back.shape == (13, 7)
    assert torch.equal(as_bytes(back), as_bytes(state["weight"]))


def test_a_negative_zero_and_special_values_survive():
    values = torch.tensor([0.0, 0.0, -0.0, float("nan"), float("-inf"), 0.0, 1e-45, 0.0, 0.0, 0.0])
    packed = pack({"w": values})
    assert len(packed["w"]["values"]) == 4
    assert torch.equal(as_bytes(unpack(packed)["w"]), as_bytes(values))


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.int8, 1)])
def test_bytes_are_a_bit_an_entry_and_the_values_that_are_not_zero(dtype, width):
    weight = with_zeros(dtype, fraction=0.75, shape=(40, 20))
    assert stored_bytes(pack({"w": weight})) == 800 // 8 + 200 * width


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_of_few_values_the_places_are_kept_where_that_is_less_than_a_bit_an_entry(dtype):
    few, more = with_zeros(dtype, 0.97, (40, 20)), with_zeros(dtype, 0.96, (40, 20))
    packed = pack({"few": few, "more": more, "none": torch.zeros(40, 20, dtype=dtype)})
    width = few.element_size()
    assert stored_bytes({"few": packed["few"]}) == 24 * (4 + width) < 800 // 8 + 24 * width
    assert stored_bytes({"more": packed["more"]}) == 800 // 8 + 32 * width < 32 * (4 + width)
    assert stored_bytes({"none": packed["none"]}) == 0
    for name, back in unpack(packed).items():
        assert back.dtype == dtype
        assert torch.equal(back, {"few": few, "more": more, "none": torch.zeros_like(few)}[name])


def test_half_of_zeros_is_enough_and_a_dense_tensor_stays_as_it_is():
    dense = torch.rand(10, 10) + 1
    packed = pack({"half": with_zeros(torch.float32, 0.5), "dense": dense, "scalar": torch.tensor(3.0)})
    assert isinstance(packed["half"], dict)
    assert packed["dense"] is dense
    assert torch.equal(unpack(packed)["scalar"], torch.tensor(3.0))


def test_a_pruned_model_is_smaller_on_disk_and_loads_to_the_same_logits(
    make_classifier, make_batch, tmp_path
):
    batch, model = make_batch(), prune_by_magnitude(make_classifier(width=64), 0.9)
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    torch.save(pack(model.state_dict()), tmp_path / "packed.pt")
    assert (tmp_path / "packed.pt").stat().st_size < 0.4 * (tmp_path / "dense.pt").stat().st_size
    fresh = make_classifier(width=64, seed=5)
    fresh.load_state_dict(unpack(torch.load(tmp_path / "packed.pt")))
    assert torch.equal(fresh(batch), model(batch))
