"""The interactive figures, as Bokeh JSON. They hold numbers alone: text from data stays outside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh import models as bk
from bokeh.plotting import figure
from bokeh.resources import Resources

from jaxdml.report._analysis import Projection, Similarities

INK = "#7c7f86"  # 4:1 on white and on the dark page
LINE, OTHER = "#2f7ed8", "#d9730d"
_POINTS = 400  # of a curve


def library() -> str:
  """Bokeh's own script, to be put into the page."""
  return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)


def _plain(height: int, tools: Sequence[Any], **options: Any) -> figure:
  plot = figure(
    height=height, sizing_mode="stretch_width", tools=list(tools), toolbar_location=None,
    background_fill_color=None, border_fill_color=None, outline_line_color=None, **options,
  )  # fmt: skip
  for axis in (*plot.xaxis, *plot.yaxis):
    axis.update(
      axis_line_color=INK, major_tick_line_color=None, minor_tick_line_color=None,
      major_label_text_color=INK, major_label_text_font_size="12px", axis_label_text_color=INK,
      axis_label_text_font_style="normal", axis_label_text_font_size="12px",
    )  # fmt: skip
  for grid in plot.grid:
    grid.update(grid_line_color=INK, grid_line_alpha=0.18)
  plot.min_border_right = 12
  return plot


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
  """Means of consecutive points, so that at most 400 are left; and of how many.

  >>> steps, values, of = thinned(np.arange(1000.0), np.arange(1000.0))
  >>> len(steps), float(values[0]), of
  (334, 1.0, 3)
  """
  of = -(-len(steps) // _POINTS)
  if of < 2:
    return steps, values, 1
  starts = np.arange(0, len(steps), of)
  size = np.diff(np.append(starts, len(steps)))
  return np.add.reduceat(steps, starts) / size, np.add.reduceat(values, starts) / size, of


def curve(steps: np.ndarray, values: np.ndarray, floor: float | None = None) -> figure:
  """A metric over training steps; the floor is dashed."""
  steps, values, _ = thinned(np.asarray(steps, np.float64), np.asarray(values, np.float64))
  hover = bk.HoverTool(
    tooltips=[("step", "@x{0,0}"), ("value", "@y{0.[0000]}")], mode="vline", line_policy="nearest"
  )
  plot = _plain(170, [hover])
  line = plot.line(steps, values, line_width=2, color=LINE)
  if len(steps) <= 30:
    plot.scatter(steps, values, size=5, color=LINE)
  hover.renderers = [line]
  plot.xaxis.ticker.desired_num_ticks = 4
  plot.yaxis.ticker.desired_num_ticks = 4
  plot.xaxis.formatter.use_scientific = plot.yaxis.formatter.use_scientific = False
  if floor is not None:
    plot.add_layout(
      bk.Span(location=floor, dimension="width", line_dash="dashed", line_color=OTHER, line_width=2)
    )
    # A span does not widen the range by itself.
    reach = [min(values.min(), floor), max(values.max(), floor)]
    room = 0.05 * ((reach[1] - reach[0]) or 1.0)
    plot.y_range.update(start=reach[0] - room, end=reach[1] + room)
  return plot


def shares(values: np.ndarray) -> figure:
  """A histogram of classes by a metric between 0 and 1, in twentieths."""
  # 0.3 as ten images have it may lie a bit below the edge of its name.
  counts, edges = np.histogram(np.minimum(values + 1e-9, 1.0), 20, (0.0, 1.0))
  plot = _plain(170, [], y_axis_label="classes")
  source = bk.ColumnDataSource({"left": edges[:-1], "right": edges[1:], "count": counts})
  bars = plot.quad(left="left", right="right", bottom=0, top="count", source=source,
                   fill_color=LINE, fill_alpha=0.7, line_color=None)  # fmt: skip
  tooltips = [("from", "@left{0.00} to @right{0.00}"), ("classes", "@count")]
  plot.add_tools(bk.HoverTool(tooltips=tooltips, mode="vline", renderers=[bars]))
  plot.yaxis.ticker.desired_num_ticks = 4
  plot.y_range.start = 0
  return plot


def histogram(pairs: Similarities) -> figure:
  """Densities of positive pairs, hatched, and of negative ones, plain."""
  plot = _plain(300, [], x_axis_label="cosine similarity of a pair", y_axis_label="density")
  left, right = pairs.edges[:-1], pairs.edges[1:]
  source = {
    "left": left, "right": right, "middle": (left + right) / 2,
    "positive": pairs.positive, "negative": pairs.negative,
  }  # fmt: skip
  data = bk.ColumnDataSource(source)
  common = {"left": "left", "right": "right", "bottom": 0, "source": data}
  plot.quad(top="negative", fill_color=INK, fill_alpha=0.45, line_color=None, **common)
  plot.quad(
    top="positive", fill_color=LINE, fill_alpha=0.25, line_color=None, hatch_pattern="/",
    hatch_color=LINE, hatch_alpha=0.9, hatch_scale=8, **common,
  )  # fmt: skip
  # Drawn over both, so that neither hides the other's edge.
  plot.step("middle", "positive", mode="center", source=data, color=LINE, line_width=2)
  steps = plot.step("middle", "negative", mode="center", source=data, color=INK, line_width=2)
  tooltips = [("similarity", "@middle{0.00}"), ("one class", "@positive{0.00}"),
              ("two classes", "@negative{0.00}")]  # fmt: skip
  plot.add_tools(bk.HoverTool(tooltips=tooltips, mode="vline", renderers=[steps]))
  plot.y_range.start = 0
  return plot


def scatter(projection: Projection) -> figure:
  """The map. The page's script colours its points, switches its layout and shows its images."""
  wheel = bk.WheelZoomTool(modifiers={"ctrl": True})  # Without it the page scrolls.
  tools = [bk.PanTool(), wheel, bk.BoxZoomTool(), bk.HoverTool(tooltips=None), bk.SaveTool(),
           bk.ResetTool()]  # fmt: skip
  # The page's script sets the ranges: those that follow the data would undo a zoom.
  ranges = {"x_range": bk.Range1d(-1, 1), "y_range": bk.Range1d(-1, 1)}
  plot = _plain(600, tools, name="map", output_backend="canvas", **ranges)
  plot.toolbar_location = "above"
  plot.toolbar.logo = None
  plot.toolbar.active_scroll = wheel
  plot.axis.visible = False
  count = len(projection.rows)
  x, y = (projection.pca if projection.tsne is None else projection.tsne).T.astype(np.float32)
  source = bk.ColumnDataSource(
    {
      "x": x, "y": y, "colour": [INK] * count, "marker": ["circle"] * count,
      "alpha": np.full(count, 0.8, np.float32), "size": np.full(count, 8, np.float32),
    },
    name="map-points",
  )  # fmt: skip
  plot.scatter(
    "x", "y", source=source, marker="marker", size="size", fill_color="colour",
    fill_alpha="alpha", line_color="colour", line_alpha="alpha", line_width=0.5,
  )  # fmt: skip
  return plot
