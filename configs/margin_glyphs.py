"""Margin loss (arXiv 1706.07567) on the bundled glyphs.

python -m jaxdml.main --config=configs/margin_glyphs.py --workdir=runs/margin_glyphs

Tested on letters that training never saw; 32 classes x 4 renderings. Beta learned, a
distance-weighted negative for each positive.
Cost: about 1.5 minutes on 2 CPU cores. Published: nothing, the data set comes with jaxdml. Ours:
not run here at this length; in 400 steps at a tuned rate (5 seeds, docs/results.md): R@1 .709,
MAP@R .475; raw pixels .419, .175.
Variants, in configs/common.py: :eps :hdml :eps,hdml :random
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss with what `arg` adds; see configs/common.py."""
  return common.glyphs("margin", arg)
