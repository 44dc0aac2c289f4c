"""A real Chromium for tests that look at pages."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


def open_browser() -> Iterator[Browser]:
    """Debian's Chromium without a window; skips the test where there is none, which is a failure in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        message = "needs Chromium: `make services` as root installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Chromium cannot make its own sandbox as root, nor in most containers; it sees pages of ours only.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
