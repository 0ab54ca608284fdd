"""Workers of one session and the folder by which they agree; what would be a child is a function here."""

import contextlib
import json
import socket
import threading
import time
from dataclasses import replace

import pytest

from effnlp.record import Record
from effnlp.reproduce import session as of_sessions
from effnlp.reproduce.session import Ending, Job, Session, begin
from effnlp.reproduce.worker import LOST, TRIES, what_went_wrong, work
from effnlp.search.children import Ended
from effnlp.search.trial import BUSY

CONFIG = {"seed": {"init": 1, "order": 2}, "model": {"width": 4}}


@pytest.fixture
def make_session(tmp_path):
    def make(count, workers=1):
        jobs = [
            Job(f"run {n}", [f"a.b={n}"], str(tmp_path / "runs" / str(n)), CONFIG, {"model": "x"})
            for n in range(count)
        ]
        return begin(tmp_path / "sessions", jobs, workers, 1)

    return make


def completed(folder, **identity):
    folder.mkdir(parents=True, exist_ok=True)
    Record("completed", identity, values={"val/accuracy": 0.5}).save(folder)
    return Ended(0)


@pytest.fixture
def children(monkeypatch):
    """Make a function of the folder of a run do what its child would; the folders that it got, in order."""

    def install(child=completed):
        begun = []

        def call(processes, function, arguments, go_on, answer=None, limit_seconds=None):
            begun.append(arguments[1].name)
            return child(arguments[1])

        monkeypatch.setattr("effnlp.reproduce.worker.call_in_child", call)
        return begun

    monkeypatch.setattr("effnlp.reproduce.worker.context", lambda: None)
    monkeypatch.setattr("effnlp.reproduce.worker.occupy_share", lambda *_: None)  # it would bind the tests
    monkeypatch.setattr("effnlp.reproduce.worker.WAIT_FOR_OTHERS_SECONDS", 0.1)
    return install


def endings(session):
    return {ending.number: (ending.reason, ending.message) for ending in session.endings()}


def test_a_worker_does_all_runs_in_the_order_of_the_session(make_session, children):
    begun, session = children(), make_session(4)
    work(0, session.folder)
    assert begun == ["0", "1", "2", "3"]
    assert endings(session) == dict.fromkeys(range(4), (None, None))
    work(0, session.folder)
    assert len(begun) == 4


def test_workers_at_once_do_each_run_once(make_session, children):
    def slow(folder):
        time.sleep(0.005)
        return completed(folder)

    begun, session = children(slow), make_session(30, workers=4)
    threads = [threading.Thread(target=work, args=(n, session.folder)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun, key=int) == [str(n) for n in range(30)]
    assert session.open_numbers == []


def test_a_run_is_one_workers_alone_as_long_as_it_holds_it(make_session):
    session = make_session(2)
    with session.take() as first, session.take() as second, session.take() as third:
        assert (first, second, third) == (0, 1, None)
    with session.take() as again, session.take(passed_over=[1]) as other:
        assert (again, other) == (0, None)


def test_a_run_that_failed_does_not_keep_the_others_from_being_done(make_session, children):
    def child(folder):
        if folder.name != "1":
            return completed(folder)
        folder.mkdir(parents=True)
        Record("failed", {}, reason="nan", message="the loss is nan").save(folder)
        return Ended(1)

    begun, session = children(child), make_session(3)
    work(0, session.folder)
    assert begun == ["0", "1", "2"]
    assert endings(session) == {0: (None, None), 1: ("nan", "the loss is nan"), 2: (None, None)}


def test_a_run_that_is_killed_is_begun_once_more_and_then_leaves_word_of_it(make_session, children, tmp_path):
    begun, session = children(lambda _: Ended(-9)), make_session(1)
    work(0, session.folder)
    assert begun == ["0"] * TRIES
    assert endings(session)[0] == ("killed", "its process ended with signal 9")
    record = Record.load(tmp_path / "runs" / "0")
    assert (record.status, record.reason) == ("failed", "killed")
    assert (record.identity["seed_init"], record.identity["seed_order"]) == (1, 2)
    assert record.config == CONFIG


def test_a_run_that_is_killed_once_is_done(make_session, children):
    answers = iter([lambda _: Ended(-9), completed])
    begun, session = children(lambda folder: next(answers)(folder)), make_session(1)
    work(0, session.folder)
    assert len(begun) == 2
    assert endings(session) == {0: (None, None)}


def test_a_run_whose_worker_is_gone_each_time_is_not_begun_for_ever(make_session, children):
    begun, session = children(), make_session(2)
    for _ in range(TRIES):
        session.begin_run(0)
    work(0, session.folder)
    assert begun == ["1"]
    assert endings(session) == {0: ("killed", LOST.format(TRIES)), 1: (None, None)}


def test_the_completed_record_of_another_evaluator_outlives_a_run_that_dies(make_session, children, tmp_path):
    completed(tmp_path / "runs" / "0", evaluator="1")
    children(lambda _: Ended(-9))
    session = make_session(1)
    work(0, session.folder)
    assert endings(session)[0][0] == "killed"
    assert Record.load(tmp_path / "runs" / "0").status == "completed"


def test_the_record_of_an_earlier_attempt_is_not_taken_for_that_of_one_that_left_none(
    make_session, children, tmp_path
):
    folder = tmp_path / "runs" / "0"
    folder.mkdir(parents=True)
    Record("failed", {}, reason="nan", message="long ago").save(folder)
    children(lambda _: Ended(1))
    session = make_session(1)
    work(0, session.folder)
    assert endings(session)[0] == (
        "error",
        "its process ended with exit code 1; see output.log in its folder",
    )
    assert Record.load(folder).reason == "error"


def test_a_run_that_another_process_does_is_waited_for_while_the_others_are_done(make_session, children):
    busy = [Ended(BUSY), Ended(BUSY)]
    begun, session = (
        children(lambda folder: busy.pop() if folder.name == "0" and busy else completed(folder)),
        make_session(3),
    )
    work(0, session.folder)
    assert begun[:3] == ["0", "1", "2"]
    assert begun.count("0") == 3
    assert endings(session) == dict.fromkeys(range(3), (None, None))


def test_a_worker_that_is_told_to_stop_gives_its_run_back(make_session, children):
    def stop(_):
        raise KeyboardInterrupt

    session = make_session(2)
    for _ in range(TRIES + 1):  # more often than a run may be lost
        children(stop)
        with pytest.raises(KeyboardInterrupt):
            work(0, session.folder)
    assert endings(session) == {}
    assert children() == []
    work(0, session.folder)
    assert endings(session) == dict.fromkeys(range(2), (None, None))


def test_a_worker_ends_when_its_command_is_gone(make_session, children, monkeypatch):
    begun, session = children(), make_session(2)
    monkeypatch.setattr(of_sessions, "alive", lambda pid: False)
    monkeypatch.setattr("effnlp.reproduce.worker.end_after", lambda pid: None)
    with pytest.raises(KeyboardInterrupt):
        work(0, session.folder)
    assert begun == []


def test_a_worker_that_starts_when_the_session_is_over_does_nothing(make_session, children):
    begun, session = children(), make_session(2)
    session.remove()
    work(0, session.folder)
    assert begun == []
    assert not session.folder.exists()


@pytest.mark.parametrize(
    ("ended", "record", "reason"),
    [
        (Ended(0), Record("completed", {}), None),
        (Ended(1), Record("failed", {}, reason="oom", message="no more"), "oom"),
        (Ended(1), Record("failed", {}, reason="interrupted", message="stopped"), "killed"),
        (Ended(-11), Record("completed", {}), "killed"),
        (Ended(113), None, "error"),
        (Ended(0), None, "error"),
    ],
)
def test_what_went_wrong_is_told_by_how_the_process_ended_and_what_it_left(ended, record, reason):
    found, message = what_went_wrong(ended, record)
    assert found == reason
    assert bool(message) == (reason is not None)


# The folder


def test_a_session_is_read_as_it_was_made(make_session):
    session = make_session(3, workers=2)
    assert Session.open(session.folder) == session


def test_endings_come_in_the_order_in_which_runs_ended_and_once(make_session):
    session = make_session(12)
    for number in (11, 2, 7):
        session.end_run(Ending(number, 1.0))
        time.sleep(0.01)
    assert [ending.number for ending in session.endings()] == [11, 2, 7]
    assert [ending.number for ending in session.endings(known=[11, 7])] == [2]
    assert [n for n in range(12) if n not in session.open_numbers] == [2, 7, 11]


def test_a_command_on_another_machine_is_gone_when_it_says_nothing_for_long(make_session, monkeypatch):
    session = replace(make_session(1), host=f"not-{socket.gethostname()}", pid=-1)
    assert session.goes_on()
    monkeypatch.setattr(of_sessions, "SILENT_SECONDS", -1.0)
    assert not session.goes_on()
    session.remove()
    assert not session.goes_on()


def test_what_a_command_left_that_is_gone_is_cleared_away_by_the_next(make_session):
    gone, here = make_session(1), make_session(1)
    content = json.loads((gone.folder / "session.json").read_text())
    (gone.folder / "session.json").write_text(json.dumps({**content, "pid": 2**22 + 1}))
    later = make_session(1)
    assert not gone.folder.exists()
    assert here.folder.exists()
    assert later.folder.exists()
    with contextlib.suppress(FileNotFoundError):
        (later.folder / "heartbeat").unlink()
    assert later.goes_on()
