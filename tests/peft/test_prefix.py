import copy
import math

import peft
import pytest
import torch
from torch import nn

from effnlp.compression.early_exit.exits import EarlyExitClassifier
from effnlp.compression.quantization.integer import Int8Linear
from effnlp.evaluation.flops import count_flops
from effnlp.legality import IllegalCombinationError, check
from effnlp.menu import conf_dir, read_choice
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier, count_params
from effnlp.model.families import FAMILIES
from effnlp.model.library_attention import OUT_OF_REACH, let_read_prefix
from effnlp.model.mixer.attention import Attention
from effnlp.model.prefixed import read_prefix
from effnlp.model.surgery import replace_layers
from effnlp.peft.lora import LoRA
from effnlp.peft.prefix import Prefix, PrefixTuning

TEXTS = ["the film was good", "dull", "a story about the film and the plot of it"]
CAUSAL = ["gpt2", "opt", "llama", "qwen2", "qwen3"]
REACHED = [*CAUSAL, "bert", "roberta", "distilbert", "albert", "electra", "t5"]


def trained(model, method):
    """Prepared, and with values of the prefix that matter, as after training."""
    model = method.prepare(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".prefix." in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def by_hand(mixer, hidden, mask, keys, values):
    """Attention of one text after another, head by head, over the rows of the prefix and those of the text."""
    width = hidden.shape[-1] // mixer.heads
    texts = []
    for text, own in zip(hidden, mask.bool(), strict=True):
        q, k, v = (layer(text) for layer in (mixer.query, mixer.key, mixer.value))
        heads = []
        for head in range(mixer.heads):
            part = slice(head * width, (head + 1) * width)
            k_all, v_all = torch.cat([keys[:, part], k[:, part]]), torch.cat([values[:, part], v[:, part]])
            scores = q[:, part] @ k_all.T / math.sqrt(width)
            for t in range(len(text)):
                for s in range(len(text)):
                    if not own[s] or (mixer.causal and s > t):
                        scores[t, len(keys) + s] = -math.inf
            heads.append(scores.softmax(-1) @ v_all)
        texts.append(mixer.output(torch.cat(heads, dim=-1)))
    return torch.stack(texts)


@pytest.mark.parametrize("causal", [False, True])
def test_our_attention_reads_the_prefix_as_if_its_rows_stood_before_the_text(causal):
    torch.manual_seed(0)
    mixer = Attention(16, heads=4, causal=causal)
    hidden, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    keys, values = torch.randn(2, 3, 16)
    without = mixer(hidden, mask)
    mixer.prefix = Prefix(torch.stack([keys, values]))
    found, expected = mixer(hidden, mask), by_hand(mixer, hidden, mask, keys, values)
    tokens = mask.bool()
    torch.testing.assert_close(found[tokens], expected[tokens], rtol=0, atol=1e-6)
    assert (found - without)[tokens].abs().max() > 0.01


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_mask_of_either_kind_lets_every_token_read_the_whole_prefix(kind):
    mask = torch.tensor([[[[True, False]]]])
    mask = mask if kind == "bool" else torch.zeros(1, 1, 1, 2).masked_fill(~mask, -1e9)
    heads = torch.randn(1, 2, 2, 4)
    _, _, longer = read_prefix(Prefix(torch.randn(2, 3, 8)), heads, heads, mask, causal=False)
    assert longer.dtype == mask.dtype
    assert torch.equal(longer[..., 3:], mask)
    assert longer[..., :3].flatten().tolist() == [kind == "bool"] * 3


def test_keys_that_no_query_likes_leave_what_the_text_says_to_itself():
    """What is left of a prefix that no token attends to: nothing."""
    torch.manual_seed(0)
    mixer, hidden, mask = Attention(8, heads=2), torch.randn(1, 4, 8), torch.ones(1, 4)
    nn.init.zeros_(mixer.query.weight)
    nn.init.ones_(mixer.query.bias)
    without = mixer(hidden, mask)
    mixer.prefix = Prefix(torch.stack([torch.full((3, 8), -1e4), torch.randn(3, 8)]))
    torch.testing.assert_close(mixer(hidden, mask), without, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", REACHED)
def test_the_library_reads_it_the_same_eagerly_and_fused(tiny_family, family):
    logits = []
    for kind in ("eager", "sdpa"):
        tiny = tiny_family(family, attn_implementation=kind)
        batch, before = tiny.batch(TEXTS), tiny.model(tiny.batch(TEXTS))
        torch.manual_seed(1)
        logits.append(trained(tiny.model, PrefixTuning(3))(batch))
        assert (logits[-1] - before).abs().max() > 1e-3
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", REACHED)
def test_a_model_that_may_read_a_prefix_and_has_none_gives_its_own_logits(tiny_family, family):
    tiny = tiny_family(family)
    batch = tiny.batch(TEXTS)
    before = tiny.model(batch)
    assert let_read_prefix(tiny.model.encoder.model)
    assert torch.equal(tiny.model(batch), before)


@pytest.mark.parametrize("family", REACHED)
def test_what_a_text_gives_depends_on_neither_company_nor_padding(tiny_family, family):
    tiny = tiny_family(family)
    model = trained(tiny.model, PrefixTuning(3))
    together = model(tiny.batch(TEXTS))
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(model(tiny.batch([text]))[0], together[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_in_a_decoder_no_token_sees_one_that_follows_it(tiny_family, family):
    tiny = tiny_family(family)
    encoder = trained(tiny.model, PrefixTuning(3)).encoder
    batch = tiny.batch(TEXTS[2:])
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][0, 4] += 1
    one, two = encoder.states(batch), encoder.states(other)
    torch.testing.assert_close(two[:, :4], one[:, :4], rtol=0, atol=1e-6)
    assert (two[:, 4] - one[:, 4]).abs().max() > 1e-3


def test_in_our_decoder_no_token_sees_one_that_follows_it(make_batch):
    torch.manual_seed(0)
    mixer = lambda width, heads: Attention(width, heads, causal=True)  # noqa: E731
    encoder = BackboneEncoder(Size(2, 16, 2, 32), mixer, 60, max_length=24)
    model = trained(Classifier(encoder, 3), PrefixTuning(3)).eval()
    batch = make_batch(4)
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 2] = 7
    one, two = model.encoder.states(batch), model.encoder.states(other)
    torch.testing.assert_close(two[:, :2], one[:, :2], rtol=0, atol=1e-6)
    assert (two[:, 2] - one[:, 2]).abs().max() > 1e-3


def library_prefix(base, ours):
    """The library's model around ``base``, with the weights of the network in ``ours``, an encoder."""
    prefixes = [module.prefix for module in ours.modules() if getattr(module, "prefix", None) is not None]
    trunk, config = prefixes[0].trunk, base.config
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    settings = peft.PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=len(trunk.tokens), prefix_projection=True,
        encoder_hidden_size=len(trunk.up), num_layers=len(prefixes), num_attention_heads=kv_heads,
        token_dim=prefixes[0].down.shape[0] // 2,
    )  # fmt: skip
    theirs = peft.get_peft_model(base, settings).eval()
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        if trunk.tokens.shape == encoder.embedding.weight.shape:
            encoder.embedding.weight.copy_(trunk.tokens)
            encoder.transform[0].weight.copy_(trunk.up)
        else:  # with grouped queries the library's network is as narrow as the keys
            encoder.transform[0] = nn.Linear(trunk.up.shape[1], len(trunk.up))
            encoder.embedding = nn.Embedding.from_pretrained(trunk.tokens.clone())
            encoder.transform[0].weight.copy_(trunk.up)
        encoder.transform[0].bias.copy_(trunk.up_offset)
        encoder.transform[2].weight.copy_(torch.cat([prefix.down for prefix in prefixes]))
        encoder.transform[2].bias.copy_(torch.cat([prefix.down_offset for prefix in prefixes]))
    return theirs


def test_agrees_with_the_library_peft_given_its_weights(tiny_family):
    """Of GPT-2 whose positions are all alike: the library counts those of the text from the prefix on."""
    tiny = tiny_family("gpt2", attn_implementation="eager")
    with torch.no_grad():
        tiny.model.encoder.model.wpe.weight.copy_(tiny.model.encoder.model.wpe.weight[:1].expand(64, -1))
    base = copy.deepcopy(tiny.model.encoder.model)
    ours = trained(tiny.model, PrefixTuning(4, inner_width=12)).encoder
    batch = tiny.batch(TEXTS)
    theirs = library_prefix(base, ours)(batch["input_ids"], attention_mask=batch["attention_mask"])
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(ours.states(batch)[tokens], theirs[0][tokens], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3", "opt"])
def test_agrees_with_the_cache_of_the_library_where_the_text_keeps_its_positions(tiny_family, family):
    """Rotary positions and grouped queries included: neither touches the rows of the prefix."""
    tiny = tiny_family(family)
    base = copy.deepcopy(tiny.model.encoder.model)
    ours = trained(tiny.model, PrefixTuning(4, inner_width=12)).encoder
    batch = tiny.batch(TEXTS)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cache = library_prefix(base, ours).get_prompt(batch_size=len(ids))
    longer = torch.cat([torch.ones(len(ids), 4, dtype=mask.dtype), mask], dim=1)
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
    theirs = base(input_ids=ids, attention_mask=longer, past_key_values=cache, position_ids=positions)
    torch.testing.assert_close(ours.states(batch)[mask.bool()], theirs[0][mask.bool()], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [None, "bert", "llama", "albert"])
def test_the_folded_prefix_gives_the_very_logits_of_the_network(
    tiny_family, make_classifier, make_batch, family
):
    tiny = tiny_family(family) if family else None
    batch = tiny.batch(TEXTS) if tiny else make_batch()
    method = PrefixTuning(3, inner_width=20)
    model = trained(tiny.model if tiny else make_classifier(), method)
    before = model(batch)
    method.settle(model)
    assert torch.equal(model(batch), before)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {n for n, _ in model.named_parameters() if n.endswith(".prefix.rows") or "head." in n}
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    method.settle(model)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert kept.keys() == model.state_dict().keys()


@pytest.mark.parametrize("reparameterise", [False, True])
@pytest.mark.parametrize("length", [1, 7])
def test_what_is_trained_and_what_is_kept_has_the_stated_size(make_classifier, length, reparameterise):
    depth, width, inner = 3, 32, 20
    method = PrefixTuning(length, reparameterise, inner)
    model = make_classifier(depth, width)
    head = count_params(model.head)
    method.prepare(model)
    kept = 2 * depth * length * width
    network = length * width + width * inner + inner + 2 * depth * width * (inner + 1)
    trainable = count_params(model, trainable_only=True) - head
    assert trainable == (network if reparameterise else kept)
    method.settle(model)
    assert count_params(model, trainable_only=True) - head == kept


def test_with_grouped_queries_it_is_as_narrow_as_their_keys(tiny_family):
    model = tiny_family("llama").model  # 4 heads of queries, 2 of keys, 8 wide
    head = count_params(model.head)
    model = PrefixTuning(5, reparameterise=False).prepare(model)
    assert count_params(model, trainable_only=True) - head == 2 * 2 * 5 * (2 * 8)


def test_layers_that_share_their_attention_share_their_prefix(tiny_family):
    model = tiny_family("albert").model
    head = count_params(model.head)
    model = PrefixTuning(5, reparameterise=False).prepare(model)
    assert model.encoder.depth == 2
    assert count_params(model, trainable_only=True) - head == 2 * 1 * 5 * 32


@pytest.mark.parametrize("reparameterise", [False, True])
def test_only_the_prefix_and_the_head_receive_a_gradient_and_move(
    make_classifier, make_batch, take_steps, reparameterise
):
    model = PrefixTuning(3, reparameterise).prepare(make_classifier())
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {n for n, _ in model.named_parameters() if ".prefix." in n or "head." in n}
    before = {name: value.clone() for name, value in model.named_parameters()}
    losses = take_steps(model, make_batch(), steps=10)
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == names


@pytest.mark.parametrize("family", REACHED)
def test_in_every_family_the_whole_prefix_learns_and_nothing_else(tiny_family, take_steps, family):
    tiny = tiny_family(family)
    model = PrefixTuning(3).prepare(tiny.model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    take_steps(model, tiny.batch(TEXTS, [0, 1, 2]), steps=2)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".prefix." in name or "head." in name}


def test_its_factor_of_the_learning_rate_is_that_of_the_prefix_alone(make_classifier):
    method = PrefixTuning(2, learning_rate_factor=4.0)
    model = method.prepare(make_classifier())
    for _ in range(2):
        rates = {n: getattr(p, "learning_rate_factor", 1.0) for n, p in model.named_parameters()}
        assert {rate for name, rate in rates.items() if ".prefix." in name} == {4.0}
        assert {rate for name, rate in rates.items() if ".prefix." not in name} == {1.0}
        method.settle(model)


@pytest.mark.parametrize("family", [None, "bert", "llama"])
def test_a_saved_and_loaded_prefix_gives_the_same_logits(
    tiny_family, make_classifier, make_batch, tmp_path, family
):
    tiny = tiny_family(family) if family else None
    batch, method = tiny.batch(TEXTS) if tiny else make_batch(), PrefixTuning(3)

    def prepared(seed):
        base = tiny.build() if tiny else make_classifier()
        torch.manual_seed(seed)
        return trained(base, method)

    model, fresh = method.finish(method.settle(prepared(1))), method.settle(prepared(2))
    assert not torch.equal(fresh(batch), model(batch))
    delta = {
        name: value for name, value in model.state_dict().items() if ".prefix." in name or "head." in name
    }
    torch.save(delta, tmp_path / "delta.pt")
    fresh.load_state_dict(torch.load(tmp_path / "delta.pt"), strict=False)
    assert torch.equal(fresh(batch), model(batch))


def test_a_whole_model_of_the_library_is_saved_and_loaded_with_its_prefix(tiny_family, tmp_path):
    tiny = tiny_family("bert")
    method = PrefixTuning(3)
    model = method.settle(trained(tiny.model, method))
    torch.save(model, tmp_path / "model.pt")
    loaded, batch = torch.load(tmp_path / "model.pt", weights_only=False), tiny.batch(TEXTS)
    assert torch.equal(loaded(batch), model(batch))
    assert torch.equal(copy.deepcopy(model)(batch), model(batch))


@pytest.mark.parametrize("family", [None, *REACHED])
def test_layer_by_layer_is_the_forward(tiny_family, make_classifier, make_batch, family):
    tiny = tiny_family(family) if family else None
    model = trained(tiny.model if tiny else make_classifier(), PrefixTuning(3))
    batch, encoder = tiny.batch(TEXTS) if tiny else make_batch(), model.encoder
    state = encoder.embed(batch)
    for index in range(encoder.depth):
        state = encoder.layer(index, state)
    torch.testing.assert_close(encoder.pool(state), encoder(batch), rtol=0, atol=1e-6)
    exits = EarlyExitClassifier(model, threshold=0.0).eval()
    exits.force_depth(encoder.depth)
    torch.testing.assert_close(exits(batch), model(batch), rtol=0, atol=1e-6)


def test_it_works_before_a_base_in_int8(make_classifier, make_batch, take_steps):
    model, batch = make_classifier(), make_batch()
    linears = [m for m in model.encoder.modules() if isinstance(m, nn.Linear)]
    model = replace_layers(model, linears, Int8Linear)
    before = model(batch)
    model = PrefixTuning(3).prepare(model)
    assert (model(batch) - before).abs().max() > 1e-3
    losses = take_steps(model, batch, steps=10)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("family", [None, "llama", "gpt2"])
def test_it_finds_attention_whose_layers_another_method_has_wrapped(
    tiny_family, make_classifier, make_batch, family
):
    tiny = tiny_family(family) if family else None
    batch = tiny.batch(TEXTS) if tiny else make_batch()
    build = tiny.build if tiny else make_classifier
    plain, wrapped = build(), LoRA(targets=["key", "value"]).prepare(build())
    logits = []
    for model in (plain, wrapped):
        torch.manual_seed(5)
        logits.append(trained(model, PrefixTuning(3))(batch))
    torch.testing.assert_close(*logits, rtol=0, atol=1e-6)


def test_every_token_of_the_prefix_costs_two_products_a_token_and_layer(make_classifier, make_batch):
    """Scores with its keys, and the mean of its values: 2·P·D each, for each of B·T tokens in L layers."""
    batch, method = make_batch(), PrefixTuning(3)
    without = count_flops(lambda: make_classifier()(batch)).flops
    model = method.settle(method.prepare(make_classifier()))
    added = count_flops(lambda: model(batch)).flops - without
    assert added == batch["input_ids"].numel() * 3 * (2 * 2 * 3 * 32)


def test_it_is_noted_what_was_added(make_classifier):
    method = PrefixTuning(4)
    model = method.finish(method.settle(method.prepare(make_classifier())))
    assert model.applied["peft"] == {"layers": 3, "merged_layers": 0, "prefix_tokens": 4}


def test_finding_attention_does_not_move_the_randomness_of_the_run(tiny_family):
    tiny = tiny_family("bert")
    tiny.model.train()
    state = torch.get_rng_state()
    let_read_prefix(tiny.model.encoder.model)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.model.encoder.model.config._attn_implementation == "prefixed_sdpa"


def test_families_out_of_reach_are_those_that_are_named(each_tiny_family):
    encoder = each_tiny_family.model.encoder
    if each_tiny_family.name not in OUT_OF_REACH:
        assert encoder.prefix_readers()
        return
    kind = encoder.model.config._attn_implementation
    with pytest.raises(ValueError, match=r"which that of \w+ is not; families whose can: albert, "):
        PrefixTuning().prepare(each_tiny_family.model)
    assert encoder.model.config._attn_implementation == kind
    assert all(parameter.requires_grad for parameter in each_tiny_family.model.parameters())


def test_what_is_said_to_be_out_of_reach_is_a_family_that_there_is():
    assert set(FAMILIES) > OUT_OF_REACH


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"inner_width": 0}, "inner_width must be at least 1, got 0"),
        ({"learning_rate_factor": 0}, "learning_rate_factor must be above 0, got 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        PrefixTuning(**settings)


def test_a_model_without_attention_that_reads_one_is_refused(make_classifier):
    model = make_classifier()
    for block in model.encoder.layers:
        block.mixer = nn.Identity()
    with pytest.raises(ValueError, match="BackboneEncoder has no attention that can read a prefix"):
        PrefixTuning().prepare(model)


def test_another_kind_of_attention_of_the_library_is_refused(tiny_family):
    model = tiny_family("bert").model
    model.encoder.model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="needs attn_implementation eager or sdpa, got 'flex_attention'"):
        PrefixTuning().prepare(model)


def test_a_second_prefix_is_refused(make_classifier):
    model = PrefixTuning().prepare(make_classifier())
    with pytest.raises(ValueError, match=r"layers\.0\.mixer has a prefix already"):
        PrefixTuning().prepare(model)


def test_finishing_what_was_not_prepared_is_refused(make_classifier):
    with pytest.raises(ValueError, match="has no prefix"):
        PrefixTuning().finish(make_classifier())


@pytest.mark.parametrize(
    ("model", "needed"),
    [
        ({"model": "backbone", "model/mixer": "performer"}, "softmax attention"),
        ({"model": "bag_of_ngrams"}, "softmax attention"),
    ],
)
def test_models_that_mix_tokens_in_another_way_are_refused_before_the_run(model, needed):
    slots = ["early_exit", "pruning", "quantization"]
    chosen = {**model, "peft": "prefix", **{f"compression/{slot}": "none" for slot in slots}}
    compression = {slot: read_choice(f"compression/{slot}", "none", [conf_dir()]).keys for slot in slots}
    with pytest.raises(IllegalCombinationError, match=f"peft=prefix needs {needed}"):
        check({"compression": {"order": slots, **compression}}, chosen, [conf_dir()])
