"""The documentation's site: it builds without a warning, and works in a browser from files alone.

The snippets of README and docs are run by other tests (SNIPPETS_RUN_BY in tests/test_docs.py); here
every link, name and formula must have its place.
"""

import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import types

import pytest

from tests.report import browser

pytest.importorskip("sphinx", reason="comes with the extra [docs]")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "docs" / "_ext"))
COMMAND = re.search(r"^python -m sphinx .*$", (ROOT / "docs" / "README.md").read_text(), re.M)[0]

import docstrings  # noqa: E402
import pages  # noqa: E402
import reference  # noqa: E402


def test_a_public_name_without_documentation_is_found(monkeypatch):
  class Open:
    """Documented."""

    def method(self):
      pass

  bare = types.ModuleType("jaxdml.bare", "Documented.")
  bare.__file__ = str(ROOT / "jaxdml" / "errors.py")
  bare.__all__ = ["CONSTANT", "Open", "function", "said"]
  bare.CONSTANT, bare.function, bare.Open = 3, lambda: None, Open
  bare.said = types.FunctionType(Open.method.__code__, {}, "said")
  bare.said.__doc__ = "Documented."
  Open.__module__ = Open.method.__module__ = "jaxdml.bare"
  monkeypatch.setattr(reference, "modules", lambda: {"jaxdml.bare": bare})
  assert list(reference.undocumented()) == [
    "jaxdml.bare.CONSTANT", "jaxdml.bare.Open.method", "jaxdml.bare.function",
  ]  # fmt: skip


def test_a_dead_link_or_anchor_is_found(tmp_path):
  (tmp_path / "a.html").write_text(
    '<h1 id="top">A</h1><a href="#top"></a><a href="b.html#here"></a><a href="https://x.y"></a>'
    '<a href="b.html#gone"></a><img src="gone.png"><a class="x" href="#none"></a>'
  )
  (tmp_path / "b.html").write_text('<p id="here">&lt;a href="text"&gt;</p>')
  found = [(str(page), link) for page, link in pages.dead_links(tmp_path)]
  assert sorted(found) == [("a.html", "#none"), ("a.html", "b.html#gone"), ("a.html", "gone.png")]


def test_a_docstring_keeps_its_words_and_nothing_in_it_is_markup():
  text = """Loss: [d(a, p) - m]_+ of **x** and `y_`; see docs/losses.md.

  - not lost
    is its second line

Args:
  margin, beta: m, of
    two lines.
  **shared: the rest.

Raises:
  ValueError: for a_b.

>>> 1 + 1
2"""
  made = docstrings.converted(text)
  assert made[0].startswith(r"Loss: \[d(a, p) - m\]\_+ of \*\*x\*\* and ``y_``")
  assert ":doc:`docs/losses.md </docs/losses>`" in made[0]
  assert made[-9:] == [
    ":param margin: m, of two lines.", ":param beta: m, of two lines.",
    r":param \*\*shared: the rest.", "", r":raises ValueError: for a\_b.", "",
    ">>> 1 + 1", "2", "",
  ]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """The site, built by the command of docs/README.md, with another folder to write to."""
  lacking = browser.missing()
  if lacking:
    assert "JAXDML_BROWSER" not in os.environ, lacking
    pytest.skip(lacking)
  out = tmp_path_factory.mktemp("site")
  arguments = COMMAND.replace("build/site", str(out)).partition(" && ")[0].split()[1:]
  env = {**os.environ, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, *arguments, "-q", "-E", "-d", f"{out}.trees"],
    cwd=ROOT, env=env, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return out


@contextlib.contextmanager
def served(folder):
  """The address of a server of the folder's files."""

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = functools.partial(Quiet, directory=str(folder))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield f"http://127.0.0.1:{server.server_port}"
    finally:
      server.shutdown()
      thread.join()


def asked(driver):
  """Addresses of all that was asked for since the last call."""
  messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
  sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
  return [params["request"]["url"] for params in sent]


FORMULAS = """return [...document.querySelectorAll("article math")].map((m) => {
  const box = m.getBoundingClientRect();
  return [box.width, box.height, m.textContent];
})"""
# The theme lets its middle column scroll, so the page alone would never be too wide.
WIDTH = (
  "return Math.max(...[...document.querySelectorAll('html, .content')].map((x) => x.scrollWidth))"
)
FOUND = "return [...document.querySelectorAll('#search-results li')].map((x) => x.innerText)"


def search(driver, address):
  """Lines that the site's search finds."""
  from selenium.webdriver.support.ui import WebDriverWait

  driver.get(f"{address}/search.html?q=nearest_positive")
  return WebDriverWait(driver, 20).until(lambda d: d.execute_script(FOUND))


@pytest.mark.browser
def test_it_works_in_a_browser(site):
  """From files: no page is wider than a phone, formulas are drawn, search finds a name."""
  written = sorted(path.relative_to(site) for path in site.rglob("*.html"))
  names = [str(p) for p in written if p.parts[0] != "_modules" and not p.name.startswith("search")]
  losses = [name for name in names if name.endswith("_loss.html")]
  metrics = {"docs/losses.html": 28 + 9, "docs/evaluation.html": 12, "docs/methods.html": 8}
  assert len(losses) == 28 and "index.html" in names and "docs/architecture.html" in names
  ready = "return document.readyState === 'complete'"
  with browser.opened(site / "index.html", width=420, height=900, ready=ready) as driver:
    for name in names:
      driver.get((site / name).as_uri())
      wide = driver.execute_script(WIDTH)
      assert wide <= 420, f"{name} is {wide} pixels wide"
      drawn = driver.execute_script(FORMULAS)
      assert all(w > 5 and h > 5 for w, h, _ in drawn), (name, drawn)
      assert len(drawn) >= (1 if name in losses else metrics.get(name, 0)), name
    found = search(driver, site.as_uri())
    assert found[0].startswith("jaxdml.mining.nearest_positive")
    assert browser.errors(driver) == []
    urls = asked(driver)
    assert any(url.endswith("site.css") or "site.css?" in url for url in urls)
    assert {url.partition(":")[0] for url in urls} <= {"file", "data", "chrome"}
    with served(site) as address:
      found = search(driver, address)
      assert found[0].startswith("jaxdml.mining.nearest_positive")
      assert browser.errors(driver) == []
      urls = [url for url in asked(driver) if not url.startswith(("data:", "chrome:"))]
      assert urls and all(url.startswith(address) for url in urls)
