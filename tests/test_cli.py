"""The command as a user types it, in processes of their own."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest

from effnlp import __version__, cli
from effnlp.menu import choice_names, conf_dir

FAST = [
    "model=bag_of_ngrams",
    "trainer.epochs=1",
    "evaluation.latency=false",
    "evaluation.scenarios.single_stream.requests=2",
]


@pytest.fixture
def place(tmp_path):
    """A folder with a small task, a cache of its own, and a user's folder of configs with a PEFT method."""
    dice = random.Random(0)
    words = {"good": ["fine", "great", "nice"], "bad": ["poor", "awful", "sad"]}
    labels = [dice.choice(sorted(words)) for _ in range(240)]
    rows = [
        f"{dice.choice(words[label])} {dice.choice(words[label])} item {i},{label}"
        for i, label in enumerate(labels)
    ]
    (tmp_path / "tiny.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "own" / "peft").mkdir(parents=True)
    (tmp_path / "own" / "peft" / "halved.yaml").write_text("_target_: halved.Halved\nfactor: 0.5\n")
    (tmp_path / "halved.py").write_text(
        '"""Halve the head: a method of a user.\n\nSource: A user (2020), https://example.org\n"""\n\n'
        'REQUIRES = {"prepare": ("embeddings",)}\nREMOVES = {"prepare": ("trainable_weights",)}\n\n\n'
        "class Halved:\n    def __init__(self, factor: float = 0.5) -> None:\n        self.factor = factor\n\n"
        "    def finish(self, model):\n        model.head.weight.data *= self.factor\n        return model\n"
    )
    return tmp_path


def effnlp(place, *words):
    return subprocess.run(
        [sys.executable, "-m", "effnlp.cli", *words],
        cwd=place, capture_output=True, text=True, timeout=280,
        env={
            **os.environ, "EFFNLP_CACHE": str(place / "cache"), "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1",
            "EFFNLP_LOCK_DIR": str(place / "locks"),
        },
    )  # fmt: skip


def records(place):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(place.rglob("record.json"))}


TASK = ["task=files", "task.path=tiny.csv"]


def test_help_shows_every_verb_and_ends_well(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in cli.VERBS)


def test_nothing_typed_gets_the_help_and_exit_code_2(capsys):
    assert cli.main([]) == 2
    assert "verbs" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_the_help_of_each_verb_has_examples(verb, capsys):
    with contextlib.suppress(SystemExit):
        assert cli.main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"effnlp {verb}" in out
    assert "example" in out


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"effnlp {__version__}"


@pytest.mark.parametrize(("word", "near"), [("rnu", "run"), ("sweeep", "sweep"), ("method", "methods")])
def test_an_unknown_verb_gets_near_matches_in_one_line(word, near, capsys):
    assert cli.main([word]) == 2
    error = capsys.readouterr().err
    assert f"there is no verb '{word}'" in error
    assert f"did you mean '{near}'" in error
    assert error.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(place):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "effnlp.cli", "methods"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.returncode == 0
    assert done.stderr == b""


REFUSED = [
    (["run", "peft=lorra"], "peft has no choice 'lorra'"),
    (["run", "task=hub"], "task=hub needs task.path"),
    (["run", "trainer.epochs=many"], "trainer.epochs must be a whole number"),
    (["run", "peft=lora", "peft=none"], "peft is given twice"),
    (["run", "compression.order=[pruning]"], "compression.order must name each"),
    (["run", "model=pretrained", "model/mixer=performer"], "model=pretrained has no such part"),
    (["run", "--config-dir", "nowhere"], "is not a folder"),
    (["run", "-m", "peft=none,lora", "model=backbone,bag_of_ngrams"], "peft=lora needs linear layers"),
    (["run", "-m", "peft=none,lorra"], "peft has no choice 'lorra'"),
    (["run", "-m", "finetuning.learning_rate=interval(1e-4,1e-3)"], "effnlp sweep draws from it"),
    (["sweep", "peft=lora", "peft=none,lora"], "peft is given twice"),
    (["sweep", "peft=bitfit,lora", "peft.rank=4"], "peft=bitfit has no key 'rank', unlike peft=lora"),
    (["sweep", "peft=[", "model=backbone"], "'peft=[' does not parse"),
    (["run", "search/space=only_overrides"], "search/space belongs to effnlp sweep"),
    (["sweep", "petf=none,lora"], "no config group or key 'petf'; did you mean 'peft'"),
    (["sweep", "modle=backbone"], "no config group or key 'modle'"),
]


@pytest.mark.parametrize(
    ("words", "said"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_run_is_refused_in_one_line_before_anything_is_written(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"effnlp {words[0]}: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_each_combination_of_a_multirun_is_known_in_advance():
    from effnlp.compose import ConfigError, hydra_context
    from effnlp.launch import combinations

    with hydra_context():
        found = combinations(["peft=none,lora", "a=1", "seed.init=range(0,3)", "model.size='x,y'"])
        assert len(found) == 6
        assert ["peft=lora", "a=1", "seed.init=2", "model.size='x,y'"] in found
        every = [[f"peft={name}"] for name in choice_names("peft", [conf_dir()])]
        assert sorted(combinations(["peft=glob(*)"])) == sorted(every)
        with pytest.raises(ConfigError, match="is an interval: effnlp sweep draws from it"):
            combinations(["a=interval(0,1)"])


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("peft=lora,none", "peft=lora"), ("peft=lora", "peft=lora"), ("seed.init=range(2,5)", "seed.init=2"),
        ("a=choice(x,y)", "a=x"), ("a=tag(log,interval(1e-4,1))", None), ("a=glob(*)", None), ("a=[1,2]", "a=[1,2]"),
    ],
)  # fmt: skip
def test_a_sweep_is_first_composed_at_the_first_of_its_values(override, first):
    from effnlp.launch import first_value

    assert first_value(override) == first


def test_an_interrupt_between_keys_ends_quietly(monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("effnlp.doctor.main", stop)
    assert cli.main(["doctor"]) == 128 + signal.SIGINT


@pytest.mark.slow
def test_a_run_and_the_same_run_again_and_one_with_a_users_own_method(place):
    done = effnlp(place, "run", *TASK, *FAST)
    assert done.returncode == 0, done.stderr
    [(name, record)] = records(place).items()
    assert record["status"] == "completed"
    again = effnlp(place, "run", *TASK, *FAST, "tracking=files")
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stderr + again.stdout
    assert list(records(place)) == [name]

    own = effnlp(place, "run", "--config-dir", "own", *TASK, *FAST, "peft=halved", "peft.factor=0.25")
    assert own.returncode == 0, own.stderr
    mine = next(record for record in records(place).values() if record["choices"]["peft"] == "halved")
    assert mine["status"] == "completed"
    assert mine["config"]["peft"]["factor"] == 0.25

    check = effnlp(place, "check", "--config-dir", "own", "peft=halved", "compression/pruning=movement")
    assert check.returncode == 2
    assert "which peft=halved takes away" in check.stderr
    methods = effnlp(place, "methods", "peft", "--config-dir", "own")
    assert "Halve the head: a method of a user." in methods.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_hydras_own_multirun_runs_every_combination_with_any_launcher(place, launcher):
    done = effnlp(
        place, "run", "-m", "--config-dir", "own", f"hydra/launcher={launcher}", *TASK, *FAST,
        "peft=none,halved", *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = records(place)
    assert sorted(record["choices"]["peft"] for record in made.values()) == ["halved", "none"]
    assert {record["status"] for record in made.values()} == {"completed"}
    assert all(path.is_relative_to(place / "multirun") for path in place.rglob("record.json"))


@pytest.mark.slow
def test_a_failed_run_exits_with_1_and_says_why_in_its_record(place):
    done = effnlp(place, "run", "task=files", "task.path=nowhere.csv", *FAST)
    assert done.returncode == 1
    assert "nowhere.csv" in done.stderr
    assert "Traceback" not in done.stderr
    [record] = records(place).values()
    assert record["status"] == "failed"
    assert "nowhere.csv" in record["message"]
