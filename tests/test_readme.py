"""README's code runs, and its commands name files that exist."""

import pathlib
import re

import pytest

from jaxdml import losses, mining

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_python_blocks_run():
  blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, "README.md", "exec"), {})


def test_links_and_configs_exist():
  links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
  paths = links + re.findall(r"configs/\w+\.py", README)
  assert len(paths) > 5
  assert [path for path in paths if not (ROOT / path).exists()] == []


def test_it_counts_the_losses_and_miners_that_there_are():
  parametric = sum(record.parameter is not None for record in losses.LOSSES.values())
  plain = len(losses.LOSSES) - parametric
  assert f"{plain} of embeddings and labels and {parametric} with parameters" in README
  assert f"any of {len(mining.MINERS)} miners" in README


def test_no_placeholder_is_left():
  assert "PLACEHOLDER" not in README
