import json

import pandas as pd
import pytest
import torch

from effnlp.generation.command import continuation_of, main
from effnlp.generation.generate import generate
from effnlp.generation.settings import Settings
from effnlp.model.decoder import Decoder
from effnlp.model.language import LanguageModel
from effnlp.model.mixer.attention import Attention
from effnlp.model.storage import Deployed

TEXTS = ["the cat sat on", "A film", "it was\ta", ""]


@pytest.fixture(scope="module")
def deployed():
    table = pd.DataFrame(
        {"text": ["the cat sat on the mat, it was a film", "a dog sat on a film"] * 3, "label": 0}
    )
    choice = Decoder(Attention, size="tiny", max_length=48, vocabulary_size=290)
    tokenizer = choice.tokenizer(table)
    torch.manual_seed(0)
    model = LanguageModel(choice.build(tokenizer, 2).encoder).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return Deployed(model, tokenizer, ())


@pytest.fixture
def folder(deployed, tmp_path):
    deployed.save(tmp_path / "deployed.pt")
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in TEXTS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def ask(folder, capsys):
    def asked(*options):
        code = main([str(folder), "--file", str(folder / "texts.txt"), *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return asked


def test_each_text_gets_a_line_with_what_the_model_says_follows_it(ask, deployed):
    code, out, _ = ask("--tokens", "6", "--json")
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["text"] for answer in answers] == TEXTS
    encodings = deployed.tokenizer.encode(TEXTS)
    prompts = [
        encodings.ids[a:b].tolist()
        for a, b in zip(encodings.offsets[:-1], encodings.offsets[1:], strict=True)
    ]
    for prompt, text, answer, each in zip(
        prompts, TEXTS, answers, generate(deployed.model, prompts, Settings(6), ends={0, 1, 2}), strict=True
    ):
        whole = deployed.tokenizer.backend.decode([*prompt, *each.ids])
        assert text + answer["continuation"] == whole
        assert answer["tokens"] == len(each.ids)
        assert answer["has_ended"] == each.has_ended
        assert answer["log_probability"] == pytest.approx(each.log_probability, abs=1e-4)
    _, lines, _ = ask("--tokens", "6")
    assert lines.count("\n") == len(TEXTS)


@pytest.mark.parametrize("options", [(), ("--temperature", "1.5", "--seed", "3"), ("--beams", "2")])
def test_answers_do_not_depend_on_how_many_texts_are_read_at_once(ask, options):
    wholes = [ask("--tokens", "5", "--batch-size", size, *options)[1] for size in ("1", "3", "8")]
    assert wholes[0] == wholes[1] == wholes[2]
    assert len(set(wholes[0].splitlines())) > 1


def test_another_seed_draws_other_words(ask):
    drawn = [ask("--tokens", "8", "--temperature", "1", "--seed", seed)[1] for seed in ("0", "0", "1")]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens", "48"), "48 new ones do not fit behind them: the model reads 48"),
        (("--tokens", "0"), "new_tokens must be at least 1, got 0"),
        (("--top-k", "3"), "give a temperature above 0"),
        (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
    ],
)
def test_values_that_are_no_good_end_the_work_with_a_line_that_says_why(ask, options, message):
    code, out, err = ask(*options)
    assert (code, out) == (2, "")
    assert err.startswith("effnlp generate: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_model_of_classes_is_refused(make_classifier, deployed, tmp_path, capsys):
    Deployed(make_classifier(), deployed.tokenizer, ("a", "b", "c")).save(tmp_path / "deployed.pt")
    (tmp_path / "texts.txt").write_text("a\n")
    assert main([str(tmp_path), "--file", str(tmp_path / "texts.txt")]) == 2
    assert "a Classifier predicts no next tokens" in capsys.readouterr().err


def test_pieces_of_words_keep_the_space_before_them(tiny_family):
    tokenizer = tiny_family("llama").tokenizer
    prompt, new = (tokenizer.encode([text]).ids.tolist() for text in ("the cat", "sat on"))
    assert continuation_of(tokenizer, prompt, tuple(new[1:])) == " sat on"
