import pytest
import torch
import transformers
from torch import nn

from effnlp.evaluation.example_flops import example_flops
from effnlp.model.classifier import count_params
from effnlp.model.families import ROLES
from effnlp.model.pretrained import Pretrained
from effnlp.model.pretrained_encoder import PretrainedEncoder
from effnlp.peft.lora import LoRA, LoRALinear

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


@pytest.mark.parametrize("keep", [[1], [3, 0, 2]])
@torch.inference_mode()
def test_texts_can_leave_between_layers(each_tiny_family, keep):
    encoder = each_tiny_family.model.encoder
    whole = encoder.layer(0, encoder.embed(each_tiny_family.batch(TEXTS)))
    part = encoder.layer(1, whole.rows(torch.tensor(keep)))
    whole = encoder.layer(1, whole)
    assert part.hidden.shape[0] == len(keep)
    torch.testing.assert_close(encoder.pool(part), encoder.pool(whole)[keep], atol=1e-5, rtol=0)


def test_what_layers_share_stays_whole_where_its_size_is_that_of_the_batch(tiny_family):
    tiny = tiny_family("deberta-v2")
    table = tiny.model.encoder.model.encoder.rel_embeddings.weight
    batch = tiny.batch(["cat", "dog"] * (len(table) // 2))
    state = tiny.model.encoder.embed(batch)
    kept = state.rows(torch.tensor([0, 1]))
    assert state.hidden.shape[0] == len(table)
    expected = tiny.model.encoder.layer(0, state).hidden[:2]
    torch.testing.assert_close(tiny.model.encoder.layer(0, kept).hidden, expected, atol=1e-5, rtol=0)


def test_every_operator_is_counted(each_tiny_family):
    tiny = each_tiny_family
    flops, reason = example_flops(tiny.model, tiny.tokenizer.encode(TEXTS), batch_size=2)
    assert reason is None
    roles = tiny.model.encoder.linear_roles()
    weights = [
        tiny.model.encoder.get_parameter(f"{name}.weight") for names in roles.values() for name in names
    ]
    runs = 2 if tiny.name == "albert" else 1  # each layer that it has is run twice
    tokens = tiny.tokenizer.encode(TEXTS).lengths.mean()
    assert flops > 2 * tokens * runs * sum(weight.numel() for weight in weights)


@torch.inference_mode()
def test_lora_on_every_role_merges_into_any_family(each_tiny_family):
    tiny = each_tiny_family
    roles = tuple(tiny.model.encoder.linear_roles())
    batch, lora = tiny.batch(TEXTS), LoRA(rank=2, targets=roles)
    before = tiny.model(batch)
    model = lora.prepare(tiny.model)
    assert torch.equal(model(batch), before)
    for parameter in model.encoder.parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.1)
    changed = model.eval()(batch)
    assert (changed - before).abs().max() > 1e-3
    merged = lora.finish(model)
    assert (merged(batch) - changed).abs().max() < 1e-5
    assert list(merged.encoder.linear_roles()) == list(roles)


def test_repeated_layers_are_wrapped_once(tiny_family):
    model = LoRA(rank=2, targets=("query",)).prepare(tiny_family("albert").model)
    assert sum(isinstance(module, LoRALinear) for module in model.modules()) == 1


@torch.inference_mode()
def test_a_family_whose_layers_have_a_part_between_them_is_not_run_layer_by_layer(tiny_family):
    path = tiny_family("deberta-v2").path
    config = transformers.AutoConfig.from_pretrained(path)
    config.conv_kernel_size = 3
    encoder = PretrainedEncoder(transformers.AutoModel.from_config(config).eval())
    batch = tiny_family("deberta-v2").batch(TEXTS)
    assert torch.isfinite(encoder(batch)).all()
    assert len(encoder.linear_roles()["query"]) == 2
    with pytest.raises(ValueError, match=r"cannot be run layer by layer: its encoder\.conv acts between"):
        encoder.embed(batch)


@torch.inference_mode()
def test_the_encoder_of_bart_is_loaded_alone(tiny_family, tmp_path):
    tiny = tiny_family("roberta")
    config = transformers.BartConfig(
        vocab_size=tiny.tokenizer.vocabulary_size, d_model=32, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=40,
        max_position_embeddings=64,
    )  # fmt: skip
    library = transformers.BartModel(config).eval()
    library.save_pretrained(tmp_path)
    tiny.choice.checkpoint.load(transformers.AutoTokenizer).save_pretrained(tmp_path)
    choice = Pretrained(name=str(tmp_path), max_length=32)
    encoder = choice.build(choice.tokenizer(None), 2).eval().encoder
    batch = tiny.batch(TEXTS)
    assert count_params(encoder) == count_params(library.encoder)
    assert (encoder.states(batch) - library.encoder(**batch).last_hidden_state).abs().max() < 1e-6
    assert encoder.pooling == "mean"
    state = encoder.embed(batch)
    for index in range(encoder.depth):
        state = encoder.layer(index, state)
    assert (encoder.pool(state) - encoder(batch)).abs().max() < 1e-6
