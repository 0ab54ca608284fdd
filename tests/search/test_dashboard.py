"""``optuna-dashboard`` on a study while it is written, as docs/scaling.md starts it."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pytest

from effnlp.search.storage import open_storage

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.fixture
def dashboard():
    """Start the command of the documentation on another storage; a function that asks its API."""
    started = []

    def start(shown, storage):
        (command,) = re.findall(
            rf"^    (optuna-dashboard {re.escape(shown)})$", DOCS.read_text(encoding="utf-8"), re.M
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program, _ = command.split()
        words = [str(Path(sys.executable).with_name(program)), storage, "--port", str(port), "--quiet"]
        started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

        def ask(path):
            end = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                        return json.load(answer)
                except (urllib.error.URLError, ConnectionError):
                    if time.monotonic() > end or started[-1].poll() is not None:
                        raise
                    time.sleep(0.2)

        return ask

    yield start
    for process in started:
        process.kill()
        process.wait()


def make_study(storage):
    return optuna.create_study(storage=storage, study_name="s", directions=["minimize", "maximize"])


def add_trial(study):
    trial = study.ask()
    trial.suggest_categorical("model", ["bag_of_ngrams", "backbone"])
    trial.set_user_attr("slot", trial.number)
    trial.set_user_attr("rung:1", {"values": {"val/accuracy": 0.5}, "step": 3})
    study.tell(trial, [trial.number, -trial.number])


def shows(ask, slots):
    """Whether the dashboard comes to show these slots; it looks at the storage every few seconds."""
    end = time.monotonic() + 40
    while time.monotonic() < end:
        shown = ask("/api/studies/0")["trials"]
        if [int(a["value"]) for t in shown for a in t["user_attrs"] if a["key"] == "slot"] == slots:
            return True
        time.sleep(0.5)
    return False


def test_the_dashboard_lists_the_trials_of_a_journal_while_it_is_written(dashboard, tmp_path):
    study, path = make_study(open_storage("journal", tmp_path)), tmp_path / "study.journal"
    add_trial(study)
    ask = dashboard("multirun/quickstart/study.journal", str(path))
    assert [s["study_name"] for s in ask("/api/studies")["study_summaries"]] == ["s"]
    assert shows(ask, [0])
    add_trial(study)
    with path.open("ab") as file:
        file.write(b'{"op_code": 8, "a killed writer left th')
    before = path.read_bytes()
    assert shows(ask, [0, 1])
    assert path.read_bytes() == before, "looking changes nothing"
    add_trial(study)
    assert shows(ask, [0, 1, 2])
    assert [t.user_attrs["slot"] for t in study.get_trials()] == [0, 1, 2]


def test_the_dashboard_lists_the_trials_of_a_server(dashboard, postgresql):
    study = make_study(open_storage(postgresql.url, Path()))
    add_trial(study)
    url = postgresql.url.replace("postgresql:", "postgresql+psycopg:")
    ask = dashboard("postgresql+psycopg://me@db.example.org/studies", url)
    (found,) = ask("/api/studies")["study_summaries"]
    (trial,) = ask(f"/api/studies/{found['study_id']}")["trials"]
    assert {attr["key"]: attr["value"] for attr in trial["user_attrs"]}["slot"] == "0"
