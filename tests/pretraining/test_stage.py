"""A pre-training in a run, from texts to the record."""

import re

import pytest
import torch

from effnlp.model.storage import Deployed
from effnlp.search.final import measure

TINY = (
    "model=backbone", "model.vocabulary_size=400", "model.max_length=24", "pretraining=mlm",
    "pretraining.corpus=[task]", "pretraining.steps=30", "pretraining.batch_size=16", "trainer.epochs=1",
)  # fmt: skip
DECODER = (
    *(word for word in TINY if word not in ("model=backbone", "pretraining=mlm")),
    "model=decoder",
    "pretraining=clm",
)


@pytest.mark.parametrize("overrides", [TINY, DECODER], ids=["mlm", "clm"])
def test_a_model_learns_from_texts_before_it_learns_the_task(run_tiny, overrides, tmp_path):
    record = run_tiny(*overrides, folder=tmp_path / "made")
    values = record.values
    assert record.status == "completed", record.message
    assert 0 < values["pretraining/loss"] < 6
    assert values["pretraining/steps"] == 30
    assert values["pretraining/tokens"] > 30 * 16 * 3
    assert values["cost/pretraining/own/flops"] > 1e6
    assert "flops/uncounted" not in record.notes
    reused = run_tiny(*overrides, "seed.init=1", folder=tmp_path / "reused").values
    assert reused["pretraining/loss"] == values["pretraining/loss"]
    assert reused["cost/pretraining/own/flops"] == 0
    assert reused["cost/pretraining/amortised/flops"] == values["cost/pretraining/own/flops"]
    assert reused["cost/pretraining/amortised/seconds"] > 0
    assert not any("pretraining/amortised" in key for key in values)


def test_more_steps_leave_a_lower_loss_on_texts_never_seen(run_tiny, tmp_path):
    short, long = (
        run_tiny(
            *TINY,
            f"pretraining.steps={steps}",
            "pretraining.learning_rate=3e-3",
            folder=tmp_path / str(steps),
        )
        for steps in (5, 120)
    )
    assert long.values["pretraining/loss"] < short.values["pretraining/loss"] - 0.5


def test_the_built_model_has_the_learned_weights_and_the_tokenizer_of_the_corpus(run_tiny, tmp_path):
    frozen = ("peft=head_only",)
    plain, learned = (
        Deployed.load(run_tiny(*overrides, folder=tmp_path / name).folder / "deployed.pt")
        for name, overrides in (
            ("plain", [word for word in (*TINY, *frozen) if "pretraining" not in word]),
            ("learned", (*TINY, *frozen)),
        )
    )
    assert learned.tokenizer.backend.token_to_id("[MASK]") is not None
    assert plain.tokenizer.backend.token_to_id("[MASK]") is None
    again = Deployed.load(
        run_tiny(*TINY, *frozen, "seed.init=5", folder=tmp_path / "again").folder / "deployed.pt"
    )
    for (name, one), (_, other) in zip(
        learned.model.encoder.named_parameters(), again.model.encoder.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    assert not torch.equal(learned.model.encoder.tokens.weight[:300], plain.model.encoder.tokens.weight[:300])


def test_the_test_split_is_scored_later_as_it_would_have_been_at_once(run_tiny, tmp_path):
    at_once = run_tiny(*TINY, "evaluation.test=true", folder=tmp_path / "at_once")
    later = run_tiny(*TINY, folder=tmp_path / "later")
    measure(later, later.folder, test=True, latency=False)
    assert later.values["test/loss"] == pytest.approx(at_once.values["test/loss"], rel=1e-5)


def test_what_is_learned_depends_on_nothing_but_its_key(run_tiny, tmp_path, monkeypatch):
    losses = []
    for name in ("one", "other"):
        monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path / f"cache_{name}"))
        torch.manual_seed(len(losses))
        losses.append(
            run_tiny(*TINY, f"seed.init={len(losses)}", folder=tmp_path / name).values["pretraining/loss"]
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("model=pretrained", "pretraining=mlm"),
            "pretraining=mlm needs own tokenizer .* model=pretrained does not have",
        ),
        (("model=bag_of_ngrams", "pretraining=clm"), "pretraining=clm needs own tokenizer"),
        (("model=decoder", "pretraining=mlm"), "needs both directions .* would work: .*pretraining=clm"),
        (("model=backbone", "pretraining=clm"), "needs next tokens .* would work: .*model=decoder"),
        (
            ("model=backbone", "pretraining=mlm", "pretraining.max_length=200"),
            r"pretraining.max_length must be in 4 … 128",
        ),
    ],
)
def test_what_cannot_be_pre_trained_is_refused_in_words(run_tiny, overrides, said):
    record = run_tiny(*overrides)
    assert record.status == "failed"
    assert re.search(said, record.message), record.message
