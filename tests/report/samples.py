"""Clusters with labels that would like to be code, shared by the report's tests."""

import functools
import time

import numpy as np

from jaxdml import report

NASTY = (
  "<script>alert(1)</script>",
  "</script><script>document.title='owned'</script>",
  '"><img src=x onerror=alert(2)>',
  "<!--",
  "$$\\alpha$$ \u2028 &amp; 'quoted'",
  "</style></textarea>é漢",
)


def clusters(per_class=10, dim=8, spread=0.3, seed=0):
  """Embeddings [n, dim], labels [n] (of NASTY), images [n, 12, 10, 3]."""
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(len(NASTY)), per_class)
  centres = rng.normal(size=(len(NASTY), dim))
  x = centres[labels] + spread * rng.normal(size=(len(labels), dim))
  images = rng.integers(0, 256, (len(labels), 12, 10, 3)).astype(np.uint8)
  return x, labels, images


@functools.cache
def nasty_page():
  """A page of all sections, every text of it hostile."""
  x, labels, images = clusters()
  steps = np.arange(0.0, 50.0, 5)
  falling = np.exp(-steps / 20)
  metrics = {
    "raw pixels": {"recall@1": 0.4, "map@r": 0.1},
    NASTY[0]: {"recall@1": 0.9, "map@r": 0.5, "num_queries": 60, "collapse/class_spread": 0.2},
  }
  return report.build(
    x,
    labels,
    images,
    title=NASTY[0],
    about=NASTY[1],
    notices=[NASTY[2]],
    names=NASTY,
    columns={NASTY[3]: [NASTY[label % 2] for label in labels]},
    record=lambda row: f"{NASTY[2]}/{row}.png",
    metrics=metrics,
    curves=[
      report.Curve("metrics", NASTY[0], steps, 1 - falling, 0.4, NASTY[2], NASTY[1]),
      report.Curve("loss", NASTY[4], steps, falling),
      report.Curve("dials", "hdml/lambda", steps, falling),
      report.Curve("diagnostics", "class spread", steps, falling),
    ],
    settings=[report.Setting(NASTY[0], NASTY[1], NASTY[2]), report.Setting("seed", 0, 0)],
    facts={NASTY[2]: NASTY[0], "time": time.strftime("%Y")},
    curves_note=NASTY[4],
    next_steps=[(NASTY[0], NASTY[2])],
    queries=3,
    k=4,
    progress=False,
  )
