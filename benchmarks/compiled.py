"""Compiles steps and losses for TPUs and GPUs that are not here: what their compilers say of them.

  pip install '.[plan-tpu,plan-gpu]'
  JAX_PLATFORMS=cpu python benchmarks/compiled.py --out=runs/accelerators [--part PART]
    [--target TARGET] [--step TEXT] [--largest] [--write]

Parts: steps (configs beside the same networks with a softmax head, written plainly in flax),
scaling (hdml_cars on ever more chips) and losses (one loss alone, up to 65,536 embeddings). A
figure is a file in --out, and one that is there is not made again, so an interrupted run goes on.
--write puts the tables into docs/accelerators.md; steps that were not compiled now stay there, if
they are of the same machine and versions. Quiet, a step takes from ten seconds (GPU) to two
minutes (TPU).
"""

from __future__ import annotations

import argparse
import pathlib

import _compiled_tables
import _machine
import _page
from _compiled_measure import CONFIGS, Cells, make


def main() -> None:
  """Makes the figures, prints the tables and, if asked, writes them."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parts = ("steps", "losses", "scaling")
  parser.add_argument("--part", nargs="+", choices=parts, default=parts)
  parser.add_argument("--target", nargs="+", help="of parts steps and losses (all)")
  parser.add_argument("--step", default="", help="of part steps, those with this in their name")
  parser.add_argument("--largest", action="store_true", help="seek the largest batches, too")
  parser.add_argument("--write", action="store_true", help="replace the tables in the docs")
  args = parser.parse_args()
  if not any(args.step in name for name in CONFIGS):
    parser.error(f"--step={args.step}: expected part of one of: {'; '.join(CONFIGS)}")
  cells = Cells(args.out)
  make(cells, args)
  footer = f"{_machine.describe()}."
  tables = {}
  if "steps" in args.part:
    tables["steps"] = _compiled_tables.steps_table(cells)
    if args.write:
      old = _page.read("steps", _compiled_tables.PAGE)
      tables["steps"] = _compiled_tables.with_kept(tables["steps"], old, footer)
  if "scaling" in args.part:
    tables["scaling"] = _compiled_tables.scaling_table(cells)
  if "losses" in args.part and not args.target:  # These stand for both chips or not at all.
    tables |= {
      "losses": _compiled_tables.losses_table(cells),
      "precision": _compiled_tables.precision_table(cells),
    }
  for name, lines in tables.items():
    text = "\n".join([*lines, "", footer])
    print(f"\n{text}")
    if args.write:
      _page.write(name, text, _compiled_tables.PAGE)


if __name__ == "__main__":
  main()
