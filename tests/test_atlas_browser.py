"""The pages of `diversevis atlas` in Debian's Chromium, opened from disk, with hostile names."""

import importlib
import json
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import QUICK, unchanged_log
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_atlas import HOSTILE, data

from diversevis.atlas import processes
from diversevis.atlas.build import Atlas
from diversevis.cli.main import main
from diversevis.compare.words import STATES

pytest.importorskip("selenium", reason="the browser: selenium is not installed")
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.select import Select

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
chromium = importlib.import_module("chromium")
synthetic = importlib.import_module("synthetic_runs")

pytestmark = pytest.mark.process

CHECKS = (Path(__file__).parent / "browser_checks.js").read_text()
RECORDER = "window.called = []; for (const name of ['alert', 'confirm', 'prompt', 'open'])" \
           " window[name] = (...words) => { window.called.push([name, ...words]); };"  # fmt: skip
KINDS = "front", "wall", "unit", "dead", "comparison"
DEAD, WEAK, WITHOUT = 7, 11, 13  # units of the long layer: dead; F1/F0 says little; has no F1/F0
UNITS = 330  # of it: more than a part of the wall that is made at once


# -- an atlas, made once --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if not (chromium.BROWSER.is_file() and chromium.DRIVER.is_file()):
        pytest.skip("the browser: Debian's chromium and chromium-driver are not installed")
    driver = chromium.start(tmp_path_factory.mktemp("profile"))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORDER})
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def root(driver, tmp_path_factory):
    """A folder with runs of the analytic network under hostile names, a comparison of them, the
    runs of a long layer, a run that is left out, and an atlas of all this."""
    root = tmp_path_factory.mktemp("browser") / "root'<b>\"\u2028&amp;#?%41"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch, unchanged_log():
        patch.chdir(root.parent)
        patch.setattr(processes, "FEW", 10_000)
        write_photographs(Path("photographs"))
        sides = [hostile_run(root, layer) for layer in ("simple", "complex")]
        out = f"out={root}/compare/a{HOSTILE.split('/')[0]}"
        assert main(["compare", *sides, "resamples=200", "network=skip", out]) == 0
        write_long_layer(root)
        (root / "left<script>" / "out").mkdir(parents=True)
        (root / "left<script>" / "out" / "run.json").write_text('{"status": "failed"}')
        atlas = Atlas(root=root, out=root / "atlas", command=HOSTILE, tell=lambda *_: None)
        atlas.look()
        assert atlas.complete() == []
    return root


def write_photographs(folder):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in (HOSTILE.replace("/", ":"), "javascript:alert(1)\u2028.png"):
        pixels = generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


def hostile_run(root, layer):
    """A run whose names try to get out of a page; returns the folder above it."""
    more = ["analysis=[phase,diversity]", "images=tensor"]
    if layer == "complex":
        more = ["analysis=[phase,diversity,gain,natural]", "natural=photographs", "record=gif",
                "measure.natural.crops=20", "measure.natural.top=2"]  # fmt: skip
    assert main(["run", f"layer={layer}", "unit=0-4", "device=cpu", *more, *QUICK]) == 0
    folder = root / "energy<img src=x onerror=alert(1)>" / f"{layer} \"'\u2028javascript:alert(1)"
    shutil.move(f"outputs/energy/{layer}", folder)
    path = folder / "0-4" / "v001" / "run.json"
    names = {"model": HOSTILE, "layer": layer + HOSTILE, "command": f"diversevis {HOSTILE}",
             "rerun": f"diversevis {HOSTILE} again=true",
             "device_name": HOSTILE, "response": HOSTILE, "not_measured": {HOSTILE: HOSTILE}}  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    return str(folder)


def write_long_layer(root):
    synthetic.write_layer(root, "vgg19/conv3_1", UNITS, per_run=110)
    for path in root.glob("vgg19/conv3_1/*/v001/metrics.json"):
        metrics = json.loads(path.read_text())
        for unit in metrics["units"]:  # responses are all alike, as in early layers; equal numbers
            unit["response_best"] = unit["response_mean"] / (0.999 + 1e-6 * unit["unit"])
            unit["gain"]["distance_mean"] = unit["unit"] % 5
        path.write_text(json.dumps(metrics))
    path = root / "vgg19/conv3_1/0-109/v001"
    metrics = json.loads((path / "metrics.json").read_text())
    units = metrics["units"]
    measures = dict.fromkeys(metrics["measures"])
    told = {"response_mean": None, "response_best": None, "stop": "dead"}
    units[DEAD] = {"unit": DEAD, **told, **measures}
    units[WEAK]["phase"]["weak"] = True
    units[WITHOUT]["phase"] = None
    (path / "metrics.json").write_text(json.dumps(metrics))
    arrays = load_file(path / "images.safetensors")
    arrays["responses"][DEAD] = np.nan
    save_file(arrays, path / "images.safetensors")


@pytest.fixture(scope="module")
def long_metrics(root):
    """Of every unit of the long layer its entry in metrics.json."""
    rows = {}
    for path in root.glob("vgg19/conv3_1/*/v001/metrics.json"):
        rows |= {unit["unit"]: unit for unit in json.loads(path.read_text())["units"]}
    return dict(sorted(rows.items()))


@pytest.fixture(scope="module")
def pages(root):
    """The address of every kind of page, and of the long layer, without its fragment."""
    atlas = root / "atlas"
    layers = {data(path)["layer"]: path.with_name("index.html")
              for path in atlas.glob("layers/*/layer.js")}  # fmt: skip
    hostile, long = layers["complex" + HOSTILE].as_uri(), layers["conv3_1"].as_uri()
    (comparison,) = atlas.glob("comparisons/*/index.html")
    return {
        "front": (atlas / "index.html").as_uri(), "wall": hostile, "unit": f"{hostile}#unit=2",
        "dead": f"{long}#unit={DEAD}", "comparison": comparison.as_uri(), "long": long,
    }  # fmt: skip


# -- a window of the browser ----------------------------------------------------------------------


class Window:
    """What a person does with a page, and what they see."""

    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder
        self.messages = []

    def open(self, address):
        self.driver.get("about:blank")  # else another fragment would not load the page anew
        self.driver.get(address)
        self.ready()

    def ready(self):
        """Wait until the page shows what its address asks for."""
        self.wait(
            "return document.readyState === 'complete' && !document.querySelector('[aria-busy]')"
            " && (!document.querySelector('#filters-main') || !document.querySelector('#notes')"
            "     || document.querySelector('.problem, #filters-main > *') !== null)"
        )

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def checks(self, call):
        self.run(f"if (!window.checks) {{ {CHECKS}\n}}")
        return self.run(f"return window.checks.{call}")

    def wait(self, script, *arguments):
        deadline = time.monotonic() + 20
        while not (result := self.run(script, *arguments)):
            assert time.monotonic() < deadline, f"waited for: {script}"
            time.sleep(0.02)
        return result

    def see(self, selector):
        """The first such element, in the middle of the window."""
        element = self.wait("return document.querySelector(arguments[0])", selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def click(self, selector):
        self.see(selector).click()

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])]"
                        ".map((node) => node.textContent)", selector)  # fmt: skip

    def press(self, *keys):
        chain = ActionChains(self.driver, duration=0)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def choose(self, selector, value):
        Select(self.see(selector)).select_by_value(value)

    def type(self, selector, text):
        element = self.see(selector)
        element.clear()
        element.send_keys(text, Keys.TAB)

    def name(self, index):
        """How an index is called on the page."""
        return self.text(f'#sort option[value="{index}"]')

    def address(self):
        return self.run("return location.href")

    def fragment(self):
        return unquote(self.run("return location.hash"))

    def units(self):
        """All units of the wall in their order, also those that appear only when one scrolls."""
        seen = {}
        for at in range(self.run("return document.querySelectorAll('.chunk').length")):
            seen |= self.wait(
                "const chunk = document.querySelectorAll('.chunk')[arguments[0]];"
                "if (!chunk.firstChild) { chunk.scrollIntoView(); return null; }"
                "return Object.fromEntries([...chunk.querySelectorAll('[data-unit]')].map("
                "(node, i) => [Number(chunk.dataset.first) + i, Number(node.dataset.unit)]))", at,
            )  # fmt: skip
        self.run("window.scrollTo(0, 0)")
        self.wait(
            "const first = document.querySelector('.chunk'); return !first || first.firstChild"
        )
        return [unit for _, unit in sorted((int(at), unit) for at, unit in seen.items())]

    def focus(self):
        return self.run(
            "const at = document.activeElement;"
            "return at.id || at.dataset.unit || at.dataset.neighbour || at.localName"
        )

    def emulate(self, *, scheme=None, width=None, scale=1):
        if scheme:
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        if width:
            size = {"width": width, "height": 720, "deviceScaleFactor": scale, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def said(self):
        """What the console said since the last call."""
        self.messages += chromium.messages(self.driver)
        said, self.messages = self.messages, []
        return said


@pytest.fixture
def window(driver, root):
    """A window. At the end: the console is empty, nothing outside of the atlas was asked for, and
    no name of a run was called as a function."""
    window = Window(driver, root / "atlas")
    chromium.messages(driver), chromium.requests(driver)
    yield window
    called = window.run("return window.called || []")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert window.said() == []
    assert called == []
    inside = window.folder.as_uri() + "/"
    asked = [url for url in chromium.requests(driver) if not url.startswith(("data:", "about:"))]
    assert asked, "no request was recorded"
    assert [url for url in asked if not url.startswith(inside)] == []


# -- the wall -------------------------------------------------------------------------------------


def value_of(unit, key):
    for name in key.split("."):
        unit = unit and unit[name]
    return unit


@pytest.mark.parametrize(("index", "key"), [("phase", "phase.f1f0"), ("gain", "gain.distance_min")])
def test_sorted_as_in_metrics(window, pages, long_metrics, index, key):
    window.open(pages["long"])
    assert window.units() == [*range(UNITS)]
    window.choose("#sort", index)
    values = {number: value_of(unit, key) for number, unit in long_metrics.items()}
    last = [unit for unit in (WEAK, WITHOUT, DEAD) if index == "phase" or values[unit] is None]
    counting = sorted((n for n in values if n not in last), key=values.__getitem__)
    assert window.units() == [*counting, *last]
    window.click("#order")
    assert window.units() == [*counting[::-1], *last]
    shown = float(window.text("#wall .tile .value"))
    assert shown == pytest.approx(values[counting[-1]], rel=5e-3)


def test_numbers_filter(window, pages, long_metrics):
    window.open(pages["long"])
    window.type('[data-index="phase"] .from', "0.25")
    window.type('[data-index="phase"] .to', "0.5")
    window.type('[data-index="diversity"] .from', "0.3")
    inside = [
        number for number, unit in long_metrics.items()
        if unit["phase"] and 0.25 <= unit["phase"]["f1f0"] <= 0.5
        and not unit["phase"]["weak"] and unit["diversity"]["index"] >= 0.3
    ]  # fmt: skip
    assert 10 < len(inside) < 100
    assert window.units() == inside
    assert window.text("#count") == f"{len(inside)} of {UNITS} units"
    assert "filter=phase:0.25..0.5,diversity:0.3.." in window.fragment()
    window.click("#clear")
    assert len(window.units()) == UNITS


def drag(window, element, start, end):
    """With the mouse, from a share of the element's width to another."""
    width = element.size["width"]
    chain = ActionChains(window.driver, duration=20)
    chain.move_to_element_with_offset(element, round((start - 0.5) * width), 0).click_and_hold()
    middle = round((start + end - 1) / 2 * width)
    chain.move_to_element_with_offset(element, middle, 0)
    chain.move_to_element_with_offset(element, round((end - 0.5) * width), 0).release().perform()


def test_brush_filters(window, pages, long_metrics):
    window.open(pages["long"])
    plot = window.see('[data-index="dimension"] svg.brushable')
    drag(window, plot, 0.2, 0.6)
    values = {n: value_of(unit, "dimension.participation") for n, unit in long_metrics.items()}
    values = {number: value for number, value in values.items() if value is not None}
    low, high = min(values.values()), max(values.values())
    from_, to = (
        float(window.see(f'[data-index="dimension"] .{end}').get_attribute("value"))
        for end in ("from", "to")
    )
    assert from_ == pytest.approx(low + 0.2 * (high - low), abs=0.01)
    assert to == pytest.approx(low + 0.6 * (high - low), abs=0.01)
    assert window.units() == [n for n, value in values.items() if from_ <= value <= to]
    assert f"filter=dimension:{from_:.3g}..{to:.3g}" in window.fragment()
    window.run("history.back()")  # a whole drag is a step back
    window.wait("return document.querySelector('#clear').hidden")


def test_brush_tells_close_numbers_apart(window, pages):
    window.open(pages["long"])
    drag(window, window.see('[data-index="response"] svg.brushable'), 0.2, 0.6)
    from_, to = (
        float(window.see(f'[data-index="response"] .{end}').get_attribute("value"))
        for end in ("from", "to")
    )
    low, high = 0.999, 0.999 + 1e-6 * (UNITS - 1)
    assert from_ == pytest.approx(low + 0.2 * (high - low), abs=1e-5)
    assert to == pytest.approx(low + 0.6 * (high - low), abs=1e-5)
    assert str(from_) in window.text("#chips")


def point_at(window, x, y):
    """Move the mouse there, shares of the scatter; returns the unit whose card appears, if any."""
    canvas = window.see("#scatter")
    size = canvas.size
    ActionChains(window.driver, duration=0).move_to_element_with_offset(
        canvas, round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])
    ).perform()
    time.sleep(0.1)
    return window.run(
        "const link = document.querySelector('#card:not([hidden]) [data-open]');"
        "return link && Number(link.dataset.open)"
    )


def test_pointing_shows_images_and_click_opens(window, pages, long_metrics):
    window.open(pages["long"])
    window.choose("#x", "phase")
    window.choose("#y", "diversity")
    places = [(x, y) for x in (0.35, 0.55, 0.75) for y in (0.3, 0.6)]
    pointed = {place: point_at(window, *place) for place in places}
    assert len(set(pointed.values())) == len(places)
    for (x1, y1), one in pointed.items():  # the numbers stand where the axes say
        for (x2, y2), two in pointed.items():
            if x1 < x2:
                assert value_of(long_metrics[one], "phase.f1f0") < value_of(
                    long_metrics[two], "phase.f1f0"
                )
            if y1 < y2:
                assert value_of(long_metrics[one], "diversity.index") > value_of(
                    long_metrics[two], "diversity.index"
                )
    unit = [*pointed.values()][-1]
    image = window.wait("const image = document.querySelector('#card img');"
                        "return image && image.complete && [image.src, image.naturalWidth]")  # fmt: skip
    assert image[0].endswith(f"unit{unit:04d}.png")
    assert image[1] == 6 * synthetic.SIZE
    shown = dict(zip(window.texts("#card dt"), window.texts("#card dd"), strict=True))
    value = value_of(long_metrics[unit], "phase.f1f0")
    assert float(shown[window.name("phase")]) == pytest.approx(value, rel=5e-3)
    ActionChains(window.driver).click().perform()
    window.ready()
    assert window.text("#unit-title").startswith(f"Unit {unit} ")


def test_search_goes_to_number(window, pages):
    window.open(pages["long"])
    window.see("#search").send_keys("217", Keys.ENTER)
    window.ready()
    assert window.text("#unit-title").startswith("Unit 217 ")
    window.open(pages["long"])
    window.see("#search").send_keys("1e9", Keys.ENTER)
    assert window.text("#notes .note") == "There is no unit 1e9 in this layer."


def test_dead_unit_is_dead(window, pages):
    window.open(pages["long"])
    tile = window.see(f'#wall [data-unit="{DEAD}"]')
    assert tile.get_attribute("aria-label") == f"unit {DEAD} of conv3_1: dead"
    assert "dead" in tile.text
    assert window.text("#count-all") == f"{UNITS} units, 1 dead"
    tile.click()
    window.ready()
    assert STATES["dead"] in window.text("#part-images")
    assert window.run("return document.querySelectorAll('.frame, #part-indices tr').length") == 0


# -- from page to page ----------------------------------------------------------------------------


def test_click_from_front_to_unit(window, pages):
    window.open(pages["front"])
    links = window.driver.find_elements("css selector", "tbody th a")
    (link,) = [link for link in links if link.text.startswith("complex")]
    window.run("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    window.ready()
    assert window.text("h1 strong") == "complex" + HOSTILE
    window.click('#wall [data-unit="3"]')
    window.ready()
    assert window.text("#unit-title").startswith("Unit 3 ")
    assert window.address() == f"{pages['wall']}#unit=3"
    window.click("header .home")
    window.ready()
    assert window.address() == pages["front"]


def test_comparison_leads_to_its_examples(window, pages):
    window.open(pages["front"])
    window.click('a[href^="comparisons/"]')
    window.ready()
    assert window.address() == pages["comparison"]
    example = window.see(".examples a")
    number = re.match(r"unit (\d+)", example.text.strip())[1]
    example.click()
    window.ready()
    assert window.text("#unit-title").startswith(f"Unit {number} ")


def test_back_and_forward(window, pages):
    window.open(pages["long"])
    first = window.units()[:5]
    window.choose("#sort", "phase")
    order = window.units()
    window.click(f'#wall [data-unit="{order[0]}"]')
    window.ready()
    window.click("#next")
    titles = [f"Unit {unit} of vgg19 conv3_1" for unit in order[:2]]
    window.wait(
        "return document.querySelector('#unit-title').textContent === arguments[0]", titles[1]
    )
    window.driver.back()
    window.wait(
        "return document.querySelector('#unit-title').textContent === arguments[0]", titles[0]
    )
    window.driver.back()
    window.wait("return !document.querySelector('#browse').hidden")
    assert window.units() == order
    window.driver.back()
    window.wait("return document.querySelector('#sort').value === 'unit'")
    assert window.units()[:5] == first
    for _ in range(3):
        window.driver.forward()
    window.wait("const title = document.querySelector('#unit-title');"
                "return title && title.textContent === arguments[0]", titles[1])  # fmt: skip


STATE = """
    const value = (selector) => document.querySelector(selector).value;
    const title = document.querySelector("#unit-title");
    return {
      controls: ["#sort", "#size", "#x", "#y", "[data-index=phase] .from", "[data-index=phase] .to"].map(value),
      order: document.querySelector("#order").textContent,
      count: document.querySelector("#count").textContent,
      first: [...document.querySelectorAll("#wall [data-unit]")].slice(0, 20).map((node) => node.dataset.unit),
      title: title && title.textContent,
      step: title && document.querySelector("#step-text").textContent,
    };
"""


def test_address_restores_view_and_unit(window, pages):
    window.open(pages["long"])
    window.choose("#sort", "diversity")
    window.click("#order")
    window.type('[data-index="phase"] .from', "0.5")
    window.choose("#x", "gain")
    window.choose("#y", "shift")
    size = window.see("#size")
    size.send_keys(Keys.ARROW_LEFT)
    states = [(window.address(), window.run(STATE))]
    assert states[0][1]["controls"][2:5] == ["gain", "shift", "0.5"]
    window.click("#wall [data-unit]")
    window.ready()
    states.append((window.address(), window.run(STATE)))
    assert states[1][1]["step"].startswith("1 of ")
    before = window.driver.current_window_handle
    for address, state in states:
        window.driver.switch_to.new_window("window")
        window.open(address)
        again = window.run(STATE)
        window.messages += chromium.messages(window.driver)
        window.driver.close()
        window.driver.switch_to.window(before)
        assert again == state


def test_odd_addresses_are_answered(window, pages):
    window.open(
        pages["long"] + "#sort=nothing&unit=99999&filter=x:1..2&<img src=x onerror=alert(1)>"
    )
    assert window.text("#notes .note").startswith("Part of the address is not understood")
    assert window.run("return document.querySelectorAll('img').length") == 0
    assert len(window.units()) == UNITS


# -- the view of a unit ---------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [WEAK, 150, 329])
def test_ranks_are_those_of_show(window, pages, root, capsys, unit):
    window.open(f"{pages['long']}#unit={unit}")
    rows = window.run(
        "return [...document.querySelectorAll('tr[data-index]')].map((row) => [row.dataset.index,"
        " ...['.value strong', '.rank span'].map((part) => row.querySelector(part).textContent)])"
    )
    titles = window.run("return ATLAS.layer.indices.map((index) => [index.id, index.title])")
    (run,) = [path for path in root.glob("vgg19/conv3_1/*/v001")
              if int(path.parent.name.split("-")[0]) <= unit <= int(path.parent.name.split("-")[1])]  # fmt: skip
    assert main(["show", str(run), f"unit={unit}"]) == 0
    printed = capsys.readouterr().out
    rows = [row for row in rows if row[0] not in ("response", "distance")]  # show ranks no others
    assert len(rows) >= 15
    for index, value, rank in rows:
        title = dict(titles)[index]
        (line,) = re.findall(rf"^{re.escape(title)}  +(.*)$", printed, re.M)
        assert line.split()[0] == value.strip("()"), title
        assert line.endswith(rank), title
    ranks = {index: rank for index, _, rank in rows}
    assert ranks["diversity"].endswith(f" of {UNITS - 2} units")  # but this one, and the dead
    expected = "" if unit == WEAK else f" of {UNITS - 4} units"
    assert ranks["phase"].endswith(expected)
    assert bool(ranks["phase"]) == bool(expected)


def test_unit_shows_all_parts(window, pages):
    window.open(pages["unit"])
    window.see("#part-neighbours [data-neighbour]")
    parts = {"images", "best", "answers", "distances", "trace", "indices", "alone", "natural",
             "film", "pictures", "neighbours", "files"}  # fmt: skip
    for part in parts:
        assert window.see(f"#part-{part}").is_displayed()
    assert window.run("return document.querySelectorAll('#part-images .frame').length") == 6
    window.wait("return [...document.querySelectorAll('#part-images .frame')]"
                ".every((node) => node.style.backgroundImage)")  # fmt: skip
    measures = ["phase", "diversity", "gain", "natural"]
    for measure in measures:
        window.see(f'[data-measure="{measure}"] img')
        window.wait("const image = document.querySelector(arguments[0]);"
                    "return image.complete && image.naturalWidth > 300", f'[data-measure="{measure}"] img')  # fmt: skip
    window.click("#part-film button")
    window.wait("const film = document.querySelector('#part-film img');"
                "return film && film.complete && film.naturalWidth > 0")  # fmt: skip
    window.click("#part-neighbours [data-neighbour]")
    window.ready()
    assert not window.text("#unit-title").startswith("Unit 2 ")


def test_pixels_are_square_until_smoothed(window, pages):
    window.open(pages["unit"])
    look = "return getComputedStyle(document.querySelector('#part-images .frame')).imageRendering"
    assert window.run(look) == "pixelated"
    window.click("#unit-view button.smooth")
    assert window.run(look) == "auto"


def test_copy_button_copies_command(window, pages):
    window.open(pages["unit"])
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    window.driver.execute_cdp_cmd("Browser.grantPermissions", grant)
    buttons = window.driver.find_elements("css selector", "#part-files button.copy")
    (button,) = [button for button in buttons
                 if button.get_attribute("aria-label").lower() == "copy: command"]  # fmt: skip
    window.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    window.wait("return arguments[0].textContent === 'Copied'", button)
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done, done)"
    copied = window.driver.execute_async_script(read)
    assert copied == window.run(
        "return arguments[0].parentNode.querySelector('code').textContent", button
    )
    assert copied.startswith("diversevis " + HOSTILE.partition("\u2028")[0])


def test_unit_names_command_of_figure(window, pages):
    window.open(pages["unit"])
    (command,) = [text for text in window.texts("#part-files code") if "diversevis figure " in text]
    assert command.endswith(" unit=2 kind=sheet")


def test_sorting_says_how_many_were_measured(window, pages):
    window.open(pages["long"] + "#sort=phase")
    # "says little" is a number; a dead unit, and a unit without F1/F0, have none
    assert window.text("#sort-meaning").endswith(
        f"(measured in {UNITS - 2} of these {UNITS} units)"
    )


def open_all(window):
    """Open what is folded, and wait for what comes late."""
    window.run("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    window.wait(
        "const isThere = (selector) => document.querySelector(selector);"
        "return !isThere('#runs') || (isThere('#runs .run')"
        " && (isThere('#filters-more[hidden]') || isThere('#filters-others > *')))"
    )


# -- keyboard -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tab_reaches_everything(window, pages, kind):
    window.open(pages[kind])
    open_all(window)
    if kind == "unit":
        window.see("[data-neighbour]")
    window.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    names = window.checks("reachable()")
    if kind in ("unit", "dead"):  # the title of the unit has the focus: round from there
        window.run("document.querySelector('.skip').focus()")
        reached = [window.checks("focused()")]
    else:
        reached = []
    while len(reached) < len(names):
        window.press(Keys.TAB)
        reached.append(window.checks("focused()"))
    assert [at["name"] for at in reached] == names
    assert [at["name"] for at in reached if not at["isMarked"]] == []


def test_keyboard_alone(window, pages, long_metrics):
    window.open(pages["long"])
    window.press(Keys.TAB, Keys.ENTER)  # skips to the content
    assert window.focus() == "main"
    while window.focus() != "sort":
        window.press(Keys.TAB)
    while window.run("return document.activeElement.value") != "phase":
        window.press(Keys.ARROW_DOWN)
    order = window.units()
    assert order[0] == min(
        (n for n, unit in long_metrics.items() if unit["phase"] and n != WEAK),
        key=lambda n: long_metrics[n]["phase"]["f1f0"],
    )
    while not window.run("return document.activeElement.dataset.unit"):
        window.press(Keys.TAB)
    window.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert window.focus() == str(order[2])
    window.press(Keys.ENTER)
    window.ready()
    assert window.focus() == "unit-title"
    assert window.text("#unit-title").startswith(f"Unit {order[2]} ")
    window.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    window.ready()
    assert window.text("#unit-title").startswith(f"Unit {order[3]} ")
    assert window.text("#step-text") == f"4 of {UNITS}, by {window.name('phase')}"
    window.press(Keys.ESCAPE)
    assert window.focus() == str(order[3])
    window.press(Keys.END)
    assert window.focus() == str(DEAD)


def test_scatter_by_keyboard(window, pages):
    window.open(pages["long"])
    window.run("document.querySelector('#scatter').focus()")
    unit = None
    for _ in range(2):  # the card follows a key a moment later
        window.press(Keys.ARROW_RIGHT)
        unit = window.wait(
            "const link = document.querySelector('#card:not([hidden]) [data-open]');"
            "return link && link.dataset.open !== arguments[0] && link.dataset.open", unit
        )  # fmt: skip
    window.press(Keys.ENTER)
    window.ready()
    assert window.text("#unit-title").startswith(f"Unit {unit} ")


# -- for every eye --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_text_has_contrast(window, pages, kind, scheme):
    window.emulate(scheme=scheme)
    window.open(pages[kind])
    open_all(window)
    found = window.checks("contrast(4.5)")
    assert found["count"] > 10
    assert found["low"] == []
    brightness = window.checks("luminance(checks.backgroundOf(document.body))")
    assert brightness < 0.05 if scheme == "dark" else brightness > 0.8
    for name in ("--ink", "--soft"):  # the texts of the scatter
        assert window.checks(f"variable('{name}')") >= 4.5
    assert window.checks("variable('--accent')") >= 3  # its dots


@pytest.mark.parametrize(("width", "scale"), [(360, 3), (640, 2)], ids=["phone", "zoom"])
@pytest.mark.parametrize("kind", KINDS)
def test_fits_narrow_windows(window, pages, kind, width, scale):
    """A phone, and a window of 1280 pixels at 200 %."""
    window.emulate(width=width, scale=scale)
    window.open(pages[kind])
    open_all(window)
    widths = "const page = document.scrollingElement; return [page.scrollWidth, page.clientWidth]"
    needed, given = window.run(widths)
    assert given <= width
    assert needed <= given
    small = window.run(
        "return [...document.querySelectorAll('a.tile, button, select, summary, input')]"
        ".filter((node) => node.checkVisibility() && node.getClientRects().length)"
        ".map((node) => [node.outerHTML.slice(0, 60), node.getBoundingClientRect().height])"
        ".filter(([, height]) => height < 23.9)"
    )
    assert small == []  # WCAG 2.5.8


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_accessible(window, pages, kind):
    window.open(pages[kind])
    open_all(window)
    assert window.checks("structure()") == []


def test_images_say_unit_and_index(window, pages):
    window.open(pages["wall"])
    images = (
        "return [...document.querySelectorAll('main img, main [role=img], [data-neighbour], #wall a')]"
        ".filter((node) => !node.closest('#wall a') || node.localName === 'a')"
        ".map((node) => node.getAttribute('alt') || node.getAttribute('aria-label'))"
    )
    names = window.run(images)
    titles = window.texts("#sort option:not([value='unit'])")
    window.open(pages["unit"])
    window.see("#part-neighbours [data-neighbour]")
    window.click("#part-film button")
    names += window.run(images)
    assert len(names) > 30
    for name in names:
        assert re.search(r"unit \d", name), name
        assert any(title in name for title in titles), name


# -- what is broken, and what is hostile ----------------------------------------------------------


def broken(path):
    path.write_bytes(b"<html><script>alert(1)</script>")


def huge(path):
    Image.new("1", (12_000, 12_000)).save(path)


def missing(path):
    path.unlink()


DAMAGES = [
    ("runs/*/unit0002.png", "unit=2", "#part-images .broken", {
        missing: "the image is missing or cannot be read", broken: "the image is missing or cannot be read",
        huge: "the image has another size than its run recorded"}),
    ("pictures/*/unit0002.png", "unit=2", "#part-pictures .note", {
        missing: "not drawn yet, or cannot be read", broken: "not drawn yet, or cannot be read"}),
    ("runs/*/units-0000.js", "unit=2", "#unit-view .problem", {
        missing: "The details of this unit are missing or cannot be read"}),
    ("layers/*/wall-*.png", "", "#notes .problem", {
        missing: "Images of this wall are missing or cannot be read",
        broken: "Images of this wall are missing or cannot be read", huge: "Images of this wall are missing"}),
    ("layers/*/layer.js", "", "#notes .problem", {missing: "The data of this page (layer.js) is missing"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "fragment", "place", "how", "sentence"),
    [
        pytest.param(pattern, fragment, place, how, said, id=f"{how.__name__}-{Path(pattern).name}")
        for pattern, fragment, place, hows in DAMAGES
        for how, said in hows.items()
    ],
)
def test_damaged_files_are_told(window, pages, tmp_path, pattern, fragment, place, how, sentence):
    window.folder = tmp_path / "atlas"
    shutil.copytree(Path(unquote(pages["front"]).removeprefix("file://")).parent, window.folder)
    for path in window.folder.glob(pattern):
        how(path)
    page = pages["wall"].rpartition("/atlas/")[2]
    window.driver.get("about:blank")
    window.driver.get(f"{window.folder.as_uri()}/{page}#{fragment}")
    if "pictures" in pattern:
        window.see("#part-pictures section")
    element = window.wait("return document.querySelector(arguments[0])", place)
    assert element.text.startswith(sentence)
    assert all("ERR_FILE_NOT_FOUND" in message for message in window.said())  # the browser's


def test_pages_ask_for_nothing_unfinished(window, root, pages):
    """As when `diversevis view` opens them: no picture is drawn yet, no units are compared."""
    window.folder = root.parent / "early"
    early = Atlas(root=root, out=window.folder, command="", tell=lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "FEW", 10_000)
        early.look()
    for kind in KINDS:
        window.open(f"{window.folder.as_uri()}/{pages[kind].rpartition('/atlas/')[2]}")
    window.open(f"{window.folder.as_uri()}/{pages['unit'].rpartition('/atlas/')[2]}")
    notes = window.texts("#part-pictures .note")
    assert len(notes) == 4
    assert all(note.startswith("not drawn yet") for note in notes)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_are_text(window, pages, kind):
    window.open(pages[kind])
    open_all(window)
    strange = window.run("""
        const own = (url) => url.startsWith("data:") || url.startsWith(arguments[0]);
        const links = [...document.querySelectorAll("a, link")].map((node) => node.href);
        const files = [...document.querySelectorAll("script, img, video")].map((node) => node.src);
        return [...links, ...files].filter((url) => !own(url));
    """, window.folder.as_uri() + "/")  # fmt: skip
    assert strange == []
    handlers = window.run(
        "return [...document.querySelectorAll('*')].flatMap((node) => [...node.attributes])"
        ".filter((attribute) => attribute.name.startsWith('on')).length"
    )
    assert handlers == 0
    assert window.run("return document.querySelectorAll('b, script:not([src])').length") == 0
    if kind != "dead":
        assert HOSTILE in window.run("return document.body.textContent")


def test_metamers_are_shown_with_errors(driver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photographs(Path("photographs"))
    photo = next(iter(sorted(Path("photographs").iterdir()))).rename("photo.png")
    with unchanged_log():
        assert main(["run", "layer=simple", "objective=metamers", f"objective.reference={photo}",
                     "objective.side=40", "n=2", "optimizer.steps=5", "device=cpu"]) == 0  # fmt: skip
        assert main(["atlas", "outputs"]) == 0
    (page,) = Path("outputs/atlas/layers").glob("*/index.html")
    (metrics,) = Path("outputs").glob("energy/simple/*/v001/metrics.json")
    entry = json.loads(metrics.read_text())["units"][0]
    driver.get(f"{page.resolve().as_uri()}#unit=0")
    window = Window(driver, Path("outputs/atlas").resolve())
    window.wait("return document.body.innerText.includes('Under an image')")
    text = driver.find_element("tag name", "body").text
    assert "Photograph 0" in text
    assert "relative error of the match" in text
    assert "share of the best response" not in text
    assert "Best single image" not in text
    assert f"{100 * entry['error_max']:.0f} %" in text
    chromium.messages(driver), chromium.requests(driver)
