import pytest
import torch

from effnlp import method
from effnlp.compression.pruning.heads import Heads
from effnlp.model.mixer.performer import Performer


def heads_left(model):
    return [block.mixer.heads for block in model.encoder.layers]


def test_what_is_removed_is_noted(make_classifier, make_batch):
    model = method.finish(Heads(sparsity=0.5), make_classifier(), [make_batch()])
    assert heads_left(model) == [1, 1, 1]
    assert method.applied(model)["compression/pruning"] == {
        "heads": 6, "heads_removed": 3, "heads_sparsity": 0.5,
    }  # fmt: skip


def test_nothing_removed_is_noted_as_that(make_classifier, make_batch):
    model = method.finish(Heads(sparsity=0.0), make_classifier(), [make_batch()])
    assert heads_left(model) == [2, 2, 2]
    assert method.applied(model)["compression/pruning"]["heads_removed"] == 0


def test_over_all_layers_they_may_end_with_different_numbers(minilm):
    batch = minilm.batch(["a lovely film", "a dull film", "the mat"], [1, 0, 0])
    model = method.finish(Heads(sparsity=0.5, scope="global"), minilm.model, [batch])
    left = [m.num_attention_heads for m in model.modules() if hasattr(m, "num_attention_heads")]
    assert sum(left) == 36
    assert min(left) >= 1
    assert len(set(left)) > 1
    assert model(batch).isfinite().all()


@pytest.mark.parametrize("moment", ["prepare", "finish"])
def test_it_acts_at_the_moment_it_is_told(moment, make_classifier, make_batch, take_steps):
    chosen, batch = Heads(moment=moment), make_batch(16)
    model = method.prepare([chosen], make_classifier(), [batch])
    assert heads_left(model) == ([1, 1, 1] if moment == "prepare" else [2, 2, 2])
    losses = take_steps(model, batch)
    assert losses[-1] < losses[0]
    model = method.finish(chosen, model, [batch])
    assert heads_left(model) == [1, 1, 1]


def test_the_heads_of_random_features_are_removed_as_well(make_classifier, make_batch):
    model, batch = make_classifier(), make_batch()
    for block in model.encoder.layers:
        block.mixer = Performer(width=32, heads=4, features=8)
    model = method.finish(Heads(sparsity=0.75), model, [batch])
    assert heads_left(model) == [1, 1, 1]
    assert model(batch).isfinite().all()


def test_a_model_that_would_lose_all_heads_of_a_layer_is_refused_before_it_is_trained(
    make_classifier, tiny_family
):
    with pytest.raises(
        ValueError, match=r"remove all 2 groups that layers\.0\.mixer\.output reads; at most 0\.5"
    ):
        Heads(sparsity=0.8).check(make_classifier())
    with pytest.raises(ValueError, match="heads of models of type 't5' cannot be removed"):
        Heads().check(tiny_family("t5").model)
    Heads(sparsity=0.5).check(make_classifier())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"scope": "model"}, "scope must be one of"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"calibration_texts": 0}, "calibration_texts must be at least 1, got 0"),
        ({"moment": "during"}, "moment must be one of prepare, finish, got 'during'"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Heads(**values)


def test_it_cannot_choose_without_texts(make_classifier):
    with pytest.raises(ValueError, match="there are no texts for it"):
        method.finish(Heads(), make_classifier())


def test_texts_that_leave_early_are_no_obstacle(make_classifier, make_batch):
    from effnlp.compression.early_exit.deebert import DeeBERT

    exits, batch = DeeBERT(threshold=1.0), make_batch()
    model = exits.finish(exits.prepare(make_classifier()))
    model = method.finish(Heads(), model.eval(), [batch])
    assert heads_left(model) == [1, 1, 1]
    assert torch.isfinite(model(batch)).all()
