"""The site: ``sphinx-build -W docs site`` writes pages that open from a folder, offline, without fetching anything."""

from __future__ import annotations

import sys
from pathlib import Path

from landscape import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "ncsam-landscape"
author = "the ncsam-landscape authors"
release = __version__
html_title = f"ncsam-landscape {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_extension",
]
exclude_patterns = ["results/**/README.md"]
highlight_language = "text"  # an indented block on these pages is a formula or a layout, not Python
nitpicky = False

myst_enable_extensions = ["dollarmath", "attrs_inline", "deflist", "html_image"]
myst_heading_anchors = 4  # named as code hosts name them, so that a link works in both places

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
