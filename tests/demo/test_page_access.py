"""Whom the page serves: keyboards, phones, screen readers, dark rooms, eyes that want no motion."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="pip install playwright (without its browsers)")

from playwright.sync_api import expect

from tests import media_files
from tests.demo.browsing import QUERY, Visit, Visitor, first, needs_browser

pytestmark = needs_browser


def test_the_keyboard_reaches_everything(visit: Visit) -> None:
    page = visit.open()
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("cat")
    with page.expect_response("**/api/search"):
        page.keyboard.press("Enter")
    visit.settle()
    page.keyboard.press("ArrowDown")
    expect(visit.cards.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(visit.cards.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below, above = (
        page.evaluate(f"{code}.getBoundingClientRect().top")
        for code in ("document.activeElement", "document.querySelectorAll('.card-open')[1]")
    )
    assert below > above
    page.keyboard.press("ArrowUp")
    expect(visit.cards.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    expect(page.locator(".step")).to_contain_text("2 of")
    page.keyboard.press("k")
    expect(page.locator(".step")).to_contain_text("1 of")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body "
            "|| document.querySelector('#viewer').contains(document.activeElement)"
        )
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(visit.cards.nth(0)).to_be_focused()
    outline = visit.cards.nth(0).evaluate("one => getComputedStyle(one).outlineWidth")
    assert outline == "2px"
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(visitor: Visitor, address: str, width: int) -> None:
    size = {"width": width, "height": 800}
    with visitor(viewport=size, is_mobile=True, has_touch=True) as visit:
        page = visit.open()
        assert visit.overflow() <= 0
        visit.search(QUERY)
        assert visit.overflow() <= 0
        visit.shoot(f"phone-{width}")
        page.get_by_role("button", name="Filters").click()
        assert visit.overflow() <= 0
        visit.shoot(f"phone-{width}-filters")
        for kind in ("pdf", "video"):
            page = visit.open(f"#q=cat&open={first(address, kind)['id']}")
            expect(page.locator("#viewer .stage")).to_be_visible()
            assert page.locator("#viewer").evaluate("one => one.scrollWidth - one.clientWidth") <= 0
            visit.shoot(f"phone-{width}-{kind}")
        visit.open("#q=cat&compare=1&with-dimension=32")
        assert visit.overflow() <= 0
        visit.shoot(f"phone-{width}-compare")


CONTRAST = """pairs => pairs.map(([ink, ground]) => {
  const probe = document.body.appendChild(document.createElement("i"));
  const light = (name) => {
    probe.style.color = `var(--${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3);
    const [r, g, b] = parts.map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
  probe.remove();
  return (high + 0.05) / (low + 0.05);
})"""
PAIRS = [
    *[(ink, ground) for ink in ("ink", "muted", "accent") for ground in ("paper", "card", "well")],
    ("ink", "raised"), ("on-accent", "accent"), ("accent", "tint"), ("warn", "warn-tint"),
    ("warn", "card"), ("up", "well"), ("down", "well"),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_can_be_read(visitor: Visitor, scheme: str) -> None:
    with visitor(color_scheme=scheme) as visit:
        page = visit.open("#q=cat")
        ratios = dict(zip(PAIRS, page.evaluate(CONTRAST, PAIRS), strict=True))
        assert all(ratio >= 4.5 for ratio in ratios.values()), ratios
        ground = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(ground)
        visit.shoot(f"results-{scheme}")
        other = "dark" if scheme == "light" else "light"
        while page.evaluate("document.documentElement.dataset.theme") != other:
            page.get_by_role("button", name="Colours").click()
        chosen = page.evaluate(ground)
        assert chosen != before
        page.reload()
        assert page.evaluate(ground) == chosen


UNNAMED = """() => {
  const names = (one) => [one.getAttribute("aria-label"), one.innerText, one.title,
    ...[...(one.labels ?? [])].map((label) => label.innerText),
    ...(one.getAttribute("aria-labelledby") ?? "").split(" ")
      .map((id) => document.getElementById(id)?.innerText)];
  const controls = "button, input, select, a[href], video, dialog, [tabindex], [role=tab]";
  const shown = (one) => one.checkVisibility() && !names(one).some((name) => name?.trim());
  const images = [...document.images].filter((one) => !one.hasAttribute("alt"));
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  return [...[...document.querySelectorAll(controls)].filter(shown), ...images]
    .map((one) => one.outerHTML).concat(ids.filter((id, at) => ids.indexOf(id) !== at));
}"""


def test_every_control_has_a_name(visit: Visit, address: str) -> None:
    page = visit.open("#q=cat")
    page.get_by_role("button", name="Filters").click()
    visit.attach("paper.pdf", media_files.pdf(2))
    assert page.evaluate(UNNAMED) == []
    for landmark in ("banner", "main", "search"):
        expect(page.get_by_role(landmark)).to_have_count(1)  # type: ignore[arg-type]
    assert page.locator("html").get_attribute("lang") == "en"
    for kind in ("pdf", "video", "image", "text"):
        page = visit.open(f"#q=cat&open={first(address, kind)['id']}")
        expect(page.locator("#viewer .side")).to_be_visible()
        assert page.evaluate(UNNAMED) == []
    page = visit.open("#q=cat&compare=1&with-dimension=32")
    assert page.evaluate(UNNAMED) == []


def test_a_visitor_who_wants_no_motion_gets_none(visitor: Visitor) -> None:
    with visitor(reduced_motion="reduce") as visit:
        page = visit.open()
        page.route("**/api/search", lambda route: None)
        page.fill("#text", "cat")
        page.press("#text", "Enter")
        moving = page.locator(".skeletons .thumb").first
        assert moving.evaluate("one => getComputedStyle(one).animationName") == "none"
        page.unroute_all(behavior="ignoreErrors")
