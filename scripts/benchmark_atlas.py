"""Measures how soon an atlas can be looked at, what it weighs, and whether its pages freeze.

    python scripts/benchmark_atlas.py [--units 128,1408,10000] [--repeats 3]

Prints a table and writes a JSON file; docs/benchmarks.md has results. The runs are those of
`synthetic_runs.py`, 64 units in a run and six images for a unit, with the image sizes of VGG-19;
they have no arrays of measures, so no pictures of measures are drawn. 1,408 units are all of
VGG-19 conv1_1 to conv3_4; other numbers are a layer. Needs Debian's chromium and chromium-driver.

Every build is a command in a process of its own. "First picture" is the time from the start of
`diversevis view` until the front page is painted, pictures included, in a browser that is already
open. Tasks are those of the page's main thread (PerformanceObserver, longtask); it reports none
below 50 ms. The exit status is 1 if a task on the largest layer takes longer than the bar.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import chromium
import synthetic_runs
from bench import Bench
from benchmark import write
from selenium.webdriver import ActionChains, Chrome

from diversevis.runs import provenance

BAR = 200  # milliseconds that a task may take
NONE_BELOW = 50  # milliseconds: shorter tasks are not reported
VGG19 = {
    "conv1_1": (64, 3), "conv1_2": (64, 5), "conv2_1": (128, 10), "conv2_2": (128, 14),
    "conv3_1": (256, 24), "conv3_2": (256, 32), "conv3_3": (256, 40), "conv3_4": (256, 48),
}  # fmt: skip
OBSERVER = """
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries()))
      .observe({ type: "longtask", buffered: true });
"""
# Calls back with the time since the page was asked for, when what is there now is on the screen.
PAINTED = """
    const done = arguments[arguments.length - 1];
    const paint = () => requestAnimationFrame(
      () => requestAnimationFrame(() => done(performance.now() / 1000)));
    const picture = document.querySelector("#wall .picture");
    if (!picture) paint();
    else {
      const image = new Image();
      image.src = picture.style.backgroundImage.slice(5, -2);
      image.decode().then(paint, () => done(null));
    }
"""
SCROLL = """
    const done = arguments[arguments.length - 1];
    const step = () => {
      const before = window.scrollY;
      window.scrollBy(0, 1500);
      if (window.scrollY > before) requestAnimationFrame(step); else done(window.scrollY);
    };
    step();
"""
SETTLED = """
    const done = arguments[arguments.length - 1];
    requestAnimationFrame(() => requestAnimationFrame(
      () => setTimeout(() => requestIdleCallback(() => done(true)), 200)));
"""


def write_units(root: Path, units: int) -> None:
    """All units of VGG-19 conv1_1 to conv3_4, or a layer with the images of conv2_2."""
    if units == sum(count for count, _ in VGG19.values()):
        for layer, (count, size) in VGG19.items():
            synthetic_runs.write_layer(root, f"vgg19/{layer}", count, size=size)
    else:
        synthetic_runs.write_layer(root, "vgg19/conv2_2", units)


def seconds(*command: str | Path, **more: str) -> float:
    """Seconds of a command, `python -m diversevis ...`."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "diversevis", *map(str, command)]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | more)
    return time.perf_counter() - began


def first_picture(driver: Chrome, root: Path) -> float:
    """Seconds from the start of `diversevis view` to its front page on the screen."""
    told = root.parent / "opened"
    told.unlink(missing_ok=True)
    browser = root.parent / "browser"  # is called in place of one, and tells which page to open
    browser.write_text(f'#!/bin/sh\necho "$1" > "{told}.part" && mv "{told}.part" "{told}"\n')
    browser.chmod(0o755)
    began = time.perf_counter()
    command = [sys.executable, "-m", "diversevis", "view", str(root)]
    environment = os.environ | {"BROWSER": str(browser)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not told.is_file():
        if process.poll() is not None:
            raise SystemExit(f"diversevis view {root} opened no browser")
        time.sleep(0.005)
    driver.get(told.read_text().strip())
    driver.execute_async_script(PAINTED)
    taken = time.perf_counter() - began
    process.wait()
    return taken


def builds(bench: Bench, driver: Chrome, root: Path, units: int) -> None:
    """Add the rows of an atlas of so many units."""
    atlas, name = root / "atlas", f"{units} units"
    whole, again, picture, layer = [], [], [], []
    for _ in bench.repeats():
        shutil.rmtree(atlas, ignore_errors=True)
        picture.append(first_picture(driver, root))
        shutil.rmtree(atlas)
        whole.append(seconds("atlas", root))
        again.append(seconds("atlas", root))
        driver.get(largest_layer(atlas).as_uri())
        layer.append(driver.execute_async_script(PAINTED))
    files = [path.stat().st_size for path in atlas.rglob("*") if path.is_file()]
    bench.row("build", f"{name}: first picture", picture, "s")
    bench.row("build", f"{name}: whole atlas", whole, "s")
    bench.row("build", f"{name}: again, nothing is new", again, "s")
    bench.row("build", f"{name}: page of the largest layer to its first tile", layer, "s")
    bench.row("build", f"{name}: size", [sum(files) / 1e6], "MB")
    bench.row("build", f"{name}: files", [len(files)], "")


def largest_layer(atlas: Path) -> Path:
    """The page with the most units: its data has the most bytes."""
    data = max(atlas.glob("layers/*/layer.js"), key=lambda path: path.stat().st_size)
    return data.with_name("index.html")


Action = Callable[[Chrome], Any]


def choose(selector: str, value: str, event: str = "change") -> Action:
    """Give a control a value, as a person does who chooses or types it."""
    script = """
        const control = document.querySelector(arguments[0]);
        control.value = arguments[1];
        control.dispatchEvent(new Event(arguments[2], { bubbles: true }));
    """
    return lambda driver: driver.execute_script(script, selector, value, event)


def press(selector: str) -> Action:
    return lambda driver: driver.execute_script(
        "document.querySelector(arguments[0]).click()", selector
    )


def scroll(driver: Chrome) -> None:
    """From the top of the page to its end, 1500 pixels in every frame."""
    driver.execute_script("window.scrollTo(0, 0)")
    driver.execute_async_script(SCROLL)


def brush(driver: Chrome) -> None:
    """Drag over a histogram, from its middle to the right."""
    plot = driver.find_element("css selector", "svg.brushable")
    driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", plot)
    chain = ActionChains(driver, duration=16).move_to_element(plot).click_and_hold()
    for _ in range(10):
        chain.move_by_offset(8, 0)
    chain.release().perform()


def point(driver: Chrome) -> None:
    """Move over the scatter."""
    canvas = driver.find_element("css selector", "#scatter")
    driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    chain = ActionChains(driver, duration=16).move_to_element(canvas)
    for _ in range(10):
        chain.move_by_offset(7, 5)
    chain.perform()


ACTIONS: dict[str, Action] = {
    "sort": choose("#sort", "phase"),
    "sort by another index": choose("#sort", "diversity"),
    "reverse": press("#order"),
    "filter": choose("[data-index=phase] .from", "0.3"),
    "brush": brush,
    "clear filters": press("#clear"),
    "size of the images": choose("#size", "0", "input"),
    "scroll through the wall": scroll,
    "axis of the scatter": choose("#y", "dimension"),
    "point at dots": point,
    "open a unit": press("#wall [data-unit]"),
    "next unit": press("#next"),
    "back to the wall": press("#close"),
    "show all images of the units": press("#images"),
    "scroll through all images": scroll,
}


def tasks(bench: Bench, driver: Chrome, page: Path) -> dict[str, float]:
    """Add rows on the longest task of every action; returns the milliseconds of the worst."""
    longest: dict[str, list[float]] = {name: [] for name in ("start", *ACTIONS)}
    for _ in bench.repeats():
        for name, value in measured(driver, page):
            longest[name].append(value)
    for name, values in longest.items():
        bench.row("tasks", f"longest task: {name}", values, "ms", bar=BAR)
    return {name: max(values) for name, values in longest.items()}


def measured(driver: Chrome, page: Path) -> Iterator[tuple[str, float]]:
    """Every action on the page and its longest task, milliseconds; 50 stands for less."""

    def worst() -> float:
        driver.execute_async_script(SETTLED)
        durations = driver.execute_script("return tasks.splice(0).map((task) => task.duration)")
        return max([NONE_BELOW, *durations])

    driver.get("about:blank")
    driver.get(page.as_uri())
    yield "start", worst()
    for name, action in ACTIONS.items():
        action(driver)
        yield name, worst()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", default="128,1408,10000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    parser.set_defaults(device="cpu", precision="float32")
    bench = Bench(parser.parse_args())
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as folder:
        driver = chromium.start(Path(folder) / "profile")
        try:
            facts = provenance.device_facts(bench.device) | provenance.versions()
            facts |= {"cores": os.cpu_count(), "system": platform.platform(),
                      "chromium": driver.capabilities["browserVersion"]}  # fmt: skip
            print(f"{facts['device_name']}, {facts['cores']} cores, torch {facts['torch']}, "
                  f"Chromium {facts['chromium']}, {now}")  # fmt: skip
            print("\n| part | what | median | from, to |\n|---|---|---|---|", flush=True)
            too_long = measure(bench, driver, Path(folder))
        finally:
            driver.quit()
            write(bench, facts, now)
    if too_long:
        raise SystemExit(f"longer than {BAR} ms: {too_long}")


def measure(bench: Bench, driver: Chrome, folder: Path) -> str:
    """Add all rows; returns the actions that take longer than the bar, as text."""
    observe = {"source": OBSERVER}
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", observe)
    worst: dict[str, float] = {}
    for units in sorted(map(int, bench.options.units.split(","))):
        root = folder / str(units) / "runs"
        write_units(root, units)
        builds(bench, driver, root, units)
        worst = tasks(bench, driver, largest_layer(root / "atlas")) if units > 2000 else {}
    return ", ".join(f"{name} {value:.0f}" for name, value in worst.items() if value >= BAR)


if __name__ == "__main__":
    main()
