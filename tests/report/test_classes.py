"""The classes of a report: a small page however many there are, and all of them beside it."""

import csv
import io
import re

import numpy as np

from jaxdml import evaluation, report
from jaxdml.report import _classes, _galleries
from tests.report.samples import NASTY, clusters


def read(page, name):
  return list(csv.DictReader(io.StringIO(page.tables[name])))


def test_a_page_has_the_worst_class_first_and_tables_of_all(tmp_path):
  x, labels, images = clusters(spread=1.5)
  page = report.build(
    x, labels, images, names=NASTY, progress=False, max_points=20, record=lambda row: f"row{row};"
  )
  near = evaluation.nearest_neighbours(x, 10)
  scores = evaluation.class_metrics(near, labels)
  rows = read(page, "classes")
  assert sorted(row["class"] for row in rows) == sorted(NASTY)
  for row in rows:
    place = NASTY.index(row["class"])
    assert float(row["recall@1"]) == scores.recall_at_1[place]
    assert abs(float(row["map@r"]) - scores.map_at_r[place]) < 1e-6
    assert row["images"] == row["queries"] == "10"
  order = [(float(row["recall@1"]), float(row["map@r"])) for row in rows]
  assert order == sorted(order)
  pairs = read(page, "confusions")
  wrong = labels[near.indices[:, 0]] != labels
  assert sum(int(pair["queries"]) for pair in pairs) == wrong.sum() > 0
  first = next(row for row in rows if row["taken_for"])
  assert first["taken_for"] == next(p["taken_for"] for p in pairs if p["class"] == first["class"])
  # The pictures of a pair: an image of the class, and its nearest.
  examples = re.findall(r'<figure class="pair"><img [^>]*row(\d+);[^>]*><img [^>]*row(\d+);', page)
  assert len(examples) == min(12, len(pairs))
  for one, other in examples:
    assert near.indices[int(one), 0] == int(other) and labels[int(one)] != labels[int(other)]
  out = report.write(page, tmp_path / "new" / "page.html")
  assert sorted(path.name for path in out.parent.iterdir()) == [
    "page.html", "page_classes.csv", "page_confusions.csv",
  ]  # fmt: skip
  assert (out.parent / "page_classes.csv").read_text(encoding="utf-8") == page.tables["classes"]
  report.write("<p>", tmp_path / "bare.html")
  assert not list(tmp_path.glob("*.csv"))


def test_eleven_thousand_classes_stay_small():
  count = 11_000
  labels = np.repeat(np.arange(count), 2)
  rng = np.random.default_rng(0)
  indices = rng.integers(0, 2 * count, (2 * count, 3))
  # A third of the classes are found.
  indices[: 2 * count // 3, 0] = np.arange(2 * count // 3) ^ 1
  found = evaluation.Neighbours(indices, rng.random((2 * count, 3)))
  rows = np.arange(2 * count)
  classes = _classes.measure(_galleries.Ranked(rows, rows, found), labels)
  name = "class {}".format
  uris = dict.fromkeys(_classes.shown_rows(classes), "data:,")
  html, plots = _classes.section(classes, name, uris, str)
  assert len(html) < 100_000 and len(plots) == 2
  assert html.count('<th scope="row">') == 200
  assert "The 100 worst and the 100 best of 11,000 classes" in html
  tables = _classes.tables(classes, name)
  assert tables["classes"].count("\n") == count + 1
  best = tables["classes"].splitlines()[-1].split(",")
  assert float(best[3]) == 1.0 and f'<th scope="row">{best[0]}</th>' in html


def test_classes_beyond_the_neighbours_and_those_alone_are_said():
  labels = np.array([0] * 4 + [1])
  found = evaluation.Neighbours(np.array([[1], [0], [3], [4], [0]]), np.ones((5, 1)))
  rows = np.arange(5)
  classes = _classes.measure(_galleries.Ranked(rows, rows, found), labels)
  html, _ = _classes.section(classes, str, dict.fromkeys(range(5), "data:,"), str)
  assert "MAP@1" in html and "have no other to find: 1." in html
  assert _classes.tables(classes, str)["classes"].splitlines() == [
    "class,images,queries,recall@1,map@1,taken_for,share", "0,4,4,0.75,0.75,1,0.25",
  ]  # fmt: skip


def test_a_collection_of_single_images_has_a_page():
  page = report.build(np.eye(4), np.arange(4), np.zeros((4, 5, 5)), progress=False)
  assert "No class has two images." in page
  assert read(page, "classes") == []
