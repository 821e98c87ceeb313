# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The Space in a real browser (Debian's chromium and chromium-driver, headless), with the models in the box.

TOKMAT_SCREENSHOTS=folder keeps the pictures that the last test takes.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from trainer.hub import prepare
from trainer.recipes import PAGE_NEW_TOKENS, STORY_PROMPTS
from trainer.space.runs import Duel

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("gradio")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]
SPACE = Path(__file__).parents[2] / "hub_cards" / "space"
SECONDS = 300  # for what takes a second or two on an idle machine


@pytest.fixture(scope="module")
def duel():
    return Duel.from_the_box()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the app, run as a Space runs it: from a folder that holds what a push puts up, and nothing else."""
    folder = tmp_path_factory.mktemp("space")
    for name in prepare(SPACE).files:
        shutil.copy(SPACE / name, folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_SERVER_NAME"}
    environment |= {"GRADIO_SERVER_PORT": str(port)}
    url, log = f"http://127.0.0.1:{port}/", folder / "log"
    with open(log, "w") as output:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    end = time.monotonic() + SECONDS
    while True:
        assert server.poll() is None and time.monotonic() < end, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).read()
            break
        except OSError:
            time.sleep(0.5)
    yield url
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page, freshly loaded."""

    def __init__(self, driver, url, width=1280, scheme="light", motion="no-preference"):
        self.driver, self.url = driver, url
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in features.items()]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for log in ("browser", "performance"):
            driver.get_log(log)  # what came before
        self.load()

    def load(self):
        self.driver.get(self.url)
        self.wait(lambda: self.all("[data-part=slots] input"))

    def wait(self, condition):
        return WebDriverWait(self.driver, SECONDS, 0.3).until(lambda _: condition())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def part(self, name):
        return self.driver.find_element(By.CSS_SELECTOR, f"[data-part={name}]")

    def text(self, name="text"):
        return self.part(name).get_property("textContent")

    def committed(self):
        """The text that is committed."""
        text = "[...document.querySelector('[data-part=text]').childNodes]"
        liquid = "node.className?.startsWith('liquid')"
        script = f"return {text}.filter(node => !({liquid})).map(node => node.textContent).join('')"
        return self.driver.execute_script(script)

    def named(self, name):
        label = "(part.ariaLabel ?? part.labels?.[0]?.textContent ?? part.textContent).trim()"
        controls = "[...document.querySelectorAll('button, input, textarea')]"
        found = self.driver.execute_script(f"return {controls}.filter(part => {label} === arguments[0])", name)
        assert len(found) == 1 and found[0].accessible_name == name
        return found[0]

    def type(self, prompt):
        box = self.named("Prompt")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(prompt)

    def write(self, prompt):
        """Type, press the button, and wait for the run to be here, at its first step."""
        self.type(prompt)
        self.named("Write").click()
        self.wait(lambda: self.text().startswith(prompt))

    def keys(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def at(self):
        return self.part("place").text

    def playing(self):
        return self.part("play").text == "Pause"


@pytest.fixture
def open_page(driver, address):
    return partial(Page, driver, address)


def whole(run):
    return run["prompt"] + "".join(text for text, _ in run["tokens"])


def test_type_play_and_see_tokens_commit(open_page, duel):
    page, prompt = open_page(), "Lily and Ben went to the park"
    page.type(prompt)
    page.keys(Keys.ENTER)
    page.wait(lambda: page.text().startswith(prompt) and page.playing())
    seen = [page.committed()]
    while page.playing():
        if (now := page.committed()) != seen[-1]:
            assert now.startswith(seen[-1])
            seen.append(now)
    run = duel.run(prompt, PAGE_NEW_TOKENS, tail_length=8)
    assert len(seen) > 5 and page.text() == whole(run)
    assert not page.all("[data-part=text] .liquid") and page.at() == f"All {len(run['steps'])} steps"
    assert page.part("ours").text.startswith("1.00 tokens per forward")
    assert page.text("twin") == run["prompt"] + "".join(text for text, _ in run["twin"])
    for name, tokens in (("text", run["tokens"]), ("twin", run["twin"])):
        marked = "".join(mark.get_property("textContent") for mark in page.all(f"[data-part={name}] mark"))
        assert marked == "".join(text for text, repeated in tokens if repeated)


def test_a_slider_and_a_rule_make_another_run(open_page, duel):
    page, prompt = open_page(motion="reduce"), STORY_PROMPTS[1]
    page.write(prompt)
    assert not page.playing() and page.at().startswith("Step 1 of ")  # no motion where none is wanted
    page.part("text").send_keys(Keys.END)
    plain = page.text()
    page.named("range slider for History noise").send_keys(Keys.END)
    page.named("Write").click()
    page.wait(lambda: page.at().startswith("Step 1 of "))
    page.part("text").send_keys(Keys.END)
    assert plain == whole(duel.run(prompt, PAGE_NEW_TOKENS, tail_length=8))
    assert page.text() == whole(duel.run(prompt, PAGE_NEW_TOKENS, tail_length=8, history_noise=1.0)) != plain

    page.named("range slider for History noise").send_keys(Keys.HOME)
    page.named("verified").send_keys(Keys.SPACE)
    page.named("Write").click()
    page.wait(lambda: page.at().startswith("Step 1 of "))
    page.part("text").send_keys(Keys.END)
    run = duel.run(prompt, PAGE_NEW_TOKENS, tail_length=8, commit="verified")
    assert page.text() == whole(run) and len(run["steps"]) < PAGE_NEW_TOKENS
    assert page.part("ours").text.startswith(f"{run['tokens_per_forward']:.2f} tokens per forward")


def test_a_chosen_slot_shows_its_candidates_and_curves(open_page, duel):
    page, prompt = open_page(motion="reduce"), STORY_PROMPTS[-1]
    page.write(prompt)
    run = duel.run(prompt, PAGE_NEW_TOKENS, tail_length=8)
    for _ in range(5):
        page.part("forward").click()

    def candidates(step, slot):
        told = run["steps"][step]
        return [
            [run["names"][str(token)], f"{cosine:.3f}"]
            for token, cosine in zip(told["top"][slot], told["cosines"][slot])
        ]

    def shown():
        rows = page.all("[data-part=candidates] tr")
        return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")][::2] for row in rows]

    page.all("[data-part=slots] input")[3].send_keys(Keys.SPACE)
    assert shown() == candidates(5, 3) and page.part("chosen").text == "Slot 4 holds token 9 of the text"
    assert page.part("entropy-now").text == f"{run['steps'][5]['entropy'][3]:.2f}"
    assert page.part("distance-now").text == f"{run['steps'][5]['distance'][3]:.2f}"
    points = page.all("[data-part=entropy] polyline")[0].get_attribute("points").split()
    assert len(points) == sum(len(step["maturity"]) > 3 for step in run["steps"])

    page.keys(Keys.ARROW_RIGHT)  # among radio buttons
    assert shown() == candidates(5, 4)
    page.all("[data-part=text] .liquid")[0].click()
    assert shown() == candidates(5, 0)

    page.all("[data-part=slots] input")[6].send_keys(Keys.SPACE)
    page.named("this token, on its way to the front").send_keys(Keys.SPACE)
    page.part("forward").click()
    assert shown() == candidates(6, 5) and page.all("[data-part=slots] input")[5].is_selected()
    assert len(page.all("[data-part=distance] polyline")[0].get_attribute("points").split()) == 8
    page.part("text").send_keys(Keys.END)
    assert page.part("chosen").text == "Token 12, committed in step 12" and shown() == candidates(11, 0)


def test_the_keyboard_plays_pauses_and_steps(open_page):
    page = open_page(motion="reduce")
    page.part("speed").send_keys(Keys.HOME)  # a step a second: nothing ends while this looks
    page.write(STORY_PROMPTS[0])
    page.part("text").send_keys(Keys.SPACE)
    assert page.playing()
    page.wait(lambda: not page.at().startswith(("Step 1 of ", "Step 2 of ")))
    page.keys(Keys.SPACE)
    assert not page.playing() and page.at().startswith("Step ")
    page.keys(Keys.END)
    assert page.at().startswith("All ") and not page.part("forward").is_enabled()
    page.keys(Keys.HOME)
    assert page.at().startswith("Step 1 of ") and not page.part("back").is_enabled()
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.at().startswith("Step 2 of ")
    said = page.text("said")
    assert said.startswith("Step 2 of ") and STORY_PROMPTS[0][-20:] in said and "Liquid: " in said

    # In the order of the page, Tab reaches all that a mouse can.
    page.named("Prompt").click()
    reached = []
    for _ in range(12):
        page.keys(Keys.TAB)
        focused = page.driver.switch_to.active_element
        reached.append(focused.get_attribute("data-part") or focused.accessible_name)
    expected = ["Write", "play", "back", "step", "speed", "text", "twin"]
    assert [name for name in reached if name in expected] == expected
    page.part("step").send_keys(Keys.ARROW_RIGHT)
    page.part("speed").send_keys(Keys.END)
    assert page.at().startswith("Step 3 of ") and page.part("pace").text == "20"


def test_two_tabs_at_once_get_their_own_text(open_page, duel):
    page, prompts = open_page(motion="reduce"), ["The little red bird", "A big green frog"]
    page.driver.switch_to.new_window("tab")
    page.load()
    tabs = page.driver.window_handles
    for tab, prompt in zip(tabs, prompts):
        page.driver.switch_to.window(tab)
        page.type(prompt)
        page.named("Write").click()
    for tab, prompt in zip(reversed(tabs), reversed(prompts)):
        page.driver.switch_to.window(tab)
        page.wait(lambda prompt=prompt: page.text().startswith(prompt))
        page.part("step").send_keys(Keys.END)
        assert page.text() == whole(duel.run(prompt, PAGE_NEW_TOKENS, tail_length=8))
        if tab != tabs[0]:
            page.driver.close()


def test_an_error_is_a_sentence_and_text_is_text(open_page):
    page = open_page(motion="reduce")
    page.named("verified").send_keys(Keys.SPACE)
    page.named("range slider for Guidance").send_keys(Keys.END)
    before = page.text()
    page.named("Write").click()
    page.wait(lambda: page.part("error").is_displayed())
    assert page.part("error").text == 'guidance_scale is 5, but it must be 1.0 with commit="verified", which is exact.'
    assert page.part("error").aria_role == "alert" and page.text() == before

    page.named("front").send_keys(Keys.SPACE)
    hostile = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script> & </div>"
    page.write(hostile)
    assert not page.part("error").is_displayed()
    assert not page.all("[data-part=player] img, [data-part=player] script")
    assert page.driver.execute_script("return window.hacked") is None


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_names_its_controls_and_asks_nobody_else(open_page, address, tmp_path, width, scheme):
    page = open_page(width=width, scheme=scheme)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") == width
    for control in page.all("button, input, textarea, svg, [tabindex]"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    for control in page.all("[data-part=player] button, [data-part=player] label"):
        if control.is_displayed():  # large enough for a finger
            assert control.size["height"] >= 20, control.get_attribute("outerHTML")
    paper = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) > 384) == (scheme == "light")

    told = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    urls = [entry["params"]["request"]["url"] for entry in told if entry["method"] == "Network.requestWillBeSent"]
    assert urls and [url for url in urls if not url.startswith((address, "data:", "blob:"))] == []
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"] == []

    folder = Path(os.environ.get("TOKMAT_SCREENSHOTS", tmp_path))
    shot = {"captureBeyondViewport": True, "format": "png"}
    picture = base64.b64decode(page.driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"])
    assert len(picture) > 30_000
    (folder / f"space-{width}-{scheme}.png").write_bytes(picture)
