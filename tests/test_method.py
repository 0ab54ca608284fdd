import pytest
import torch
from torch import nn

from effnlp import method


class Watching:
    """Notes how many texts it saw, and in which mode the model was."""

    def __init__(self, texts, moment=None):
        self.calibration_texts, self.seen = texts, []
        if moment:
            self.calibrates_at = moment

    def calibrate(self, model, batches):
        self.seen.append((sum(len(batch["input_ids"]) for batch in batches), model.training))

    def prepare(self, model):
        return model

    def finish(self, model):
        assert self.seen
        return model


@pytest.fixture
def batches():
    return [{"input_ids": torch.arange(size), "labels": torch.zeros(size)} for size in (4, 4, 2)]


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (4, 4), (5, 5), (8, 8), (100, 10)])
def test_a_method_sees_as_many_texts_as_it_wants_in_evaluation_mode(batches, wanted, given):
    chosen, model = Watching(wanted), nn.Linear(1, 1).train()
    method.finish(chosen, model, batches)
    assert chosen.seen == [(given, False)]
    assert model.training


def test_a_method_calibrates_at_its_own_moment_alone(batches):
    early, late = Watching(4, "prepare"), Watching(4)
    method.prepare([early, late], nn.Linear(1, 1), batches)
    assert len(early.seen) == 1
    assert late.seen == []
    for each in (early, late):
        method.finish(each, nn.Linear(1, 1), batches)
    assert len(early.seen) == len(late.seen) == 1


def test_calibration_without_texts_is_refused():
    with pytest.raises(ValueError, match="Watching calibrates, and there are no texts for it"):
        method.finish(Watching(4), nn.Linear(1, 1))


def test_a_look_at_a_rung_calibrates_a_copy_on_the_last_batches(batches):
    chosen = Watching(3)
    method.preview([chosen], nn.Linear(1, 1), 1, 2, iter(batches))
    assert chosen.seen == []  # the copy saw them


def test_as_many_texts_are_fetched_as_the_most_curious_method_wants():
    assert method.texts_wanted([Watching(3), Watching(7), object()]) == 7
    assert method.texts_wanted([]) == 0


class Choosy:
    """Serves only models without a bias."""

    def check(self, model):
        if model.bias is not None:
            raise ValueError("a bias is more than it can bear")


def test_every_method_may_refuse_a_model_before_anything_is_done_to_it(batches):
    method.check([Watching(1), Choosy()], nn.Linear(1, 1, bias=False))
    with pytest.raises(ValueError, match="more than it can bear"):
        method.check([Watching(1), Choosy()], nn.Linear(1, 1))


def test_a_run_refuses_at_once_what_it_would_have_to_refuse_after_the_training(run_tiny):
    record = run_tiny("model=backbone", "compression/pruning=heads", "compression.pruning.sparsity=0.9")
    assert record.status == "failed"
    assert "would remove all 2 groups" in record.message
    assert "train/steps" not in record.values
