"""Figures show every number, and are the same file every time."""

import dataclasses

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from studies import draw, statistics, table
from studies.table import Row


def suite(seeds=5, tasks=("b -> c",), losses=("npair", "margin"), arms=("plain", "EPS", "new")):
  """Rows of a suite whose numbers are all different."""
  rng = np.random.default_rng(0)
  value = lambda: float(rng.uniform(0.2, 0.8))
  places = [(loss, arm) for loss in losses for arm in arms]
  places += [("", "raw pixels"), ("", "untrained encoder")]
  return [
    Row("fake", task, loss, arm, seed, "test", metric, value())
    for task in tasks
    for loss, arm in places
    for seed in range(seeds)
    for metric in ("map@r", "recall@1", "f1")
  ]


@dataclasses.dataclass
class Seen:
  """Returns what an axes holds."""

  means: dict
  intervals: list
  dots: list
  lines: list


def seen(axes):
  found = Seen({}, [], [], [])
  for line in axes.lines:
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    if line.get_linestyle() == "None" and len(x) == 1 and line.get_markersize() > 3:
      found.means[round(float(y[0]), 6)] = (x[0], line)
    elif line.get_linestyle() == "None":
      found.dots.append(sorted(x))
    elif x[0] == x[-1] and list(y) == [0, 1]:
      found.lines.append((x[0], line.get_linestyle()))
    elif y[0] == y[-1] and list(x) != [0, 1]:
      found.intervals.append((x[0], x[1]))
  return found


def test_dots_show_means_intervals_seeds_and_floors():
  rows = suite()
  figure = draw.dots(rows, metrics=["map@r", "recall@1"])
  assert [axes.get_xlabel() for axes in figure.axes] == ["MAP@R", "R@1"]
  axes = figure.axes[0]
  assert [text.get_text() for text in axes.get_yticklabels()] == ["N-pair", "margin"]
  found = seen(axes)
  # From the top: N-pair plain, EPS, new; margin plain, ...
  places = [(loss, arm) for loss in ("npair", "margin") for arm in ("plain", "EPS", "new")]
  assert len(found.means) == len(places)
  for (loss, arm), height in zip(places, sorted(found.means), strict=True):
    assert round(height) == ("npair", "margin").index(loss)
    cell = statistics.by_seed(rows, arm=arm, metric="map@r", task="b -> c", loss=loss)
    interval = statistics.mean_interval(cell.values())
    assert found.means[height][0] == pytest.approx(interval.mean)
    assert any(np.allclose(ends, interval[1:3]) for ends in found.intervals)
    assert any(np.allclose(dots, sorted(cell.values())) for dots in found.dots)
  for floor in ("raw pixels", "untrained encoder"):
    cell = statistics.by_seed(rows, arm=floor, metric="map@r", task="b -> c", loss="")
    assert any(np.isclose(x, np.mean(list(cell.values()))) and style == "--"
               for x, style in found.lines)  # fmt: skip
  legend = [text.get_text() for text in figure.legends[0].get_texts()]
  assert legend == ["plain", "EPS", "new", "raw pixels", "untrained encoder"]


def test_effects_show_pairs_around_zero():
  rows = [
    row._replace(value=0.5 + 0.1 * (row.arm == "EPS") + 0.001 * row.seed * (row.arm != "plain"))
    if row.loss == "npair"
    else row
    for row in suite(tasks=("b", "a"), arms=("plain", "EPS"))
  ]
  figure = draw.effects(rows, metrics=["map@r", "f1"])
  assert [axes.get_title("left") for axes in figure.axes] == ["a", "", "b", ""]
  for axes, (task, metric) in zip(
    figure.axes, [(t, m) for t in "ab" for m in ("map@r", "f1")], strict=True
  ):
    found = seen(axes)
    assert (0.0, "-") in found.lines
    for height, loss in zip(sorted(found.means), ["npair", "margin", None], strict=True):
      d = statistics.effect([r for r in rows if r.loss], "EPS", metric=metric, task=task, loss=loss)
      mean, line = found.means[height]
      assert mean == pytest.approx(d.mean)
      assert (line.get_markerfacecolor() == "white") == (not d.excludes_zero)
      assert any(np.allclose(dots, sorted(d.values)) for dots in found.dots)
      assert any(np.allclose(ends, (d.low, d.high)) for ends in found.intervals)
    low, high = axes.get_xlim()
    everything = [0, *np.ravel(found.dots), *np.ravel(found.intervals)]
    assert low < min(everything) <= max(everything) < high
  assert seen(figure.axes[0]).means[0.0][1].get_markerfacecolor() != "white"
  assert figure.axes[0].get_yticklabels()[-1].get_text() == "mean of losses"


def test_effects_need_two_arms():
  with pytest.raises(ValueError, match="expected 'plain' and another arm; got plain"):
    draw.effects(suite(arms=("plain",)))
  with pytest.raises(ValueError, match="expected 'plain' and another arm; got EPS, HDML"):
    draw.effects(suite(arms=("HDML", "EPS")))


def test_curves_have_a_band_where_there_are_seeds():
  steps = [0, 10, 20]
  values = [[1.0, 2.0, np.nan], [3.0, 2.0, 5.0]]
  series = {"EPS": (steps, values), "one": (steps, [[0.0, 1.0, 2.0]])}
  figure = draw.curves({"MAP@R": series, "loss": {"one": series["one"]}})
  axes, other = figure.axes
  assert (axes.get_title("left"), other.get_title("left")) == ("MAP@R", "loss")
  first, second = axes.lines
  np.testing.assert_allclose(first.get_ydata(), [2.0, 2.0, 5.0])
  np.testing.assert_allclose(second.get_ydata(), [0.0, 1.0, 2.0])
  assert other.lines[0].get_color() == second.get_color()
  band = axes.collections[0].get_paths()[0].vertices
  half = 12.706204736 * np.std([1, 3], ddof=1) / np.sqrt(2)
  np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [max(2 - half, 0), 2 + half])
  assert band[:, 0].max() == 10  # The last step has one seed, and no band.
  assert first.get_color() == draw.dots(suite()).legends[0].get_lines()[1].get_color()
  with pytest.raises(ValueError, match=r"panels\['loss'\]\['EPS'\]: expected steps \[t\] and"):
    draw.curves({"loss": {"EPS": (steps, [1.0, 2.0, 3.0])}})
  with pytest.raises(ValueError, match="expected at least one curve"):
    draw.curves({"loss": {}})


def test_files_are_small_and_the_same_every_time(tmp_path):
  rows = suite(arms=("plain", "EPS", "HDML", "EPS+HDML"), losses=("npair", "a", "b", "c"))
  font = rcParams["font.size"]
  for name in ("one", "two"):
    # The reader's own settings do not show.
    rcParams["font.size"] = font + 5 * (name == "two")
    draw.save(draw.dots(rows), tmp_path / "new" / f"{name}.png", note="of 5 seeds")
  rcParams["font.size"] = font
  first = (tmp_path / "new" / "one.png").read_bytes()
  assert first == (tmp_path / "new" / "two.png").read_bytes()
  assert len(first) < 200_000
  with Image.open(tmp_path / "new" / "one.png") as image:
    assert image.info["Description"] == "of 5 seeds"
    assert "Software" not in image.info
    assert image.width >= 800


def test_legends_fit():
  """Long legends take several lines; every text stays inside the figure."""
  names = [f"a rather long name {i}" for i in range(6)]
  figure = draw.curves({"y": {name: ([0, 1], [[0.0, 1.0]]) for name in names}})
  figure.canvas.draw()
  for text in figure.legends[0].get_texts():
    box = text.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def test_one_seed_has_no_interval():
  rows = suite(seeds=1, losses=("npair",), arms=("plain", "EPS"))
  for figure in (draw.dots(rows), draw.effects(rows)):
    found = seen(figure.axes[0])
    assert len(found.means) in (1, 2)
    assert found.intervals == []
    assert figure.get_supxlabel() == "Seed 0 alone: no interval."


def test_layout_is_of_what_is_shown():
  rows = suite(losses=("zeta", "triplet", "npair"), arms=("z", "EPS+HDML", "plain"))
  rows += [Row("fake", "b -> c", "", "chance", 0, "test", "within", 0.1)]
  rows += [Row("fake", "b -> c", "", "chance", 0, "validation", "map@r", 0.1)]
  plan = table.layout(rows)
  assert plan.losses == ("npair", "triplet", "zeta")
  assert plan.arms == ("plain", "EPS+HDML", "z")
  assert plan.floors == ("raw pixels", "untrained encoder")
  assert plan.metrics == ("map@r", "recall@1")
  assert plan.seeds == (0, 1, 2, 3, 4)
  assert table.layout(rows, ["within"]).floors == ("chance",)
  with pytest.raises(ValueError, match=r"metrics: expected some of f1, map@r, .*; got nmi"):
    table.layout(rows, ["nmi"])
  with pytest.raises(ValueError, match="rows: expected those of one suite, got a, fake"):
    table.layout([rows[0]._replace(suite="a"), rows[1]])
  with pytest.raises(ValueError, match="got no rows"):
    table.layout([])
  with pytest.raises(ValueError, match="expected the split test or one split, got a, b"):
    table.layout([rows[0]._replace(split="a"), rows[0]._replace(split="b")])


def test_chance_is_a_floor():
  kept = Row("s", "t", "npair", "plain", 0, "test", "collapse/within/map@r", 0.5)
  level = kept._replace(metric="collapse/within/chance_map@r", value=0.1)
  rows = table.with_chance([kept, level, level._replace(arm="EPS"), level._replace(seed=1)])
  floor = Row("s", "t", "", "chance", 0, "test", "collapse/within/map@r", 0.1)
  assert sorted(rows) == sorted([kept, floor, floor._replace(seed=1)])
