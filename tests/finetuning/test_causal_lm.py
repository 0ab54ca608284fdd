import math

import pandas as pd
import pytest
import torch
import transformers

from effnlp.data.encodings import Encodings
from effnlp.finetuning.causal_lm import CausalLM, view
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.language import LanguageModel
from effnlp.model.mixer.attention import Attention
from effnlp.peft.lora import LoRA
from effnlp.task.task import Task

CHAIN = {1: (2, 3), 2: (4, 5), 3: (4, 5), 4: (2, 3), 5: (2, 3)}
"""A planted bigram: after each token one of two, equally likely; log 2 nats a token, and no more can be known."""


@pytest.fixture
def make_model():
    def make(seed=0):
        torch.manual_seed(seed)

        def mixer(**how):
            return Attention(**how, causal=True)

        encoder = BackboneEncoder(Size(1, 16, 2, 32), mixer, vocabulary_size=8, max_length=16, dropout=0.0)
        return CausalLM().with_head(Classifier(encoder, 2))

    return make


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)

    def text(length):
        row = [1]
        while len(row) < length:
            row.append(CHAIN[row[-1]][int(torch.randint(0, 2, (1,), generator=draw))])
        return row

    rows = [text(9 + i % 4) for i in range(256)]
    return Encodings.from_lists(rows, pad_id=0).batch(range(256))


def test_the_loss_falls_to_the_entropy_of_a_planted_bigram(make_model, batch, take_steps):
    losses = take_steps(make_model(), batch, steps=120, rate=1e-2, objective=CausalLM().objective)
    assert losses[0] > 1.8
    assert losses[-1] == pytest.approx(math.log(2), abs=0.05)


def test_the_judge_and_the_objective_weigh_every_token_alike(make_model, batch):
    choice, model = CausalLM(), make_model().eval()
    with torch.no_grad():
        costs = model(batch)
        parts = [
            {name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(10), slice(10, None))
        ]
        sums = [
            (choice.judge.of_batch(model(part), None), choice.judge.weight_of_batch(model(part), None))
            for part in parts
        ]
        loss = float(choice.objective(model, batch))
    mean = sum(float(nats) for nats, _ in sums) / sum(float(tokens) for _, tokens in sums)
    assert mean == pytest.approx(loss, rel=1e-5)
    assert loss == pytest.approx(float(costs[:, 0].sum() / costs[:, 1].sum()), rel=1e-6)
    assert choice.judge.preference(1.0) > choice.judge.preference(2.0)


def test_texts_without_a_token_to_predict_cost_nothing(make_model):
    batch = Encodings.from_lists([[1], [1]], pad_id=0).batch([0, 1])
    with torch.no_grad():
        assert float(CausalLM().objective(make_model(), batch)) == 0.0


def test_the_encoder_of_the_built_model_is_kept_and_its_head_is_not():
    encoder = BackboneEncoder(Size(1, 16, 2, 32), Attention, vocabulary_size=8, max_length=16)
    model = CausalLM().with_head(Classifier(encoder, 2))
    assert isinstance(model, LanguageModel)
    assert model.encoder is encoder


@pytest.mark.parametrize("labels", [("bad", "good"), ()])
def test_any_task_is_one_of_texts_here_and_stays_the_same_by_its_fingerprint(labels):
    table = pd.DataFrame({"text": ["a", "b"], "label": [0, 1]})
    task = Task("any", labels, {"train": table, "validation": table, "test": table})
    viewed = view(task)
    assert viewed.is_language
    assert not viewed.is_regression
    assert viewed.fingerprint == task.fingerprint


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", 0), ("weight_decay", -0.1), ("warmup_fraction", 1.0)]
)
def test_a_value_outside_its_range_is_named(key, value):
    with pytest.raises(ValueError, match=rf"finetuning\.{key} must be .*, got {value}"):
        CausalLM(**{key: value})


TEXTS = ["a cat sat on the mat", "the dog ran", "a red fox sat"]


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "qwen2"])
def test_a_pretrained_decoder_costs_what_the_library_says(tiny_family, family):
    tiny = tiny_family(family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny.path).eval()
    batch = tiny.batch(TEXTS)
    wanted = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model = CausalLM().with_head(tiny.model).eval()
    with torch.no_grad():
        expected = theirs(batch["input_ids"], attention_mask=batch["attention_mask"], labels=wanted).loss
        assert float(CausalLM().objective(model, batch)) == pytest.approx(float(expected), abs=1e-5)


def test_an_encoder_that_reads_in_both_directions_is_refused(tiny_family):
    with pytest.raises(ValueError, match="see those that follow them: bert is no decoder"):
        CausalLM().with_head(tiny_family("bert").model)


@pytest.mark.parametrize("family", ["gpt2", "llama"])  # one ties its head to the embeddings
def test_beside_a_pretrained_decoder_only_what_lora_adds_is_trained(tiny_family, family):
    model = LoRA().prepare(CausalLM().with_head(tiny_family(family).model))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.endswith((".a", ".b")) for name in trained)
