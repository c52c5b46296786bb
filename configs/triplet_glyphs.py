"""Triplet loss (arXiv 1503.03832) on the bundled glyphs.

python -m jaxdml.main --config=configs/triplet_glyphs.py --workdir=runs/triplet_glyphs

Tested on letters that training never saw; 32 classes x 4 renderings. Margin 0.2, a semihard
negative for each positive.
Cost: about 2 minutes on 2 CPU cores. Published: nothing, the data set comes with jaxdml. Ours:
not run here at this length; in 400 steps at a tuned rate (5 seeds, docs/results.md): R@1 .714,
MAP@R .463; raw pixels .419, .175.
Variants, in configs/common.py: :eps :hdml :eps,hdml :random
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Triplet loss with what `arg` adds; see configs/common.py."""
  return common.glyphs("triplet", arg)
