"""docs/methods.md: its table of variants is the code's, and the functions it names exist."""

import pathlib
import re

from jaxdml import hdml, mining
from jaxdml.training import defaults, variants
from jaxdml.training.config import flatten

TEXT = (pathlib.Path(__file__).resolve().parent.parent / "docs" / "methods.md").read_text()


def _cell(value):
  if isinstance(value, dict):
    npair, triplet = value["npair"], value["triplet"]
    return f"`{npair}`, `{triplet}`"
  return f"`{value}`"


def table():
  lines = ["| key | paper | code | default | what it is |", "|---|---|---|---|---|"]
  for point in variants.POINTS:
    values = " | ".join(_cell(getattr(point, name)) for name in ("paper", "code", "default"))
    lines.append(f"| `{point.key}` | {values} | {point.what} |")
  return "\n".join(lines)


def test_the_table_of_variants_is_the_code_s():
  found = re.search(r"<!-- variants -->\n(.*?)\n?<!-- end -->", TEXT, flags=re.DOTALL)[1]
  assert found == table(), f"docs/methods.md should have:\n{table()}"


def test_every_function_and_key_it_names_exists():
  names = set(re.findall(r"`((?:hdml|mining)\.[a-z_]+)", TEXT))
  keys = {key for key in flatten(defaults.get_config().to_dict()) if key in names}
  assert len(names) >= 12 and len(keys) >= 3
  for name in names - keys:
    module, _, attribute = name.partition(".")
    assert callable(getattr({"hdml": hdml, "mining": mining}[module], attribute)), name
