from types import SimpleNamespace

from effnlp.pretraining.none import NoPretraining


def test_the_choice_stays_as_it_is_and_nothing_is_fetched():
    start = SimpleNamespace(choice=object())  # without anything else that it could use
    assert NoPretraining().learn(start) == (start.choice, None)
