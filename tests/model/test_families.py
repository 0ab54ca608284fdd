import torch
import transformers
from torch import nn

from effnlp.model.families import ROLES

TEXTS = ["the cat sat on the mat", "dog", "", "a film that was not very bright, is it strange or weird?"]


@torch.inference_mode()
def test_states_are_those_of_the_library(each_tiny_family):
    tiny = each_tiny_family
    kind = transformers.T5EncoderModel if tiny.name == "t5" else transformers.AutoModel
    library = kind.from_pretrained(tiny.path).eval()
    batch = tiny.batch(TEXTS)
    given = {k: v for k, v in batch.items() if k in tiny.model.encoder.inputs}
    expected = library(**given).last_hidden_state
    real = batch["attention_mask"].bool()
    difference = (tiny.model.encoder.states(batch) - expected)[real]
    assert difference.abs().max() < 1e-5
    assert expected[real].std() > 0.1


@torch.inference_mode()
def test_logits_depend_on_neither_company_nor_padding(each_tiny_family):
    tiny = each_tiny_family
    encodings = tiny.tokenizer.encode(TEXTS)
    together = tiny.model(encodings.batch(range(len(TEXTS)), pad_to_multiple=40))
    alone = torch.cat([tiny.model(encodings.batch([i])) for i in range(len(TEXTS))])
    assert (together - alone).abs().max() < 1e-5
    assert (alone[0] - alone[1]).abs().max() > 1e-3


@torch.inference_mode()
def test_layer_by_layer_is_the_forward(each_tiny_family):
    tiny = each_tiny_family
    encoder, batch = tiny.model.encoder, tiny.batch(TEXTS)
    state = encoder.embed(batch)
    for index in range(encoder.depth):
        state = encoder.layer(index, state)
    assert encoder.depth == 2
    assert (encoder.pool(state) - encoder(batch)).abs().max() < 1e-6


def test_every_linear_layer_inside_the_layers_has_one_role(each_tiny_family):
    encoder = each_tiny_family.model.encoder
    roles = encoder.linear_roles()
    assert set(roles) <= set(ROLES)
    inside = f"model.{encoder.family.layers}."
    linears = [n for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)]
    of_positions = [n for n in linears if n.endswith(("pos_proj", "pos_q_proj"))]  # DeBERTa's
    assert sorted(name for names in roles.values() for name in names) == sorted(
        set(linears) - set(of_positions)
    )
