import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from effnlp.model.hub import local_folder
from effnlp.peft.bitfit import BitFit
from effnlp.peft.exchange import CONFIG, HEAD, README, WEIGHTS, write_adapter
from effnlp.peft.ia3 import IA3
from effnlp.peft.lora import LoRA

TEXTS = ["a good film", "dull and much, much too long"]
ROLES = ["query", "key", "value", "attention_output", "feedforward_up", "feedforward_down"]
METHODS = {
    "lora": (LoRA, {"rank": 4, "alpha": 6.0, "targets": ["query", "feedforward_down"]}),
    "lora_everywhere": (LoRA, {"rank": 3, "alpha": 7.0, "targets": ROLES}),
    "ia3": (IA3, {}),
}


def moved(model, seed=3):
    """Give what is trained other values, as a training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def by_the_package(folder, batch):
    """Logits as someone computes them who has read README.md: the package's model, the mean, the head."""
    base = AutoModel.from_pretrained(local_folder("minilm"), dtype=torch.float32, add_pooling_layer=False)
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    kept = {name: value for name, value in batch.items() if name != "labels"}
    states = theirs(**kept).last_hidden_state  # (B, T, D)
    weights = batch["attention_mask"].unsqueeze(-1).float()
    head = load_file(folder / HEAD)
    return (states * weights).sum(1) / weights.sum(1) @ head["weight"].T + head["bias"], theirs


@pytest.fixture(params=METHODS)
def exported(request, minilm, tmp_path):
    """A trained model, its method, and the folder that it was written to."""
    make, settings = METHODS[request.param]
    model = moved(make(**settings).prepare(minilm.model))
    write_adapter(model, tmp_path / "adapter", "minilm", ["no", "yes"])
    return model, (make, settings), tmp_path / "adapter"


def test_the_package_gives_our_logits_with_what_we_write(exported, minilm):
    model, _, folder = exported
    batch = minilm.batch(TEXTS)
    logits, _ = by_the_package(folder, batch)
    torch.testing.assert_close(logits, model(batch), rtol=0, atol=1e-5)
    assert (model(batch) - minilm.build()(batch)).abs().max() > 0.01  # there is something to exchange


def test_we_give_the_logits_of_the_package_with_what_it_writes(exported, minilm, tmp_path):
    model, (make, settings), folder = exported
    batch = minilm.batch(TEXTS)
    _, theirs = by_the_package(folder, batch)
    with torch.no_grad():  # so that it is the package's own and not what we have written
        for name, parameter in theirs.named_parameters():
            if "lora_" in name or "ia3_" in name:
                parameter.mul_(1.25)
    theirs.save_pretrained(tmp_path / "theirs")
    shutil.copy(folder / HEAD, tmp_path / "theirs")
    expected, _ = by_the_package(tmp_path / "theirs", batch)
    assert (expected - model(batch)).abs().max() > 1e-3
    ours = make(**settings, start=str(tmp_path / "theirs")).prepare(minilm.build().eval())
    torch.testing.assert_close(ours(batch), expected, rtol=0, atol=1e-5)


def test_what_we_write_we_read_to_the_byte_and_train_on_from(exported, minilm, take_steps):
    model, (make, settings), folder = exported
    read = make(**settings, start=str(folder)).prepare(minilm.build().eval())
    one, other = model.state_dict(), read.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    trained = [{name for name, p in each.named_parameters() if p.requires_grad} for each in (model, read)]
    assert trained[0] == trained[1]
    losses = take_steps(read, minilm.batch(TEXTS, [0, 1]), steps=3)
    assert losses[-1] < losses[0]


def test_merging_after_the_exchange_gives_the_same_logits(exported, minilm):
    model, (make, settings), folder = exported
    batch = minilm.batch(TEXTS)
    expected = model(batch)
    start = make(**settings, start=str(folder))
    merged = start.finish(start.prepare(minilm.build().eval()))
    torch.testing.assert_close(merged(batch), expected, rtol=0, atol=1e-5)


def test_the_folder_says_what_base_it_is_for_and_how_the_head_is_used(exported):
    *_, folder = exported
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, HEAD, README}
    config = json.loads((folder / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    page = (folder / README).read_text()
    assert "the mean of the token states" in page
    assert "no, yes" in page
    assert peft.PeftConfig.from_pretrained(folder).peft_type in ("LORA", "IA3")


@pytest.fixture
def lora_folder(minilm, tmp_path):
    """A small adapter of LoRA."""
    write_adapter(moved(LoRA(rank=2, alpha=4).prepare(minilm.build())), tmp_path / "a", "minilm")
    return tmp_path / "a"


def test_an_adapter_without_our_head_leaves_the_head_of_the_model(lora_folder, minilm):
    (lora_folder / HEAD).unlink()
    before = minilm.build()
    head = before.head.weight.clone()
    assert torch.equal(LoRA(rank=2, alpha=4, start=str(lora_folder)).prepare(before).head.weight, head)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda f: LoRA(rank=3, alpha=4, start=f), r"has rank=2 and alpha=4; set the same, got rank=3 and alpha=4"),
        (lambda f: LoRA(rank=2, alpha=5, start=f), r"has rank=2 and alpha=4; set the same, got rank=2 and alpha=5"),
        (lambda f: LoRA(2, 4, targets=["query"], start=f), r"has encoder\..*value\.lora_A.*, and 11 more .* targets"),
        (lambda f: LoRA(2, 4, targets=ROLES, start=f), r"has nothing for encoder\..*; it adapts lora_A, lora_B"),
        (lambda f: IA3(start=f), "holds LORA, the model has IA3"),
        (lambda f: LoRA(start=f + "x"), f"is no adapter of the package peft: it has no {CONFIG}"),
    ],
)  # fmt: skip
def test_an_adapter_of_something_else_is_refused_in_words(lora_folder, minilm, method, message):
    with pytest.raises(ValueError, match=message):
        method(str(lora_folder)).prepare(minilm.build())


def test_settings_of_the_package_that_we_do_not_have_are_refused(lora_folder, minilm):
    config = json.loads((lora_folder / CONFIG).read_text())
    (lora_folder / CONFIG).write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match="use_dora is True; read is only False"):
        LoRA(2, 4, start=str(lora_folder)).prepare(minilm.build())


def test_a_damaged_adapter_is_refused(lora_folder, minilm):
    content = (lora_folder / WEIGHTS).read_bytes()
    (lora_folder / WEIGHTS).write_bytes(content[:-8])
    with pytest.raises(ValueError, match="is damaged"):
        LoRA(2, 4, start=str(lora_folder)).prepare(minilm.build())


def test_a_weight_of_another_shape_is_refused(lora_folder, minilm):
    tensors = {name: value.clone() for name, value in load_file(lora_folder / WEIGHTS).items()}
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first][:, :5].contiguous()}, lora_folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"lora_.\.weight is .* × 5, that of the model"):
        LoRA(2, 4, start=str(lora_folder)).prepare(minilm.build())


def test_what_the_format_has_no_place_for_is_not_written(minilm, make_classifier, tmp_path):
    cases = {
        "the model has neither": BitFit().prepare(minilm.build()),
        "no place for .*bias, which is trained, too": LoRA().prepare(minilm.build()),
        "of one kind, the model has LoRALinear and ScaledLinear": IA3(["key"], []).prepare(
            LoRA().prepare(minilm.build())
        ),
        "query is adapted twice": LoRA(targets=["query"]).prepare(LoRA().prepare(minilm.build())),
        "BackboneEncoder is no model of the library transformers": LoRA().prepare(make_classifier()),
    }
    cases["no place for .*bias, which is trained, too"].encoder.model.get_parameter(
        "encoder.layer.0.attention.self.query.base.bias"
    ).requires_grad_(True)
    for message, model in cases.items():
        with pytest.raises(ValueError, match=message):
            write_adapter(model, tmp_path / "adapter", "minilm")
    assert not (tmp_path / "adapter").exists()


def test_a_layer_that_the_library_fuses_is_refused(tiny_family, tmp_path):
    model = LoRA(rank=1, alpha=1, targets=["query"]).prepare(tiny_family("gpt2").model)
    with pytest.raises(
        ValueError, match="is no layer of the library's gpt2, which fuses or names it otherwise"
    ):
        write_adapter(model, tmp_path / "adapter", "gpt2")
    assert isinstance(model.head, nn.Linear)
