"""A suite's rows as Markdown: means with intervals, paired effects, what was tuned, and by what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jaxdml.evaluation import describe_metric
from studies import statistics, table
from studies.table import Row

__all__ = ["costs", "effects", "provenance", "results", "tuning"]

# Beside a suite's own metrics a table has those of these that there are.
_COLUMNS = ("map@r", "recall@1", "r_precision", "nmi", "f1")
_LINE = 110  # characters of a line of prose


def results(rows: Sequence[Row], metrics: Sequence[str] | None = None) -> str:
  """A table a task: mean +- half the 95 % t interval of each arm, the floors on top.

  The best value of a column is bold if its paired interval against the second best, floors
  included, leaves 0 out.

  Args:
    rows: of one suite.
    metrics: the first columns; MAP@R, R@1, R-precision, NMI and F1 follow where the rows have them.

  Raises:
    ValueError: see `table.layout`.
  """
  present = {row.metric for row in rows}
  shown = [*(metrics or ()), *(name for name in _COLUMNS if name in present)]
  plan = table.layout(rows, shown or None)
  parts, any_bold = [], False
  for task in plan.tasks:
    lines = [("", floor) for floor in plan.floors]
    lines += [(loss, arm) for loss in plan.losses for arm in plan.arms]
    cells = {
      (line, metric): statistics.by_seed(
        rows, arm=line[1], metric=metric, task=task, loss=line[0], split=plan.split
      )
      for line in lines
      for metric in plan.metrics
    }
    bold = {metric: _clear_best({line: cells[line, metric] for line in lines}, metric)
            for metric in plan.metrics}  # fmt: skip
    any_bold = any_bold or any(bold.values())
    body = []
    for line in lines:
      if any(cells[line, metric] for metric in plan.metrics):
        texts = [_cell(cells[line, m], line == bold[m], len(plan.seeds)) for m in plan.metrics]
        name = [table.loss_label(line[0]), line[1]] if line[0] else [line[1], ""]
        body.append([*name, *texts])
    header = ["loss", "arm", *(describe_metric(m).label for m in plan.metrics)]
    if len(plan.tasks) > 1:
      parts.append(f"**{table.task_label(task)}**")
    parts.append(_table(header, body))
  note = "Mean ± half the 95 % t interval" if len(plan.seeds) > 1 else "One run each"
  note += f", {_seeds(plan.seeds)}."
  if any(" (n=" in part for part in parts):
    note += " n: seeds, where there are fewer."
  if any_bold:
    note += " Bold: best of its column, and its paired interval against the second leaves 0 out."
  return "\n\n".join([*parts, _wrapped(note)])


def effects(
  rows: Sequence[Row],
  metrics: Sequence[str] | None = None,
  baseline: str = table.BASELINE,
  arms: Collection[str] | None = None,
) -> str:
  """A table a task: each arm's paired differences from the baseline, with intervals and p-values.

  Args:
    rows: of one suite.
    metrics: the columns; see `table.layout`.
    baseline: what the arms are compared with.
    arms: those to compare; by default all.

  Raises:
    UnpairedError: a loss whose arms have different seeds.
    ValueError: see `table.layout`.
  """
  plan = table.layout(rows, metrics)
  if arms is not None:
    plan = plan._replace(arms=tuple(arm for arm in plan.arms if arm in arms))
  found = statistics.all_effects(rows, plan, baseline)
  parts = [f"Paired differences from {baseline}:"]
  for task in plan.tasks:
    body = []
    for loss in [*plan.losses, None]:
      for arm in plan.arms:
        differences = [found.get((task, loss, arm, metric)) for metric in plan.metrics]
        if any(differences):
          name = "*mean of losses*" if loss is None else table.loss_label(loss)
          body.append([name, arm, *map(_difference, differences)])
    if len(plan.tasks) > 1:
      parts.append(f"**{table.task_label(task)}**")
    parts.append(_table(["loss", "arm", *(describe_metric(m).label for m in plan.metrics)], body))
  n = max(difference.n for difference in found.values())
  if n > 1:
    note = (
      f"Mean over {n} pairs of equal seed, 95 % {statistics.interval_kind(n)} interval, and p of "
      f"the sign-flip test, which {n} pairs cannot bring below {statistics.smallest_p(n):.4g}. Not "
      "corrected for the number of comparisons."
    )
  else:
    note = "One pair each, which has no interval."
  return "\n\n".join([*parts, _wrapped(note)])


def costs(rows: Sequence[Row]) -> str:
  """A table a task of what each arm costs: parameters that learn, minutes of a run."""
  plan = table.layout(rows, (table.MILLIONS, table.MINUTES))
  body = []
  for task in plan.tasks:
    for loss in plan.losses:
      for arm in plan.arms:
        mean = lambda metric, of=(task, loss, arm): statistics.mean_interval(
          statistics.by_seed(
            rows, arm=of[2], metric=metric, task=of[0], loss=of[1], split=plan.split
          ).values()
        ).mean  # fmt: skip
        millions, minutes = mean(table.MILLIONS), mean(table.MINUTES)
        body.append([table.task_label(task), arm, f"{millions:.3f}", f"{minutes:.1f}"])
  return _table(["task", "arm", "millions of parameters that learn", "minutes a run"], body)


def tuning(candidates: Sequence[Mapping[str, Any]]) -> str:
  """Writes each arm's candidates, folded away: overrides, validation score, the chosen one bold.

  Args:
    candidates: each with task, loss, arm, candidate (overrides), validation (score or None) and
      chosen.
  """
  lines = {}
  for one in candidates:
    place = (table.task_label(one["task"]), table.loss_label(one["loss"]), one["arm"])
    what = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in one["candidate"].items())  # fmt: skip
    score = "failed" if one["validation"] is None else f"{one['validation']:.3f}"
    text = f"{what or 'as it is'}: {score}"
    lines.setdefault(place, []).append(f"**{text}**" if one["chosen"] else text)
  body = [[*place, "<br>".join(texts)] for place, texts in lines.items()]
  most = max(len(texts) for texts in lines.values())
  head = f"Candidates on validation classes, {most} an arm; bold: chosen"
  inside = _table(["task", "loss", "arm", "candidate: score"], body)
  return f"<details>\n<summary>{head}</summary>\n\n{inside}\n\n</details>"


def provenance(info: Mapping[str, Any]) -> str:
  """One line: runs, run time, machine, versions, notes; "" if nothing is known.

  >>> provenance({"runs": 3, "seconds": 5400, "machine": "a CPU, 2 cores", "versions": "jax 1"})
  '3 runs, 90 minutes in all. a CPU, 2 cores; jax 1.'
  """
  cost = []
  if "runs" in info:
    cost.append(f"{info['runs']} runs")
  if "seconds" in info:
    minutes = info["seconds"] / 60
    cost.append(f"{minutes:.0f} minutes in all" if minutes >= 2 else f"{info['seconds']:.0f} s")
  if info.get("workers", 1) > 1:
    cost.append(f"{info['workers']} at a time")
  versions = info.get("versions", "")
  if isinstance(versions, Mapping):
    versions = ", ".join(f"{name} {version}" for name, version in versions.items())
  notes = info.get("notes", "")
  notes = [notes] if isinstance(notes, str) else notes
  where = "; ".join(filter(None, [info.get("machine", ""), versions]))
  sentences = [", ".join(cost), where, *notes]
  return _wrapped(" ".join(f"{text.rstrip('.')}." for text in sentences if text))


def _clear_best(
  cells: Mapping[tuple[str, str], Mapping[int, float]], metric: str
) -> tuple[str, str] | None:
  """The line whose values are best beyond doubt, if there is one."""
  means = {line: sum(cell.values()) / len(cell) for line, cell in cells.items() if cell}
  if not describe_metric(metric).more_is_better or len(means) < 2:
    return None
  best, second = sorted(means, key=lambda line: -means[line])[:2]
  if set(cells[best]) != set(cells[second]):
    return None
  difference = statistics.paired_difference(cells[best], cells[second])
  return best if difference.low > 0 else None


def _cell(values: Mapping[int, float], bold: bool, seeds: int) -> str:
  if not values:
    return ""
  mean, low, high, n = statistics.mean_interval(values.values())
  text = f"**{mean:.3f}**" if bold else f"{mean:.3f}"
  if high > low:  # Not of one seed, and not where all seeds agree.
    text += f" ± {(high - low) / 2:.3f}"
  return text + (f" (n={n})" if n < seeds else "")


def _difference(d: statistics.Difference | None) -> str:
  if d is None:
    return ""
  if d.n == 1:
    return _signed(d.mean)
  p = f"{d.p:.2f}" if d.p >= 0.01 else f"{d.p:.1g}"
  return f"{_signed(d.mean)} ({_signed(d.low)} to {_signed(d.high)}), p {p}"


def _signed(value: float) -> str:
  """With its sign even where it rounds to 0: it says on which side an interval ends."""
  return f"{value:+.3f}".replace("-", "−") if value else "0.000"


def _seeds(seeds: Sequence[int]) -> str:
  if len(seeds) == 1:
    return f"seed {seeds[0]}"
  if list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
    return f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"
  return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
  lines = [header, ["---"] * len(header), *body]
  escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
  return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _wrapped(text: str) -> str:
  """Prose in lines of at most `_LINE` characters."""
  lines = [""]
  for word in text.split():
    if lines[-1] and len(lines[-1]) + 1 + len(word) > _LINE:
      lines.append("")
    lines[-1] += " " * bool(lines[-1]) + word
  return "\n".join(lines)
