"""One aligned text table of metrics, a row for each model compared."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = {
  "map@r": "MAP@R",
  "r_precision": "R-prec",
  "map": "mAP",
  "mrr": "MRR",
  "nmi": "NMI",
  "ami": "AMI",
  "f1": "F1",
}
_COUNTS = ("num_queries", "num_without_match", "num_undecodable")


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
  """Returns an aligned table, one line a row, no trailing newline.

  Columns: R@K in the order of K, MAP@R, R-prec, NMI, AMI, F1, then any other metric under its own
  name; counts are left out, and so are metrics with a slash in their name: diagnostics, for the
  files. A metric that a row lacks is shown as "-".

  Args:
    rows: name of the row -> metrics, keyed as `retrieval_metrics` and `clustering_metrics` do.

  Raises:
    ValueError: no rows.

  >>> print(format_table({"raw pixels": {"recall@1": 0.39, "map@r": 0.09}, "trained": {"nmi": 1}}))
                R@1  MAP@R    NMI
  raw pixels  0.390  0.090      -
  trained         -      -  1.000
  """
  if not rows:
    raise ValueError("rows: expected at least one row of metrics, got none")
  shown = lambda key: key not in _COUNTS and "/" not in key
  present = list(dict.fromkeys(key for row in rows.values() for key in row if shown(key)))
  recalls = sorted(
    (key for key in present if key.startswith("recall@")),
    key=lambda key: int(key[len("recall@") :]),
  )
  known = [key for key in _NAMES if key in present]
  others = [key for key in present if key not in recalls and key not in known]
  keys = [*recalls, *known, *others]
  header = ["", *(_NAMES.get(key, key.replace("recall@", "R@")) for key in keys)]
  lines = [header]
  for name, row in rows.items():
    lines.append([name, *(f"{row[key]:.3f}" if key in row else "-" for key in keys)])
  widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
  widths[1:] = [max(width, 5) for width in widths[1:]]
  return "\n".join(
    "  ".join(
      [line[0].ljust(widths[0])]
      + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    )
    for line in lines
  )
