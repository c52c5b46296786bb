"""Where progress bars go."""

import sys

import pytest

from jaxdml import _text


@pytest.mark.parametrize("modules, disabled", [(("ipykernel",), False), ((), None)])
def test_bars_are_drawn_in_a_notebook_and_else_where_there_is_a_terminal(
  modules, disabled, monkeypatch
):
  monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
  for name in modules:
    monkeypatch.setitem(sys.modules, name, _text)
  assert _text.bar_options()["disable"] is disabled
