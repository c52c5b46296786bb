"""What benchmarks/compiled.py keeps of a page's table when it compiled some of its steps anew."""

import pathlib
from types import ModuleType

import pytest

MACHINE = "A machine, 2 cores; jax 1."
HEAD = ["| step | chips | peak |", "|---|---|---|"]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
  """The script's room of tables, imported as the script imports it."""
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).resolve().parent.parent))
  import _compiled_tables

  return _compiled_tables


def _row(config: str, target: str, peak: str) -> str:
  return f"| {config}, 32 a chip | {target} | {peak} |"


def test_rows_that_were_not_made_now_stay_and_order_is_the_scripts(tables):
  old = [*HEAD, _row("hdml_glyphs", "h100", "1"), _row("hdml_cars", "v5e:2x2", "2"), "", MACHINE]
  new = [*HEAD, _row("hdml_cars", "v5e:2x2", "3"), _row("hdml_cars", "h100", "4")]
  assert tables.with_kept(new, old, MACHINE) == [
    *HEAD, _row("hdml_glyphs", "h100", "1"), *new[2:],
  ]  # fmt: skip


def test_a_step_that_does_not_fit_has_no_images_and_is_replaced_once_it_does(tables):
  old = [*HEAD, "| hdml_cars | v5e:2x2 | does not fit |", "", MACHINE]
  new = [*HEAD, _row("hdml_cars", "v5e:2x2", "3")]
  assert tables.with_kept(new, old, MACHINE) == new


def test_a_step_that_is_no_more_goes(tables):
  new = [*HEAD, _row("hdml_cars", "h100", "3")]
  assert tables.with_kept(new, [*HEAD, _row("gone", "h100", "1"), "", MACHINE], MACHINE) == new


def test_rows_of_another_machine_are_not_mixed_in(tables):
  old = [*HEAD, _row("hdml_glyphs", "h100", "1"), "", "Another machine; jax 1."]
  new = [*HEAD, _row("hdml_cars", "h100", "3")]
  with pytest.raises(SystemExit, match=r"Another machine.*hdml_glyphs, h100"):
    tables.with_kept(new, old, MACHINE)
  assert tables.with_kept([*HEAD, _row("hdml_glyphs", "h100", "2")], old, MACHINE)


def test_no_table_yet(tables):
  new = [*HEAD, _row("hdml_cars", "h100", "3")]
  assert tables.with_kept(new, [], MACHINE) == new
