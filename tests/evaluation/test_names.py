"""Every metric has one name, one meaning and one place in tables; the text table shows them."""

import pathlib
import re

import numpy as np
import pytest

from jaxdml import evaluation
from jaxdml.evaluation import describe_metric, format_table

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


@pytest.mark.usefixtures("one_device")
def test_every_metric_is_named_explained_and_documented():
  x = np.random.default_rng(0).normal(size=(12, 4))
  labels, fine = np.repeat([0, 1], 6), np.repeat([0, 1, 2, 3], 3)
  found = evaluation.retrieval_metrics(x, labels, ks=(1, 2, 10), macro=True)
  found |= evaluation.clustering_metrics(x, labels)
  found |= {f"collapse/{k}": v for k, v in evaluation.collapse_metrics(x, labels, fine).items()}
  keys = [key for key in found if not key.startswith("num_")]
  assert len(keys) == 27
  section = DOCS.read_text().partition("## Retrieval\n")[2].partition("\n- ")[0]
  named = {"recall@1" if name == "recall@K" else name for name in
           re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE)}  # fmt: skip
  assert named - {"macro/NAME"} == set(keys[:8]) - {"recall@2", "recall@10"}
  metrics = {key: describe_metric(key) for key in keys}
  assert [key for key, metric in metrics.items() if not metric.meaning] == []
  assert len({metric.label for metric in metrics.values()}) == len(keys)
  ordered = sorted(keys, key=lambda key: metrics[key].order)
  assert ordered[:7] == ["recall@1", "recall@2", "recall@10", "precision@1", "map@r",
                         "r_precision", "map"]  # fmt: skip
  assert ordered[-1] == "macro/mrr"
  worse = [key for key, metric in metrics.items() if not metric.more_is_better]
  assert [key.removeprefix("collapse/") for key in worse] == [
    "spectral_decay", "effective_rank", "class_spread", "within/chance_recall@1",
    "within/chance_map@r",
  ]  # fmt: skip


def test_a_metric_that_nobody_knows():
  unknown = describe_metric("collapse/new_figure")
  assert unknown.label == "collapse/new_figure" and not unknown.meaning
  assert unknown.order > describe_metric("collapse/modes_kept").order


def test_table():
  row = {
    "recall@10": 0.5,
    "recall@1": 0.39,
    "map@r": 0.1,
    "r_precision": 0.2,
    "num_queries": 7,
    "num_without_match": 0,
    "num_unknown": 2,
    "f1": 0.25,
    "nmi": float("nan"),
    "gap": 12.5,
    "collapse/modes_kept": 0.5,
  }
  text = format_table({"raw pixels": row, "trained": {"recall@1": 1.0}})
  assert text.splitlines() == [
    "              R@1   R@10  MAP@R  R-prec    NMI     F1     gap",
    "raw pixels  0.390  0.500  0.100   0.200    nan  0.250  12.500",
    "trained     1.000      -      -       -      -      -       -",
  ]
  with pytest.raises(ValueError, match="at least one row"):
    format_table({})
