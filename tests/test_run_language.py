"""A language model, from the texts of a task to the record."""

import json
import math
import re

import numpy as np
import pytest
import torch

from effnlp.compare import main as compare_main
from effnlp.evaluation.predictions import load_predictions
from effnlp.generation.command import main as generate_main
from effnlp.model.packaged import read_package
from effnlp.model.storage import Deployed
from effnlp.pick import main as pick_main
from effnlp.predict import main as predict_main
from effnlp.record import headline
from effnlp.report.answers import example_scores
from effnlp.report.read import read_records
from effnlp.report.summary import summarise
from effnlp.search.final import measure
from effnlp.search.rungs import Rungs, Verdict

LANGUAGE = (
    "model=decoder", "finetuning=causal_lm", "evaluation/quality=[language]", "model.vocabulary_size=300",
    "model.max_length=32", "finetuning.learning_rate=3e-3",
)  # fmt: skip


@pytest.fixture
def learn(run_tiny):
    """One run on the texts of the file, whatever their labels."""
    return lambda *overrides, **more: run_tiny(*LANGUAGE, *overrides, **more)


def test_a_run_learns_to_predict_texts_and_says_what_their_bytes_cost(learn, caplog):
    record = learn("evaluation.test=true")
    values = record.values
    assert record.status == "completed", record.message
    assert headline(values) == "val/bits_per_byte"
    assert 0 < values["val/bits_per_byte"] < 8
    assert values["val/perplexity"] == pytest.approx(math.exp(values["val/loss"]))
    assert values["val/loss"] == pytest.approx(values["train/best_loss"], rel=1e-4)
    assert 1 < values["val/perplexity"] < 100  # 300 tokens, of which most never come
    assert values["test/bits_per_byte"] == pytest.approx(values["val/bits_per_byte"], rel=0.2)
    assert values["data/labels"] == 0
    assert values["infer/single_stream/flops"] > 2 * 128 * 290  # the head alone, at one token
    assert values["infer/fixed_batch/flops"] > 0
    assert not any("accuracy" in key for key in values)
    kept = load_predictions(record.folder)["val"]
    counts = record.notes["val/language"]
    assert counts["tokens"] == int(kept.logits[:, 1].sum())
    assert counts["bytes"] == int(kept.labels.sum())
    assert values["val/bits_per_byte"] == pytest.approx(
        float(kept.logits[:, 0].sum()) / math.log(2) / counts["bytes"]
    )
    for name in ("loss", "bits_per_byte"):
        assert example_scores(kept)[name].mean() == pytest.approx(values[f"val/{name}"], rel=1e-6)
    caplog.set_level("INFO")
    again = learn("evaluation.test=true")
    assert "already complete" in caplog.text
    assert again.values == values


def test_what_the_deployed_model_says_is_what_the_record_has(learn, texts_file, capsys):
    record = learn()
    deployed = Deployed.load(record.folder / "deployed.pt")
    assert list(deployed.labels) == []
    text = "the film was very superb"
    encodings = deployed.tokenizer.encode([text])
    with torch.inference_mode():
        nats, tokens = deployed.model(encodings.batch([0]))[0].tolist()
    assert tokens == encodings.lengths[0] - 1
    assert 0 < nats < 200
    assert encodings.totals(deployed.tokenizer.byte_lengths()).tolist() == [len(text)]
    asked = record.folder / "asked.txt"
    asked.write_text(text)
    assert predict_main([str(record.folder), "--file", str(asked)]) == 2
    assert "predicts next tokens: it gives neither labels nor a number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no probabilities"):
        read_package(record.folder).probabilities([text])


def test_bytes_that_are_cut_off_are_not_counted(learn, tmp_path):
    whole = learn(folder=tmp_path / "whole")
    cut = learn("model.max_length=8", folder=tmp_path / "cut")
    assert cut.values["data/truncated"] > 0
    assert whole.values["data/truncated"] == 0
    kept, all_of_it = (load_predictions(each.folder)["val"] for each in (cut, whole))
    assert kept.logits[:, 1].max() == 7
    shorter = kept.labels < all_of_it.labels
    assert shorter.any()
    assert np.array_equal(kept.labels[~shorter], all_of_it.labels[~shorter])


def test_the_test_split_is_scored_later_as_it_would_have_been_at_once(learn, tmp_path):
    at_once = learn("evaluation.test=true", folder=tmp_path / "at_once")
    later = learn(folder=tmp_path / "later")
    measure(later, later.folder, test=True, latency=False)
    for key in ("test/bits_per_byte", "test/perplexity", "test/loss"):
        assert later.values[key] == pytest.approx(at_once.values[key], rel=1e-5)
    assert later.notes["test/language"] == at_once.notes["test/language"]


def test_a_search_sees_bits_per_byte_at_a_rung_and_the_training_goes_on_untouched(learn, tmp_path):
    seen = []

    def report(rung):
        seen.append(dict(rung.values))
        return Verdict("continue", "go on")

    shown = learn(folder=tmp_path / "shown", rungs=Rungs((1,), 2, 0, report))
    plain = learn(folder=tmp_path / "plain")
    assert len(seen) == 1
    assert shown.values["val/bits_per_byte"] < seen[0]["val/bits_per_byte"] < 8
    assert shown.values["val/bits_per_byte"] == plain.values["val/bits_per_byte"]


def test_of_two_runs_the_report_prefers_the_one_whose_bytes_are_cheaper(learn, tmp_path):
    learn(folder=tmp_path / "runs" / "long")
    learn("trainer.epochs=1", folder=tmp_path / "runs" / "short")
    (section,) = summarise(read_records([tmp_path / "runs"])).sections
    assert section.objectives == {"val/bits_per_byte": "minimize", "infer/single_stream/flops": "minimize"}
    bits = [candidate.values["val/bits_per_byte"].mean for candidate in section.frontier]
    assert min(bits) == min(c.values["val/bits_per_byte"].mean for c in section.candidates)


def test_two_runs_are_compared_text_by_text_and_fewer_bits_are_better(learn, tmp_path, capsys):
    learn(folder=tmp_path / "long")
    learn("trainer.epochs=1", folder=tmp_path / "short")
    assert compare_main([str(tmp_path / "short"), str(tmp_path / "long"), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparisons"][0]
    rows = {row["key"]: row for row in comparison["rows"]}
    bits = rows["val/bits_per_byte"]
    assert bits["difference"]["mean"] == pytest.approx(bits["b"] - bits["a"], abs=1e-6)
    assert bits["difference"]["mean"] < 0
    assert bits["difference"]["how"] == "bootstrap over examples"
    assert bits["verdict"] == "better"
    assert comparison["answers"] == []


def test_pairs_are_predicted_too(learn, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f"film {i} was {('bad', 'good')[i % 2]},so was story {i},{i / 2}" for i in range(150)]
    path.write_text("\n".join(["text,text_pair,label", *rows]))
    record = learn(f"task.path={path}", "task.text_pair=text_pair", "task.number=true")
    assert record.status == "completed", record.message
    assert record.values["val/bits_per_byte"] < 3


def test_what_is_picked_says_that_it_predicts_tokens(learn, tmp_path, capsys):
    learn("trainer.epochs=1", folder=tmp_path / "runs" / "one")
    assert pick_main([str(tmp_path / "runs"), "--into", str(tmp_path / "picked")]) == 0
    assert "val/bits_per_byte" in capsys.readouterr().out
    assert "It predicts next tokens" in (tmp_path / "picked" / "README.md").read_text()
    with pytest.raises(ValueError, match="predicts next tokens"):
        read_package(tmp_path / "picked").numbers(["a text"])
    assert pick_main([str(tmp_path / "runs"), "--into", str(tmp_path / "file"), "--format", "onnx"]) == 1
    assert "a language model has no ONNX form" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        ("peft=lora", "finetuning.learning_rate=1e-2"),
        ("peft=bitfit",),
        ("compression/pruning=magnitude", "compression.pruning.sparsity=0.1"),
        ("compression/pruning=movement",),
        ("compression/quantization=int8_dynamic",),
        ("compression/quantization=int8_weight_only", "peft=lora"),
        ("hardware=bf16",),
        ("data/order=competence",),
    ],
)
@pytest.mark.slow
def test_methods_work_on_a_language_model_as_on_a_classifier(learn, overrides):
    record = learn(*overrides)
    assert record.status == "completed", record.message
    assert 0 < record.values["val/bits_per_byte"] < 8


@pytest.mark.slow
def test_its_scenarios_are_measured_in_a_process_of_their_own(learn):
    record = learn("evaluation.latency=true", "trainer.epochs=1")
    assert record.status == "completed", record.message
    for scenario in ("single_stream", "fixed_batch"):
        assert record.values[f"infer/{scenario}/examples_per_second"] > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("evaluation/quality=[classification]",), "evaluation/quality=classification looks at answers"),
        (("evaluation/quality=[language,calibration]",), "evaluation/quality=calibration looks at answers"),
        (("evaluation/robustness=[perturbations]",), "evaluation/robustness=perturbations looks at answers"),
        (("evaluation/fairness=[groups]",), "evaluation/fairness=groups looks at answers"),
        (
            ("model=bag_of_ngrams",),
            "finetuning=causal_lm needs next tokens .* model=bag_of_ngrams does not have",
        ),
        (("model=backbone",), "model=backbone does not have; what would work: .*model=decoder"),
        (
            ("model/mixer=performer",),
            "model/mixer=performer needs both directions .* would work: .*mixer=attention",
        ),
        (
            ("compression/early_exit=deebert",),
            "deebert needs classes .* which finetuning=causal_lm takes away",
        ),
        (("finetuning=classify",), "evaluation/quality=language scores next tokens, and labels are learned"),
    ],
)
def test_what_a_language_model_has_not_is_refused_before_the_training(run_tiny, overrides, said):
    record = run_tiny(*(word for word in LANGUAGE if not word.startswith("model.")), *overrides)
    assert record.status == "failed"
    assert re.search(said, record.message)
    assert not (record.folder / "checkpoints").exists()


def test_a_pretrained_encoder_is_refused_before_the_training(tiny_family, run_tiny):
    bert = tiny_family("bert")
    record = run_tiny(
        "model=pretrained", f"model.name={bert.path}", "model.max_length=20", "finetuning=causal_lm",
        "evaluation/quality=[language]",
    )  # fmt: skip
    assert record.status == "failed"
    assert "the tokenizer does not keep texts byte by byte" in record.message


def test_a_pretrained_decoder_is_fine_tuned_and_its_first_token_is_given(tiny_family, run_tiny):
    tiny = tiny_family("gpt2")
    record = run_tiny(
        "model=pretrained", f"model.name={tiny.path}", "model.max_length=20", "finetuning=causal_lm", "peft=lora",
        "evaluation/quality=[language]", "finetuning.learning_rate=1e-2",
    )  # fmt: skip
    assert record.status == "completed", record.message
    assert record.values["val/loss"] < math.log(tiny.tokenizer.vocabulary_size)
    kept = load_predictions(record.folder)["val"]
    assert record.values["val/bits_per_byte"] == pytest.approx(
        float(kept.logits[:, 0].sum()) / math.log(2) / float(kept.labels.sum())
    )


def test_a_run_says_what_a_new_token_costs_and_how_much_less_is_kept_in_few_bits(learn, capsys):
    scenario = ("evaluation/scenarios=[generation]", "evaluation.scenarios.generation.prompt_tokens=8",
                "evaluation.scenarios.generation.new_tokens=17")  # fmt: skip
    rounded = ("compression/quantization=kv_cache", "compression.quantization.group_size=8",
               "compression.quantization.recent=8", "compression.quantization.bits=2")  # fmt: skip
    plain, small = learn(*scenario), learn(*scenario, *rounded)
    assert (plain.status, small.status) == ("completed", "completed"), (plain.message, small.message)
    values = plain.values
    layers, width, tokens = 2, 128, 8 + 17 - 1
    assert values["infer/generation/cache_bytes"] == 2 * layers * width * tokens * 4
    groups = 2 * (width * 8 * 2 // 8) + 8 * width + 8 * 8 * 2 * (64 // 8)
    assert small.values["infer/generation/cache_bytes"] == layers * (2 * groups + 2 * width * 8 * 4)
    assert small.values["model/bytes"] == values["model/bytes"]
    assert small.values["val/loss"] != values["val/loss"]
    assert small.values["val/loss"] == pytest.approx(values["val/loss"], rel=0.3)
    for record in (plain, small):
        assert record.values["infer/generation/decode_flops_per_token"] > 0
        assert "infer/generation/decode_seconds_per_token" in {**record.values, **record.absent}
        asked = record.folder / "asked.txt"
        asked.write_text("the film was\nan awful\n")
        assert generate_main([str(record.folder), "--file", str(asked), "--tokens", "5"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
