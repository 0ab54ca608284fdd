import pytest
import torch

from effnlp.compression.distillation.trace import head_count, trace
from effnlp.method import prepare
from effnlp.peft.lora import LoRA
from effnlp.peft.prompt import PromptTuning


def test_a_traced_model_answers_as_it_does_and_layers_lead_from_one_to_the_next(make_classifier, make_batch):
    model, batch = make_classifier(depth=3), make_batch()
    found = trace(model, batch, ("query", "value"))
    assert torch.equal(found.logits, model(batch))
    assert len(found.hidden) == 4
    for i, block in enumerate(model.encoder.layers):
        torch.testing.assert_close(block(found.hidden[i], batch["attention_mask"]), found.hidden[i + 1])
        read = block.mixer_norm(found.hidden[i])
        assert torch.equal(block.mixer.query(read), found.given["query"][i])
        assert torch.equal(block.mixer.value(read), found.given["value"][i])


def test_nobody_listens_any_more_afterwards(make_classifier, make_batch):
    model = make_classifier()
    trace(model, make_batch(), ("query",))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_tokens_of_a_prompt_are_left_out(make_classifier, make_batch):
    batch = make_batch(longest=10)
    model = prepare([PromptTuning(length=4)], make_classifier()).eval()
    found = trace(model, batch, ("key",))
    assert torch.equal(found.logits, model(batch))
    assert {hidden.shape[1] for hidden in [*found.hidden, *found.given["key"]]} == {
        batch["input_ids"].shape[1]
    }


def test_what_lora_adds_is_in_what_a_layer_gives(make_classifier, make_batch):
    batch, model = make_batch(), prepare([LoRA(targets=["query"])], make_classifier()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "head" not in name:
                parameter.normal_()
    found = trace(model, batch, ("query",))
    first = model.encoder.layers[0]
    torch.testing.assert_close(found.given["query"][0], first.mixer.query(first.mixer_norm(found.hidden[0])))


def test_a_model_without_layers_is_refused(make_batch):
    with pytest.raises(ValueError, match="layer by layer, got Linear"):
        trace(torch.nn.Linear(2, 2), make_batch())


def test_heads_that_were_removed_are_not_taken_for_narrow_ones(tiny_family):
    encoder = tiny_family("bert").model.encoder
    query = encoder.get_submodule(encoder.linear_roles()["query"][0])
    query.out_features //= 2
    with pytest.raises(ValueError, match=r"not all \d+ heads are there"):
        head_count(encoder)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "gpt2", "llama", "t5"])
def test_known_families_are_traced(tiny_family, name):
    tiny = tiny_family(name)
    batch = tiny.batch(["one text of words", "another"], [0, 1])
    found = trace(tiny.model, batch, ("query", "key", "value"))
    torch.testing.assert_close(found.logits, tiny.model(batch))
    assert len(found.hidden) == tiny.model.encoder.depth + 1
    assert found.given["query"][0].shape[-1] % head_count(tiny.model.encoder) == 0
