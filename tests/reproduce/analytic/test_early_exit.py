"""The expected saving: text by text, at its bounds, and against the exits of a model that really runs."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effnlp.compression.early_exit.exits import EarlyExitClassifier, entropy
from effnlp.model.backbone import BackboneEncoder, Size
from effnlp.model.classifier import Classifier
from effnlp.model.mixer.attention import Attention
from effnlp.reproduce.analytic import early_exit


def test_the_saving_is_the_mean_over_texts_of_the_share_of_layers_that_each_skips():
    depths = np.random.default_rng(0).integers(1, 7, size=500)  # of 6 layers
    counts = np.bincount(depths, minlength=7)[1:]
    assert early_exit.expected_saving(counts.tolist()) == pytest.approx(np.mean((6 - depths) / 6))


def test_leaving_last_saves_nothing_and_leaving_first_all_but_one_layer():
    assert early_exit.expected_saving([0, 0, 0, 7]) == 0
    assert early_exit.expected_saving([7, 0, 0, 0]) == 1 - 1 / 4


def test_a_text_that_leaves_a_layer_earlier_saves_more():
    later, earlier = [3, 5, 2, 9], [3, 6, 1, 9]
    assert early_exit.expected_saving(earlier) > early_exit.expected_saving(later)


def test_the_saving_does_not_depend_on_how_many_texts_there_are():
    assert early_exit.expected_saving([1, 2, 3]) == pytest.approx(early_exit.expected_saving([10, 20, 30]))


def test_speed_up_and_saving_are_two_ways_to_say_the_same():
    assert early_exit.speed_up(0.0) == 1
    assert early_exit.speed_up(early_exit.expected_saving([0, 0, 1, 0, 0, 0])) == pytest.approx(6 / 3)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1]])
def test_counts_of_no_text_are_an_error(counts):
    with pytest.raises(ValueError, match="exit_counts must not be negative, and one must be positive"):
        early_exit.expected_saving(counts)


def test_the_histogram_of_our_early_exit_gives_the_layers_that_ran():
    torch.manual_seed(0)
    encoder = BackboneEncoder(Size(4, 16, 2, 32), Attention, vocabulary_size=50, max_length=8, dropout=0.0)
    model = EarlyExitClassifier(Classifier(encoder, classes=2), threshold=0.0).eval()
    ran = []  # texts in each call of a layer
    for block in encoder.layers:
        block.register_forward_hook(lambda _module, inputs, _output: ran.append(len(inputs[0])))
    batch = {
        "input_ids": torch.randint(1, 50, (30, 8)),
        "attention_mask": torch.ones(30, 8, dtype=torch.int64),
    }
    model.exits_in_use = True
    with torch.no_grad():
        first = model.exits[0](encoder.pool(encoder.layer(0, encoder.embed(batch))))
        model.threshold = entropy(first).median().item()
        ran.clear()
        model.reset_exit_counts()
        model(batch)
    assert 30 < sum(ran) < 4 * 30
    assert early_exit.expected_saving(model.exit_counts.tolist()) == pytest.approx(1 - sum(ran) / (4 * 30))


def test_an_exit_that_is_passed_costs_its_pooler_and_its_head():
    with torch.device("meta"):
        way_out = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
        hidden = torch.empty(1, 32)
    with FlopCounterMode(display=False) as counter:
        way_out(hidden)
    assert early_exit.flops_of_exits(5, width=32, classes=3) == 5 * counter.get_total_flops()


def test_a_row_without_a_count_for_each_layer_is_an_error():
    with pytest.raises(ValueError, match="short: bert-base has 12 layers, got 2 counts"):
        early_exit.table({"short": [1, 1]}, "bert-base", tokens=4)
