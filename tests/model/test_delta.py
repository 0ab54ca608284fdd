import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from effnlp.model.delta import HEADER, VERSION, About, Delta, Taker, delta_bytes, digest, put
from effnlp.peft.bitfit import BitFit
from effnlp.peft.lora import LoRA
from effnlp.peft.none import none

ABOUT = {
    "config": {"model": {"_target_": "here"}}, "prepare": ("peft",), "finish": ("peft",), "task": "planted",
    "labels": ("x", "y", "z"), "classes": 3, "is_pair": False,
}  # fmt: skip


def moved(model, seed=5):
    """Change what is trained, as a training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def taken(model, peft, change=moved):
    """The trained model and its delta."""
    taker = Taker(is_wanted=True)
    taker.built(model)
    model = peft.prepare(model) if hasattr(peft, "prepare") else model
    taker.prepared(model)
    model = change(model)
    taker.trained(model)
    return model, taker.take(model, **ABOUT)


@pytest.fixture
def delta(make_classifier):
    return taken(make_classifier(), LoRA())[1]


@pytest.mark.parametrize("peft", [LoRA(), BitFit()], ids=lambda peft: type(peft).__name__)
def test_a_fresh_base_with_the_delta_that_was_written_is_the_trained_model(
    make_classifier, make_batch, tmp_path, peft
):
    model, delta = taken(make_classifier(), peft)
    delta.write(tmp_path / "delta.safetensors")
    fresh = peft.prepare(make_classifier())
    assert not torch.equal(fresh(make_batch()), model(make_batch()))
    put(fresh, Delta.read(tmp_path / "delta.safetensors"))
    assert torch.equal(fresh(make_batch()), model(make_batch()))
    assert {p.name for p in tmp_path.iterdir()} == {"delta.safetensors"}


def test_what_is_read_is_what_was_written(delta, tmp_path):
    delta.write(tmp_path / "delta.safetensors")
    read = Delta.read(tmp_path / "delta.safetensors")
    assert read.about == delta.about
    assert read.entries.keys() == delta.entries.keys()
    assert all(torch.equal(read.entries[name], value) for name, value in delta.entries.items())


def test_it_holds_the_trained_entries_and_counts_their_bytes(make_classifier):
    model, delta = taken(make_classifier(), LoRA())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(delta.entries) == trained
    assert delta.bytes == delta_bytes(model, frozenset())["model/delta_bytes"]


def test_the_file_takes_the_bytes_of_the_entries_and_a_header(make_classifier, tmp_path):
    for width in (32, 128):
        _, delta = taken(make_classifier(width=width), LoRA())
        delta.write(tmp_path / "delta.safetensors")
        header = 2_000 + 150 * len(delta.entries)
        assert 0 <= (tmp_path / "delta.safetensors").stat().st_size - delta.bytes <= header


def test_a_sparse_change_is_stored_packed_and_read_to_the_byte(make_classifier, tmp_path):
    def sparse_change(model):
        with torch.no_grad():
            for parameter in moved(model).encoder.parameters():
                if parameter.requires_grad:
                    parameter.masked_fill_(torch.rand(parameter.shape) > 0.05, 0.0)
        return model

    dense = taken(make_classifier(width=128), LoRA())[1]
    sparse = taken(make_classifier(width=128), LoRA(), sparse_change)[1]
    sizes = []
    for delta in (dense, sparse):
        delta.write(tmp_path / "delta.safetensors")
        sizes.append((tmp_path / "delta.safetensors").stat().st_size)
    assert sizes[1] < 0.5 * sizes[0]
    read = Delta.read(tmp_path / "delta.safetensors")
    assert all(torch.equal(read.entries[name], value) for name, value in sparse.entries.items())
    assert any((value == 0).float().mean() > 0.8 for value in read.entries.values())


def test_full_fine_tuning_has_no_delta(make_classifier):
    assert taken(make_classifier(), none)[1] is None


def test_a_training_that_changes_what_is_frozen_has_no_delta_and_says_what_changed(make_classifier, caplog):
    def change(model):
        with torch.no_grad():
            model.encoder.tokens.weight[3, 1] += 1e-3
        return moved(model)

    with caplog.at_level(logging.WARNING):
        assert taken(make_classifier(), LoRA(), change)[1] is None
    assert (
        "no delta is written: the training changed what is frozen, encoder.tokens.weight first" in caplog.text
    )


def test_nothing_is_taken_that_is_not_wanted(make_classifier):
    taker = Taker(is_wanted=False)
    model = make_classifier()
    taker.built(model)
    taker.prepared(LoRA().prepare(model))
    taker.trained(model)
    assert taker.take(model, **ABOUT) is None
    assert taker.trainable  # which the record needs all the same


def test_what_was_trained_first_and_is_frozen_now_is_in_the_delta(make_classifier):
    def freeze_head(model):
        moved(model).head.requires_grad_(False)
        return model

    _, delta = taken(make_classifier(), LoRA(), freeze_head)
    assert {"head.weight", "head.bias"} <= set(delta.entries)


def test_the_digest_tells_names_types_shapes_and_bytes_apart_and_not_the_order():
    a, b = torch.arange(6.0), torch.zeros(2)
    state = {"a": a, "b": b}
    others = [
        {"a": a, "c": b}, {"a": b, "b": a}, {"a": a.view(2, 3), "b": b}, {"a": a, "b": -b},
        {"a": a, "b": torch.zeros(2, dtype=torch.int32)}, {"a": a},
    ]  # fmt: skip
    assert len({digest(each) for each in [state, *others]}) == len(others) + 1
    assert digest({"b": b, "a": a.clone()}) == digest(state)
    assert digest({"a": a.view(2, 3).t().contiguous().t(), "b": b}) == digest(
        others[2]
    )  # strides are not seen
    assert len(digest({"number": torch.tensor(3), "none": torch.zeros(0)})) == 64


def test_entries_that_do_not_fit_are_refused(make_classifier, delta):
    fresh = LoRA().prepare(make_classifier())
    name = "encoder.layers.0.mixer.query.a"
    without = {key: value for key, value in delta.entries.items() if key != name}
    cases = {
        "lacks 1 entries that are trained, encoder.layers.0.mixer.query.a first": without,
        "has 1 entries that are not the model's, more first": {**delta.entries, "more": torch.zeros(1)},
        r"query\.a is 2 × 32 \(float32\), that of the model 8 × 32 \(float32\)": {
            **without, name: delta.entries[name][:2],
        },
        r"query\.a is 8 × 32 \(float64\)": {**without, name: delta.entries[name].double()},
    }  # fmt: skip
    before = digest(fresh.state_dict())
    for message, entries in cases.items():
        with pytest.raises(ValueError, match=message):
            put(fresh, Delta(entries, delta.about))
    assert digest(fresh.state_dict()) == before


def test_a_model_with_something_frozen_that_differs_is_refused(make_classifier, delta):
    with pytest.raises(ValueError, match="does not make the model that it was taken from"):
        put(LoRA().prepare(make_classifier(seed=1)), delta)


def header_of(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[HEADER])


def test_a_file_that_is_no_delta_or_damaged_or_newer_is_refused_in_words(delta, tmp_path):
    path = tmp_path / "delta.safetensors"
    with pytest.raises(FileNotFoundError, match=r"there is no delta .*delta\.safetensors"):
        Delta.read(path)
    delta.write(path)
    tensors, header = {name: t.clone() for name, t in load_file(path).items()}, header_of(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        Delta.read(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="is damaged"):
        Delta.read(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="its header does not say of which base it is"):
        Delta.read(path)
    save_file(tensors, path, {HEADER: json.dumps({**header, "version": VERSION + 1})})
    with pytest.raises(ValueError, match=f"has version {VERSION + 1}, this effnlp reads up to {VERSION}"):
        Delta.read(path)
    save_file(tensors, path, {HEADER: json.dumps({k: v for k, v in header.items() if k != "base"})})
    with pytest.raises(ValueError, match="its header does not describe it"):
        Delta.read(path)


def test_the_digest_of_the_base_does_not_see_the_head(make_classifier):
    bases = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = make_classifier()
        torch.nn.init.normal_(model.head.weight, std=seed + 1.0)
        bases.append(taken(model, LoRA())[1].about.base)
    assert bases[0] == bases[1] != taken(make_classifier(seed=3), LoRA())[1].about.base


def test_what_a_delta_is_of_names_everything_that_about_asks_for(delta):
    assert set(vars(delta.about)) == {*ABOUT, "base", "settled"} == set(About.__dataclass_fields__)
