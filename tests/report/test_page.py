"""The page as text: nothing from data is code, nothing is fetched, everything is there."""

import html.parser
import json
import re

import numpy as np
import pytest

from jaxdml import report
from jaxdml.evaluation import Neighbours
from jaxdml.report import _galleries, _run, _sections
from jaxdml.training import read_metrics
from tests.report.samples import NASTY, clusters, nasty_page

ADDRESSES = ("src", "href", "action", "poster", "data", "srcset")


class Parser(html.parser.HTMLParser):
  """Elements, their text, and what stands in scripts."""

  def __init__(self, page):
    super().__init__()
    self.elements, self.scripts, self.texts, self._inside = [], [], [], []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    self._inside.append(tag)
    if tag == "script":
      self.scripts.append([dict(attrs), ""])

  def handle_endtag(self, tag):
    while self._inside and self._inside.pop() != tag:
      pass

  def handle_data(self, data):
    if self._inside and self._inside[-1] == "script":
      self.scripts[-1][1] += data
    elif "style" not in self._inside:
      self.texts.append(data)


@pytest.fixture(scope="module")
def parsed():
  return Parser(nasty_page())


def test_data_is_never_code(parsed):
  scripts = [(attrs, body) for attrs, body in parsed.scripts if attrs.get("type") is None]
  assert len(scripts) == 2 and "BEGIN bokeh" in scripts[0][1]
  tags = {tag for tag, _ in parsed.elements}
  assert not tags & {"textarea", "iframe", "object", "embed", "form", "base"}
  for tag, attrs in parsed.elements:
    assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
  # All of it is there, as text.
  words = " ".join(parsed.texts)
  assert all(text in words for text in NASTY[:3])


def test_json_in_scripts_round_trips(parsed):
  by_id = {attrs["id"]: body for attrs, body in parsed.scripts if "id" in attrs}
  for body in by_id.values():
    assert not set("<>&\u2028") & set(body)
    json.loads(body)
  data = json.loads(by_id["map-data"])
  label, other = data["columns"]
  assert sorted(label["names"]) == sorted(NASTY)
  assert other["name"] == NASTY[3]
  assert [label["names"][c] for c in label["codes"]] == [NASTY[row // 10] for row in data["row"]]
  assert json.loads(by_id["figures"])[0] == "map-plot"
  # Bokeh would take $$ for mathematics, and fetch MathJax: it must not see text from data.
  assert not any(text in body for id, body in by_id.items() if "item" in id for text in NASTY)
  assert "$$" not in "".join(body for id, body in by_id.items() if "item" in id)


def test_nothing_is_fetched(parsed):
  for tag, attrs in parsed.elements:
    for name in ADDRESSES:
      address = attrs.get(name)
      assert address is None or address.startswith(("#", "data:")), (tag, name, address[:80])
  style = re.search(r"<style>(.*?)</style>", nasty_page(), re.DOTALL)[1]
  assert all(target.startswith("data:") for target in re.findall(r"url\(([^)]{5})", style))
  assert "@import" not in style
  (policy,) = [a["content"] for t, a in parsed.elements if t == "meta" and "http-equiv" in a]
  assert policy.startswith("default-src 'none'; script-src 'sha256-")
  for attrs, body in parsed.scripts:
    assert (_sections.csp_hash(body) in policy) == ("type" not in attrs)


def test_everything_is_there_and_named(parsed):
  ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
  assert len(ids) == len(set(ids))
  sections = [attrs["id"] for tag, attrs in parsed.elements if tag == "section"]
  assert sections == [
    "metrics", "neighbours", "classes", "map", "pairs", "metrics-curves", "loss-curves",
    "dials-curves", "collapse", "next", "run",
  ]  # fmt: skip
  links = [attrs["href"] for tag, attrs in parsed.elements if tag == "a"]
  assert {f"#{s}" for s in sections} <= set(links)
  assert parsed.elements[0] == ("html", {"lang": "en"})
  images = [attrs for tag, attrs in parsed.elements if tag == "img"]
  assert images and all(attrs["alt"] for attrs in images)
  # 3 lines of 1 + 4 images: random, best, hubs; the worst leave out the perfect ones.
  assert len(images) >= 45
  kinds = [a["class"] for t, a in parsed.elements if t == "div" and "cell" in a.get("class", "")]
  assert {"cell query", "cell right"} <= set(kinds)


def test_the_metrics_are_those_of_evaluation():
  from jaxdml import evaluation

  x, labels, images = clusters(spread=1.5)
  page = Parser(report.build(x, labels, images, progress=False, max_points=20))
  metrics = evaluation.retrieval_metrics(x, labels)
  words = " ".join(page.texts)
  assert f"R@1 {metrics['recall@1']:.3f}, MAP@R {metrics['map@r']:.3f} on 60 images" in words
  assert "20 of 60 images, drawn at random" in words
  assert "✗" in words  # With so wide a spread some neighbour is wrong.


def test_queries_are_ranked_in_the_gallery_alone():
  x, labels, images = clusters()
  stored = np.arange(60) % 2 == 1
  page = report.build(
    x, labels, images, gallery=stored, record=lambda row: f"row{row};", progress=False,
    queries=2, k=3,
  )  # fmt: skip
  random = page[page.index("Random queries") : page.index("Best queries")]
  cells = re.findall(r'class="cell (\w+)"><img [^>]*alt="[^"]*row(\d+);', random)
  assert len(cells) == 2 * 4
  assert all((int(row) % 2 == 1) == (kind != "query") for kind, row in cells)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"labels": np.zeros(3)}, "labels: expected as many as embeddings has rows, 60"),
    ({"images": np.zeros((60, 4))}, r"images: expected \[n, h, w\]"),
    ({"images": np.zeros((5, 4, 4))}, "images: expected one a row of embeddings, 60; got 5"),
    ({"embeddings": np.full((60, 2), np.nan)}, "embeddings: expected finite"),
    ({"columns": {"a": [1]}}, r"columns\['a'\]"),
    ({"gallery": np.ones(60)}, "gallery: expected some rows"),
    ({"k": 0}, "k: expected a whole number"),
  ],
)
def test_bad_arguments_are_named(changes, message):
  x, labels, images = clusters()
  arguments = {"embeddings": x, "labels": labels, "images": images, "progress": False, **changes}
  with pytest.raises(ValueError, match=message):
    report.build(**arguments)


def test_large_pictures_are_made_smaller_until_they_fit(monkeypatch):
  rng = np.random.default_rng(0)
  pictures = _galleries.Pictures(rng.integers(0, 256, (40, 90, 80, 3)).astype(np.uint8), 40)
  rows = np.arange(40)
  free = _galleries.sheets(pictures, rows)
  assert free.side == 64 and len(free.uris) == 1
  monkeypatch.setattr(_galleries, "_SHEET_BYTES", 20_000)
  monkeypatch.setattr(_galleries, "_SINGLE_BYTES", 20_000)
  tight = _galleries.sheets(pictures, rows)
  assert tight.side < 64 and sum(map(len, tight.uris)) * 3 / 4 <= 20_100
  assert sum(map(len, _galleries.singles(pictures, rows).values())) * 3 / 4 <= 22_000


def test_sheets_hold_the_images_in_their_order():
  import base64
  import io

  from PIL import Image

  shades = np.linspace(0, 250, 600).astype(np.uint8)
  images = np.broadcast_to(shades[:, None, None], (600, 8, 8))
  sheets = _galleries.sheets(_galleries.Pictures(images, 600), np.arange(600))
  assert (sheets.side, len(sheets.uris)) == (8, 2)
  for index in (0, 33, 511, 512, 599):
    sheet, cell = divmod(index, sheets.per_sheet)
    content = base64.b64decode(sheets.uris[sheet].split(",")[1])
    line, column = divmod(cell, sheets.columns)
    pixel = np.asarray(Image.open(io.BytesIO(content)).convert("L"))[8 * line + 4, 8 * column + 4]
    assert abs(int(pixel) - int(shades[index])) <= 6


def test_history_sorts_what_a_run_logs(tmp_path):
  lines = [
    {"step": 0, "eval/image_folder/my photos test/recall@1": 0.2},
    {"step": 0, "eval/image_folder/my photos test/macro/recall@1": 0.1},
    {"step": 5, "loss/real": 2.0, "hdml/lambda": 1.0, "my_norm": 3.0, "loss/head": 0.5},
    {"step": 5, "eval/image_folder/my photos test/recall@1": 0.5,
     "eval/image_folder/my photos test/num_queries": 9,
     "eval/image_folder/my photos test/collapse/within/map@r": 0.1},
  ]  # fmt: skip
  path = tmp_path / "metrics.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "los')
  split = "image_folder/my photos test"
  results = {"raw pixels": {"recall@1": 0.3}, "trained model": {"recall@1": 0.5}}
  curves = _run.curves(read_metrics(tmp_path), results, split, classes=10)
  assert [(c.group, c.name, c.floor, c.of) for c in curves] == [
    ("metrics", "R@1", 0.3, split),
    ("diagnostics", "MAP@R within the class", None, split),
    ("metrics", "R@1 by class", None, split),
    ("dials", "λ: 1 pulls nothing, 0 all the way", None, ""),
    ("dials", "head's cross-entropy", pytest.approx(2.302585), ""),
    ("loss", "loss/real", None, ""),
    ("training", "my_norm", None, ""),
  ]
  assert [bool(c.note) for c in curves] == [False] * 3 + [True, True, False, False]
  assert curves[0].steps.tolist() == [0, 5] and curves[0].values.tolist() == [0.2, 0.5]
  assert _run.curves(read_metrics(tmp_path), results, "other")[0].floor is None
  assert read_metrics(tmp_path / "none") == {}
  path.write_text("[1]}\n")
  with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: expected metrics"):
    read_metrics(tmp_path)


def test_what_comes_after_all_that_there_is_to_find_is_no_mistake():
  """Three of class 0 to find: the places after the third are neutral, one before it is wrong."""
  labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
  indices = np.array([[1, 4, 2, 3, 5, 6]])
  similarities = np.linspace(0.9, 0.4, 6)[None]
  rows, found = np.arange(8), Neighbours(indices, similarities)
  ranked = _galleries.Ranked(rows[:1], rows, found)
  shown = _galleries.galleries(ranked, labels, count=1, k=6, seed=0)
  page = _galleries.html(shown[:1], labels, dict.fromkeys(range(8), "data:,"), str, str)
  kinds = re.findall(r'class="cell (\w+)"', page)
  assert kinds == ["query", "right", "wrong", "right", "right", "beyond", "beyond"]
  assert page.count("✗") == 1 and page.count("✓") == 3


def test_a_table_by_class_that_says_the_same_again_is_left_out():
  rows = {"trained model": {"recall@1": 0.5, "macro/recall@1": 0.5}}
  assert _sections.metrics(rows).count("<table") == 1
  rows["trained model"]["macro/recall@1"] = 0.4
  assert _sections.metrics(rows).count("<table") == 2


def test_curves_that_say_the_same_again_are_left_out():
  steps, values = np.arange(3.0), np.array([0.1, 0.2, np.nan])
  history = {
    "eval/digits test/recall@1": (steps, values),
    "eval/digits test/macro/recall@1": (steps, values + 1e-7),
    "eval/digits test/map@r": (steps, values),
    "eval/digits test/macro/map@r": (steps, values + 0.01),
    "loss": (steps, values),
    "loss/real": (steps, values),
  }
  names = [curve.name for curve in _run.curves(history, {}, "digits test")]
  assert names == ["R@1", "MAP@R", "MAP@R by class", "loss"]
  history["loss/real"] = (steps[:2], values[:2])
  assert _run.curves(history, {}, "digits test")[-1].name == "loss/real"


def test_numbers_of_a_line_have_the_same_decimals():
  lines = {"effective rank": [441.2013, 97.754, None], "spread": [0.5, 1.25, 0.001]}
  cells = re.findall(r"<td>([^<]+)</td>", _sections.table("", ["a", "b", "c"], lines, best=False))
  assert cells == ["441.2", "97.8", "-", "0.500", "1.250", "0.001"]
