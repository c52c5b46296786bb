"""The site: docs/ and README.md as pages, and a reference made from the docstrings.

python -m sphinx -W --keep-going -c docs . build/site

The source folder is the repository, so that links between pages mean the same on a code host.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from jaxdml._version import __version__  # noqa: E402

project = "jaxdml"
release = version = __version__
copyright = "the authors of jaxdml, Apache-2.0"
html_title = f"jaxdml {release}"

root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/api/*.md"]
exclude_patterns = [
  ".*", "benchmarks", "build", "colab", "configs", "dist", "docs/images", "docs/results", "jaxdml",
  "runs", "studies", "tests",
]  # fmt: skip
extensions = [
  "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode",
  "reference", "docstrings", "formulas", "pages",
]  # fmt: skip

myst_enable_extensions = ["attrs_block", "dollarmath", "fieldlist"]
myst_heading_anchors = 6  # GitHub's, to any depth
myst_dmath_allow_space = False
suppress_warnings = ["myst.header"]  # a page may leave out a level of headings

autodoc_preserve_defaults = True  # as written, not what they are at run time
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_js_files = [("site.js", {"priority": 490})]  # before Sphinx's own search
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
html_theme_options = {"navigation_with_keys": False}
