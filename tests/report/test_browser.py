"""The page in Debian's Chromium: it draws, it can be used, it runs nothing from data."""

import os
import time

import pytest

from tests.report import browser
from tests.report.samples import NASTY, nasty_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  lacking = browser.missing()
  if lacking:
    # CI says so, lest this be skipped there unseen.
    (pytest.fail if os.environ.get("JAXDML_BROWSER") else pytest.skip)(lacking)
  path = tmp_path_factory.mktemp("page") / "report.html"
  path.write_text(nasty_page(), encoding="utf-8")
  return path


@pytest.fixture(scope="module")
def driver(page):
  with browser.opened(page) as driver:
    yield driver


def axes(driver):
  return driver.execute_script(
    """const plot = Bokeh.documents.map((d) => d.get_model_by_name("map")).find(Boolean);
    return [plot.x_range.start, plot.x_range.end, plot.y_range.start, plot.y_range.end];"""
  )


def map_data(driver):
  return driver.execute_script("return JSON.parse(document.getElementById('map-data').textContent)")


def test_hover_shows_the_image_and_its_hostile_label_as_text(driver):
  data = map_data(driver)
  index = data["columns"][0]["names"].index(NASTY[0])
  index = data["columns"][0]["codes"].index(index)
  card = browser.point_at(driver, index)
  assert NASTY[0] in card
  assert f"{NASTY[2]}/{data['row'][index]}.png" in card
  drawn = driver.execute_script(
    """const sprite = document.querySelector("#card .sprite");
    const style = getComputedStyle(sprite);
    return [style.backgroundImage.slice(0, 21), sprite.clientWidth,
            sprite.getAttribute("aria-label"),
            document.querySelectorAll("#card script, #card img").length];"""
  )
  assert drawn == ['url("data:image/webp;', 128, NASTY[0], 0]
  alphas = driver.execute_script(
    """const plot = Bokeh.documents.map((d) => d.get_model_by_name("map")).find(Boolean);
    return Array.from(plot.renderers[0].data_source.data.alpha);"""
  )
  codes = data["columns"][0]["codes"]
  assert [alpha == 1 for alpha in alphas] == [code == codes[index] for code in codes]


def test_wheel_with_ctrl_and_buttons_zoom(driver):
  before = axes(driver)
  driver.find_element("css selector", "[data-zoom='0.6']").click()
  near = axes(driver)
  assert near[1] - near[0] == pytest.approx(0.6 * (before[1] - before[0]))
  browser.point_at(driver, 0)
  box = driver.execute_script(
    "const r = document.getElementById('map-plot').getBoundingClientRect();"
    "return [r.left + r.width / 2, r.top + r.height / 2]"
  )
  wheel = {"type": "mouseWheel", "x": box[0], "y": box[1], "deltaX": 0, "deltaY": 120}
  top = driver.execute_script("return window.scrollY")
  driver.execute_cdp_cmd("Input.dispatchMouseEvent", wheel)
  deadline = time.time() + 10
  while driver.execute_script("return window.scrollY") == top and time.time() < deadline:
    time.sleep(0.05)
  assert driver.execute_script("return window.scrollY") > top  # Alone it scrolls the page.
  assert axes(driver) == near
  with_ctrl = wheel | {"y": box[1] - 120, "deltaY": -240, "modifiers": 2}
  driver.execute_cdp_cmd("Input.dispatchMouseEvent", with_ctrl)
  deadline = time.time() + 10
  while axes(driver) == near and time.time() < deadline:
    time.sleep(0.05)
  nearer = axes(driver)
  assert nearer[1] - nearer[0] < near[1] - near[0]
  driver.find_element("css selector", "[data-zoom='reset']").click()
  assert axes(driver) == pytest.approx(before, abs=1e-4)


def test_layout_colours_and_classes_can_be_chosen(driver):
  before = axes(driver)
  driver.find_element("css selector", "[data-layout='pca']").click()
  assert axes(driver) != before
  driver.find_element("css selector", "[data-layout='tsne']").click()
  assert axes(driver) == pytest.approx(before, abs=1e-4)
  legend = driver.find_element("id", "legend")
  assert all(name.split("\u2028")[0].strip() in legend.text for name in NASTY)
  driver.execute_script(
    """const select = document.getElementById("colour-by");
    select.value = "1"; select.dispatchEvent(new Event("change"));"""
  )
  assert NASTY[0] in legend.text and NASTY[3] not in legend.text


def test_classes_are_sorted_and_found(driver):
  def cells(column):
    return driver.execute_script(
      """return [...document.querySelectorAll("#class-table tbody tr")].filter((row) => !row.hidden)
      .map((row) => row.cells[arguments[0]].textContent);""",
      column,
    )

  def click(column):
    driver.execute_script(
      "document.querySelector(`#class-table [data-sort='${arguments[0]}']`).click()", column
    )

  assert len(cells(0)) == len(NASTY)
  click(0)
  rising = cells(0)
  assert set(rising) == set(NASTY)
  click(0)
  assert cells(0) == rising[::-1]
  for _ in range(2):  # Numbers by their value.
    click(3)
    column = [float(cell) for cell in cells(3)]
    sorts = driver.execute_script(
      """return [...document.querySelectorAll("#class-table th[aria-sort]")]
      .map((head) => [head.textContent, head.getAttribute("aria-sort")]);"""
    )
    (name, direction), *others = sorts
    assert (name, others) == ("MAP@R", [])
    assert column == sorted(column, reverse=direction == "descending")
  find = driver.find_element("id", "class-filter")
  find.send_keys("SCRIPT>alert")
  assert cells(0) == [NASTY[0]]
  assert driver.find_element("id", "class-count").text == f"1 of {len(NASTY)}"
  find.clear()
  find.send_keys(" ")
  assert len(cells(0)) == len(NASTY)


def test_nothing_of_the_data_ran_and_nothing_was_fetched(driver):
  # Last: all that the tests above did is in these logs.
  assert driver.title == NASTY[0]
  assert driver.execute_script("return document.querySelectorAll('script[src]').length") == 0
  undrawn = "return document.querySelectorAll('.plot:not([data-drawn])').length"
  assert driver.execute_script(undrawn) == 0
  assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
  assert browser.requests(driver) == []
  assert browser.errors(driver) == []
  # An alert would have blocked every command before this one.


def test_a_phone_needs_no_sideways_scrolling(page, tmp_path):
  with browser.opened(page, width=400, height=800, dark=True) as driver:
    width = "return document.documentElement.scrollWidth"
    assert driver.execute_script(width) == 400
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(20, 22, 26)"
    browser.screenshot(driver, tmp_path / "phone.png")
  assert (tmp_path / "phone.png").stat().st_size > 10_000
