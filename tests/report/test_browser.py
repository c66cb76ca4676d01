"""The page in headless Chromium: one browser for all, each test loads the page anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.report.page.build import write_page
from tests.report.browser import CHROMIUM, Browser
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record, write_run
from tests.report.test_page import HOSTILE, built, hostile_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

SHOWN = "document.getElementById('count').textContent"
TITLE = "document.querySelector('#detail h2').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: nothing was complained about and nothing but the file was asked for."""
    browser: Browser = request.getfixturevalue("browser")
    browser.look(1280, 900)
    browser.complaints.clear()
    yield
    browser.value("0")  # whatever is under way is told before
    assert browser.complaints == []
    assert [address for address in browser.requests if not address.startswith("file://")] == []
    assert len(browser.requests) <= 1


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name in ("ensemble", "questions", "stock", "hf", "repeats"):
        write_page(built(FIXTURES / name), folder / f"{name}.html")
    write_page(built(hostile_run(folder / "hostile run")), folder / "hostile.html")
    write_page(built(many(folder / "many run")), folder / "many.html")
    write_page(built(write_run(folder / "empty run", None)), folder / "empty.html")
    return folder


def many(folder: Path) -> Path:
    """120 documents of 40 problems; who is right, the winner and the text follow from the number."""
    samples = []
    for n in range(120):
        a = candidate(
            "a", f"return first({n})\n", n % 2 == 0, 0.25, tokens=["return", f" first({n})\n"], logprobs=[-0.05, -2.5]
        )
        b = candidate("b", f"return second({n})\n", n % 3 == 0, 0.5, why="AssertionError")
        samples.append(ensemble_sample(n, record([a, b], int(n % 5 == 0)), f"p{n % 40}", middle="x" * (5 + n)))
    return write_run(folder, samples, task="many", metric="pass@1")


def texts(browser: Browser, selector: str) -> Any:
    return browser.value(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)")


def choose(browser: Browser, name: str, value: str) -> None:
    """As a reader does in a list of values."""
    browser.value(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = {json.dumps(value)};"
        " s.dispatchEvent(new Event('change')); })()"
    )


def test_overview_samples_and_the_address(browser: Browser, pages: Path) -> None:
    browser.open(pages / "ensemble.html")
    assert browser.value("document.querySelector('.overview:not([hidden]) h2').textContent").startswith("infill_toy")
    assert browser.value("document.getElementById('samples').hidden") is True
    browser.value("document.getElementById('to-samples').click()")
    browser.wait("!document.getElementById('samples').hidden")
    assert browser.value(SHOWN) == "15 samples"
    assert browser.value("location.hash") == "#infill_toy/0"
    browser.value("history.back()")
    browser.wait("document.getElementById('samples').hidden")
    # A tile of the overview shows the documents of its problem.
    browser.value("document.querySelector('.mosaic a').click()")
    browser.wait("!document.getElementById('samples').hidden")
    assert browser.value(SHOWN) == "3 of 15 samples"


def test_a_deep_link_shows_prefix_candidates_and_suffix(browser: Browser, pages: Path) -> None:
    browser.open(pages / "ensemble.html", "#infill_toy/1")
    assert browser.value(TITLE) == "infill_toy/clamp/line1"
    assert texts(browser, ".card .code") == ["return low\n", "return value\n", "return value\n"]
    assert texts(browser, ".card mark") == ["low", "value"]
    assert texts(browser, ".row .caption") == ["without the common indentation of 4 spaces"]
    assert texts(browser, ".card h3 .badge") == ["chosen", "✗ wrong", "✓ right"]
    around = texts(browser, ".code.around")
    assert around[0].startswith("def clamp(value: int")
    browser.open(pages / "ensemble.html", "#infill_toy/999")
    assert texts(browser, "#detail .empty") == ["There is no sample 999 here."]


def test_filters_search_and_order(browser: Browser, pages: Path) -> None:
    browser.open(pages / "many.html", "#many/")
    for name, value, expected in (
        ("who", "only a", 40),
        ("who", "only b", 20),
        ("who", "wrong choice", sum((n % 2 == 0) != (n % 3 == 0) and n % (3 if n % 5 == 0 else 2) != 0 for n in range(120))),
        ("winner", "b", 24),
        ("is", "right", sum(n % (3 if n % 5 == 0 else 2) == 0 for n in range(120))),
        ("why", "assertion", sum(n % 5 == 0 and n % 3 != 0 for n in range(120))),
        ("length", "10 to 19", 10),
        ("problem", "p7", 3),
    ):
        choose(browser, f"f-{name}", value)
        assert browser.value(SHOWN) == f"{expected} of 120 samples", (name, value)
        assert f"{name}={value.replace(' ', '+')}" in browser.value("location.hash")
        browser.value("document.getElementById('clear').click()")
        assert browser.value(SHOWN) == "120 samples"
    choose(browser, "f-winner", "b")
    choose(browser, "f-is", "wrong")
    assert browser.value(SHOWN) == "16 of 120 samples"
    browser.open(pages / "many.html", "#many/?winner=b&is=wrong&sort=long")
    assert browser.value(SHOWN) == "16 of 120 samples"
    assert browser.value("document.querySelector('#rows .name').textContent") == "task/115"


def test_the_keyboard(browser: Browser, pages: Path) -> None:
    browser.open(pages / "many.html", "#many/3")
    for key, name in (("j", "task/4"), ("ArrowDown", "task/5"), ("k", "task/4"), ("ArrowUp", "task/3")):
        browser.press(key)
        assert browser.value(TITLE) == name, key
    assert browser.value("location.hash") == "#many/3"
    for _ in range(60):
        browser.press("j")
    # Far down: the row exists, is in view and is the current one.
    browser.wait("document.querySelector('#rows a[aria-current]') !== null")
    assert browser.value("document.querySelector('#rows a[aria-current] .name').textContent") == "task/63"
    inside = "(() => { const r = document.querySelector('#rows a[aria-current]').getBoundingClientRect(),"
    inside += (
        " l = document.getElementById('list').getBoundingClientRect(); return r.top >= l.top && r.bottom <= l.bottom; })()"
    )
    browser.wait(inside)
    assert browser.value("document.querySelectorAll('#rows li').length") < 60
    browser.press("/")
    assert browser.value("document.activeElement.id") == "search"
    browser.type("FIRST(77)")
    browser.wait(f"{SHOWN} === '1 of 120 samples'")
    assert browser.value(TITLE) == "task/77"
    browser.press("j")  # is typed
    browser.wait(f"{SHOWN} === '0 of 120 samples'")
    browser.press("Escape")
    assert browser.value("document.activeElement.tagName") == "BODY"
    browser.press("?")
    assert browser.value("document.getElementById('help').open") is True
    browser.press("Escape")
    browser.wait("!document.getElementById('help').open")
    browser.press("o")
    browser.wait("document.getElementById('samples').hidden")


def test_tokens_are_coloured_and_told(browser: Browser, pages: Path) -> None:
    browser.open(pages / "many.html", "#many/3")
    browser.press("v")
    found = browser.value("[...document.querySelectorAll('.card .tok')].map((node) => [node.textContent, node.className])")
    assert found == [["return", "tok t0"], [" first(3)↵\n", "tok t4"]]
    browser.value("document.querySelectorAll('.card .tok')[1].click()")
    assert texts(browser, ".told") == ['" first(3)\\n"  −2.500 nats, p 0.082']


def test_hostile_texts_are_shown_and_not_obeyed(browser: Browser, pages: Path) -> None:
    browser.open(pages / "hostile.html")
    assert browser.value("document.querySelectorAll('img, body script:not(.data)').length") == 1
    for n, text in enumerate(HOSTILE):
        browser.value(f"location.hash = '#' + encodeURIComponent(document.querySelector('.data').dataset.key) + '/{n}'")
        browser.wait(f"document.querySelector('#detail .facts dd:not(:has(a))')?.textContent === '{n}'")
        for mode in ("differences", "log-probabilities", "plain"):
            browser.value(f"[...document.querySelectorAll('.modes button')].find((b) => b.textContent === '{mode}').click()")
        if n < 4:
            assert browser.value(TITLE) == text
            assert text in texts(browser, ".code")
        elif n == 4:
            assert browser.value(TITLE) == "line⟨U+2028⟩separator⟨U+2029⟩end"
        elif n == 5:
            assert browser.value(TITLE) == "nul␀ bell␇ delete␡ next⟨U+0085⟩ mark⟨U+FEFF⟩"
        elif n == 6:
            assert browser.value(TITLE) == "half ⟨U+D800⟩ other half ⟨U+DFFF⟩"
        elif n == 7:
            assert browser.value(TITLE) == "turned ⟨U+202E⟩ back ⟨U+2066⟩"
    assert browser.value("document.querySelectorAll('img, body script:not(.data)').length") == 1
    assert "alert" not in browser.value("[...document.querySelectorAll('a')].map((a) => a.protocol).join()")


def test_the_policy_stops_script_that_gets_in(browser: Browser, pages: Path) -> None:
    """A second wall: markup put into the file by hand does not run."""
    text = (pages / "hf.html").read_text(encoding="utf-8")
    added = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"></main>"
    (pages / "taken.html").write_text(text.replace("</main>", added), encoding="utf-8")
    browser.open(pages / "taken.html")
    assert browser.value("document.title") == "fim · report"
    assert "script-src" in " ".join(browser.complaints)
    browser.complaints.clear()
    browser.requests.clear()


def test_questions_stock_repeats_and_empty_runs(browser: Browser, pages: Path) -> None:
    browser.open(pages / "questions.html", "#triviaqa_uncertainty/0")
    assert "g_nll" in texts(browser, "#detail tbody th")
    assert browser.value("document.querySelectorAll('.card .tok').length") > 1
    assert len(texts(browser, ".card .gold li")) > 0
    browser.open(pages / "stock.html", "#words_choice/0")
    assert texts(browser, ".card tbody th") == [" float(xs)✓ reference", " str(xs)", " len(xs)chosen"]
    browser.value(
        "(() => { const s = document.getElementById('task'); s.value = '1'; s.dispatchEvent(new Event('change')); })()"
    )
    browser.wait("location.hash.startsWith('#words_generate/')")
    assert "return " in "".join(texts(browser, "#detail .code"))
    browser.open(pages / "hf.html", "#infill_toy/1")
    assert texts(browser, ".card .code") == ["return value\n", "return value\n"]
    browser.open(pages / "repeats.html", "#infill_toy/1")
    assert browser.value("document.querySelector('.repeat select').options.length") == 3
    browser.open(pages / "empty.html", "#t/")
    assert "no samples" in browser.value("document.querySelector('#detail .empty').textContent")


def test_a_phone_shows_one_thing_at_a_time(browser: Browser, pages: Path) -> None:
    browser.look(390, 844, phone=True)
    seen = "['.browser', '.detail'].map((name) => document.querySelector(name).offsetParent !== null)"
    browser.open(pages / "many.html", "#many/")
    assert browser.value(seen) == [True, False]
    browser.value("document.querySelector('#rows a').click()")
    browser.wait(f"String({seen}) === 'false,true'")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") is True
    browser.value("document.querySelector('.back').click()")
    browser.wait(f"String({seen}) === 'true,false'")
    browser.open(pages / "many.html")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") is True


def test_light_and_dark_have_contrast(browser: Browser, pages: Path) -> None:
    """WCAG's ratio of the two text colours and of the verdicts on their grounds is at least 4.5."""
    ratio = """(() => {
      const light = (rgb) => rgb.match(/[0-9.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
      const probe = document.body.appendChild(document.createElement("i")), seen = {};
      const colour = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
      for (const front of ["ink", "soft", "accent", "right", "wrong", "partly"]) for (const back of ["page", "card", "sunk"]) {
        const [a, b] = [light(colour(front)), light(colour(back))].sort((x, y) => y - x);
        seen[`${front} on ${back}`] = (a + 0.05) / (b + 0.05);
      }
      probe.remove();
      return seen;
    })()"""
    for dark in (False, True):
        browser.look(1280, 900, dark=dark)
        browser.open(pages / "ensemble.html")
        ground = "rgb(21, 23, 26)" if dark else "rgb(251, 250, 248)"
        assert browser.value("getComputedStyle(document.body).backgroundColor") == ground
        assert {name: value for name, value in browser.value(ratio).items() if value < 4.5} == {}
        browser.press("t")
        assert browser.value("document.documentElement.dataset.theme") == ("light" if dark else "dark")
        browser.value("localStorage.clear()")
