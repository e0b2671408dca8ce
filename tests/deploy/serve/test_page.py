"""The page in a browser, against the real service."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.deploy.serve.test_process import Service, service

__all__ = ["service"]

expect.set_options(timeout=20_000)  # a loaded machine takes its time
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture
def page(service: Service) -> Iterator[Page]:
    """The page; its requests and error messages are checked at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{service.address}/")
        yield page
        browser.close()
        assert complaints == []
        assert [url for url in asked if not url.startswith((service.address, "blob:", "data:"))] == []


def test_a_picture_is_searched_for_and_its_matches_in_turn(page: Page, images: list[Path]) -> None:
    expect(page.locator("#summary")).to_contain_text("images")
    page.set_input_files("#file", images[0])
    matches = page.locator("#matches li")
    expect(matches).to_have_count(24)
    shown = [float(text) for text in page.locator("#matches b").all_inner_texts()]
    assert shown == sorted(shown)
    names = page.locator("#matches .name").all_inner_texts()

    # One of the matches is searched for; the way back leads to the picture.
    expect(page.locator("#back")).to_be_disabled()
    page.locator("#matches .again").nth(2).click()
    expect(page.locator("#back")).to_be_enabled()
    expect(page.locator("#matches .name").first).not_to_have_text(names[2])
    expect(page.locator("#keep")).to_be_disabled()
    page.locator("#back").click()
    expect(page.locator("#matches .name").first).to_have_text(names[0])
    page.locator("#matches .again").nth(2).press("Enter")
    expect(page.locator("#back")).to_be_enabled()
    expect(page.locator("#matches .again").first).to_be_focused()
    page.locator("#back").press("Enter")
    expect(page.locator("#matches .name").first).to_have_text(names[0])

    # The slider dims what lies beyond, and shows what a calibrated distance means.
    slider = page.locator("#threshold")
    slider.fill(str(round((shown[4] + shown[5]) / 2, 3)))
    limit = float(slider.input_value())
    expect(page.locator("#matches li.beyond")).to_have_count(sum(value > limit for value in shown))
    mark = page.locator("#marks button").first
    mark.click()
    expect(mark).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#meaning")).to_contain_text("of true pairs, and")

    # A camera narrows the search.
    page.locator("summary").click()
    page.locator("#camera").select_option(index=1)
    camera = page.locator("#camera").input_value()
    expect(page.locator("#matches .facts").first).to_contain_text(f"camera {camera}")
    page.wait_for_function("!document.querySelector('.searching')")
    assert all(f"camera {camera}" in text for text in page.locator("#matches .facts").all_inner_texts())


def test_pictures_are_dropped_kept_and_removed(page: Page, images: list[Path]) -> None:
    expect(page.locator("#summary")).to_contain_text("images")
    before = page.locator("#summary").inner_text()
    content = list(images[0].read_bytes())
    drop = """async (content) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
        document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    }"""
    page.evaluate(drop, content)
    expect(page.locator("#matches li").first).to_be_visible()
    page.locator("#keep").click()
    expect(page.locator("#message")).to_have_text("Added as dropped.png.")
    expect(page.locator("#summary")).not_to_have_text(before)
    own = page.locator("#matches li", has_text="dropped.png")
    expect(own).to_have_count(1)
    page.on("dialog", lambda dialog: dialog.accept())
    own.hover()
    own.locator(".remove").click()
    expect(own).to_have_count(0)
    expect(page.locator("#summary")).to_have_text(before)


def test_the_interface_is_described(page: Page, service: Service) -> None:
    page.goto(f"{service.address}/docs")
    expect(page.locator(".route code", has_text="POST /search")).to_be_visible()
