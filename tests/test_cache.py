"""Shared work is made once, by one process, whole or not at all."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from effnlp.cache import cache_dir, code_version, fetch, key_of

PROCESSES = multiprocessing.get_context("fork")


def writing(text, calls=None, cost=3.0):
    def make(folder):
        (folder / "made.txt").write_text(text)
        if calls is not None:
            calls.append(folder)
        return {"seconds": cost}

    return make


def test_the_second_asker_finds_what_the_first_made_and_what_it_cost(tmp_path):
    calls = []
    first = fetch("kind", "k", writing("a", calls), tmp_path)
    second = fetch("kind", "k", writing("b", calls), tmp_path)
    assert len(calls) == 1
    assert first.folder == second.folder == tmp_path / "kind" / "k"
    assert (second.folder / "made.txt").read_text() == "a"
    assert first.cost is None, "its maker pays it as it goes"
    assert second.cost == {"seconds": 3.0}
    assert first.waited_seconds < 1
    assert second.waited_seconds == 0


def test_other_keys_and_kinds_are_other_entries(tmp_path):
    texts = {
        (kind, key): (fetch(kind, key, writing(f"{kind}{key}"), tmp_path).folder / "made.txt").read_text()
        for kind in ("a", "b")
        for key in ("1.5", "1.7", "2")
    }
    assert all(text == f"{kind}{key}" for (kind, key), text in texts.items())


def test_a_maker_that_costs_nothing_is_still_charged_once(tmp_path):
    assert fetch("kind", "k", lambda folder: {}, tmp_path).cost is None
    assert fetch("kind", "k", lambda folder: {}, tmp_path).cost == {}


def test_a_failing_maker_leaves_nothing_and_the_next_one_makes_it(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        fetch("kind", "k", fail, tmp_path)
    assert [path for path in (tmp_path / "kind").iterdir() if path.is_dir()] == []
    entry = fetch("kind", "k", writing("whole"), tmp_path)
    assert sorted(path.name for path in entry.folder.iterdir()) == ["cost.json", "made.txt"]


def test_a_killed_maker_leaves_nothing_that_is_found(tmp_path):
    def slow(folder):
        (folder / "half.txt").write_text("half")
        time.sleep(60)
        return {}

    process = PROCESSES.Process(target=fetch, args=("kind", "k", slow, tmp_path))
    process.start()
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("kind/*/half.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    entry = fetch("kind", "k", writing("whole"), tmp_path)
    assert entry.cost is None
    assert sorted(path.name for path in entry.folder.iterdir()) == ["cost.json", "made.txt"]
    assert [path.name for path in (tmp_path / "kind").iterdir() if path.is_dir()] == ["k"]


def test_an_entry_without_its_cost_is_not_whole_and_is_made_anew(tmp_path):
    (tmp_path / "kind" / "k").mkdir(parents=True)
    (tmp_path / "kind" / "k" / "old.txt").write_text("half")
    entry = fetch("kind", "k", writing("whole"), tmp_path)
    assert not (entry.folder / "old.txt").exists()
    assert json.loads((entry.folder / "cost.json").read_text()) == {"seconds": 3.0}


def _ask(root, index, barrier, queue):
    def make(folder):
        with (root / "makers").open("a") as file:
            file.write(f"{index}\n")
        time.sleep(0.5)
        (folder / "made.txt").write_text(str(index))
        return {"seconds": 0.5}

    barrier.wait()
    entry = fetch("kind", "k", make, root)
    queue.put((index, entry.cost, entry.waited_seconds, (entry.folder / "made.txt").read_text()))


def test_of_many_processes_one_makes_it_the_others_wait_and_it_is_charged_once(tmp_path):
    barrier, queue = PROCESSES.Barrier(4), PROCESSES.Queue()
    processes = [PROCESSES.Process(target=_ask, args=(tmp_path, i, barrier, queue)) for i in range(4)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    [maker] = (tmp_path / "makers").read_text().split()
    assert {text for *_, text in answers} == {maker}
    charged = [index for index, cost, _, _ in answers if cost is None]
    assert charged == [int(maker)]
    for index, cost, waited, _ in answers:
        if index != int(maker):
            assert cost == {"seconds": 0.5}
            assert waited > 0.3


def test_a_key_follows_from_values_and_not_from_the_order_of_mappings():
    assert key_of({"a": 1, "b": [2, 3]}, "x") == key_of({"b": [2, 3], "a": 1}, "x")
    keys = [
        key_of("a", "b"),
        key_of("ab"),
        key_of("b", "a"),
        key_of(["a", "b"]),
        key_of({"a": "b"}),
        key_of(),
    ]
    assert len(set(keys)) == len(keys)


def test_the_version_of_code_changes_with_a_source_and_with_nothing_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "cached_maker.py"
    source.write_text("a = 1\n")
    before = code_version("cached_maker", "effnlp.cache")
    assert code_version("cached_maker", "effnlp.cache") == before
    source.write_text("a = 2\n")
    assert code_version("cached_maker", "effnlp.cache") != before


def test_the_folder_of_the_cache_is_what_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFNLP_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("EFFNLP_CACHE", "")
    assert cache_dir().name == "effnlp"
