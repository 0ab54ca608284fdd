"""``effnlp pick`` on real runs: what is picked, how its model is had, and what the folder is good for."""

import json
import random
import shutil

import pytest
import torch

from effnlp.compose import compose, hydra_context
from effnlp.model.packaged import read_package
from effnlp.model.storage import Deployed
from effnlp.pick import main, parse_limits
from effnlp.record import FAILED, Record
from effnlp.run import run

TEXTS = ["a superb film", "", "the dreadful plot", "weird music"]


@pytest.fixture
def pick(capsys):
    """Call the verb; exit code, output, errors."""

    def call(*words):
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def do_run(texts, folder, *overrides):
    """One run on ``texts``; its record."""
    typed = [
        "task=files", f"task.path={texts}", "evaluation.latency=false", "trainer.progress=none", *overrides,
    ]  # fmt: skip
    with hydra_context():
        composed = compose(typed)
    record = run(composed.config, composed.chosen, folder, typed)
    assert record.status == "completed", record.message
    return record


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts, a cache, and two runs: one that kept its model and a larger one that did not."""
    made = tmp_path_factory.mktemp("place")
    dice = random.Random(0)
    telling = {"good": ["lovely", "superb"], "bad": ["awful", "dreadful"], "odd": ["strange", "weird"]}
    rows = []
    for index in range(300):
        label = list(telling)[index % 3]
        words = [dice.choice(["the", "film", "plot", "was", "music"]) for _ in range(dice.randint(3, 9))]
        rows.append(" ".join([*words, dice.choice(telling[label])]) + f",{label}")
    (made / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFNLP_CACHE", str(made / "cache"))
        patch.setenv("EFFNLP_LOCK_DIR", str(made / "locks"))
        do_run(
            made / "texts.csv",
            made / "runs" / "narrow",
            "model=bag_of_ngrams",
            "model.width=4",
            "trainer.epochs=2",
        )
        do_run(
            made / "texts.csv", made / "runs" / "wide", "model=bag_of_ngrams", "model.width=32",
            "keep_model=false", "trainer.epochs=3",
        )  # fmt: skip
        yield made


@pytest.fixture
def two(place, tmp_path):
    """A copy of the two runs."""
    shutil.copytree(place / "runs", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def texts(place):
    """The texts, for this test to change."""
    path = place / "texts.csv"
    before = path.read_text()
    yield path
    path.write_text(before)


def values(folder):
    return Record.load(folder).values


def test_a_kept_model_is_loaded_as_it_is_and_evaluated_on_test_once(two, pick, tmp_path, monkeypatch):
    bound = (values(two / "narrow")["model/bytes"] + values(two / "wide")["model/bytes"]) / 2
    assert "test/accuracy" not in values(two / "narrow")
    code, out, _ = pick(two, "--max", f"model/bytes={bound}", "--into", tmp_path / "picked")
    assert code == 0
    assert "model.width=4" in out
    assert "1 of 2 configurations are within the limits" in out
    assert f"loaded from {two / 'narrow'}" in out
    package, kept = read_package(tmp_path / "picked"), Deployed.load(two / "narrow" / "deployed.pt")
    with torch.inference_mode():
        logits = kept.model.eval()(kept.tokenizer.encode(TEXTS).batch(range(len(TEXTS))))
    assert torch.equal(package.probabilities(TEXTS)[0], logits.double().softmax(1))
    content = json.loads((tmp_path / "picked" / "model.json").read_text())
    assert content["how"] == "loaded"
    assert content["labels"] == ["bad", "good", "odd"]
    assert content["asked"]["limits"] == [{"key": "model/bytes", "bound": bound, "is_upper": True}]
    assert content["record"]["values"]["test/accuracy"] == values(two / "narrow")["test/accuracy"]
    readme = (tmp_path / "picked" / "README.md").read_text()
    assert "effnlp predict" in readme
    assert "`test/accuracy`" in readme

    def never(*_, **__):
        raise AssertionError("the test split is looked at once")

    monkeypatch.setattr("effnlp.search.final.measure", never)
    assert pick(two, "--max", f"model/bytes={bound}", "--into", tmp_path / "picked")[0] == 0


def test_a_model_that_was_not_kept_is_trained_again_to_the_very_same(two, pick, place, tmp_path):
    code, out, _ = pick(
        two, "--min", "model/bytes=0", "--best", "model/bytes:max", "--into", tmp_path / "picked"
    )
    assert code == 0
    assert "Its model was trained again" in out
    twin = do_run(
        place / "texts.csv", tmp_path / "twin", "model=bag_of_ngrams", "model.width=32", "trainer.epochs=3"
    )
    assert twin.identity["config_hash"] == Record.load(two / "wide").identity["config_hash"]
    deployed, picked = (Deployed.load(tmp_path / name / "deployed.pt") for name in ("twin", "picked"))
    for name, tensor in deployed.model.state_dict().items():
        assert torch.equal(tensor, picked.model.state_dict()[name]), name
    assert {path.name for path in (tmp_path / "picked").iterdir()} == {
        "README.md",
        "model.json",
        "deployed.pt",
    }
    content = json.loads((tmp_path / "picked" / "model.json").read_text())
    assert content["record"]["values"]["val/accuracy"] == values(two / "wide")["val/accuracy"]
    assert "test/accuracy" in content["record"]["values"]


def test_without_the_texts_a_kept_model_is_picked_all_the_same_and_says_what_is_missing(
    two, pick, texts, tmp_path
):
    texts.unlink()
    code, out, _ = pick(two / "narrow")
    assert code == 0
    assert "test/accuracy" not in out
    content = json.loads((two / "narrow" / "picked" / "model.json").read_text())
    assert "texts.csv" in content["record"]["absent"]["test/accuracy"]
    code, _, err = pick(two / "wide", "--into", tmp_path / "picked")
    assert code == 1
    assert "could not be trained again (error): there is no file" in err


def test_other_texts_are_not_taken_for_those_of_the_record(two, pick, texts, tmp_path):
    texts.write_text(texts.read_text().replace("lovely", "charming"))
    code, _, err = pick(two / "wide", "--into", tmp_path / "picked")
    assert code == 1
    assert "are not those of the record" in err
    assert not (tmp_path / "picked" / "model.json").exists()


def test_a_damaged_model_is_trained_again(two, pick, tmp_path):
    path = two / "narrow" / "deployed.pt"
    before = Deployed.load(path).model.state_dict()
    path.write_bytes(path.read_bytes()[:100])
    code, out, _ = pick(two / "narrow", "--into", tmp_path / "picked")
    assert code == 0
    assert "trained again" in out
    after = Deployed.load(tmp_path / "picked" / "deployed.pt").model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_nothing_that_fits_names_the_nearest_and_writes_nothing(two, pick, tmp_path):
    code, out, _ = pick(two, "--max", "model/bytes=1", "--max", "infer/single_stream/flops=1e9")
    assert code == 1
    assert "Nothing fits: none of 2 configurations" in out
    assert out.index("model.width=4") < out.index("model.width=32")
    assert "above 1.00 B" in out
    assert "No configuration comes below" in out
    assert not (two / "picked").exists()


def test_what_was_not_measured_is_passed_over_with_its_reason(two, pick):
    code, out, _ = pick(two, "--max", "infer/single_stream/latency_seconds_p50=1")
    assert code == 1
    assert "2 passed over without infer/single_stream/latency_seconds_p50: latency was not asked for" in out


def test_a_dry_run_names_the_configuration_and_writes_nothing(two, pick):
    before = sorted(two.rglob("*"))
    code, out, _ = pick(two, "--dry-run")
    assert code == 0
    assert "Picked: " in out
    assert "Each was run once" in out
    assert sorted(two.rglob("*")) == before


def test_failed_and_stopped_runs_are_never_picked(two, pick):
    best = Record.load(two / "wide")
    best.values["val/accuracy"], best.identity["config_hash"] = 1.0, "other"
    for status in (FAILED, "stopped"):
        best.status, best.identity["started"] = status, status
        (two / status).mkdir()
        best.save(two / status)
    _, out, _ = pick(two, "--dry-run")
    assert "other" not in out
    assert "2 of 2 configurations" in out


def test_replicates_show_their_interval_and_who_lies_within_it(two, pick):
    for seed in (1, 2):
        for name, accuracy in (("narrow", 0.80), ("wide", 0.81)):
            record = Record.load(two / name)
            record.identity |= {"seed_init": seed, "seed_order": seed, "started": f"{name}{seed}"}
            record.values["val/accuracy"] = accuracy + 0.05 * seed
            (two / f"{name}{seed}").mkdir()
            record.save(two / f"{name}{seed}")
    code, out, _ = pick(two, "--dry-run")
    assert code == 0
    assert "3 runs)" in out
    assert "±" in out
    assert "1 of them cannot be told from it in val/accuracy" in out


BAD = [
    (["{runs}/nowhere"], "is not a folder"),
    (["{empty}"], "no record.json below"),
    (["{runs}", "--max", "model/bites=1"], "no record has the key model/bites; did you mean 'model/bytes'"),
    (["{runs}", "--max", "model/bytes"], "--max takes KEY=VALUE with a number"),
    (["{runs}", "--max", "model/bytes=nan"], "--max takes KEY=VALUE with a number"),
    (["{runs}", "--min", "=3"], "--min takes KEY=VALUE with a number"),
    (["{runs}", "--max", "model/bytes=1", "--max", "model/bytes=2"], "--max is given twice for model/bytes"),
    (
        ["{runs}", "--best", "test/accuracy"],
        "nothing selects on the test split; val/accuracy is meant for it",
    ),
    (["{runs}", "--min", "test/accuracy=0.5"], "nothing selects on the test split"),
    (["{runs}", "--best", "val/accuracy:up"], "KEY:max or KEY:min"),
    (["{runs}", "--into", "{runs}/narrow"], "holds something else"),
    (["{runs}", "--into", "{runs}/narrow/record.json"], "is a file, not a folder"),
    (["{runs}", "--task", "text"], "no run is of the task 'text'; did you mean 'texts'"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(two, pick, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = pick(*(word.format(runs=two, empty=tmp_path / "empty") for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("effnlp pick: ")
    assert said in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_several_tasks_are_told_apart_by_their_name_or_fingerprint(two, pick):
    other = Record.load(two / "wide")
    other.identity |= {"task": "other", "task_fingerprint": "0123", "started": "then"}
    (two / "other").mkdir()
    other.save(two / "other")
    code, _, err = pick(two)
    assert code == 2
    assert "choose by --task" in err
    assert "other@0123 (1" in err
    for name in ("other", "0123", "other@0123"):
        code, out, _ = pick(two, "--task", name, "--dry-run")
        assert code == 0
        assert "1 of 1" in out


def test_a_limit_is_a_key_and_a_number():
    [limit] = parse_limits(["infer/single_stream/energy_joules [measured]=20e-3"], is_upper=True)
    assert (limit.key, limit.bound) == ("infer/single_stream/energy_joules [measured]", 0.02)


def test_what_cannot_be_onnx_is_refused_before_it_is_trained(place, pick, tmp_path):
    pytest.importorskip("onnxscript")
    do_run(
        place / "texts.csv", tmp_path / "runs" / "exits", "model=backbone", "compression/early_exit=deebert",
        "keep_model=false", "trainer.epochs=1",
    )  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    code, _, err = pick(tmp_path / "runs", "--format", "onnx")
    assert code == 1
    assert "compression/early_exit=deebert decides text by text how much is computed" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_onnx_folder_answers_like_the_torch_folder_and_is_replaced_by_it(two, pick, tmp_path):
    pytest.importorskip("onnxscript")
    where = [two / "narrow", "--into", tmp_path / "picked"]
    assert pick(*where, "--format", "onnx")[0] == 0
    names = {path.name for path in (tmp_path / "picked").iterdir()}
    assert names == {"README.md", "model.json", "model.onnx", "tokenizer.pickle"}
    shutil.move(tmp_path / "picked", tmp_path / "moved")
    onnx, _ = read_package(tmp_path / "moved").probabilities(TEXTS)
    shutil.move(tmp_path / "moved", tmp_path / "picked")
    assert pick(*where)[0] == 0
    torch_, _ = read_package(tmp_path / "picked").probabilities(TEXTS)
    assert torch.allclose(onnx, torch_, atol=1e-4)
    assert not (tmp_path / "picked" / "model.onnx").exists()


def test_the_model_of_a_pair_task_is_asked_pairs(place, pick, tmp_path):
    rows = [f"is {a} {b},{a},{'yes' if a == b else 'no'}" for a in "xyz" for b in "xyz" for _ in range(12)]
    numbered = [row.replace("is", f"is {number}", 1) for number, row in enumerate(rows)]
    (tmp_path / "pairs.csv").write_text("\n".join(["text,other,label", *numbered]) + "\n")
    do_run(
        tmp_path / "pairs.csv", tmp_path / "runs" / "pairs", "model=bag_of_ngrams", "task.text_pair=other",
        "trainer.epochs=1",
    )  # fmt: skip
    assert pick(tmp_path / "runs", "--into", tmp_path / "picked")[0] == 0
    assert "Each line holds both texts" in (tmp_path / "picked" / "README.md").read_text()
    package = read_package(tmp_path / "picked")
    assert package.probabilities(["is 1 x y"], ["x"])[0].shape == (1, 2)
    with pytest.raises(ValueError, match="reads pairs"):
        package.probabilities(["is 1 x y"])
