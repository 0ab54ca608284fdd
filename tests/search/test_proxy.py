"""Optuna's proxy in front of a real server, in a process of its own, as docs/scaling.md starts it."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from effnlp.compose import ConfigError
from effnlp.search import proxy
from effnlp.search.storage import open_storage

pytest.importorskip("grpc", reason="grpcio is not installed")
pytestmark = pytest.mark.slow

WORKERS = Path(__file__).parents[2] / "benchmarks" / "storage_workers.py"
DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start_proxy(postgresql, free_port):
    """Start the proxy with the program that the documentation shows."""
    started = []
    (program,) = re.findall(
        r'python -c "([^"]*run_grpc_proxy_server[^"]*)"', DOCS.read_text(encoding="utf-8")
    )
    program = program.replace("postgresql://me@db.example.org/studies", postgresql.url)
    program = program.replace("0.0.0.0", "127.0.0.1").replace("13000", str(free_port))
    assert postgresql.url in program
    assert str(free_port) in program

    def start():
        started.append(subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def where(free_port, monkeypatch):
    monkeypatch.setattr(proxy, "CONNECT_SECONDS", 60)
    return f"grpc://127.0.0.1:{free_port}"


def test_workers_behind_a_proxy_lose_nothing_and_take_no_slot_twice(start_proxy, where, postgresql, tmp_path):
    start_proxy()
    open_storage(where, tmp_path)
    command = [sys.executable, str(WORKERS), where, str(tmp_path), "4", "16", "3"]
    subprocess.run(command, check=True, timeout=120)
    behind = optuna.load_study(storage=open_storage(where, tmp_path), study_name="study").get_trials()
    direct = optuna.load_study(
        storage=open_storage(postgresql.url, tmp_path), study_name="study"
    ).get_trials()
    assert [t.user_attrs["slot"] for t in direct] == list(range(16))
    assert all(f"rung:{number}" in t.user_attrs for t in direct for number in range(3))
    assert behind == direct


def test_a_worker_lives_through_a_restart_of_the_proxy_between_two_trials(start_proxy, where, tmp_path):
    process = start_proxy()
    study = optuna.create_study(storage=open_storage(where, tmp_path), study_name="s")
    study.tell(study.ask(), 1.0)
    process.kill()
    process.wait()
    time.sleep(0.5)
    start_proxy()
    study.tell(study.ask(), 2.0)
    assert [t.value for t in study.get_trials()] == [1.0, 2.0]


def test_a_proxy_that_does_not_answer_is_an_error(free_port, tmp_path, monkeypatch):
    monkeypatch.setattr(proxy, "CONNECT_SECONDS", 0.5)
    with pytest.raises(ConfigError, match=f"no proxy answered at 127.0.0.1:{free_port} within 0.5 s"):
        open_storage(f"grpc://127.0.0.1:{free_port}", tmp_path)
