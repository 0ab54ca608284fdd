import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from effnlp import method
from effnlp.compression.vocabulary.prune import KeptRows, Prune, kept_ids, table_of
from effnlp.data.encodings import Encodings
from effnlp.data.examples import Examples
from effnlp.evaluation.example_flops import example_flops
from effnlp.model import sparse
from effnlp.model.backbone import Backbone
from effnlp.model.export import export_form
from effnlp.model.language import LanguageModel
from effnlp.model.mixer.attention import Attention
from effnlp.model.storage import stored_bytes
from effnlp.model.subwords import special_ids, unknown_id

SPECIAL = np.array([0, 3])
VOCABULARY = 60


def read(chosen, counts, unknown=None, seen=None):
    chosen.read_counts(np.asarray(counts), SPECIAL, unknown, np.asarray(counts if seen is None else seen))
    return chosen


def counts_of(used):
    counts = np.zeros(VOCABULARY, dtype=np.int64)
    counts[used] = np.arange(len(used)) + 1
    return counts


def only(batch, used):
    """The batch with ids out of ``used``."""
    ids = torch.tensor(used)[batch["input_ids"] % len(used)]
    return {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), ids, 0)}


def test_special_tokens_stay_and_of_the_others_those_that_are_frequent_enough():
    counts = np.array([0, 5, 1, 0, 2, 2, 9])
    assert kept_ids(counts, SPECIAL, 2).tolist() == [0, 1, 3, 4, 5, 6]
    assert kept_ids(counts, SPECIAL, 0).tolist() == list(range(7))
    assert kept_ids(counts, SPECIAL, 1, target_size=5).tolist() == [0, 1, 3, 4, 6]  # of 4 and 5 the lower
    assert kept_ids(counts, np.array([3, 0, 3]), 100).tolist() == [0, 3]
    with pytest.raises(ValueError, match="room for a token beside the 2 that always stay, got 2"):
        kept_ids(counts, SPECIAL, 1, target_size=2)


@pytest.mark.parametrize("unknown", [None, 3])
def test_logits_of_texts_of_kept_tokens_are_the_same_and_other_tokens_are_read_alike(
    make_classifier, make_batch, unknown
):
    used = [7, 11, 20, 21, 59]
    model, batch = make_classifier(), make_batch()
    pruned = method.finish(read(Prune(), counts_of(used), unknown), copy.deepcopy(model)).eval()
    known = only(batch, used)
    torch.testing.assert_close(pruned(known), model(known), rtol=0, atol=1e-6)
    dropped = [only(batch, [1, 2]), only(batch, [58, 40])]
    torch.testing.assert_close(pruned(dropped[0]), pruned(dropped[1]))
    if unknown is not None:
        torch.testing.assert_close(pruned(dropped[0]), model(only(batch, [unknown])), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("unknown", "rows"), [(None, 8), (3, 7)])
def test_bytes_fall_by_the_rows_that_went_less_the_map(make_classifier, unknown, rows):
    model = make_classifier()
    pruned = method.finish(read(Prune(), counts_of([7, 11, 20, 21, 59]), unknown), copy.deepcopy(model))
    table = pruned.encoder.tokens
    assert table.table.weight.shape == (rows, 32)
    map_bytes = sparse.stored_bytes(sparse.pack({"map": table.row_of_id}))
    assert map_bytes <= 4 * VOCABULARY
    assert stored_bytes(model) - stored_bytes(pruned) == 4 * 32 * (VOCABULARY - rows) - map_bytes
    noted = pruned.applied["compression/vocabulary"]
    assert (noted["rows_before"], noted["rows"]) == (VOCABULARY, rows)


def test_what_is_read_as_unknown_is_counted_on_the_validation_texts(make_classifier):
    counts, seen = counts_of([7, 11]), np.zeros(70, dtype=np.int64)
    seen[[0, 3, 7, 12, 65]] = [100, 50, 6, 3, 1]  # two of them special
    model = method.finish(read(Prune(), counts, seen=seen), make_classifier())
    noted = model.applied["compression/vocabulary"]
    assert (noted["validation_tokens"], noted["validation_tokens_unknown"]) == (10, 4)


def test_where_every_token_is_used_the_model_is_left_alone_and_that_is_noted(make_classifier):
    model = make_classifier()
    finished = method.finish(read(Prune(min_count=0), counts_of([7])), model)
    assert type(finished.encoder.tokens) is nn.Embedding
    assert finished.applied["compression/vocabulary"]["rows"] == VOCABULARY


def test_the_map_costs_no_operation_and_is_in_the_graph(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    encodings = Encodings.from_lists([[1, 2, 3], [4, 5, 6, 7]], pad_id=0)
    before = example_flops(model, encodings, 1)[0]
    pruned = method.finish(read(Prune(), counts_of([1, 2, 7])), model).eval()
    assert example_flops(pruned, encodings, 1)[0] == before
    torch.testing.assert_close(export_form(pruned)(batch), pruned(batch))


def test_a_text_of_the_task_is_read_as_before_and_a_new_word_may_be_unknown():
    train = pd.DataFrame(
        {"text": ["a lovely film", "a dull film", "lovely, lovely"] * 3, "label": [1, 0, 1] * 3}
    )
    choice = Backbone(Attention, max_length=16, vocabulary_size=400)
    tokenizer = choice.tokenizer(train)
    encoded = {
        name: tokenizer.encode(texts)
        for name, texts in (("train", train["text"].tolist()), ("validation", ["a lovely xylophone"]))
    }
    examples = {name: Examples(ids, np.zeros(len(ids), dtype=np.int64)) for name, ids in encoded.items()}
    chosen, model = Prune(), choice.build(tokenizer, 2).eval()
    method.read_data([chosen], SimpleNamespace(tokenizer=tokenizer, examples=examples))
    pruned = method.finish(chosen, copy.deepcopy(model)).eval()
    batch = examples["train"].batch([0, 1, 2])
    torch.testing.assert_close(pruned(batch), model(batch), rtol=0, atol=1e-6)
    noted = pruned.applied["compression/vocabulary"]
    assert noted["rows"] == len(set(encoded["train"].ids.tolist()) | set(special_ids(tokenizer))) + 1
    assert 0 < noted["validation_tokens_unknown"] < noted["validation_tokens"]


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt2", "t5", "deberta"])
def test_families_of_the_library_read_kept_tokens_as_before(tiny_family, family):
    made = tiny_family(family)
    batch = made.batch(["the cat sat on the mat", "a film"])
    chosen = Prune()
    counts = np.bincount(batch["input_ids"].flatten(), minlength=made.tokenizer.vocabulary_size)
    always = np.array([*special_ids(made.tokenizer), made.tokenizer.pad_id])
    chosen.read_counts(counts, always, unknown_id(made.tokenizer), counts)
    pruned = method.finish(chosen, made.build()).eval()
    noted = pruned.applied["compression/vocabulary"]
    assert noted["rows"] < noted["rows_before"]
    torch.testing.assert_close(pruned(batch), made.model(batch), rtol=0, atol=1e-6)
    assert isinstance(pruned.encoder.word_embeddings(), KeptRows)


def test_the_unknown_token_is_the_one_that_the_tokenizer_gives(tiny_family):
    bert = tiny_family("bert").tokenizer
    assert unknown_id(bert) == bert.backend.token_to_id("[UNK]")
    assert unknown_id(tiny_family("gpt2").tokenizer) is None


def test_a_table_that_a_head_reads_too_is_refused_before_the_training(make_classifier):
    model = make_classifier()
    with pytest.raises(ValueError, match="would take tokens from the head"):
        Prune().check(LanguageModel(model.encoder))
    tied = make_classifier()
    tied.head = nn.Linear(32, VOCABULARY, bias=False)
    tied.head.weight = tied.encoder.tokens.weight
    with pytest.raises(ValueError, match="would take tokens from the head"):
        Prune().check(tied)
    assert table_of(model) is model.encoder.tokens


def test_what_it_cannot_do_is_refused(make_classifier):
    with pytest.raises(ValueError, match="min_count must be at least 0, got -1"):
        Prune(min_count=-1)
    with pytest.raises(ValueError, match="target_size must be at least 1, or null for no limit, got 0"):
        Prune(target_size=0)
    with pytest.raises(ValueError, match="must see them first"):
        Prune().finish(make_classifier())
    with pytest.raises(ValueError, match="needs a table of tokens, which Linear does not have"):
        Prune().check(SimpleNamespace(encoder=nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="needs a tokenizer of subwords, got object"):
        Prune().read_data(SimpleNamespace(tokenizer=object()))
