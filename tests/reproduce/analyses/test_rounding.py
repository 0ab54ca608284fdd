import pytest
import torch
from torch import nn

from effnlp.compression.quantization.llm_int8 import DecomposedLinear
from effnlp.compression.quantization.products import DynamicInt8Linear
from effnlp.reproduce.analyses import rounding
from effnlp.reproduce.cells import Run


@pytest.fixture
def runs(run_tiny):
    """A language model of a few steps."""
    record = run_tiny(
        "model=decoder", "model.max_length=16", "finetuning=causal_lm", "evaluation/quality=[language]",
        "finetuning.learning_rate=3e-3", "keep_model=true",
    )  # fmt: skip
    return {"decoder": [Run("decoder", "3", record, record.folder)]}


def test_in_floats_the_perplexity_is_that_of_the_record_and_more_bits_come_closer_to_it(runs):
    table = rounding.perplexities(runs, "decoder", [8, 2], calibration_texts=40)
    assert list(table) == ["float", "RTN 8", "GPTQ 8", "RTN 2", "GPTQ 2"]
    whole = table["float"]["perplexity"]["3"]
    assert whole == pytest.approx(runs["decoder"][0].record.values["val/perplexity"], rel=1e-4)
    for row in ("RTN", "GPTQ"):
        rises = [abs(table[f"{row} {bits}"]["rise"]["3"]) for bits in (8, 2)]
        assert rises[0] < rises[1]
        assert table[f"{row} 2"]["rise"]["3"] == pytest.approx(
            100 * (table[f"{row} 2"]["perplexity"]["3"] / whole - 1)
        )
    assert table["GPTQ 2"]["error to nearest"]["3"] < table["GPTQ 2"]["worst layer"]["3"] <= 1

    outliers = rounding.outliers(runs, "decoder", texts=20)
    error = {row: columns["int8 error"]["3"] for row, columns in outliers.items()}
    assert error["absmax int8, planted"] > 3 * error["absmax int8"] > 0
    assert error["LLM.int8(), planted"] < error["absmax int8, planted"]


def test_planting_outliers_does_not_change_what_a_layer_gives():
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 10), torch.randn(50, 24)
    planted, inputs = rounding.plant(linear, x, count=3, factor=20.0)
    assert torch.allclose(planted(inputs), linear(x), atol=1e-5)
    assert ((inputs / x).round() == 20).all(0).sum() == 3
    assert inputs.abs().max() == pytest.approx(20 * float(x.abs().max()))


def test_taking_planted_outliers_out_undoes_their_harm():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 32), torch.randn(200, 64)
    planted, inputs = rounding.plant(linear, x, count=4, factor=20.0)
    plain = rounding.relative_error(DynamicInt8Linear(linear), linear, x)
    harmed = rounding.relative_error(DynamicInt8Linear(planted), planted, inputs)
    apart = DecomposedLinear(planted, inputs.abs().amax(0) >= rounding.OUTLIER)
    assert harmed > 5 * plain
    assert rounding.relative_error(apart, planted, inputs) < 1.2 * plain


def test_a_layer_has_no_error_against_itself():
    linear = nn.Linear(6, 4)
    assert rounding.relative_error(linear, linear, torch.randn(5, 6)) == 0


def test_a_model_of_classes_has_no_perplexity(run_tiny):
    record = run_tiny("keep_model=true")
    with pytest.raises(ValueError, match=r"perplexity needs a language model \(finetuning=causal_lm\)"):
        rounding.perplexities({"row": [Run("row", "0", record, record.folder)]}, "row", [4])
