import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from effnlp.reproduce.markdown import markdown_claims
from effnlp.reproduce.outputs import write
from effnlp.reproduce.page import bounds, gauge, render
from effnlp.reproduce.result import HOLDS, VERDICTS, Checked, Finding
from effnlp.reproduce.table import ours_text, tabulate
from effnlp.reproduce.words import pilots_once

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "no-first-run")
VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes, all text outside scripts and styles, and whether every element was closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text, self.data = [], [], "", {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag in ("script", "style"):
            self.data[attributes.get("id", tag)] = data
        else:
            self.text += data

    @property
    def words(self):
        return re.sub(r"\s+", " ", self.text)


@pytest.fixture
def found(experiment, small, analytic):
    return [(experiment, analytic, []), (experiment, small, ["LoRA, SST-2 moved from 91.0 to 92.2"])]


def test_a_pilot_of_several_claims_is_said_once(experiment, small):
    claims = [
        Checked(name, f"{name} is so.", "ratio", {"of": "a", "to": "b"}, Finding(HOLDS), "2026-11-22", pilot)
        for name, pilot in [
            ("one", "3 seeds"),
            ("two", "3 seeds"),
            ("three", "none"),
            ("four", None),
            ("five", None),
        ]
    ]
    assert [claim.pilot for claim in pilots_once(claims)] == ["3 seeds", "as above", "none", None, None]
    assert markdown_claims(claims).count("pilot: 3 seeds") == 1
    words = Page(render([(experiment, replace(small, claims=claims), [])])).words
    assert words.count("Pilot: 3 seeds") == 1
    assert words.count("Pilot: as above") == 1


@pytest.fixture
def page(found):
    return Page(render(found))


def test_the_page_needs_no_network(page):
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "img", "object")
        assert tag != "script" or "src" not in attributes
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))


def test_there_is_one_section_an_experiment_with_all_its_layers(experiment, found):
    other = replace(experiment, name="another")
    more = [*found, (other, replace(found[1][1], experiment="another"), [])]
    page = Page(render(more))
    assert [a["id"] for tag, a in page.elements if tag == "section"] == ["peft_like", "another"]
    assert page.text.count("The small layer") == 2
    assert page.text.count("The analytic layer") == 1
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["#peft_like", "#another"]


def test_the_section_says_all_that_is_known(page, experiment, small):
    words = page.words
    for expected in (
        experiment.title, experiment.question, experiment.citation, small.command, "2026-11-22 10:00 UTC",
        "9.00 kJ (estimated)", "A processor", "torch 2.11.0", "sst2 abc123", "LoRA, SST-2 moved from 91.0 to 92.2",
        "The README counts 0.8 M with the head.", "Six layers, not twelve.", "1 cell is missing",
    ):  # fmt: skip
        assert expected in words


def test_every_figure_and_footnote_of_the_tables_is_on_the_page(page, experiment, small, analytic):
    for result in (small, analytic):
        table = tabulate(experiment, result)
        for column in table.columns:
            for row in table.rows:
                assert ours_text(table.entry(row, column), column, table.n) in page.text
        for sentence in (*table.footnotes, *table.remarks):
            assert sentence in page.words


def test_every_table_is_rectangular_where_headings_span_both_sides(found):
    tables = re.findall(r'<table class="figures">.*?</table>', render(found), re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        widths = {
            1
            + sum(int(span or 1) for span in re.findall(r'<t[hd](?:[^>]*?colspan="(\d+)")?[^>]*>', line)[1:])
            for line in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        }
        assert len(widths) == 1


def test_every_claim_has_its_verdict_as_a_badge(page, small):
    badges = [a["class"] for tag, a in page.elements if tag == "span" and "badge" in a.get("class", "")]
    assert badges == ["badge undecided", "badge holds", "badge fails", "badge untestable"]
    assert {claim.finding.verdict for claim in small.claims} == set(VERDICTS)
    for claim in small.claims:
        assert claim.says in page.words


def test_unverified_figures_are_called_so_where_they_stand(found):
    assert re.findall(r'93\.7<sup>\d</sup><span class="remark">(\w+)</span>', render(found)) == ["unverified"]
    assert render(found).count('class="remark"') == 1


def test_every_place_for_a_figure_has_its_data(page):
    places = [a["id"] for tag, a in page.elements if a.get("class") == "plot low"]
    assert (
        places
        == [f"figure-{number}" for number in range(len(json.loads(page.data["figures"])))]
        == ["figure-0"]
    )


def test_a_page_without_figures_does_not_carry_the_script_that_draws_them(experiment, small):
    text = render([(replace(experiment, figure=None), small, [])])
    assert "<script" not in text
    assert len(text) < 50_000


def test_what_people_wrote_cannot_become_markup(experiment, small):
    evil = "</script><script>alert(1)</script><b>"
    cells = [replace(cell, row=f"{cell.row} {evil}") for cell in small.cells]
    claims = [Checked("a", evil, "ratio", {"at_least": evil}, Finding("holds", why=evil))]
    written = replace(experiment, title=evil, question=evil, citation=evil, notes=[evil])
    text = render([(written, replace(small, cells=cells, claims=claims, command=evil), [evil])])
    Page(text)
    assert "alert(1)</script>" not in text
    assert text.count("<script") == 3


def test_a_page_about_nothing_says_so():
    assert "Nothing was reproduced" in Page(render([])).text


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("ratio", {"at_least": 1}, (1.0, None)),
        ("ratio", {"at_most": 0.5}, (None, 0.5)),
        ("ratio", {"at_least": 1, "at_most": 2}, (1.0, 2.0)),
        ("ratio", {"within_relative": 0.25}, (0.75, 1.25)),
        ("equals", {"within_relative": 0.25}, (-0.25, 0.25)),
        ("paired_difference", {"within": 0.5}, (-0.5, 0.5)),
        ("interval_excludes", {"number": 1, "within": 0.5}, (None, None)),
        ("monotone", {"direction": "increasing", "tolerance": 1}, (None, None)),
    ],
)
def test_bounds_that_can_be_drawn_are_those_of_the_estimate(kind, arguments, expected):
    assert bounds(kind, arguments) == expected


@pytest.mark.parametrize("low", [-3.0, 0.5, 2.0])
@pytest.mark.parametrize("high", [2.5, 40.0])
def test_the_gauge_shows_on_which_side_of_the_bound_the_interval_lies(low, high):
    bound = 1.0
    finding = Finding("holds", (low + high) / 2, low, high, 3)
    drawn = gauge(Checked("a", "b", "ratio", {"at_least": bound}, finding))
    ((place, text),) = drawn["bounds"]
    assert text == "1"
    assert 0 <= drawn["from"] < drawn["at"] < drawn["to"] <= 100
    assert (drawn["from"] >= place) == (low >= bound)
    assert (drawn["to"] >= place) == (high >= bound)
    assert drawn["inside"] == (place, 100.0)


def test_nothing_is_drawn_without_an_estimate_or_a_bound():
    assert gauge(Checked("a", "b", "ratio", {"at_least": 1}, Finding("not testable here"))) is None
    assert (
        gauge(Checked("a", "b", "monotone", {"direction": "increasing"}, Finding("holds", 1.0, 0.5, 1.5)))
        is None
    )


def test_an_exact_estimate_on_its_bound_can_be_drawn():
    drawn = gauge(Checked("a", "b", "ratio", {"at_most": 0}, Finding("holds", 0.0, 0.0, 0.0)))
    assert drawn["at"] == drawn["from"] == drawn["to"] == drawn["bounds"][0][0]


@pytest.mark.slow
@pytest.mark.skipif(None in PROGRAMS.values(), reason="needs chromium and chromedriver on the path")
def test_the_body_does_not_scroll_sideways_and_the_figure_is_drawn_in_both_themes(found, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    path = write(found, tmp_path / "made")
    driver = webdriver.Chrome(options, Service(PROGRAMS["chromedriver"]))
    try:
        grounds = set()
        for width in (400, 1280):
            for scheme in ("light", "dark"):
                driver.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
                )
                theme = [{"name": "prefers-color-scheme", "value": scheme}]
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
                driver.get(path.as_uri())
                points = "return document.querySelectorAll('#figure-0 .point').length"
                WebDriverWait(driver, 30).until(lambda page, points=points: page.execute_script(points) >= 4)
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width
                ground = (
                    "return getComputedStyle(document.querySelector('#figure-0 .main-svg')).backgroundColor"
                )
                grounds.add(driver.execute_script(ground))
        assert len(grounds) == 2
        assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        driver.quit()
