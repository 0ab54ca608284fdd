"""The built wheel works by itself, from any folder, without the checkout."""

import os
import random
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not a checkout: nothing to build"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = folder.glob("effnlp-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel, not editable, and with the packages that are installed here.

    The packages are put on the path by a ``.pth`` file, which is not followed where it lies in their folder:
    so an editable install of the checkout there has no effect.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout.strip()
    )  # fmt: skip
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "there.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder with a task and a user's folder of configs, far from the checkout."""
    place = tmp_path_factory.mktemp("elsewhere")
    dice = random.Random(0)
    words = {"good": ["fine", "great", "nice"], "bad": ["poor", "awful", "sad"]}
    labels = [dice.choice(sorted(words)) for _ in range(240)]
    rows = [f"{dice.choice(words[label])} item {i},{label}" for i, label in enumerate(labels)]
    (place / "tiny.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (place / "own" / "task").mkdir(parents=True)
    (place / "own" / "task" / "mine.yaml").write_text(
        "# My own task\n_target_: effnlp.task.files.files\n_partial_: true\npath: tiny.csv\nname: mine\n"
    )
    return place


def effnlp(python, place, *words):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(python), "-m", "effnlp.cli", *words],
        cwd=place, capture_output=True, text=True, timeout=280,
        env={
            **environment, "EFFNLP_CACHE": str(place / "cache"), "EFFNLP_LOCK_DIR": str(place / "locks"),
            "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip


def test_the_wheel_holds_configs_experiments_plugin_types_and_pages(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"effnlp/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("effnlp", "hydra_plugins/effnlp_pareto")
        for path in (ROOT / package).rglob("*.py")
    }
    pages = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "effnlp").rglob("*")
        if path.suffix in (".html", ".js", ".css", ".jinja", ".json", ".csv")
    }
    experiments = {
        f"effnlp/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "experiments").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(configs) > 30
    assert len(modules) > 50
    assert pages
    assert experiments
    assert configs | modules | pages | experiments | {"effnlp/py.typed"} <= names


def test_the_wheel_holds_nothing_that_only_the_checkout_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"effnlp", "hydra_plugins"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    # A namespace shared with the plugins of others: an __init__ here would hide them.
    assert "hydra_plugins/__init__.py" not in names
    [entry] = [name for name in names if name.endswith("entry_points.txt")]
    assert "effnlp = effnlp.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_the_installed_package_is_not_the_checkout(installed, elsewhere):
    done = subprocess.run(
        [str(installed), "-c", "import effnlp, effnlp.menu; print(effnlp.__file__); print(effnlp.menu.conf_dir())"],
        cwd=elsewhere, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    package, configs = map(Path, done.stdout.split())
    environment = installed.parent.parent
    assert package.is_relative_to(environment)
    assert configs == package.parent / "conf"
    assert not package.is_relative_to(ROOT)


def test_the_installed_menu_is_the_menu_of_the_checkout(installed, elsewhere):
    done = effnlp(installed, elsewhere, "methods")
    assert done.returncode == 0, done.stderr
    here = subprocess.run(
        [sys.executable, "-m", "effnlp.cli", "methods"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == here.stdout
    assert "peft" in done.stdout


def test_the_installed_check_knows_a_users_folder(installed, elsewhere):
    legal = effnlp(installed, elsewhere, "check", "--config-dir", "own", "task=mine", "peft=lora")
    assert legal.returncode == 0, legal.stderr
    assert "outputs/mine/" in legal.stdout
    without = effnlp(installed, elsewhere, "check", "task=mine")
    assert without.returncode == 2
    assert "task has no choice 'mine'" in without.stderr


FAST = ["model=bag_of_ngrams", "trainer.epochs=1", "evaluation.latency=false"]


@pytest.mark.parametrize(
    ("task", "folder"),
    [(["--config-dir", "own", "task=mine"], "mine"), (["task=files", "task.path=tiny.csv"], "files")],
)
def test_the_installed_command_runs(installed, elsewhere, task, folder):
    done = effnlp(installed, elsewhere, "run", *task, *FAST)
    assert done.returncode == 0, done.stderr
    [record] = (elsewhere / "outputs" / folder).glob("*/record.json")
    assert '"status": "completed"' in record.read_text()


def test_the_installed_sweeper_is_found_and_searches_with_a_users_folder(installed, elsewhere):
    looked = effnlp(installed, elsewhere, "sweep", "--cfg", "hydra", "-p", "hydra.sweeper")
    assert looked.returncode == 0, looked.stderr
    assert "hydra_plugins.effnlp_pareto.pareto.ParetoSweeper" in looked.stdout
    done = effnlp(
        installed, elsewhere, "sweep", "--config-dir", "own", "task=mine", *FAST, "model.ngrams=1,2",
        "search.trials=2", "search.workers=1", "search.name=tried", "evaluation/scenarios=[single_stream]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = list((elsewhere / "multirun" / "tried" / "trials").glob("*/record.json"))
    assert len(records) == 2
    assert all('"status": "completed"' in record.read_text() for record in records)
    assert (elsewhere / "multirun" / "tried" / "report" / "frontier.csv").is_file()


def test_the_installed_experiments_are_reproduced_as_far_as_they_are_counted(installed, elsewhere):
    listed = effnlp(installed, elsewhere, "reproduce", "--list")
    assert listed.returncode == 0, listed.stderr
    assert "analytic" in listed.stdout
    done = effnlp(installed, elsewhere, "reproduce", "--all", "--layer", "analytic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (elsewhere / "outputs" / "reproduce" / "index.html").is_file()
