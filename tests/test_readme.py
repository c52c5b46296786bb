"""README and the pages around it: code runs, links and files exist, nothing is left out."""

import pathlib
import re

import pytest

from jaxdml import losses, mining
from jaxdml._version import __version__

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_python_blocks_run():
  blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, "README.md", "exec"), {})


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def slug(heading):
  """The anchor that GitHub gives a heading."""
  return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_headings_and_configs_exist(page):
  text, folder = (ROOT / page).read_text(), (ROOT / page).parent
  missing = [path for path in re.findall(r"configs/\w+\.py", text) if not (ROOT / path).exists()]
  links = re.findall(r"\]\((?!http)([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
  assert links
  for link in links:
    path, _, anchor = link.partition("#")
    target = folder / path if path else ROOT / page
    if not target.exists():
      missing.append(link)
    elif anchor:
      headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
      missing += [link] if anchor not in map(slug, headings) else []
  assert missing == []


def test_the_index_has_every_page_once():
  index = (ROOT / "docs" / "README.md").read_text()
  pages = sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md")
  assert sorted(re.findall(r"^- \[(\S+)\]\(\1\)", index, flags=re.MULTILINE)) == pages


def test_the_page_on_training_names_configs_and_its_writer_writes(tmp_path):
  text = (ROOT / "docs" / "training.md").read_text()
  table = "".join(line for line in text.splitlines() if line.startswith("| `") and ".py" in line)
  named = re.findall(r"`(\w+\.py)", table)
  assert len(named) > 8 and all((ROOT / "configs" / name).exists() for name in named)
  (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
  names = {}
  exec(compile(block, "docs/training.md", "exec"), names)
  for resumed, step in ((None, 1), (1, 2)):
    lines = names["Lines"](tmp_path, {}, resumed)
    lines.write(step, {"loss": 0.5})
    lines.close()
  assert (tmp_path / "lines.txt").read_text() == "1 loss 0.5\n2 loss 0.5\n"


def test_the_citation_and_the_changelog_have_the_version():
  """And the date of its release; what comes after it has its heading above."""
  headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
  version, date = re.fullmatch(r"\[(.+)\] - (\d{4}-\d\d-\d\d)", headings[1]).groups()
  assert headings[0] == "[Unreleased]" and version == __version__
  citation = (ROOT / "CITATION.cff").read_text()
  assert f"\nversion: {version}\ndate-released: {date}\n" in citation


def test_it_counts_the_losses_and_miners_that_there_are():
  parametric = sum(record.parameter is not None for record in losses.LOSSES.values())
  plain = len(losses.LOSSES) - parametric
  assert f"{plain} of embeddings and labels and {parametric} with parameters" in README
  assert f"any of {len(mining.MINERS)} miners" in README


def test_no_placeholder_is_left():
  assert "PLACEHOLDER" not in README
