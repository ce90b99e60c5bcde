"""A real headless Chromium opens JupyterLab, runs notebooks 01 and 04 to the end, moves a slider and sees the image change.

Needs a Chromium (Debian's package of that name; AMVL_CHROMIUM names another) and pip install -e .[notebooks,browser].
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

PATIENCE = 600_000
"""Milliseconds that a notebook may take on a busy machine."""


def chromium() -> str | None:
    """The browser's program, or None."""
    named = os.environ.get("AMVL_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium, or name one in AMVL_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install -e .[browser]")
    with playwright.sync_playwright() as driver:
        # without a sandbox: containers run as root, and only local pages are opened
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab on a copy of the notebooks; its own settings and folders, gone afterwards."""
    pytest.importorskip("jupyterlab", reason="needs pip install -e .[notebooks]")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("amvl_model", "amvl_theory", "experiments", "results"):
        (folder / name).symlink_to(REPOSITORY / name)  # the notebooks look for the repository one folder up
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    options = {
        "ServerApp.port": port,
        "IdentityProvider.token": token,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.expose_app_in_browser": True,
    }
    command = [sys.executable, "-m", "jupyter", "lab", "notebooks/", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "AMVL_QUESTIONS": "14",
    }
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "lab.log").read_text()
                time.sleep(0.5)
        else:
            raise AssertionError("JupyterLab did not answer within two minutes:\n" + (folder / "lab.log").read_text())
        yield f"{address}/lab/tree/{{name}}?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(120)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def opened(browser: Any, address: str, name: str) -> Any:
    """The page with a notebook in it and its kernel ready."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(address.format(name=name), timeout=120_000)
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=120_000)
    return page


def run_all(page: Any, cells: int) -> None:
    """Restart-free "Run All Cells", waiting until the last code cell has its number."""
    page.click("li.lm-MenuBar-item:has-text('Run')")
    page.click("li.lm-Menu-item[data-command='runmenu:run-all']")
    page.wait_for_function(
        """(cells) => {
            const panel = document.querySelector('.jp-NotebookPanel');
            const book = window.jupyterapp?.shell?.currentWidget?.content?.model;
            if (!panel || !book) return false;
            const code = Array.from(book.cells).filter((cell) => cell.type === 'code');
            return code.length === cells && code.every((cell, i) => cell.executionCount === i + 1)
                && document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle';
        }""",
        arg=cells,
        timeout=PATIENCE,
    )


def cleared(page: Any) -> None:
    """Throw the stored outputs away, so that what is seen later was made in this session."""
    page.click("li.lm-MenuBar-item:has-text('Edit')")
    page.click("li.lm-Menu-item[data-command='editmenu:clear-all']")
    page.wait_for_function(
        "() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)"
        ".every((cell) => cell.type !== 'code' || cell.executionCount === null)"
    )


def move_a_slider(page: Any, keys: str, times: int) -> tuple[str, str]:
    """The image under the first slider before and after it is moved with the keyboard (its data address)."""
    image = page.locator(".widget-vbox:has(.noUi-handle) .jp-OutputArea img")
    handle = page.locator(".widget-vbox .noUi-handle").first
    handle.scroll_into_view_if_needed()
    image.first.wait_for(timeout=120_000)
    before = image.first.get_attribute("src")
    handle.focus()
    for _ in range(times):
        page.keyboard.press(keys)
    page.wait_for_function(
        "(old) => { const all = document.querySelectorAll('.widget-vbox .jp-OutputArea img');"
        " return all.length > 0 && all[0].src !== old; }",
        arg=before,
        timeout=120_000,
    )
    return before, image.first.get_attribute("src")


@pytest.mark.parametrize(("name", "times"), [("01_theory_by_hand", 5), ("04_contamination", 1)])
def test_jupyterlab_runs_the_notebook_and_a_slider_redraws_its_image(
    browser: Any, lab: str, name: str, times: int, tmp_path: Path
) -> None:
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    page = opened(browser, lab, f"{name}.ipynb")
    try:
        cleared(page)
        run_all(page, sum(cell.cell_type == "code" for cell in book.cells))
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        before, after = move_a_slider(page, "ArrowRight", times)
        assert before.startswith("data:image/png;base64,") and after.startswith("data:image/png;base64,")
        assert before != after
    except Exception:
        page.screenshot(path=str(tmp_path / "failed.png"))
        print(f"the page when it failed: {tmp_path / 'failed.png'}")
        raise
    finally:
        page.close()
