"""The default task, on a small library made here and on that of the running Python."""

import random
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from effnlp.task.docstrings import (
    THEMES,
    Paragraph,
    docstrings,
    docstrings_of,
    keep_once,
    paragraphs,
    source_version,
    split_of,
)
from effnlp.task.task import SPLITS

MODULES = {
    "email": 0,
    "http": 1,
    "asyncio": 2,
    "tkinter": 3,
    "test": 4,
    "importlib": 5,
    "os": 6,
    "decimal": 7,
}


def sentence(rng, words=8):
    return " ".join("".join(rng.choices("abcdefgh", k=6)) for _ in range(words))


@pytest.fixture
def library(tmp_path):
    """A module a theme with 70 docstrings of three paragraphs each; importing any of them would fail."""
    rng = random.Random(0)
    for module in MODULES:
        lines = ["raise RuntimeError('imported')"]
        for i in range(70):
            paragraphs = "\n\n    ".join(sentence(rng) for _ in range(3))
            lines.append(f'def f{i}():\n    """{paragraphs}"""')
        (tmp_path / module).mkdir()
        (tmp_path / module / "core.py").write_text("\n".join(lines))
    return tmp_path


def test_texts_are_paragraphs_and_labels_the_themes_of_their_modules(library):
    task = docstrings(library=str(library))
    assert task.labels == tuple(THEMES)
    assert sum(len(table) for table in task.splits.values()) == 8 * 70 * 3
    for module, label in MODULES.items():
        source = (library / module / "core.py").read_text()
        rows = [
            t
            for s in SPLITS
            for t in task.splits[s][lambda table, label=label: table["label"] == label]["text"]
        ]
        assert len(rows) == 210
        assert all(text in source for text in rows)


def test_a_docstring_is_in_one_split_with_all_its_paragraphs(library):
    task = docstrings(library=str(library))
    split_of_text = {text: split for split in SPLITS for text in task.splits[split]["text"]}
    for module in MODULES:
        for docstring in docstrings_of((library / module / "core.py").read_bytes()):
            splits = {split_of_text[text] for text in paragraphs(docstring, 5, 200)}
            assert splits == {split_of(docstring)}
    assert set(split_of_text.values()) == set(SPLITS)


def test_text_of_two_docstrings_is_kept_once_and_of_two_themes_not_at_all(library):
    before = docstrings(library=str(library))
    shared = [
        f"this paragraph number {word} is shared by many docstrings" for word in ("one", "two", "three")
    ]
    for module, texts in {"email": shared[:2], "json": [shared[0].upper()], "http": shared[1:]}.items():
        (library / module).mkdir(exist_ok=True)
        (library / module / "more.py").write_text("".join(
            f'def g{i}():\n    """{text}\n\n    Of function {"abcdefghij"[i] * 5} of module {module}."""\n'
            for i in range(10) for text in texts
        ))  # fmt: skip
    task = docstrings(library=str(library))
    found = [
        text for split in SPLITS for text in task.splits[split]["text"] if "is shared by many" in text.lower()
    ]
    assert sorted(text.lower() for text in found) == [shared[0], shared[2]]  # the second is of two themes
    assert "1 of several themes" in task.recipe["train"]
    assert set(before.splits["train"]["text"]) < set(task.splits["train"]["text"])


def test_which_of_several_equal_texts_stays_does_not_depend_on_their_order():
    found = [
        Paragraph("test", "a", "Same text"), Paragraph("validation", "a", "same text"),
        Paragraph("validation", "a", "Same text"), Paragraph("test", "a", "only here"),
        Paragraph("train", "a", "ambiguous"), Paragraph("train", "b", "ambiguous"),
    ]  # fmt: skip
    expected = [Paragraph("validation", "a", "Same text"), Paragraph("test", "a", "only here")]
    for seed in range(10):
        shuffled = random.Random(seed).sample(found, len(found))
        assert keep_once(shuffled) == (expected, 1)


@pytest.mark.parametrize(
    ("docstring", "texts"),
    [
        ("One two three\n  four   five.\n\n\n  Short one.\n \nSix seven eight nine ten",
         ["One two three four five.", "Six seven eight nine ten"]),
        ("Here is how it is used:\n  >>> f(1)\n  the output of the call here", ["Here is how it is used:"]),
        (">>> the_function(argument, another, third, fourth)\nand many words of its output", []),
        ("+-----+-----+-----+\n| one | two | three| four | five |\n+-----+-----+----+", []),
        ("one two three four five six seven eight nine", ["one two three four five six seven eight"]),
        ("a b c d e f g h", []),  # letters are no words
    ],
)  # fmt: skip
def test_paragraphs_are_prose_of_enough_words_and_cut(docstring, texts):
    assert list(paragraphs(docstring, min_words=5, max_words=8)) == texts


def test_docstrings_are_found_wherever_statements_may_be():
    source = '''"""module"""
if True:
    class A:
        """class"""
        async def f(self):
            """method"""
            def g():
                "nested"
else:
    try:
        def h(): """in try"""
    except ImportError:
        def h(): """in except"""
    finally:
        def i(): """in finally"""
x = """no docstring"""
def j():
    pass
    """neither"""
'''
    expected = ["class", "in except", "in finally", "in try", "method", "module", "nested"]
    assert sorted(docstrings_of(source.encode())) == expected


@pytest.mark.parametrize("source", [b"def broken(:", b"\0", b"# coding: no-such-encoding\n'text'", b""])
def test_sources_that_are_not_python_of_today_have_no_docstrings(source):
    assert list(docstrings_of(source)) == []


def test_topics_of_pydoc_are_texts_of_the_language(library):
    (library / "pydoc_data").mkdir()
    topics = {"if": 'The "if" statement is used for\nconditional execution of suites.\n\n   if_stmt ::= "if"'}
    (library / "pydoc_data" / "topics.py").write_text(f"# generated\ntopics = {topics!r}\n")
    task = docstrings(library=str(library))
    rows = [row for s in SPLITS for row in task.splits[s].itertuples() if "conditional execution" in row.text]
    assert [(row.text, task.labels[row.label]) for row in rows] == [
        ('The "if" statement is used for conditional execution of suites.', "language and imports")
    ]


def test_installed_packages_are_left_out_and_modules_without_a_theme_counted(library):
    for folder in ("site-packages", "lib/dist-packages", "my_own_module"):
        (library / folder).mkdir(parents=True)
        (library / folder / "a.py").write_text(
            f'"""A foreign docstring of {folder.replace("-", " ")} here."""'
        )
    task = docstrings(library=str(library))
    assert not any("foreign" in text for split in SPLITS for text in task.splits[split]["text"])
    assert "1 of modules without a theme" in task.recipe["train"]


def test_no_module_has_two_themes():
    modules = [module for names in THEMES.values() for module in names.split()]
    assert len(modules) == len(set(modules)) > 100


def test_the_source_version_follows_names_and_sizes_of_the_sources(library):
    first = source_version(library=str(library), train_size=3)
    assert first == source_version(library=str(library))
    (library / "email" / "core.py").rename(library / "email" / "other.py")
    second = source_version(library=str(library))
    (library / "http" / "core.py").write_text("x = 1")
    assert len({first, second, source_version(library=str(library))}) == 3


def test_sizes_are_nested_subsets(library):
    whole = docstrings(library=str(library))
    part = docstrings(library=str(library), train_size=100, test_size=20)
    assert len(part.splits["train"]) == 100
    assert set(part.splits["train"]["text"]) < set(whole.splits["train"]["text"])
    assert "the 20 of smallest fixed hash" in part.recipe["test"]


def test_a_library_that_lacks_a_theme_is_refused_with_what_is_missing_and_what_to_do(library):
    (library / "tkinter" / "core.py").unlink()
    (library / "tkinter").rmdir()
    message = r"fewer than 20 for 'graphical interfaces' \(0\); it has no idlelib, .*tkinter\..*task=files"
    with pytest.raises(ValueError, match=message):
        docstrings(library=str(library))


def test_a_library_that_is_too_small_is_refused(library):
    for module in MODULES:
        path = library / module / "core.py"
        path.write_text("\n".join(path.read_text().splitlines()[: 1 + 20 * 6]))
    with pytest.raises(ValueError, match=r"gives \d+ texts \(at least 1200 are needed\)"):
        docstrings(library=str(library))


def test_a_library_that_is_not_there_is_refused(tmp_path):
    for ask in (docstrings, source_version):
        with pytest.raises(FileNotFoundError, match="with the sources of the standard library"):
            ask(library=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("least", "most"), [(0, 10), (11, 10)])
def test_impossible_lengths_are_refused(library, least, most):
    with pytest.raises(ValueError, match=rf"min_words must be in \[1, max_words\], got {least}"):
        docstrings(library=str(library), min_words=least, max_words=most)


@pytest.mark.slow
def test_the_running_python_gives_enough_texts_in_time_and_a_useful_task():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    library = Path(sysconfig.get_path("stdlib"))
    if not all((library / part).is_dir() for part in ("test", "idlelib", "tkinter", "pydoc_data")):
        pytest.skip("the standard library of this Python is not whole")
    imported, start = set(sys.modules), time.process_time()
    task = docstrings()
    seconds = time.process_time() - start
    assert not {
        name for name in set(sys.modules) - imported if name.startswith(("idlelib", "turtledemo", "test."))
    }
    assert seconds < 30  # less than 10 on a machine that has nothing else to do

    sizes = {split: len(task.splits[split]) for split in SPLITS}
    assert sizes["train"] >= 8000
    assert sizes["validation"] >= 2000
    assert sizes["test"] >= 2000
    texts = {split: set(task.splits[split]["text"].str.casefold()) for split in SPLITS}
    assert sum(map(len, texts.values())) == len(set.union(*texts.values())) == sum(sizes.values())

    train, validation = task.splits["train"], task.splits["validation"]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LinearSVC(C=0.3).fit(vectorizer.fit_transform(train["text"]), train["label"])
    accuracy = model.score(vectorizer.transform(validation["text"]), validation["label"])
    majority = validation["label"].value_counts(normalize=True).max()
    assert majority < 0.35
    assert 0.65 < accuracy < 0.9
