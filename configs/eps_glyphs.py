"""Easy positive sampling (EPS, arXiv 2006.05162) on the bundled glyphs.

python -m jaxdml.main --config=configs/eps_glyphs.py --workdir=runs/eps_glyphs

Tested on letters that training never saw; 32 classes x 4 renderings. Margin loss unless the
argument names another. The labels are as fine as the search here, so EPS has no cluster to protect;
configs/eps_digits.py shows what it is for.
Cost: about 1.5 minutes on 2 CPU cores. Published: nothing, the data set comes with jaxdml. Ours:
not run here at this length; in 400 steps at a tuned rate (5 seeds, docs/results.md): R@1 .689,
MAP@R .434; raw pixels .419, .175.
Variants, in configs/common.py: :triplet :hdml :multisimilarity,hdml
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss unless `arg` names another; see configs/common.py."""
  return common.glyphs("eps", arg, loss="margin")
