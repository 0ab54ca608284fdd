"""Overrides become a config, or an error that says what to type instead."""

import pytest

from effnlp.compose import (
    Composer,
    ConfigError,
    bind_all,
    chosen_groups,
    compose,
    hydra_context,
    refuse_contradictions,
    targets,
)
from effnlp.menu import conf_dir, groups


@pytest.fixture(scope="module", autouse=True)
def context():
    with hydra_context():
        yield


def refusal(*overrides, **options):
    with pytest.raises(ConfigError) as caught:
        bind_all(compose(list(overrides), **options).config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.reference=3", "evaluation.reference must be text or null, got 3"),
        ("peft=lorra", "peft has no choice 'lorra'; did you mean 'lora'"),
        ("data/filter=[exact_dedup,minhash]", "data/filter has no choice 'minhash'; did you mean 'minhash_dedup'"),
        ("hydra/launcher=joblibb", "hydra/launcher has no choice 'joblibb'; did you mean 'joblib'"),
        ("petf=lora", "no config group or key 'petf'; did you mean 'peft'"),
        ("model/mixr=performer", "no config group or key 'model/mixr'; did you mean 'model/mixer'"),
        ("finetuning.learning_rat=1e-3", "finetuning has no key 'learning_rat'; did you mean 'learning_rate'"),
        ("evaluation.tset=true", "evaluation has no key 'tset'; did you mean 'test'"),
        ("sed.init=1", "no key"),
        ("peft.rank=8", "peft=none has no key 'rank', unlike peft=lora"),
        ("peft=[", "'peft=[' does not parse"),
        ("peft.rank", "'peft.rank' does not parse (KEY=VALUE does): missing EQUAL"),
        ("task=hub", "task=hub needs task.path: name on the hub"),
        ("~peft", "peft needs a choice: one of none, "),
        ("model=null", "model needs a choice: one of backbone"),
        ("data/filter=[]", "data/filter needs a choice: one of none, exact_dedup"),
        ("+peft.rnk=8", "peft has no key 'rnk'"),
        ("+trainer.epoch=8", "trainer has no key 'epoch' (effnlp.finetuning.loop.TrainerSettings); did you mean"),
        ("trainer.epochs=many", "trainer.epochs must be a whole number, got 'many'"),
        ("trainer.epochs=1.5", "trainer.epochs must be a whole number, got 1.5"),
        ("trainer.patience=soon", "trainer.patience must be a whole number or null, got 'soon'"),
        ("finetuning.learning_rate=fast", "finetuning.learning_rate must be a number, got 'fast'"),
        ("evaluation.test=maybe", "evaluation.test must be true or false, got 'maybe'"),
        ("seed.init=a", "seed.init must be a whole number, got 'a'"),
        ("model.size=3", "model.size must be text, got 3"),
    ],
)  # fmt: skip
def test_what_does_not_make_a_config_is_refused_in_a_line(override, said):
    assert said in refusal(override)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("peft=lora", "peft.rnk=4"), "peft has no key 'rnk'; did you mean 'rank'"),
        (("peft=lora", "peft.rank=four"), "peft.rank must be a whole number, got 'four'"),
        (("peft=lora", "peft.targets=query"), "peft.targets must be a list, each of it text, got 'query'"),
        (("task=files", "task.path=3"), "task.path must be text or null, got 3"),
        (
            ("model=pretrained", "model/mixer=performer"),
            "model/mixer is a part that belongs to model=backbone",
        ),
    ],
)
def test_keys_are_held_against_what_was_chosen(overrides, said):
    assert said in refusal(*overrides)


def test_a_part_given_to_a_model_without_it_is_refused_and_never_ignored():
    message = refusal("model=pretrained", "model/mixer=performer")
    assert "model=pretrained has no such part" in message
    assert "choose model=backbone" in message
    assert compose(["model/mixer=performer"]).chosen["model/mixer"] == "performer"


def test_a_search_may_leave_a_mandatory_value_to_its_space():
    composed = compose(["task=hub"], name="sweep", complete=False)
    assert composed.config["task"]["path"] == "???"
    assert compose(["task=hub", "task.path=owner/name"]).config["task"]["path"] == "owner/name"


def test_what_is_valid_passes_and_whole_numbers_are_numbers():
    typed = [
        "finetuning.learning_rate=1",
        "trainer.gradient_clip=null",
        "peft=lora",
        "evaluation.reference=a/run",
    ]
    composed = compose(typed)
    bind_all(composed.config)
    assert {target for _, target, _ in targets(composed.config)} >= {"effnlp.peft.lora.LoRA"}


def test_the_choices_are_those_of_the_line_and_stacks_keep_their_order():
    chosen = compose(["peft=lora", "data/filter=[minhash_dedup,exact_dedup]"]).chosen
    assert chosen["peft"] == "lora"
    assert chosen["data/filter"] == "minhash_dedup+exact_dedup"
    assert chosen["evaluation/scenarios"] == "single_stream+fixed_batch"
    assert set(chosen) <= set(groups([conf_dir()]))
    assert "model/mixer" not in compose(["model=bag_of_ngrams"]).chosen


def test_choices_of_hydra_itself_are_not_among_the_choices():
    found = chosen_groups(
        {"hydra/launcher": "basic", "peft": "lora", "model@model": "backbone", "task": None}, {}
    )
    assert {k: found[k] for k in found if "/" not in k} == {"model": "backbone", "peft": "lora"}


@pytest.mark.parametrize(
    "overrides",
    [["peft=lora", "peft=none"], ["peft.rank=1", "seed.init=1", "+peft.rank=2"], ["a=1,2", "a=1"]],
)
def test_a_key_given_twice_with_different_values_is_refused(overrides):
    with pytest.raises(ConfigError, match="is given twice") as caught:
        refuse_contradictions(overrides)
    assert overrides[0] in str(caught.value)
    assert overrides[-1] in str(caught.value)


@pytest.mark.parametrize(
    "overrides", [[], ["peft=lora", "peft=lora"], ["~peft", "+peft=lora"], ["a=1", "b=1"]]
)
def test_a_key_given_once_or_twice_alike_passes(overrides):
    refuse_contradictions(overrides)


MINE = '''"""My own method: scales the head.

Source: Me (2020), https://example.org
"""

REQUIRES = {"prepare": ("biases",)}


class Mine:
    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale
'''


@pytest.fixture
def own_configs(tmp_path, monkeypatch):
    folder = tmp_path / "my configs, [odd] 'name'"
    (folder / "peft").mkdir(parents=True)
    (folder / "peft" / "composed_mine.yaml").write_text("_target_: composed_mine.Mine\nscale: 2.0\n")
    (tmp_path / "composed_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_users_folder_adds_choices_to_groups(own_configs):
    composed = compose(["peft=composed_mine", "peft.scale=3"], own_configs)
    assert composed.chosen["peft"] == "composed_mine"
    assert composed.config["peft"]["scale"] == 3
    bind_all(composed.config)
    assert "peft has no choice 'composed_mine'" in refusal("peft=composed_mine")
    assert "did you mean 'composed_mine'" in refusal("peft=composd_mine", config_dir=own_configs)
    message = refusal("peft=composed_mine", "peft.scale=big", config_dir=own_configs)
    assert "peft.scale must be a number, got 'big'" in message


def test_a_target_that_cannot_be_loaded_is_refused_by_name(own_configs):
    (own_configs / "peft" / "lost.yaml").write_text("_target_: nowhere.at.all\n")
    assert "'nowhere.at.all': there is no module 'nowhere.at'" in refusal("peft=lost", config_dir=own_configs)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "is not a folder" in refusal("peft=lora", config_dir=tmp_path / "nowhere")


def test_composing_many_runs_gives_what_composing_each_gives():
    many = [
        ["model=bag_of_ngrams", "model.width=8"],
        ["model=bag_of_ngrams", "model.width=16", "finetuning.learning_rate=1e-3"],
        ["model=backbone", "model/mixer=performer", "trainer.epochs=2", "task.train_size=10"],
        ["data/filter=[exact_dedup,minhash_dedup]", "seed.init=3", "meter.country=FRA"],
        ["model=bag_of_ngrams", "+extra.key=1", "model.width=4"],
        ["model=bag_of_ngrams", "model.width=${trainer.epochs}", "trainer.epochs=4"],
        ["task=files", "task.path='a, b.csv'"],
    ]
    composer = Composer()
    for overrides in [*many, *many]:
        assert composer(overrides) == compose(overrides)
    assert len(composer.made) < len(many)


@pytest.mark.parametrize("wrong", ["model.widht=3", "nothing.here=1", "model.width=[", "peft=lorra"])
def test_composing_many_runs_says_what_is_wrong_as_composing_one_does(wrong):
    with pytest.raises(ConfigError) as one:
        compose(["model=bag_of_ngrams", wrong])
    with pytest.raises(ConfigError) as many:
        Composer()(["model=bag_of_ngrams", wrong])
    assert str(one.value) == str(many.value)
