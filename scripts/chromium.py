"""Debian's Chromium without a window, driven by selenium: for tests, and for benchmark_atlas.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip


def start(profile: Path, *, width: int = 1280, height: int = 900) -> Chrome:
    """A browser with an empty profile in this folder. Nothing is downloaded."""
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"window-size={width},{height}", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(str(DRIVER)))


def messages(driver: Chrome) -> list[str]:
    """What the console said since the last call."""
    return [entry["message"] for entry in _log(driver, "browser")]


def requests(driver: Chrome) -> list[str]:
    """The addresses that were asked for since the last call."""
    events: list[dict[str, Any]] = [
        json.loads(entry["message"])["message"] for entry in _log(driver, "performance")
    ]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def _log(driver: Chrome, kind: str) -> list[dict[str, Any]]:
    return driver.get_log(kind)  # type: ignore[no-untyped-call]
