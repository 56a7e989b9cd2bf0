"""The built site in a browser: every page opens without a console error and fits a phone, and the search finds things.

Needs the extra ``docs`` and Chromium; set DOCS_HTML to a site that is built already.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
DOCS = Path(__file__).parents[2] / "docs"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("DOCS_HTML"):
        return Path(built)
    pytest.importorskip("sphinx", reason="needs sphinx")
    out = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(out)]
    subprocess.run(command, check=True)
    return out


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def pages(site: Path) -> list[str]:
    return sorted(
        str(page.relative_to(site))
        for page in site.rglob("*.html")
        if not {"_modules", "_static"} & set(page.relative_to(site).parts)
    )


def test_every_page_opens_without_an_error_and_fits_a_phone(site: Path, address: str, browser: Any) -> None:
    tab = browser.new_page(viewport=PHONE)
    problems: list[str] = []
    now = ""
    tab.on("console", lambda message: problems.append(f"{now}: {message.text}") if message.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(f"{now}: {error}"))
    tab.on("response", lambda r: problems.append(f"{now}: {r.status} {r.url}") if r.status >= 400 else None)
    found = pages(site)
    assert len(found) > 20
    for now in found:
        tab.goto(f"{address}/{now}", wait_until="load")
        width = tab.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"] + 1:
            problems.append(f"{now}: {width} pixels wide on a phone of {PHONE['width']}")
    assert not problems, "\n".join(problems)


def test_links_inside_the_site_lead_somewhere(site: Path, address: str, browser: Any) -> None:
    tab = browser.new_page(viewport=DESK)
    anchors: dict[str, set[str]] = {}
    links: list[tuple[str, str, str]] = []
    for page in pages(site):
        tab.goto(f"{address}/{page}", wait_until="domcontentloaded")
        anchors[page] = set(tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        for href in tab.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)"):
            if href.startswith(address):
                path, _, anchor = href.removeprefix(address + "/").partition("#")
                links.append((page, path.partition("?")[0] or "index.html", anchor))
    lost = [
        f"{page}: {target}#{anchor}"
        for page, target, anchor in links
        if not (site / target).exists() or (anchor and target in anchors and anchor not in anchors[target])
    ]
    assert not lost, "\n".join(sorted(set(lost)))


def test_the_search_finds_the_page_on_tool_calls(address: str, browser: Any) -> None:
    tab = browser.new_page(viewport=DESK)
    tab.goto(f"{address}/search.html?q=parallel+calls", wait_until="load")
    tab.wait_for_selector("#search-results li a", timeout=20_000)
    titles = tab.eval_on_selector_all("#search-results li a", "links => links.map(a => a.textContent)")
    assert "Fine-tuning on tool calls" in titles
