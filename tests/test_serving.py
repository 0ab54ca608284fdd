import copy
import shutil
from dataclasses import replace

import pytest
import torch

from effnlp.model.delta import FILE, Delta, digest_of_base, entries_of, put
from effnlp.model.packaged import read_package
from effnlp.model.storage import Deployed
from effnlp.serving import Adapters, Base, load_delta, settled, tensors_of

METHODS = {
    "lora": ["peft=lora", "peft.targets=[query,feedforward_down]"],
    "ia3": ["peft=ia3"],
    "bitfit": ["peft=bitfit"],
    "layer_norm": ["peft=layer_norm"],
    "head_only": ["peft=head_only"],
    "houlsby_adapter": ["peft=houlsby_adapter"],
    "pfeiffer_adapter": ["peft=pfeiffer_adapter"],
    "compacter": ["peft=compacter"],
    "prefix": ["peft=prefix"],
    "prefix_alone": ["peft=prefix", "peft.reparameterise=false"],
    "prompt": ["peft=prompt", "peft.length=3"],
    "diff_pruning": ["peft=diff_pruning"],
    "combined": ["peft=combined", "peft/parts=[lora,pfeiffer_adapter,bitfit]"],
}
WITH_OTHERS = {
    "pruned": ["peft=lora", "compression/pruning=magnitude"],
    "on_int8": ["peft=lora", "compression/quantization=int8_weight_only", "compression.quantization.moment=prepare"],
    "then_int8": ["peft=ia3", "compression/quantization=int8_dynamic"],
    "exits": ["peft=bitfit", "compression/early_exit=deebert"],
    "pretrained": ["peft=lora", "pretraining=mlm", "pretraining.steps=2", "pretraining.corpus=[task]"],
    "several_heads": ["peft=lora", "finetuning=multi_task"],
    "next_tokens": ["model=decoder", "finetuning=causal_lm", "peft=lora", "evaluation/quality=[language]"],
}  # fmt: skip


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def trained(run_tiny, folder, *overrides):
    record = run_tiny("model=backbone", "trainer.epochs=1", *overrides, folder=folder)
    assert record.status == "completed", record.message
    return record


@pytest.mark.parametrize("name", [*METHODS, *WITH_OTHERS])
def test_a_delta_alone_gives_the_deployed_model_bit_for_bit(run_tiny, tmp_path, make_batch, name):
    record = trained(run_tiny, tmp_path / "run", *{**METHODS, **WITH_OTHERS}[name])
    deployed = Deployed.load(tmp_path / "run" / "deployed.pt")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "run" / FILE, alone)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    loaded = load_delta(alone)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are used up
    assert same_state(loaded.model, deployed.model)
    assert torch.equal(loaded.model(make_batch()), deployed.model(make_batch()))
    assert (tuple(loaded.labels), loaded.is_pair) == (tuple(deployed.labels), deployed.is_pair)
    texts = ["a lovely plot", "weird"]
    read, expected = (each.tokenizer.encode(texts).batch([0, 1])["input_ids"] for each in (loaded, deployed))
    assert torch.equal(read, expected)
    delta = Delta.read(alone / FILE)
    assert delta.bytes == record.values["model/delta_bytes"]
    header = 4_000 + 400 * len(delta.entries)  # an entry that is packed has three parts
    assert 0 <= (alone / FILE).stat().st_size - record.values["model/delta_bytes"] <= header


def test_without_something_frozen_or_without_keep_model_there_is_no_delta(run_tiny, tmp_path):
    assert not (trained(run_tiny, tmp_path / "full").folder / FILE).exists()
    record = trained(run_tiny, tmp_path / "unkept", "peft=lora", "keep_model=false")
    assert not (record.folder / FILE).exists()
    assert record.values["model/delta_bytes"] > 0


MADE = []


@pytest.fixture
def two_tasks(request, tmp_path):
    """A base and the deltas of two runs on it, with other methods, and their deployed models; no test changes them."""
    if MADE:
        return MADE[0]
    run_tiny = request.getfixturevalue("run_tiny")
    folders = {name: trained(run_tiny, tmp_path / name, *METHODS[name]).folder for name in ("lora", "bitfit")}
    deltas = {name: Delta.read(folder / FILE) for name, folder in folders.items()}
    deployed = {name: Deployed.load(folder / "deployed.pt") for name, folder in folders.items()}
    MADE.append((Base.build(deltas["lora"].about.config), deltas, deployed))
    return MADE[0]


def test_a_delta_on_another_base_is_refused_by_both_names_and_hashes(run_tiny, tmp_path):
    path = trained(run_tiny, tmp_path / "run", "peft=lora").folder / FILE
    config = Delta.read(path).about.config
    other = Base.build({**config, "seed": {**config["seed"], "init": 1}})
    with pytest.raises(ValueError, match=r"trained on backbone tiny of seed\.init=0, SHA-256 [0-9a-f]{16}…; "
                       r"this base is backbone tiny of seed\.init=1, SHA-256 [0-9a-f]{16}…"):  # fmt: skip
        load_delta(path, other)
    with pytest.raises(ValueError, match="this base is backbone tiny"):
        Adapters(other, {"task": Delta.read(path)})
    assert same_state(load_delta(path, Base.build(config)).model, load_delta(path).model)


@pytest.mark.parametrize("is_merged", [True, False])
def test_tasks_take_turns_on_one_base_and_each_is_its_deployed_model(two_tasks, make_batch, is_merged):
    base, deltas, deployed = two_tasks
    before, batch = copy.deepcopy(base.model), make_batch()
    adapters = Adapters(base, deltas, is_merged)
    for name in ("lora", "bitfit", "lora", "lora", "bitfit"):
        served = adapters.use(name)
        if is_merged:
            assert same_state(served.model, deployed[name].model)
        torch.testing.assert_close(served.model(batch), deployed[name].model(batch), rtol=0, atol=1e-5)
        assert same_state(base.model, before)  # unmerged to the very bytes, because it was never changed
        assert served.labels == deltas[name].about.labels
    assert digest_of_base(base.model) == base.digest


def test_what_tasks_have_in_common_is_held_once(two_tasks):
    base, deltas, _ = two_tasks
    whole = sum(t.numel() * t.element_size() for t in tensors_of(base.model))
    one = Adapters(base, {"lora": deltas["lora"]}, is_merged=False).held_bytes()
    many = Adapters(base, {f"{i}": deltas["lora"] for i in range(5)}, is_merged=False).held_bytes()
    assert whole < one < 1.3 * whole
    assert 0 < many - one <= 5 * deltas["lora"].bytes
    merged = Adapters(base, deltas)
    held = merged.held_bytes()
    merged.use("lora")
    targeted = 2 * (128 * 128 + 512 * 128) * 4  # two layers, their weights that are merged into
    small = 3 * deltas["lora"].bytes
    assert targeted <= merged.held_bytes() - held <= targeted + small


def test_a_task_that_there_is_not_is_refused_with_a_near_match(two_tasks):
    base, deltas, _ = two_tasks
    with pytest.raises(ValueError, match=r"no delta 'lorra'; did you mean 'lora'"):
        Adapters(base, deltas).use("lorra")


def test_tasks_with_other_numbers_of_classes_share_a_base(two_tasks, make_batch):
    base, deltas, _ = two_tasks
    delta = deltas["lora"]
    entries = {**delta.entries, "head.weight": torch.randn(5, 128), "head.bias": torch.randn(5)}
    model = load_delta_of(replace(delta, entries=entries, about=replace(delta.about, classes=5)), base)
    assert model(make_batch()).shape == (8, 5)


def load_delta_of(delta, base):
    """As :func:`load_delta`, of a delta that was never a run's."""
    model = settled(delta, copy.deepcopy(base.model), base.choice).model
    put(model, delta, is_checked=False)
    assert entries_of(model, frozenset()).keys() == delta.entries.keys()
    return model


def test_predict_reads_a_folder_that_holds_a_delta_alone(run_tiny, tmp_path):
    record = trained(run_tiny, tmp_path / "run", "peft=lora")
    texts = ["a lovely film", "awful, awful music"]
    expected, _ = read_package(record.folder).probabilities(texts)
    (record.folder / "deployed.pt").unlink()
    given, _ = read_package(record.folder).probabilities(texts)
    assert torch.equal(given, expected)
