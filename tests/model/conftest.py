from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

CONF = Path(__file__).parents[2] / "conf"

FRUIT = ["apple", "pear", "plum", "cherry", "melon", "peach"]
TOOLS = ["hammer", "saw", "drill", "pliers", "wrench", "chisel"]


@pytest.fixture(scope="session")
def choose():
    """A function from the name of a model and overrides to what the config builds."""

    def build(name, *overrides):
        with initialize_config_dir(str(CONF.resolve()), version_base=None):
            config = compose(overrides=[f"+model={name}", *overrides])
        return instantiate(config.model, _convert_="all")

    return build


@pytest.fixture(scope="session")
def toy():
    """160 texts that name a fruit (0) or a tool (1), which no other word tells."""
    rows = [
        (f"{opening} the {word} {ending}", label)
        for opening in ("please give me", "she bought", "where is", "we saw")
        for ending in ("today", "again, and then left.", "in Köln", "")
        for label, words in enumerate((FRUIT, TOOLS))
        for word in words[:5]
    ]
    return pd.DataFrame(rows, columns=["text", "label"])


@pytest.fixture(scope="session")
def toy_pairs(toy):
    """160 pairs: each text of the toy task with the one in the mirrored position."""
    return toy.assign(text_pair=toy["text"].tolist()[::-1])


@pytest.fixture(scope="session")
def odd_texts():
    """What a text can be: short, long, empty, blank, of other scripts, of signs only."""
    return [
        "the apple today",
        "",
        "   ",
        "where is the hammer? " * 400,
        "Где яблоко? 苹果在哪里",
        "🍎🔨 … !!!",
        "she bought the PEAR again, and then left.",
    ]
