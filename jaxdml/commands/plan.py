"""`jaxdml plan`: the needs of a config's training step on chips that are not here."""

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING

from jaxdml.commands import _config, _options
from jaxdml.commands._cli import Command, Parser, tell

if TYPE_CHECKING:
  from jaxdml.planning.plans import Plan, Step

_EXPLAINED = """\
TARGET is a chip and its slice: v5e:2x2, v5e:16x16, v6e:2x4, v5p:2x2x1, v4:2x2x1 (a TPU's topology,
v5e:1x1 one chip), a100, h100, h200, h100:8 (GPUs of a host), h100:2x8 (hosts x GPUs). No chip is
needed, but its compiler: pip install 'jaxdml[plan-tpu]' or 'jaxdml[plan-gpu]'. Compiling takes from
seconds to minutes. Images/s are an upper bound, by published limits; docs/accelerators.md says how
all is counted.
"""


def _add_options(parser: Parser) -> None:
  _config.add_option(parser)
  parser.add_argument("--target", required=True, help="the chips, as in v5e:2x2 or h100")
  parser.add_argument(
    "--num_classes", type=_options.number(int, 1), metavar="N",
    help="training classes (those of the config's data set)",
  )  # fmt: skip
  parser.add_argument(
    "--images_per_chip",
    type=_options.number(int, 1),
    metavar="N",
    help="images of a step on each chip (data.batch_size over the chips)",
  )
  parser.add_argument(
    "--largest",
    action="store_true",
    help="seek the largest batch that fits, by compiling a few more (minutes)",
  )
  parser.add_argument("--json", action="store_true", help="all figures as JSON")
  parser.epilog = _EXPLAINED + _config.EXPLAINED


def _run(args: argparse.Namespace) -> None:
  config = _config.read(args.config, args.overrides)
  import jax

  jax.config.update("jax_platforms", "cpu")  # An accelerator that is here is not looked for.
  from jaxdml import planning

  plan = planning.plan(
    config, args.target, num_classes=args.num_classes, images_per_chip=args.images_per_chip,
    search=args.largest, say=lambda text: tell(f"{text} ..."),
  )  # fmt: skip
  if args.json:
    json.dump(plan.as_json(), sys.stdout, indent=2, allow_nan=False)
    print()
  else:
    print(text_of(plan))


def text_of(plan: "Plan") -> str:
  """A plan as the command prints it."""
  chip = plan.chip
  usable = chip.memory * chip.usable
  lines = [
    f"{plan.target}: {plan.chips} x {chip.name}, each {chip.tflops:.0f} TFLOP/s in bfloat16, "
    f"{chip.bandwidth:.0f} GB/s, {_si(chip.memory)} ({_si(usable)} for a program)",
    f"parameters        {plan.parameters:,} ({_si(plan.parameter_bytes)}), optimizer "
    f"{_si(plan.optimizer_bytes)}; {plan.num_classes:,} classes",
  ]
  if plan.step is None:
    lines += ["", f"The training step does not fit: {plan.too_large}"]
  else:
    lines += ["", *_step_lines("training step", plan.step, usable, plan.chips)]
  if plan.largest_because:
    found = "none" if plan.largest is None else f"{plan.largest} images a chip"
    lines.append(f"largest batch     {found} ({plan.largest_because}), by compiling")
  if plan.embed is not None:
    lines += ["", *_step_lines("embedding", plan.embed, usable, plan.chips)]
  if plan.warnings:
    lines += ["", *(f"note: {warning}" for warning in plan.warnings)]
  return "\n".join(lines)


def _step_lines(name: str, step: "Step", usable: float, chips: int) -> list[str]:
  images, least = step.images, step.seconds
  verdict = "fits" if step.fits else "DOES NOT FIT"
  times = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in least.items())
  lines = [
    f"{name}: {images} images a chip, {images * chips} in all; compiled in "
    f"{step.compile_seconds:.0f} s",
    f"memory            {_si(step.peak_bytes)} at most, {step.peak_bytes / usable:.0%} of what "
    f"there is: {verdict} (arguments {_si(step.argument_bytes)}, activations and other "
    f"temporaries {_si(step.temp_bytes)})",
    f"arithmetic        {_si(step.flops, 'FLOP')}, {_si(step.flops / images, 'FLOP')} an image",
    f"memory traffic    {_si(step.traffic_bytes)}, {_si(step.traffic_bytes / images)} an image",
  ]
  for kind, sums in step.collectives.items():
    lines.append(f"{kind:<17} {sums['count']:.0f}, {_si(sums['bytes'])}")
  lines += [
    f"at least          {times}",
    f"bound by          {step.bound}: at most {step.images_per_second:,.0f} images/s a chip, "
    f"{step.images_per_second * chips:,.0f} in all, {step.share_of_peak:.0%} of peak arithmetic",
  ]
  return lines


def _si(value: float, unit: str = "B") -> str:
  """A number with the prefix that suits it, by default bytes.

  >>> _si(16.5e9), _si(0), _si(12e6, "FLOP")
  ('16.5 GB', '0 B', '12 MFLOP')
  """
  power = min(4, max(0, int(math.log10(value) // 3))) if value >= 1 else 0
  return f"{value / 1e3**power:.3g} {'_kMGT'[power].strip('_')}{unit}"


COMMAND = Command(
  "Compiles a training step for a TPU or GPU that is not here: memory, traffic, speed limits",
  _add_options, _run,
)  # fmt: skip
