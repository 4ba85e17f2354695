"""Report and diff in a real browser: quick, silent, offline, usable by keyboard, at all widths.

Needs Chromium (``apt-get install chromium``, or ``playwright install chromium``). Where there is
none, each test says so.
"""

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import example
from test_run_diff import changed

from trtforge.analysis import Device, LayerCost, NodeCost, Prediction
from trtforge.diff import Diff
from trtforge.diff_page import render as render_diff
from trtforge.graph_summary import GraphSummary
from trtforge.layer_diff import compare_engines
from trtforge.report_page import render
from trtforge.run_diff import compare_runs
from trtforge.subject import Subject

LAYERS = 5_000
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def large(tmp_path):
    """The example's report with 5000 layers of as many nodes."""
    report = example(tmp_path)
    device = Device("L4", 89, 300.0, {"float16": 121.0, "int8": 242.0}, ("https://example.org",))
    names = [f"encoder.layers.{i // 8}.node_{i}" for i in range(LAYERS)]
    nodes = tuple(
        NodeCost(name, "MatMul", 10**6, 4096, layers=(i,)) for i, name in enumerate(names)
    )
    layers = tuple(
        LayerCost(
            f"__myl_Fc_{i}", "gemm" if i % 3 else "kgen", (name,), "named",
            ("int8", "float16")[i % 2], (f"Half[1,{i}]",), 10**6 * (i % 3), 4096 + i, True,
            1e-4 * (i % 7 + 1), "memory",
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    edges = [(i, i + 1) for i in range(LAYERS - 1)] + [(i, i + 8) for i in range(0, LAYERS - 8, 8)]
    graph = GraphSummary(tuple(names), ("MatMul",) * LAYERS, tuple(edges))
    found = Prediction(device, nodes, layers, 10**9, 0.1, 1.0, LAYERS)
    return replace(report, prediction=found, graph=graph)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    file = folder / "report.html"
    file.write_text(render(large(folder)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=ARGUMENTS
            )
        except Error as error:
            pytest.skip(f"NOT RUN: there is no Chromium here ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def diff_file(tmp_path_factory):
    """The page of two runs whose engines have 60 layers, each of another type in the second."""
    folder = tmp_path_factory.mktemp("diff")
    first = large(folder)
    found = first.prediction
    first = replace(first, prediction=replace(found, layers=found.layers[:60]))
    retyped = tuple(replace(layer, dtype="bfloat16") for layer in first.prediction.layers)
    second = replace(changed(first), prediction=replace(first.prediction, layers=retyped))
    engines = compare_engines(
        Subject("runs/a", first.prediction), Subject("runs/b", second.prediction)
    )
    run = compare_runs(first, second)
    file = folder / "diff.html"
    page = render_diff(Diff("runs/a", "runs/b", run, engines, "", engines.figures))
    file.write_text(page, encoding="utf-8")
    return file


@pytest.fixture(params=["report", "diff"])
def any_file(request, page_file, diff_file):
    """Each of the two kinds of pages."""
    return page_file if request.param == "report" else diff_file


@contextmanager
def watched(browser, file):
    """Open a page; note everything that it says or asks for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    context.close()


@pytest.fixture
def opened(browser, page_file):
    """The report's page."""
    with watched(browser, page_file) as page:
        yield page


@pytest.fixture
def either(browser, any_file):
    """The report's page, then the diff's."""
    with watched(browser, any_file) as page:
        yield page


def test_5000_layers_are_small_enough_and_load_quickly(browser, page_file):
    assert page_file.stat().st_size < 6 * 2**20
    # The fastest of three: the bar is about the page, not about a busy machine.
    assert min(loading(browser, page_file) for _ in range(3)) < 2


def loading(browser, page_file) -> float:
    """Seconds until a new page is loaded and drawn."""
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(page_file.as_uri(), wait_until="load")
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    seconds = time.perf_counter() - started
    page.close()
    return seconds


def test_it_says_nothing_and_asks_for_nothing(either, any_file):
    either.locator("th button").first.click()
    assert either.said == []
    assert either.asked == [any_file.as_uri()]


def test_the_list_of_sections_leads_to_each_of_them(either):
    heads = either.locator("main h2[id]")
    links = either.locator("nav a")
    assert links.all_inner_texts() == heads.all_inner_texts()
    last = links.last
    last.click()
    assert either.url.endswith(last.get_attribute("href"))
    assert heads.last.is_visible()


def test_changes_of_two_engines_are_filtered_and_sorted(browser, diff_file):
    with watched(browser, diff_file) as page:
        rows = page.locator("#changes tbody tr")
        changes = rows.count()
        assert changes == 40  # the 60 layers, less those that do not multiply
        page.get_by_label("Filter changes, nodes, types").fill("node_44")
        assert page.locator("#changes tbody tr:visible").count() == 1
        page.get_by_label("Filter changes, nodes, types").fill("")
        page.locator("#changes th", has_text="Moved").locator("button").click()
        assert rows.count() == changes


def test_layers_are_filtered_and_sorted(opened):
    rows = opened.locator("#layer-table tbody tr")
    assert rows.count() == LAYERS
    opened.get_by_label("Filter layers, nodes, types").fill("node_1234")
    assert opened.locator("#layer-table tbody tr:visible").count() == 1
    opened.get_by_label("Filter layers, nodes, types").fill("")
    head = opened.locator("#layer-table th", has_text="Bytes").locator("button")
    head.click()
    head.click()
    assert rows.first.locator("td").first.inner_text() == str(LAYERS - 1)


def test_the_graph_moves_zooms_and_follows_links(opened):
    box = "document.querySelector('svg.graph').getAttribute('viewBox').split(' ').map(Number)"
    _x, y, width, _height = opened.evaluate(box)
    opened.locator("#graph-view").focus()
    opened.keyboard.press("+")
    assert opened.evaluate(box)[2] == pytest.approx(width * 0.7)
    opened.keyboard.press("ArrowDown")
    assert opened.evaluate(box)[1] > y
    opened.keyboard.press("0")
    assert opened.evaluate(box)[3] > LAYERS  # all of it
    opened.locator("#layer-2500 a").click()
    assert opened.locator("svg.graph g.chosen").get_attribute("id") == "node-2500"
    assert opened.locator("#node-2500").is_visible()


@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_no_width_makes_the_page_scroll_sideways(either, width):
    either.set_viewport_size({"width": width, "height": 900})
    assert either.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_for_people_who_see_or_move_otherwise(either, scheme):
    from axe_playwright_python.sync_playwright import Axe

    either.emulate_media(color_scheme=scheme)
    for many in ("#layer-table tbody tr", "svg.graph g", "#changes tbody tr"):  # all alike
        either.evaluate(
            f"document.querySelectorAll('{many}').forEach((e, i) => i > 50 && e.remove())"
        )
    found = Axe().run(either).response["violations"]
    assert [f["id"] for f in found if f["impact"] in ("serious", "critical")] == []


def test_without_scripts_everything_can_be_read(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("#layer-4999").is_visible()
    assert page.locator("svg.graph").is_visible()
    assert not page.get_by_label("Filter layers, nodes, types").is_visible()
    context.close()


def test_on_paper_nothing_is_cut_off_and_nothing_waits_for_a_click(either):
    either.emulate_media(media="print")
    cut = """[...document.querySelectorAll("main *")].filter(e => e.clientHeight
        && e.scrollHeight > e.clientHeight + 1 && getComputedStyle(e).overflowY !== "visible")
        .map(e => e.className || e.tagName)"""
    assert either.evaluate(cut) == []
    for control in ("input[type=search]", "nav", ".zoom"):
        assert not either.locator(control).first.is_visible()


def test_colours_follow_the_theme(opened):
    colour = "getComputedStyle(document.body).backgroundColor"
    opened.emulate_media(color_scheme="light")
    light = opened.evaluate(colour)
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate(colour) != light


@pytest.mark.skipif(
    "TRTFORGE_WRITE_PICTURES" not in os.environ,
    reason="writes docs/pictures; only where TRTFORGE_WRITE_PICTURES is set",
)
def test_the_pictures_of_the_documentation(browser, tmp_path, monkeypatch):
    from trtforge import demo
    from trtforge.api import run
    from trtforge.diff import compare
    from trtforge.host import Host

    monkeypatch.chdir(tmp_path)  # the pictures show no folder of this machine
    shutil.copytree(demo.RECIPE.parent, "demo")
    recipe, model = Path("demo", demo.RECIPE.name), Path("demo", demo.MODEL.name)
    done = run(recipe, model, out=Path("int8"))
    PICTURES.mkdir(exist_ok=True)
    page = browser.new_page(viewport={"width": 1100, "height": 700})
    page.goto((done.folder / "report.html").resolve().as_uri())
    page.screenshot(path=PICTURES / "report-light.png")
    page.evaluate("document.querySelector('#layers').scrollIntoView()")
    page.screenshot(path=PICTURES / "layers-light.png")
    skip = ["insert-qdq.skip=[node_conv2d]"]
    run(recipe, model, out=Path("first-in-float16"), settings=skip)
    found = compare(Path("int8"), Path("first-in-float16"), Host())
    (tmp_path / "diff.html").write_text(render_diff(found), encoding="utf-8")
    page.goto((tmp_path / "diff.html").as_uri())
    page.screenshot(path=PICTURES / "diff-light.png")
    page.close()
