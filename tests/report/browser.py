"""Debian's Chromium, driven by Selenium: opens a page, and says what went wrong in it.

python -m tests.report.browser --page=report.html --out=report.png --width=1400 --height=1000
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import sys
import tempfile
import time

FLAGS = (
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip

READY = "return document.documentElement.dataset.ready === 'true'"  # a report says so itself


def missing():
  """What a browser test lacks here, or None."""
  lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
  if lacking:
    return f"no {' and no '.join(lacking)} here: apt-get install chromium chromium-driver"
  try:
    import selenium  # noqa: F401
  except ImportError:
    return "no selenium here: pip install 'jaxdml[browser]'"
  return None


@contextlib.contextmanager
def opened(page, *, width=1400, height=1000, dark=False, wait=60, ready=READY):
  """A driver that has loaded and drawn the page (a path); its own empty profile goes away after."""
  from selenium import webdriver
  from selenium.webdriver.support.ui import WebDriverWait

  with tempfile.TemporaryDirectory() as profile:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
      options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
      # The window of a headless browser is no narrower than 500 pixels: set the page's.
      driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
      )
      scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
      driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
      driver.get(pathlib.Path(page).resolve().as_uri())
      WebDriverWait(driver, wait).until(lambda d: d.execute_script(ready))
      yield driver
    finally:
      driver.quit()


def point_at(driver, index):
  """Moves the mouse onto a point of the map; returns what the card then says."""
  x, y = driver.execute_script(
    """document.getElementById("map-plot").scrollIntoView({behavior: "instant", block: "center"});
    const plot = Bokeh.documents.map((d) => d.get_model_by_name("map")).find(Boolean);
    const view = Bokeh.index.find_one(plot);
    const data = plot.renderers[0].data_source.data;
    const corner = view.el.getBoundingClientRect();
    return [corner.left + view.frame.x_scale.compute(data.x[arguments[0]]),
            corner.top + view.frame.y_scale.compute(data.y[arguments[0]])];""",
    index,
  )
  for shift in (5, 0):
    event = {"type": "mouseMoved", "x": x - shift, "y": y}
    driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
  deadline = time.time() + 10
  said = "return document.getElementById('card').innerText"
  while not driver.execute_script(said) and time.time() < deadline:
    time.sleep(0.05)
  return driver.execute_script(said)


def requests(driver):
  """Addresses that the page asked for, itself and inline data apart."""
  asked = []
  for entry in driver.get_log("performance"):
    message = json.loads(entry["message"])["message"]
    if message["method"] == "Network.requestWillBeSent":
      asked.append(message["params"])
  # Chromium's own first tab asks for its parts before.
  ours = [sent["request"]["url"] for sent in asked if sent["documentURL"] == driver.current_url]
  assert driver.current_url in ours, "the log does not even hold the page"
  return [url for url in ours if url != driver.current_url and not url.startswith("data:")]


def errors(driver):
  """What the console says that is no mere note."""
  return [e["message"] for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


def screenshot(driver, out, *, whole=False):
  """Saves a PNG of what is seen, or of the whole page."""
  import base64

  options = {"format": "png", "captureBeyondViewport": whole}
  shot = driver.execute_cdp_cmd("Page.captureScreenshot", options)
  pathlib.Path(out).write_bytes(base64.b64decode(shot["data"]))


def main(argv=None):
  """The command: one picture of a page."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--page", required=True)
  parser.add_argument("--out", required=True)
  parser.add_argument("--width", type=int, default=1400)
  parser.add_argument("--height", type=int, default=1000)
  parser.add_argument("--dark", action="store_true")
  parser.add_argument("--whole", action="store_true", help="the whole page, not its first screen")
  parser.add_argument("--at", default="", help="anchor to scroll to")
  parser.add_argument("--hover", type=int, help="the point of the map that the mouse is on")
  args = parser.parse_args(argv)
  lacking = missing()
  if lacking:
    print(f"error: {lacking}", file=sys.stderr)
    return 2
  with opened(args.page, width=args.width, height=args.height, dark=args.dark) as driver:
    if args.at:
      driver.execute_script(f"document.getElementById({json.dumps(args.at)}).scrollIntoView()")
    if args.hover is not None:
      point_at(driver, args.hover)
    print(errors(driver), requests(driver), "console and requests", file=sys.stderr)
    screenshot(driver, args.out, whole=args.whole)
  return 0


if __name__ == "__main__":
  sys.exit(main())
