"""Tasks put in words: what a sentence is put after, that labels of the task left out are never read, what transfers."""

import random

import pandas as pd
import pytest
import torch

from effnlp.finetuning.instruction import Instruction, companion_view, sentences_of, view
from effnlp.model.instructed import InstructedModel, Sentences
from effnlp.model.storage import Deployed
from effnlp.model.subwords import PAD_ID, SubwordTokenizer, train_byte_bpe
from effnlp.record import COMPLETED, FAILED
from effnlp.task.task import SPLITS, Task

TEXTS = ["a film about a train", "soup", "what a very long text this is, and it goes on and on"]
COUNT = 150
SAID = ["It is food.", "It is a much longer sentence.", "No."]


@pytest.fixture(scope="module")
def tokenizer():
    return SubwordTokenizer(
        train_byte_bpe([*TEXTS, *SAID] * 3, 400), max_length=40, pad_id=PAD_ID, type_ids=False
    )


@pytest.fixture
def asked(tokenizer):
    """A small model with the sentences of two tasks, and a batch of texts for it."""
    from effnlp.model.backbone import BackboneEncoder, Size
    from effnlp.model.classifier import Classifier
    from effnlp.model.mixer.attention import Attention

    torch.manual_seed(0)
    size = Size(depth=2, width=32, heads=2, feedforward_width=64)
    encoder = BackboneEncoder(size, Attention, tokenizer.vocabulary_size, max_length=40, dropout=0.0)
    sentences = {"own": Sentences(tokenizer, SAID), "beside": Sentences(tokenizer, ["Yes.", "No."])}
    model = InstructedModel(Classifier(encoder, 5), sentences, tokenizer.max_length).eval()
    return model, tokenizer.encode(TEXTS).batch(range(3), pad_to_multiple=8)


def task_of(name, labels, pairs=False):
    table = pd.DataFrame({"text": ["one", "two"], "label": [0, 1]})
    if pairs:
        table["text_pair"] = ["three", "four"]
    return Task(name, tuple(labels), dict.fromkeys(SPLITS, table))


# Texts with sentences


def test_each_text_is_read_with_each_sentence_as_the_tokenizer_reads_a_pair(tokenizer, asked):
    model, batch = asked
    given = model.sentences[0].after(batch, max_length=40)
    pairs = tokenizer.encode([t for t in TEXTS for _ in SAID], SAID * len(TEXTS)).batch(range(9))
    for row in range(9):
        ours, theirs = (b["input_ids"][row][b["attention_mask"][row].bool()] for b in (given, pairs))
        assert torch.equal(ours, theirs), row


def test_the_score_of_a_sentence_depends_on_no_other_sentence_and_no_other_text(tokenizer, asked):
    model, batch = asked
    all_scores = model(batch)
    assert all_scores.shape == (3, 3)
    assert len(all_scores.flatten().unique()) == 9
    for column, sentence in enumerate(SAID):
        alone = model.of_task("other", Sentences(tokenizer, [sentence]))
        for row, text in enumerate(TEXTS):
            score = alone(tokenizer.encode([text]).batch([0]))
            assert torch.allclose(score[0, 0], all_scores[row, column], atol=1e-5)


def test_a_text_that_leaves_no_room_is_cut_and_the_sentence_is_not(asked):
    model, batch = asked
    sentences = model.sentences[0]
    narrow = int(sentences.lengths.max()) + 3
    given = sentences.after(batch, max_length=narrow)
    assert given["input_ids"].shape == (9, narrow)
    lengths = given["attention_mask"].sum(1).view(3, 3)
    kept = batch["attention_mask"].sum(1).clamp_max(3)
    assert torch.equal(lengths, kept[:, None] + sentences.lengths)
    for column, length in enumerate(sentences.lengths):
        row = given["input_ids"][6 + column]
        assert torch.equal(row[3 : 3 + length], sentences.ids[column, :length])


def test_the_second_text_of_a_pair_has_its_type_where_the_model_knows_types(minilm):
    sentences = Sentences(minilm.tokenizer, ["It was bad.", "It was good."])
    batch = minilm.batch(["a lovely film", "dull"])
    given = sentences.after(batch, max_length=32)
    native = minilm.tokenizer.encode(["a lovely film"], ["It was good."]).batch([0])
    length = native["input_ids"].shape[1]
    for name in ("input_ids", "token_type_ids"):
        assert torch.equal(given[name][1, :length], native[name][0]), name


def test_sentences_are_neither_weights_nor_stored(asked):
    model, _ = asked
    assert not any("sentences" in name for name in model.state_dict())
    assert model.head.out_features == 1


def test_sentences_that_leave_no_room_are_refused(tokenizer, asked):
    model, _ = asked
    with pytest.raises(ValueError, match=r"sentences of task long leave .* of 16 tokens"):
        InstructedModel(model, {"long": Sentences(tokenizer, ["so " * 9])}, max_length=16)


# What is said


def test_known_tasks_have_sentences_of_their_own_and_others_the_names_of_their_labels():
    assert sentences_of(task_of("sst2", ["negative", "positive"])) == ["It was bad.", "It was good."]
    assert sentences_of(task_of("mine", ["not_so", "so"])) == ["It is not so.", "It is so."]
    assert sentences_of(task_of("sst2", ["x", "y"])) == ["It is x.", "It is y."]  # another task of that name
    assert sentences_of(task_of("mine", "ab"), {"mine": ["A?", "B?"]}) == ["A?", "B?"]


@pytest.mark.parametrize("given", [["A?"], ["A?", "A?"], ["A?", "B?", "C?"]])
def test_sentences_that_are_not_one_for_each_class_are_refused(given):
    with pytest.raises(
        ValueError, match=r"finetuning.sentences.mine must be 2 different sentences, for a, b"
    ):
        sentences_of(task_of("mine", "ab"), {"mine": given})


def test_pairs_become_one_text_and_the_own_task_is_the_same_task_left_out():
    pairs = task_of("pairs", "ab", pairs=True)
    one = companion_view(pairs)
    assert not one.is_pair
    assert one.splits["train"]["text"].tolist() == ["one\nthree", "two\nfour"]
    own = task_of("own", "ab")
    assert view(own).fingerprint == own.fingerprint
    assert view(own).is_left_out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"with_tasks": []}, "finetuning.with_tasks names no task"),
        ({"with_tasks": ["agnews"]}, "names 'agnews', which is no task; did you mean 'ag_news'"),
        ({"with_tasks": ["sst2"], "sampling": "all"}, "finetuning.sampling must be one of"),
        ({"with_tasks": ["sst2"], "label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), got -0.1"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        Instruction(**settings)


# Runs


def write(path, words, count, seed):
    """``count`` texts, each with a word that is also the name of its class."""
    draw = random.Random(seed)
    lines = ["text,label"]
    for index in range(count):
        word = words[index % len(words)]
        filler = [
            draw.choice(["the", "a", "was", "seen", "there", "again"]) for _ in range(draw.randint(2, 6))
        ]
        filler.insert(draw.randrange(len(filler)), word)
        lines.append(f"{' '.join(filler)},{word}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def left_out(run_tiny, tmp_path):
    """A run on colours of which no two were classes of one task in the training."""
    own = write(tmp_path / "own.csv", ["red", "green", "grey"], 60, seed=0)
    first = write(tmp_path / "first.csv", ["red", "blue", "black"], COUNT, seed=1)
    second = write(tmp_path / "second.csv", ["green", "grey", "white"], COUNT, seed=2)
    files = f"{{first: {{task: files, path: '{first}'}}, second: {{task: files, path: '{second}'}}}}"
    typed = (f"task.path={own}", "model=backbone", "finetuning=instruction", f"finetuning.with_tasks={files}")

    def go(*overrides, **more):
        return run_tiny(*typed, *overrides, **more)

    go.own = own
    return go


def test_a_run_learns_from_the_other_tasks_alone(left_out, tmp_path):
    once = ("trainer.epochs=1", "trainer.validations_per_epoch=3")
    record = left_out(*once, folder=tmp_path / "one")
    assert record.status == COMPLETED, record.message
    values = record.values
    assert values["data/examples"] == values["data/labels"]
    assert values["data/labels"] < 2 * COUNT  # of the two files beside, without what is validated
    assert values["train/best_step"] == values["train/steps"]
    assert {"val/first/accuracy", "val/second/accuracy", "val/accuracy"} <= values.keys()
    assert values["model/shared_params"] == values["model/params"]
    model = Deployed.load(record.folder / "deployed.pt").model
    assert model.names == ["own"]
    changed = left_out.own.read_text().splitlines()
    left_out.own.write_text("\n".join([changed[0], *(_other_label(line) for line in changed[1:])]))
    other = left_out(*once, folder=tmp_path / "other")
    same = [Deployed.load(run.folder / "deployed.pt").model.state_dict() for run in (record, other)]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


def _other_label(line):
    text, _, label = line.rpartition(",")
    return f"{text},{ {'red': 'green', 'green': 'grey', 'grey': 'red'}[label] }"


@pytest.mark.slow
def test_what_was_learned_about_words_answers_a_task_that_was_never_seen(left_out):
    record = left_out("trainer.epochs=24", "finetuning.learning_rate=2e-3", "model.dropout=0.0")
    assert record.values["val/first/accuracy"] > 0.9
    assert record.values["val/accuracy"] > 0.6  # chance is a third


@pytest.mark.parametrize("choice", [["peft=lora"], ["compression/quantization=int8_dynamic"]])
def test_methods_act_on_a_model_of_sentences(left_out, choice):
    record = left_out("trainer.epochs=1", *choice)
    assert record.status == COMPLETED, record.message
    deployed = Deployed.load(record.folder / "deployed.pt")
    scores = deployed.model(deployed.tokenizer.encode(["a red text", "grey"]).batch([0, 1]))
    assert scores.shape == (2, 3)


def test_a_killed_run_ends_as_one_that_was_never_disturbed(left_out, tmp_path, monkeypatch):
    from effnlp.finetuning import loop

    whole = left_out("trainer.epochs=2", folder=tmp_path / "whole")
    steps, original = [], loop.Training.training_step

    def step(self, batch, index):
        steps.append(index)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(loop.Training, "training_step", step)
    assert left_out("trainer.epochs=2", folder=tmp_path / "broken").reason == "interrupted"
    resumed = left_out("trainer.epochs=2", folder=tmp_path / "broken")
    assert resumed.values["train/resumed_at"] > 0
    assert resumed.values["val/accuracy"] == whole.values["val/accuracy"]
    assert resumed.values["val/first/loss"] == whole.values["val/first/loss"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=bag_of_ngrams"], "finetuning=instruction needs token sequence"),
        (["finetuning.sentences={third: [a, b]}"], "finetuning.sentences names 'third', and the tasks are own, first"),
        (["compression/early_exit=deebert"], "early_exit=deebert needs single task"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_before_the_training(left_out, overrides, said):
    record = left_out(*overrides)
    assert record.status == FAILED
    assert said in record.message
