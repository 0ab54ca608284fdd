"""A whole sweep in this process: workers one after another, trials without a process of their own."""

import contextlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FIXED = ("task=files", "evaluation.latency=false", "trainer.progress=none", "model.buckets=512")


@contextlib.contextmanager
def undisturbed():
    """What a trial does to the process that it takes for its own."""
    root = logging.getLogger()
    before = sys.stdout, sys.stderr, list(root.handlers), root.level
    try:
        yield
    finally:
        sys.stdout, sys.stderr, root.handlers[:] = before[:3]
        root.setLevel(before[3])


class Here:
    """A connection to oneself: what is sent is answered at once."""

    def __init__(self, answer):
        self.answer = answer

    def send(self, asked):
        self.answered = self.answer(asked)
        if self.answered is None:
            raise SystemExit(1)

    def recv(self):
        return self.answered


@pytest.fixture
def in_this_process(monkeypatch):
    """Run what would be a child here; the calls of trials, in order."""
    from effnlp.search.children import Ended

    calls = []

    def call(processes, function, arguments, go_on, answer=None, limit_seconds=None):
        calls.append((function.__name__, arguments))
        connection = [Here(answer)] if answer else []
        with undisturbed():
            try:
                function(*arguments, *connection)
            except SystemExit as end:
                return Ended(int(end.code or 0))
            except Exception:
                return Ended(1)
        return Ended(0)

    monkeypatch.setattr("effnlp.search.worker.call_in_child", call)
    monkeypatch.setattr("effnlp.search.worker.context", lambda: None)
    monkeypatch.setattr("effnlp.search.worker.occupy_share", lambda *_: None)  # it would bind the tests
    return calls


@pytest.fixture
def sweep_here(texts_file, private_folders, in_this_process, tmp_path):
    """Search in this process; exit code, folder, study and slots of the sweep."""
    from hydra import compose
    from omegaconf import open_dict

    from effnlp.compose import hydra_context
    from effnlp.launch import is_sweep_override
    from effnlp.search.state import Sweep, open_study, slots
    from effnlp.search.sweeper import sweep
    from effnlp.search.worker import work

    def launch(jobs, first):
        for job in jobs:
            settings = dict(override.removeprefix("search.").split("=") for override in job[-2:])
            work({"worker": int(settings["worker"]), "phase": settings["phase"]}, folder)
        return []

    folder = tmp_path / "sweep"

    def go(*overrides, trials=3, workers=1, bare=False):
        short = [] if bare else [
            *FIXED, f"task.path={texts_file}", "trainer.epochs=1", "finetuning.learning_rate=1e-2",
        ]  # fmt: skip
        keys = {override.partition("=")[0] for override in overrides}
        typed = [o for o in short if o.partition("=")[0] not in keys]
        if "search/early_stopping" not in keys:
            typed.append("search/early_stopping=none")
        typed += [*overrides, f"search.trials={trials}", f"search.workers={workers}"]
        if not any(o.startswith("model=") for o in overrides):
            typed.append("model=bag_of_ngrams")
        with hydra_context():
            plain = [o for o in typed if not is_sweep_override(o)]
            config = compose("sweep", overrides=[*plain, "search.live=false"], return_hydra_config=True)
            with open_dict(config):
                config.hydra.sweep.dir = str(folder)
        code = sweep(config, typed, None, launch)
        study = open_study(folder, Sweep.load(folder))
        return SimpleNamespace(code=code, folder=folder, study=study, slots=slots(study))

    return go


@pytest.fixture(scope="session")
def local_postgresql():
    """A real server on loopback; PGPASSWORD is set while it is there."""
    path = Path(__file__).parents[2] / "benchmarks" / "local_postgresql.py"
    spec = importlib.util.spec_from_file_location("local_postgresql", path)
    sys.modules["local_postgresql"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if module.programs() is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with module.local_postgresql({"max_connections": "200", "fsync": "off"}) as server:
        before = os.environ.get("PGPASSWORD")
        os.environ["PGPASSWORD"] = server.password
        yield server
        if before is None:
            del os.environ["PGPASSWORD"]
        else:
            os.environ["PGPASSWORD"] = before


@pytest.fixture
def postgresql(local_postgresql):
    """The server, with a database of the test's own; its URL is ``postgresql.url``."""
    name = f"test_{os.urandom(6).hex()}"
    yield SimpleNamespace(url=local_postgresql.make_database(name), server=local_postgresql)
    local_postgresql.command(f"DROP DATABASE {name} WITH (FORCE)")
