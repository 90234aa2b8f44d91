"""Sphinx: `sphinx-build -W docs SITE` builds the site; needs `pip install ".[docs]"`."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

project = "dlnflow"
author = "The dlnflow authors"
copyright = "The dlnflow authors"
release = version = installed("dlnflow")

extensions = [
    "myst_nb",  # pages in Markdown; tutorials are executed
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "formulas",  # the rest stands in docs/_ext
    "api",
    "docstrings",
    "gallery",
]
exclude_patterns = ["_build", "generated"]
templates_path = []

html_theme = "furo"
html_title = "dlnflow"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_baseurl = os.environ.get("SITE_URL", "")
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f5a91",
        "color-brand-content": "#1f5a91",
        "color-brand-visited": "#5b3f8c",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8fbfe8",
        "color-brand-content": "#8fbfe8",
        "color-brand-visited": "#c3a8ee",
    },
}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = "cache"
nb_execution_cache_path = os.environ.get("SITE_CACHE", str(DOCS / "_build" / "cache"))
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the kernels, which run beside each other

default_role = "py:obj"
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # signatures show them as written; docstrings give shapes and units
autodoc_preserve_defaults = True
add_module_names = False
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_ivar = True  # else attributes are described twice
napoleon_use_rtype = False
suppress_warnings = [
    "config.cache",
    "toc.not_included",  # a page that only others link to is a page all the same
    "ref.python",  # what a package offers from one of its modules is described in both places
]
