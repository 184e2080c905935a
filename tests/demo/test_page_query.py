"""Asking, in a headless browser on the real server with a real model.

`MMEMBED_DEMO_INDEX=FOLDER` runs all tests of the page on another index, with the model that made
it; `MMEMBED_SCREENSHOTS=FOLDER` keeps the pictures that they take:

    MMEMBED_DEMO_INDEX=quickstart/emoji.index MMEMBED_SCREENSHOTS=pictures pytest tests/demo -k page
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install playwright (without its browsers)")

from playwright.sync_api import expect

from tests import media_files
from tests.demo.browsing import MARKUP, QUERY, Visit, ask, first, needs_browser

pytestmark = needs_browser


def test_the_empty_page_offers_examples_and_an_example_searches(visit: Visit, address: str) -> None:
    page = visit.open()
    expect(page.locator("h1")).to_have_count(1)
    expect(page.locator(".message h2")).to_have_text("What are you looking for?")
    visit.shoot("empty")
    examples = ask(address, "api/info")["examples"]["all"]
    if examples:
        page.get_by_role("button", name=examples[0], exact=True).click()
        expect(page.locator("#text")).to_have_value(examples[0])
        expect(visit.cards.first).to_be_visible()


def test_words_find_results_with_scores_times_and_pictures(visit: Visit, address: str) -> None:
    page = visit.open()
    cards = visit.search(QUERY)
    wanted = ask(address, "api/search", {"text": QUERY, "k": 24})["hits"]
    assert visit.names == [hit["name"] for hit in wanted]
    status = page.get_by_role("status").first
    expect(status).to_contain_text(re.compile(rf"{len(wanted)} results.* m?s .*dimensions"))
    assert "q=a+red+apple" in page.url
    scores = [float(one) for one in page.locator(".score-value").all_inner_texts()]
    assert scores == pytest.approx([hit["score"] for hit in wanted], abs=6e-4)
    shares = page.locator(".bar-fill").evaluate_all(
        "bars => bars.map(one => parseFloat(one.style.inlineSize))"
    )
    assert shares == pytest.approx([100 * max(0, hit["score"]) for hit in wanted], abs=0.06)
    page.wait_for_function("() => [...document.querySelectorAll('.thumb img')][0].naturalWidth > 0")
    assert page.locator(".thumb img").first.get_attribute("loading") == "lazy"
    expect(cards.first).to_be_visible()
    visit.shoot("results-light")


def test_a_file_name_of_markup_stays_text(visit: Visit, address: str) -> None:
    if os.environ.get("MMEMBED_DEMO_INDEX"):
        pytest.skip("the tiny library holds the file")
    page = visit.open("#q=cat&kind=image")
    assert MARKUP in visit.names
    page.locator(".card-open", has_text=MARKUP).click()
    expect(page.locator("#viewer-name")).to_have_text(MARKUP)
    assert page.locator("#viewer-name img, .card-name img").count() == 0


@pytest.mark.parametrize("kind", ["image", "video", "pdf"])
def test_an_upload_searches_alone_and_with_words(visit: Visit, kind: str) -> None:
    name, data = {
        "image": ("picture.png", media_files.encode_image(media_files.photo(seed=1))),
        "video": ("clip.mp4", media_files.video(30)),
        "pdf": ("paper.pdf", media_files.pdf(3)),
    }[kind]
    page = visit.open()
    body = visit.attach(name, data)
    chip = page.locator(".chip")
    expect(chip.locator(".chip-name")).to_have_text(name)
    assert chip.get_attribute("data-kind") == kind
    assert len(body["uploads"]) == 1 and "text" not in body
    control = {"pdf": f"Page of {name}", "video": f"End in {name}, seconds"}.get(kind)
    if control is not None:
        with page.expect_request("**/api/search") as searched:
            page.get_by_label(control).fill("1" if kind == "video" else "3")
            page.get_by_label(control).press("Tab")
        changed = searched.value.post_data_json["uploads"][0]
        assert changed["end" if kind == "video" else "page"] == (1 if kind == "video" else 3)
        visit.settle()
    with page.expect_request("**/api/search") as searched:
        page.fill("#text", "but at night")
        page.press("#text", "Enter")
    both = searched.value.post_data_json
    assert both["text"] == "but at night" and len(both["uploads"]) == 1
    visit.settle()
    expect(visit.cards.first).to_be_visible()
    page.wait_for_function("() => document.querySelector('.chip img').naturalWidth > 0")
    visit.shoot(f"query-{kind}")
    page.get_by_role("button", name=f"Remove {name}").click()
    expect(chip).to_have_count(0)


def test_a_file_can_be_dropped_and_pasted(visit: Visit) -> None:
    """Also while a result is open and while words are typed: the result closes, the words stay."""
    page = visit.open("#q=cat&kind=image")
    visit.cards.first.click()
    expect(page.locator("#viewer")).to_be_visible()
    page.evaluate("document.getElementById('text').value = 'at night'")
    picture = list(media_files.encode_image(media_files.photo(seed=2)))
    for event, number in (("drop", 1), ("paste", 2)):
        page.evaluate(
            """([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`));
              const make = {
                drop: () => new DragEvent("drop", { dataTransfer: data, bubbles: true }),
                paste: () => new ClipboardEvent("paste", { clipboardData: data, bubbles: true }),
              };
              document.body.dispatchEvent(make[kind]());
            }""",
            [event, picture],
        )
        expect(page.locator(".chip[data-kind=image]")).to_have_count(number)
        expect(page.locator("#viewer")).to_be_hidden()
        expect(page.locator("#text")).to_have_value("at night")
    visit.settle()


def test_tabs_choose_the_kind_by_click_and_by_arrow(visit: Visit) -> None:
    page = visit.open("#q=cat")
    page.get_by_role("tab", name="Images").click()
    expect(page.get_by_role("tab", selected=True)).to_have_attribute("data-kind", "image")
    visit.settle()
    assert set(page.locator(".card-place").all_inner_texts()) == {"Image"}
    with page.expect_response("**/api/search"):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", selected=True)).to_be_focused()
    visit.settle()
    expect(visit.cards.first.locator(".card-place")).to_contain_text("Clip")
    assert "kind=video" in page.url


def test_filters_narrow_and_can_be_cleared(visit: Visit, address: str) -> None:
    page = visit.open("#q=cat")
    suffix = ask(address, "api/info")["suffixes"][-1]
    page.get_by_role("button", name="Filters").click()
    with page.expect_request("**/api/search") as searched:
        page.get_by_role("button", name=suffix, exact=True).click()
    assert searched.value.post_data_json["suffixes"] == [suffix]
    visit.settle()
    expect(visit.cards.first).to_be_visible()
    assert {Path(name).suffix for name in visit.names} == {f".{suffix}"}
    expect(page.locator("#filters-count")).to_contain_text("1")
    page.get_by_label("Number of results").select_option("12")
    page.get_by_label("Instruction").fill("Find the picture.")
    with page.expect_request("**/api/search") as searched:
        page.get_by_label("Instruction").press("Tab")
    body = searched.value.post_data_json
    assert (body["k"], body["instruction"]) == (12, "Find the picture.")
    page.goto(page.url + "&seconds-from=99999")
    expect(page.locator(".message.none")).to_contain_text("The filters leave nothing")
    visit.shoot("nothing-found")
    page.locator(".message").get_by_role("button", name="Clear filters").click()
    expect(visit.cards.first).to_be_visible()
    assert "type=" not in page.url and "seconds-from" not in page.url


def test_what_is_typed_stays_and_is_searched_when_something_else_changes(visit: Visit) -> None:
    page = visit.open()
    page.fill("#text", "cat")
    page.get_by_role("button", name="Filters").click()
    for change in (
        lambda: page.get_by_role("tab", name="Text").click(),
        lambda: page.get_by_text("Both", exact=True).first.click(),
        lambda: page.get_by_label("Number of results").select_option("12"),
        lambda: page.get_by_role("button", name="Compare").click(),
    ):
        typed = page.locator("#text").input_value() + "s"
        page.fill("#text", typed)
        with page.expect_request("**/api/search") as searched:
            change()
        assert searched.value.post_data_json["text"] == typed
        visit.settle()
        expect(page.locator("#text")).to_have_value(typed)


def test_without_words_a_search_is_by_meaning_and_says_so(visit: Visit, address: str) -> None:
    text = first(address, "text")["text"]
    page = visit.open(f"#q={max(re.findall(r'[a-z]+', text), key=len)}&mode=text")
    expect(visit.cards.first).to_be_visible()
    name = visit.names[0]
    visit.cards.first.hover()
    with page.expect_request("**/api/search") as searched:
        page.get_by_role("button", name=f"More like {name}", exact=True).first.click()
    assert searched.value.post_data_json["mode"] == "vector"
    expect(visit.cards.first).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("by meaning, without words to look for")
    with page.expect_request("**/api/search") as searched:
        page.fill("#text", "cat")
        page.press("#text", "Enter")
    assert searched.value.post_data_json["mode"] == "text"
    expect(page.locator("#summary")).to_contain_text("by words only, without what is attached")


def test_words_mode_says_how_to_go_on_when_no_file_holds_them(visit: Visit) -> None:
    page = visit.open("#q=zyzzyva")
    with page.expect_request("**/api/search") as searched:
        page.get_by_text("Words", exact=True).first.click()
    assert searched.value.post_data_json["mode"] == "text"
    page.get_by_role("button", name="Search by meaning").click()
    expect(visit.cards.first).to_be_visible()


def test_a_server_that_is_gone_is_an_error_that_can_be_tried_again(visit: Visit) -> None:
    page = visit.open()
    visit.tolerated.append("ERR_CONNECTION_REFUSED")
    page.route("**/api/search", lambda route: route.abort("connectionrefused"))
    page.fill("#text", "cat")
    page.press("#text", "Enter")
    alert = page.get_by_role("alert").filter(has_text="The server is gone")
    expect(alert).to_contain_text("mmembed demo")
    visit.shoot("error")
    page.unroute("**/api/search")
    alert.get_by_role("button", name="Try again").click()
    expect(visit.cards.first).to_be_visible()


def test_a_bad_upload_says_why_and_leaves_the_query(visit: Visit) -> None:
    page = visit.open("#q=cat")
    visit.tolerated.append("api/uploads")
    file = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture" * 9}
    page.set_input_files("#file", [file])  # type: ignore[list-item]
    expect(page.locator("#field-error")).to_contain_text("notes.png")
    expect(page.locator(".chip")).to_have_count(0)
    expect(visit.cards.first).to_be_visible()


def test_an_older_search_is_given_up_for_a_newer_one(visit: Visit) -> None:
    page = visit.open()
    held: list[Any] = []

    def hold_the_first(route: Any) -> None:
        if route.request.post_data_json["text"] == "first":
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/search", hold_the_first)
    page.fill("#text", "first")
    with page.expect_request("**/api/search"):
        page.press("#text", "Enter")
    expect(page.locator(".skeletons")).to_be_visible()
    with page.expect_event("requestfailed") as failed:
        visit.search("second")
    assert failed.value.failure == "net::ERR_ABORTED" and failed.value == held[0].request
    expect(visit.cards.first).to_be_visible()


def test_the_address_restores_a_search_and_back_returns(visit: Visit) -> None:
    page = visit.open("#q=cat&kind=pdf&mode=hybrid&k=12&page-from=1&instruction=Find+it.")
    expect(page.locator("#text")).to_have_value("cat")
    expect(page.get_by_role("tab", selected=True)).to_have_attribute("data-kind", "pdf")
    expect(page.locator("#mode-hybrid")).to_be_checked()
    expect(page.locator("#option-k")).to_have_value("12")
    expect(page.locator("#option-pageFrom")).to_have_value("1")
    expect(page.locator("#option-instruction")).to_have_value("Find it.")
    names = visit.names
    visit.cards.first.click()
    expect(page.locator("#viewer")).to_be_visible()
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    visit.search("dog")
    page.go_back()
    expect(page.locator("#text")).to_have_value("cat")
    visit.settle()
    page.reload()
    visit.settle()
    assert visit.names == names
