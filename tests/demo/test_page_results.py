"""What was found, in a headless browser: pages, films, more like this, comparing, explaining."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright", reason="pip install playwright (without its browsers)")

from playwright.sync_api import expect

from tests import media_files
from tests.demo.browsing import Visit, ask, first, needs_browser

pytestmark = needs_browser


def test_the_page_viewer_turns_zooms_and_marks_the_words(visit: Visit, address: str) -> None:
    hit = first(address, "pdf", pages=2)
    row = ask(address, f"api/rows/{hit['id']}")
    word = max(re.findall(r"[^\W\d_]+", row["text"]), key=len)
    page = visit.open(f"#q={word}&kind=pdf&open={hit['id']}")
    sheet, label = page.locator(".page-image"), page.locator(".page-label")
    expect(label).to_have_text(f"Page {hit['page']} of {hit['pages']}")
    expect(page.locator(".mark").first).to_be_visible()
    page.wait_for_function("() => document.querySelector('.page-image').naturalWidth > 0")
    expect(page.locator(".whole-text")).to_contain_text(word)
    visit.shoot("page-viewer")
    before = sheet.bounding_box()
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator(".zoom-label")).to_have_text("150%")
    after = sheet.bounding_box()
    assert before and after and after["width"] == pytest.approx(1.5 * before["width"], rel=0.02)
    page.get_by_role("button", name="Zoom out").click()
    other = hit["page"] + (1 if hit["page"] < hit["pages"] else -1)
    page.keyboard.press("ArrowRight" if other > hit["page"] else "ArrowLeft")
    expect(label).to_have_text(f"Page {other} of {hit['pages']}")
    expect(sheet).to_have_attribute("src", re.compile(f"number={other}&"))


def test_the_film_starts_where_it_matched_and_shows_the_window(visit: Visit, address: str) -> None:
    hit = first(address, "video", start=0.5)
    page = visit.open(f"#q=cat&kind=video&open={hit['id']}")
    page.wait_for_function(
        "start => Math.abs(document.querySelector('video').currentTime - start) < 0.3",
        arg=hit["start"],
    )
    left, width = page.locator(".match-window").evaluate(
        "one => [parseFloat(one.style.left), parseFloat(one.style.width)]"
    )
    assert left == pytest.approx(100 * hit["start"] / hit["duration"], abs=2)
    assert width == pytest.approx(100 * (hit["end"] - hit["start"]) / hit["duration"], abs=2)
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    visit.shoot("video-viewer")
    page.get_by_role("button", name="Play the match").click()
    page.wait_for_function(
        "end => { const film = document.querySelector('video'); "
        "return film.paused && film.currentTime >= end - 0.05 }",
        arg=hit["end"],
    )
    page.get_by_label("Position in the film").press("Home")
    page.wait_for_function("() => document.querySelector('video').currentTime < 0.2")


def test_more_like_this_searches_by_the_result_and_takes_words(visit: Visit) -> None:
    page = visit.open("#q=cat&kind=image")
    name = visit.names[0]
    identity = visit.cards.first.get_attribute("data-id")
    visit.cards.first.hover()
    with page.expect_request("**/api/search") as searched:
        page.get_by_role("button", name=f"More like {name}", exact=True).click()
    assert searched.value.post_data_json["like"] == identity
    expect(page.locator(".chip-name")).to_contain_text(f"Like {name}")
    visit.settle()
    expect(page.locator(f".card-open[data-id='{identity}']")).to_have_count(0)
    visit.search("but at night")
    assert f"like={identity}" in page.url and "q=but" in page.url


def test_compare_shows_how_ranks_differ(visit: Visit, address: str) -> None:
    page = visit.open("#q=cat")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".column")).to_have_count(2)
    page.wait_for_selector(".compare-line")
    sides = [
        page.locator(".column")
        .nth(side)
        .locator(".compare-line")
        .evaluate_all(
            "lines => lines.map(one => [one.dataset.id, one.querySelector('.move .sr').innerText])"
        )
        for side in (0, 1)
    ]
    space = ask(address, "api/info")["spaces"][0]
    smaller = [one for one in space["dimensions"] if one < space["dimension"]][-1]
    wanted = [
        [
            hit["id"]
            for hit in ask(address, "api/search", {"text": "cat", "dimension": width})["hits"]
        ]
        for width in (space["dimension"], smaller)
    ]
    for side, other in ((0, 1), (1, 0)):
        assert [identity for identity, _ in sides[side]] == wanted[side]
        for rank, (identity, said) in enumerate(sides[side]):
            there = wanted[other].index(identity) if identity in wanted[other] else None
            if there is None:
                assert said == "only in this column"
            elif there == rank:
                assert said == "same rank as beside"
            else:
                word = "higher" if rank < there else "lower"
                assert said == f"{abs(rank - there)} {word} than beside"
    visit.shoot("compare")


def test_explain_shows_what_the_server_says_the_model_reads(visit: Visit) -> None:
    page = visit.open()
    visit.attach("picture.png", media_files.encode_image(media_files.photo(200, 120)))
    with page.expect_response("**/api/explain") as answered:
        page.get_by_role("button", name="Explain").click()
    answer = answered.value.json()
    drawer = page.get_by_role("dialog", name="How the model reads this")
    expect(drawer.locator(".prompt")).to_have_text(answer["prompt"], use_inner_text=False)
    assert re.search(r"<\|\w+\|> x \d+", answer["prompt"])
    expect(drawer.locator(".pads").first).to_be_visible()
    expect(drawer).to_contain_text(f"{answer['num_visual_tokens']} visual")
    expect(drawer).to_contain_text("200 \u00d7 120")
    visit.shoot("explain")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(page.get_by_role("button", name="Explain")).to_be_focused()


def test_the_rerank_switch_reads_the_best_again(visit: Visit, address: str) -> None:
    if not ask(address, "api/info")["reranker"]:
        pytest.skip("this demo has no reranker")
    page = visit.open("#q=cat&kind=text")
    with page.expect_response("**/api/search") as answered:
        page.get_by_role("switch", name="Rerank").check(force=True)
    hits = answered.value.json()["hits"]
    visit.settle()
    shown = [float(one) for one in page.locator(".score-value").all_inner_texts()]
    assert shown == pytest.approx([hit["rerank_score"] for hit in hits], abs=6e-4)
    expect(page.locator("#summary")).to_contain_text("reranking")
    assert "rerank=1" in page.url
