"""The documentation site: ``make docs`` builds it from the Markdown of this folder; a warning is a failure."""

import os
import re
from pathlib import Path

import lm_eval_ensemble

ROOT = Path(__file__).resolve().parent.parent

project = "lm_eval_ensemble"
author = "The lm_eval_ensemble contributors"
release = version = lm_eval_ensemble.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
# Archives and what they hold are linked, not rendered.
exclude_patterns = ["data/README.md"]
html_theme = "furo"
html_title = f"Ensembles in lm_eval, {release}"
# Links lead to headings by the anchors that GitHub gives them.
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_inherit_docstrings = False

#: Pages whose text stands elsewhere in the repository, where GitHub shows it.
BROUGHT = {
    "readme": "README.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
    "measured": "benchmarks/RESULTS.md",
}


PAGES = {(ROOT / path).resolve(): name for name, path in BROUGHT.items()}


def bring(app, page, source):  # noqa: ANN001, ANN201
    """Puts the text of a brought page in its place, and leads links to and from such texts to pages of the site."""
    here = ROOT / "docs"
    if page in BROUGHT:
        path = ROOT / BROUGHT[page]
        source[0], here = path.read_text(encoding="utf-8"), path.parent

    def lead(link):  # noqa: ANN001, ANN202
        found, anchor = (here / link[1]).resolve(), link[2] or ""
        if found in PAGES:
            return f"]({PAGES[found]}.md{anchor})"
        # Markdown that is no page of the site is a file to look at.
        kind = "path:" if found.suffix == ".md" and ROOT / "docs" not in found.parents else ""
        return f"]({kind}{os.path.relpath(found, ROOT / 'docs')}{anchor})" if found.exists() else link[0]

    source[0] = re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)", lead, source[0])


def setup(app):  # noqa: ANN001, ANN201
    app.connect("source-read", bring)
