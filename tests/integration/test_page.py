"""The page of ``promptwise serve`` in a real Chromium, against a server that runs."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from promptwise import AdapterPool, PromptedModel, attribute
from promptwise.serving.http import Limits, create_app
from tests.contract.common import draw_numbers, load, make_prepared
from tests.integration.test_serve import SINGLE

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

TEXT = "The movie was great and the music was awful."
IMAGE = '<img src=x onerror="window.ran = 1">'
"""It runs when it enters a page as HTML."""
LABELS = ("good", "bad", IMAGE)
HOSTILE = replace(SINGLE, labels=LABELS, label_words={"good": ("good",), "bad": ("bad",), IMAGE: ("great",)})


@pytest.fixture(scope="module")
def alone(tiny: Path) -> dict[str, PromptedModel]:
    """Adapters with random numbers: one of them is about pairs, one reads hidden states, one has HTML in its names."""
    backbone = load(tiny, lm_head=True)
    made = {
        "first": make_prepared(backbone, spec=SINGLE, strategy="encoder", base="prefix", head="classifier"),
        "second": make_prepared(backbone, spec=SINGLE, strategy="random", base="prompt", head="cloze"),
        "pairs": make_prepared(backbone, strategy="shared", base="prefix", head="classifier"),
        "reads": make_prepared(
            backbone, spec=SINGLE, strategy="context-bias", base="hidden", reads_layer=1, edit_layers="1"
        ),
        IMAGE: make_prepared(backbone, spec=HOSTILE, strategy="shared", base="prompt", head="classifier"),
    }
    draw_numbers(made.values(), 5)
    return made


@pytest.fixture(scope="module")
def pool(alone: dict[str, PromptedModel], tmp_path_factory: pytest.TempPathFactory) -> AdapterPool:
    """All of them in a folder."""
    root = tmp_path_factory.mktemp("adapters")
    for name, model in alone.items():
        model.save_pretrained(root / name)
    (root / "broken").mkdir()
    (root / "broken" / "adapter_config.json").write_text("{")
    return AdapterPool.from_backbone(alone["first"].backbone, folder=root)


@contextmanager
def running(pool: AdapterPool, *keys: str) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    server = uvicorn.Server(uvicorn.Config(create_app(pool, Limits(), keys), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def address(pool: AdapterPool) -> Iterator[str]:
    """A server without keys."""
    with running(pool) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser."""
    with sync_api.sync_playwright() as playwright:
        # Its sandbox cannot be had by root, as in a container; the pages here are our own.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def said() -> list[str]:
    """What the browser's console was told: errors, and what a page asked to be shown."""
    return []


@pytest.fixture
def page(browser: Any, said: list[str]) -> Iterator[Any]:
    """An empty page."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(20_000)
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    yield opened
    opened.close()


def classify(page: Any, address: str, text: str, *names: str) -> Any:
    """Open the page, pick adapters, type a text and ask: the cards of the answers."""
    page.goto(address)
    boxes = page.locator("#adapters input")
    boxes.first.wait_for()
    for box in boxes.all():
        box.set_checked(box.get_attribute("value") in names)
    page.fill("#text", text)
    page.click("text=Classify")
    return page.locator(".answer")


def strength(style: str) -> tuple[str, float]:
    """The colour of a word, and how much of it there is."""
    found = re.search(r"rgba?\((\d+, \d+, \d+)(?:, ([\d.]+))?\)", style)
    assert found, style
    return {"45, 125, 220": "towards", "235, 129, 27": "away"}[found[1]], float(found[2] or 1)


def test_labels_and_the_words_that_moved_them_side_by_side(
    page: Any, said: list[str], address: str, alone: dict[str, PromptedModel]
) -> None:
    """Numbers are those of each adapter alone, colours those of its attribution, and nothing is told to the console."""
    cards = classify(page, address, TEXT, "first", "second")
    page.locator(".legends").nth(1).wait_for()
    assert cards.locator("h2").all_inner_texts() == ["first", "second"]
    for card, name in zip(cards.all(), ("first", "second"), strict=True):
        (own,) = alone[name].predict([TEXT])
        ranked = sorted(own.probabilities.items(), key=lambda item: -item[1])
        assert card.locator(".label").all_inner_texts() == [label for label, _ in ranked]
        shown = [float(number) for number in card.locator(".number").all_inner_texts()]
        assert shown == pytest.approx([probability for _, probability in ranked], abs=6e-4)
        assert card.locator(".best").inner_text().split()[0] == own.label
        moved = attribute(alone[name], TEXT, Limits().explanation_steps)
        words = card.locator(".word")
        assert tuple(words.all_inner_texts()) == moved.words
        most = max(map(abs, moved.scores))
        for word, score in zip(words.all(), moved.scores, strict=True):
            side, alpha = strength(word.get_attribute("style"))
            assert alpha == pytest.approx(0.75 * abs(score) / most, abs=5e-3)
            assert alpha < 1e-2 or side == ("away" if score < 0 else "towards")
        assert f"towards {moved.label}" in card.locator(".legends").inner_text()
    boxes = [card.bounding_box() for card in cards.all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    assert said == []


def test_a_narrow_window_has_everything_below_each_other(page: Any, address: str) -> None:
    """Nothing is wider than a telephone, long words included."""
    page.set_viewport_size({"width": 400, "height": 800})
    cards = classify(page, address, "great" * 60, "first", "second", IMAGE)
    page.locator(".legends").nth(2).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    tops = [card.bounding_box()["y"] for card in cards.all()]
    assert tops == sorted(set(tops))


def test_the_panel_counts_what_ran(page: Any, said: list[str], address: str) -> None:
    """Rows so far grow by those of a request, and the curve of their rate rises."""
    page.goto(address)
    so_far = page.locator("#counts div", has_text="rows so far").locator("dd")
    before = int(so_far.inner_text().replace(",", ""))
    classify(page, address, TEXT, "first", "second").first.wait_for()
    page.wait_for_function(
        "rows => [...document.querySelectorAll('#counts div')].some(one => "
        "one.textContent === 'rows so far' + rows.toLocaleString('en'))",
        arg=before + 2,
    )
    heights = [float(point.split(",")[1]) for point in page.locator("#curve polyline").get_attribute("points").split()]
    assert min(heights) < heights[0] == 98, "the curve rises from where nothing ran"
    assert said == []


def test_text_labels_and_names_that_are_html_stay_text(page: Any, said: list[str], address: str) -> None:
    """They are shown as they are; none of it runs, and the browser is told to run nothing but the page's own script."""
    hostile = f"<script>window.ran = 1; alert(1)</script> {IMAGE}"
    cards = classify(page, address, hostile, IMAGE, "pairs")
    page.locator(".legends").first.wait_for()
    assert IMAGE in cards.locator("h2").all_inner_texts()
    assert IMAGE in cards.locator(".label").all_inner_texts()
    assert "<script>" in page.locator(".answer [role=alert]").inner_text(), "an error that repeats the text"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert page.evaluate("window.ran") is None
    assert said == []
    # Even what came in as HTML would not run.
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", IMAGE)
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in line for line in said)


def test_what_goes_wrong_is_said_plainly_and_the_others_go_on(page: Any, address: str) -> None:
    """In the card of the adapter that it is about, or above all where it is about all of them."""
    cards = classify(page, address, TEXT, "broken", "first", "pairs", "reads")
    page.locator(".legends").nth(1).wait_for()
    alerts = {card.locator("h2").inner_text(): card.locator("[role=alert]").all_inner_texts() for card in cards.all()}
    assert list(alerts) == ["broken", "first", "pairs", "reads"]
    assert "is not valid JSON" in alerts["broken"][0]
    assert alerts["first"] == alerts["reads"] == []
    assert "pairs of texts" in alerts["pairs"][0]
    classify(page, address, TEXT)
    assert page.locator("#error").inner_text() == "Pick an adapter."
    page.route("**/v1/classify", lambda route: route.abort())
    classify(page, address, TEXT, "first")
    page.locator("#error", has_text="The server does not answer.").wait_for()


def test_adapters_can_be_looked_for_and_a_second_text_given(page: Any, address: str) -> None:
    """Looking hides the others and forgets no choice."""
    page.goto(address)
    page.locator("#adapters input").first.wait_for()
    page.fill("#find", "PAIR")
    assert page.locator("#adapters label:visible").all_inner_texts() == ["pairs"]
    page.fill("#find", "")
    for box in page.locator("#adapters input").all():
        box.set_checked(box.get_attribute("value") == "pairs")
    page.fill("#text", "a good film")
    page.fill("#pair", "a bad film")
    page.click("text=Classify")
    page.locator(".legends").wait_for()
    assert page.locator(".label").count() == 3
    assert " ".join(page.locator(".word").all_inner_texts()) == "a good film a bad film"


def test_a_key_is_asked_for(page: Any, pool: AdapterPool) -> None:
    """Without it the page says so, and with it the adapters are there."""
    with running(pool, "secret") as address:
        page.goto(address)
        page.locator("#error", has_text="Send a key of this server").wait_for()
        page.fill("#key", "secret")
        page.locator("#key").blur()
        page.locator("#adapters input").first.wait_for()
        assert page.locator("#error").inner_text() == ""
