"""The audit's page in headless Chromium: charts, console, network, colours, narrow screens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from audited_models import demo_batch, demo_gpt
from chromium import Tab, require_chromium, running
from initstats.auditing import AuditReport, audit, compare_reports
from initstats.auditing.demo.model import DemoConfig
from initstats.auditing.demo.run import run_demo, save_demo

HOSTILE = "<script>alert(1)</script>"
CONTRAST = 4.5  # WCAG 2.2, 1.4.3, level AA


def sick() -> AuditReport:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(5)))
    model.add_module(HOSTILE, nn.Linear(16, 4))
    with torch.no_grad():
        model[2].weight.fill_(float("nan"))
    batch = torch.randn(8, 16), torch.randint(4, (8,))
    return audit(model, batch, loss_fn=nn.functional.cross_entropy, steps=3)


def one_layer() -> AuditReport:
    torch.manual_seed(0)
    batch = torch.randn(8, 16), torch.randint(4, (8,))
    return audit(
        nn.Sequential(nn.Linear(16, 4)), batch, loss_fn=nn.functional.cross_entropy, steps=2
    )


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with running(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    require_chromium()
    folder = tmp_path_factory.mktemp("pages")
    healthy = audit(demo_gpt(), demo_batch(), steps=3, recipe="gpt2")
    broken = sick()
    healthy.save(folder / "healthy", plot=False)
    broken.save(folder / "sick", plot=False)
    one_layer().save(folder / "one-layer", plot=False)
    compare_reports(healthy, broken).save(folder / "comparison")
    return {path.parent.name: path.as_uri() for path in folder.glob("*/index.html")}


PAGES = ("healthy", "sick", "one-layer", "comparison")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_but_itself_and_the_console_is_silent(
    tab: Tab, pages: dict[str, str], name: str, scheme: str
) -> None:
    tab.open(pages[name], scheme=scheme)
    tab.value("document.getElementById('theme').click()")
    outside = [url for url in tab.requests() if not url.startswith("data:")]
    assert outside == [pages[name]]
    assert tab.complaints() == []


def test_what_a_page_must_not_do_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>console.warn('oh')</script><img src='other.png'>")
    tab.open(page.as_uri())
    assert (tmp_path / "other.png").as_uri() in tab.requests()
    assert any("oh" in complaint for complaint in tab.complaints())


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_is_visible_and_every_series_is_drawn(
    tab: Tab, pages: dict[str, str], name: str
) -> None:
    tab.open(pages[name])
    boxes = tab.value(
        "[...document.querySelectorAll('figure svg')].filter(s => s.checkVisibility())"
        ".map(s => s.getBoundingClientRect()).map(b => [b.width, b.height])"
    )
    assert len(boxes) >= 4
    assert all(width > 30 and height > 15 for width, height in boxes), boxes
    series = tab.value(
        "[...document.querySelectorAll('.chart svg')].map(svg =>"
        " [...svg.querySelectorAll('.series')].map(s => s.querySelectorAll('[data-tip]').length))"
    )
    assert all(chart and min(chart) > 0 for chart in series), series
    assert tab.value(
        "[...document.querySelectorAll('svg path')].every(p => p.getTotalLength() > 0)"
    )


@pytest.mark.parametrize("name", PAGES)
def test_numbers_in_the_picture_are_finite(tab: Tab, pages: dict[str, str], name: str) -> None:
    tab.open(pages[name])
    attributes = tab.value(
        "[...document.querySelectorAll('svg *')].flatMap(e => ['d', 'cx', 'cy', 'x', 'y', 'height']"
        ".map(a => e.getAttribute(a)).filter(Boolean)).join(' ')"
    )
    assert not re.search(r"nan|inf", attributes, re.IGNORECASE)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` by WCAG 2.2."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


TEXTS = ("body", ".muted", ".finding dd", ".chip", ".verdict strong", "td", "th", "figcaption")


@pytest.mark.parametrize("clicked", [False, True])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_apply_and_all_text_can_be_read(
    tab: Tab, pages: dict[str, str], scheme: str, clicked: bool
) -> None:
    tab.open(pages["sick"], scheme=scheme)
    if clicked:
        tab.value("document.getElementById('theme').click()")
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.2) == ((scheme == "dark") != clicked)
    for selector in TEXTS:
        ink, behind = tab.value(
            f"(() => {{ const first = document.querySelector('{selector}'); let at = first;"
            "while (getComputedStyle(at).backgroundColor === 'rgba(0, 0, 0, 0)')"
            " at = at.parentElement;"
            "return [getComputedStyle(first).color, getComputedStyle(at).backgroundColor] })()"
        )
        assert contrast(ink, behind) >= CONTRAST, (selector, ink, behind)


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_never_scrolls_sideways(
    tab: Tab, pages: dict[str, str], name: str, width: int
) -> None:
    tab.open(pages[name], width=width)
    tab.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.value("document.documentElement.scrollWidth") <= width


def test_names_of_modules_are_text_and_never_markup(tab: Tab, pages: dict[str, str]) -> None:
    tab.open(pages["sick"])
    assert tab.value("document.scripts.length") == 1
    names = tab.value("[...document.querySelectorAll('tr[data-name]')].map(r => r.dataset.name)")
    assert HOSTILE in names
    assert HOSTILE + ".weight" in names


def test_tables_sort_filter_and_findings_lead_to_their_row(tab: Tab, pages: dict[str, str]) -> None:
    tab.open(pages["healthy"])
    head = "document.querySelectorAll('#r0-parameters th')[5]"
    tab.value(f"{head}.querySelector('button').click()")
    column = (
        "[...document.querySelectorAll('#r0-parameters tbody tr')].map(r => +r.cells[5].dataset.v)"
    )
    values = tab.value(column)
    assert values == sorted(values, reverse=True)
    tab.value(
        "(() => { const i = document.querySelector('#r0-layers input'); i.value = 'h.1.mlp';"
        "i.dispatchEvent(new Event('input')) })()"
    )
    shown = tab.value(
        "[...document.querySelectorAll('#r0-layers tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.dataset.name)"
    )
    assert shown
    assert all("h.1.mlp" in name for name in shown)
    tab.open(pages["sick"])
    links = "[...document.querySelectorAll('.finding a')].map(a => a.hash.slice(1))"
    assert tab.value(f"{links}.every(id => document.getElementById(id) !== null)")
    assert tab.value(f"{links}.length") > 0


def test_hovering_shows_the_layer_and_its_number(tab: Tab, pages: dict[str, str]) -> None:
    tab.open(pages["healthy"])
    tab.value("document.querySelector('.chart').scrollIntoView()")
    x, y = tab.value(
        "(() => { const b = document.querySelector('.chart circle.c1').getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert tab.value("document.getElementById('tip').textContent").startswith("h.0\n")


def test_the_demo_shows_one_report_at_a_time_and_both_for_print(tab: Tab, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = DemoConfig(layers=3, width=32, batch=2, context=16)
    files = save_demo(run_demo("gpt2", steps=2, seed=0, config=config), tmp_path, seed=0)
    page = next(file for file in files if file.name == "index.html")
    tab.open(page.as_uri())
    visible = "[...document.querySelectorAll('[role=tabpanel]')].map(p => p.checkVisibility())"
    assert tab.value(visible) == [True, False]
    tab.value("document.querySelectorAll('[role=tab]')[1].click()")
    assert tab.value(visible) == [False, True]
    tab.value("dispatchEvent(new Event('beforeprint'))")
    assert tab.value(visible) == [True, True]
    assert tab.complaints() == []
