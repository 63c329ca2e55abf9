"""The page stands alone, and its tables can be read by machines as by people."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from conformance_tests.tests.made_reports import report, written
from eventbus_conformance.contract import contract
from eventbus_conformance.matrix import main
from eventbus_conformance.needs import NEEDS

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """A page, taken apart; a tag that is closed by another fails at once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def values(self, attribute: str) -> list[str]:
        """All values of an attribute."""
        return [str(has[attribute]) for _, has in self.tags if attribute in has]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    target = tmp_path / "made.html"
    reports = [
        report("acme-sync", backend="acme"),
        report("acme-lazy", outcomes={"F2": ("known failure", "it forgets (https://example.org/1)")}),
        report("other", profile_is="<script>alert('x')</script> & more", outcomes={"P4": ("not proven", "why")}),
    ]
    assert main([*written(tmp_path, *reports), "--html", str(target)]) == 0
    return Page(target.read_text())


def test_it_needs_nothing_from_elsewhere(page: Page) -> None:
    assert page.values("src") == []
    assert [has["href"] for tag, has in page.tags if tag == "link"] == ["data:,"]
    style = page.text[: page.text.index("@media print")]
    assert "url(" not in style
    assert "@import" not in style
    assert page.text.count("fetch(") == 0


def test_texts_of_reports_are_no_markup_and_addresses_are_links(page: Page) -> None:
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert('x')</script> & more" in page.text
    assert "https://example.org/1" in page.values("href")


def test_every_row_has_a_heading_and_a_cell_for_every_report(page: Page) -> None:
    full = [row for row in page.rows if len(row) > 1]
    assert {len(row) for row in full} == {4}
    assert [row[1:] for row in page.rows if row[0] == "Clause"] == [["acme-lazy", "acme-sync", "acme, other"]]
    scopes = [has.get("scope") for tag, has in page.tags if tag == "th"]
    assert None not in scopes
    assert len(page.values("id")) == len(set(page.values("id")))
    assert contract().keys() <= set(page.values("id"))


def test_outcomes_are_told_in_words_not_by_colour_alone(page: Page) -> None:
    row = next(row for row in page.rows if row[0].startswith("F2"))
    assert ["known failure" in row[1], "pass" in row[2], "pass" in row[3]] == [True, True, True]


def test_the_filter_knows_for_every_report_whether_each_need_is_met(page: Page) -> None:
    assert [has["value"] for tag, has in page.tags if has.get("name") == "need"] == [each.id for each in NEEDS]
    told = [(has["data-need"], has["data-answer"]) for _, has in page.tags if "data-need" in has]
    assert len(told) == 3 * len(NEEDS)
    assert [answer for need, answer in told if need == "sigkill"] == ["no", "yes", "yes"]


def test_a_bound_that_was_not_shown_is_none(page: Page) -> None:
    cards = [has for tag, has in page.tags if has.get("class") == "card"]
    assert [has["data-takeover"] for has in cards] == ["5.0", "5.0", "5.0"]
    assert [has["data-size"] for has in cards] == ["16777216", "16777216", ""]


def test_without_scripts_all_is_there_and_no_form_that_does_nothing(page: Page) -> None:
    assert [has["id"] for tag, has in page.tags if "hidden" in has and "id" in has] == ["choose", "rows"]
