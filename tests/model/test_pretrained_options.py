"""What can be asked of a pretrained checkpoint, and what is refused."""

import copy
import json
import logging
import shutil

import pytest
import torch
import transformers

from effnlp.model.classifier import count_params
from effnlp.model.pretrained import Pretrained
from effnlp.model.storage import Deployed, stored_bytes
from effnlp.peft.lora import LoRA

TEXTS = ["the cat sat on the mat", "dog", "", "a film that was not very bright, is it strange or weird?"]
DECODERS = ["gpt2", "opt", "llama", "qwen2", "qwen3"]
WITHOUT_CHECKPOINTING = ["albert", "mpnet"]


def states_by_hand(encoder, batch, pooling):
    """One text after another, without padding."""
    hidden = encoder.states(batch)
    rows = [h[m.bool()] for h, m in zip(hidden, batch["attention_mask"], strict=True)]
    chosen = {
        "mean": lambda h: h.mean(0),
        "last": lambda h: h[-1],
        "cls": lambda h: h[0],
        "max": lambda h: h.amax(0),
    }
    return torch.stack([chosen[pooling](row) for row in rows])


@torch.inference_mode()
def test_auto_reads_the_last_token_of_a_decoder_and_the_mean_of_an_encoder(each_tiny_family):
    encoder, batch = each_tiny_family.model.encoder, each_tiny_family.batch(TEXTS)
    assert encoder.is_causal == (each_tiny_family.name in DECODERS)
    pooling = "last" if encoder.is_causal else "mean"
    assert encoder.pooling == pooling
    torch.testing.assert_close(encoder(batch), states_by_hand(encoder, batch, pooling), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_no_token_of_a_causal_model_sees_those_after_it_and_every_other_model_looks_ahead(each_tiny_family):
    encoder = each_tiny_family.model.encoder
    short, long = each_tiny_family.batch(["the cat"]), each_tiny_family.batch(["the cat sat on the mat"])
    ends = each_tiny_family.name not in DECODERS  # with a token that ends the text
    common = short["input_ids"].shape[1] - ends
    assert torch.equal(short["input_ids"][:, :common], long["input_ids"][:, :common])
    alone, followed = (encoder.states(batch)[:, :common] for batch in (short, long))
    difference = (alone - followed).abs().max()
    assert (difference < 1e-5) == encoder.is_causal


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "last"])
@torch.inference_mode()
def test_a_pooling_that_is_named_is_the_one(pooling, tiny_family):
    encoder, batch = tiny_family("gpt2", pooling=pooling).model.encoder, tiny_family("gpt2").batch(TEXTS)
    torch.testing.assert_close(encoder(batch), states_by_hand(encoder, batch, pooling), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "token"), [("gpt2", "<|endoftext|>"), ("llama", "</s>")])
def test_without_a_padding_token_the_one_that_ends_texts_pads_and_no_table_grows(
    name, token, tiny_family, caplog
):
    with caplog.at_level(logging.INFO):
        tiny = tiny_family(name)
    assert "has no padding token: its eos token pads, and is masked" in caplog.text
    batch = tiny.batch(TEXTS)
    pad = tiny.tokenizer.backend.token_to_id(token)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == pad).all()
    assert (batch["attention_mask"] == 0).any()
    assert tiny.model.encoder.word_embeddings().num_embeddings == tiny.tokenizer.vocabulary_size


def test_gradient_checkpointing_changes_no_gradient_of_a_change_on_a_frozen_base(
    each_tiny_family, tiny_family
):
    name = each_tiny_family.name
    if name in WITHOUT_CHECKPOINTING:
        with pytest.raises(ValueError, match=r"gradient_checkpointing: .* cannot do it; set it to false"):
            tiny_family(name, gradient_checkpointing=True)
        return
    gradients = []
    batch = each_tiny_family.batch(TEXTS, [0, 1, 2, 0])
    for checkpointing in (False, True):
        tiny = tiny_family(name, gradient_checkpointing=checkpointing, inner_dropout=False, dropout=0.0)
        torch.manual_seed(4)
        model = LoRA(rank=2).prepare(tiny.model).train()
        runs = []
        inside = model.encoder.get_submodule(model.encoder.linear_roles()["value"][0])
        inside.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        for module in model.modules():  # T5 has dropout that is no module
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        torch.nn.functional.cross_entropy(model(batch), batch["labels"]).backward()
        assert len(runs) == 1 + checkpointing
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert sum(float(g.abs().sum()) for g in gradients[0]) > 0
    for without, with_it in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
@torch.inference_mode()
def test_both_ways_to_compute_attention_agree(name, tiny_family):
    eager, fused = (tiny_family(name, attn_implementation=kind) for kind in ("eager", "sdpa"))
    kinds = [tiny.model.encoder.model.config._attn_implementation for tiny in (eager, fused)]
    assert kinds == ["eager", "sdpa"]
    batch = eager.batch(TEXTS)
    assert (eager.model(batch) - fused.model(batch)).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "kind"), [("deberta", "sdpa"), ("bert", "fast")])
def test_a_way_to_compute_attention_that_a_model_lacks_is_refused(name, kind, tiny_family):
    with pytest.raises(ValueError, match=f"attn_implementation={kind}: .* cannot compute attention so"):
        tiny_family(name, attn_implementation=kind)


def test_weights_in_a_pickle_are_read_only_when_that_is_allowed(tiny_family, tmp_path):
    tiny = tiny_family("bert")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tiny.path)
    model.config.save_pretrained(tmp_path)
    tiny.choice.checkpoint.load(transformers.AutoTokenizer).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"holds pytorch_model\.bin and has no weights in safetensors.*allow_pickle=true"
    ):
        Pretrained(name=str(tmp_path), max_length=48).build(tiny.tokenizer, 3)
    torch.manual_seed(0)
    read = Pretrained(name=str(tmp_path), max_length=48, allow_pickle=True).build(tiny.tokenizer, 3).eval()
    batch = tiny.batch(TEXTS)
    assert torch.equal(read(batch), tiny.model(batch))


def test_code_that_comes_with_a_checkpoint_is_not_run(tiny_family, tmp_path):
    tiny = tiny_family("bert")
    ran = tmp_path / "ran"
    config = json.loads((tiny.path / "config.json").read_text())
    config |= {
        "model_type": "their_own",
        "auto_map": {"AutoConfig": "theirs.Theirs", "AutoModel": "theirs.Theirs"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(
        ValueError, match=r"Python files of its own, which are not run.*trust_remote_code=true"
    ):
        Pretrained(name=str(tmp_path), max_length=48).build(tiny.tokenizer, 3)
    assert not ran.exists()


@torch.inference_mode()
def test_a_copy_and_a_saved_model_answer_alike_and_take_no_more_room(each_tiny_family, tmp_path):
    tiny = each_tiny_family
    batch = tiny.batch(TEXTS)
    expected = tiny.model(batch)
    Deployed(tiny.model, tiny.tokenizer, ("a", "b", "c")).save(tmp_path / "deployed.pt")
    read = Deployed.load(tmp_path / "deployed.pt").model
    for other in (copy.deepcopy(tiny.model), read):
        assert torch.equal(other(batch), expected)
        assert count_params(other) == count_params(tiny.model)
        assert stored_bytes(other) == stored_bytes(tiny.model)
    assert stored_bytes(tiny.model) >= 4 * count_params(tiny.model)


def test_the_embeddings_that_t5_shares_count_once_and_are_one_in_copies(tiny_family):
    model = tiny_family("t5").model
    for each in (model, copy.deepcopy(model)):
        library = each.encoder.model
        assert library.shared.weight is library.encoder.embed_tokens.weight
    table = model.encoder.word_embeddings().weight.numel()
    assert stored_bytes(model) < 4 * count_params(model) + 2 * table


@torch.inference_mode()
def test_types_of_texts_are_not_read_as_words(tiny_family):
    tiny = tiny_family("gpt2")
    assert not tiny.tokenizer.type_ids
    batch = tiny.batch(["the cat"])
    typed = {**batch, "token_type_ids": torch.ones_like(batch["input_ids"])}
    assert torch.equal(tiny.model(typed), tiny.model(batch))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_run_is_done_with_a_decoder_and_an_encoder_from_a_folder(name, tiny_family, run_tiny):
    folder = tiny_family(name).path
    record = run_tiny(
        "model=pretrained", f"model.name={folder}", "model.max_length=32", "peft=lora",
        "peft.targets=[query,feedforward_gate]", "peft.rank=2", "trainer.epochs=1", "finetuning.learning_rate=0.01",
    )  # fmt: skip
    assert record.status == "completed", record.message
    assert record.values["infer/single_stream/flops"] > 0


@pytest.mark.parametrize(("name", "longest"), [("gpt2", 64), ("opt", 64), ("deberta", 64), ("roberta", 62)])
@torch.inference_mode()
def test_the_longest_input_is_what_the_positions_allow(name, longest, tiny_family):
    tiny = tiny_family(name, max_length=longest)
    batch = tiny.batch(["the strange film " * 50])
    assert batch["input_ids"].shape[1] == longest
    assert torch.isfinite(tiny.model(batch)).all()
    with pytest.raises(ValueError, match=f"max_length must be at most {longest} for .*, got {longest + 1}"):
        tiny_family(name, max_length=longest + 1)


@torch.inference_mode()
def test_relative_positions_have_no_end(tiny_family):
    tiny = tiny_family("t5", max_length=300)
    batch = tiny.batch(["cat " * 500])
    assert batch["input_ids"].shape[1] == 300
    assert torch.isfinite(tiny.model(batch)).all()


@pytest.mark.parametrize("how", ["cut", "resized"])
def test_broken_weights_are_refused_with_the_folder(how, tiny_family, tmp_path):
    tiny = tiny_family("bert")
    shutil.copytree(tiny.path, tmp_path / "broken")
    weights, config = tmp_path / "broken" / "model.safetensors", tmp_path / "broken" / "config.json"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 44}))
    with pytest.raises(ValueError, match=r"broken is no folder of a pretrained model: "):
        Pretrained(name=str(tmp_path / "broken"), max_length=48).build(tiny.tokenizer, 3)
