"""Settings of the documentation site. `make docs` builds it from the Markdown that the repository shows."""

import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
repository = "https://github.com/srpo-dev/srpo/blob/main"

project = "srpo"
copyright = "the srpo authors"
extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["strikethrough"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "srpo"
html_show_sourcelink = False
html_extra_path = ["results/tabletop.html"]
# A table of measurements may show code that is not valid in its language.
suppress_warnings = ["misc.highlighting_failure"]

link = re.compile(r"(\]\()((?!https?://|#|mailto:)[^)#\s]+)")


def _links(text: str, folder: Path) -> str:
    """Point links that leave docs/ at the repository. A link to nothing stays and fails the build."""

    def resolve(match: re.Match) -> str:
        target = (folder / match[2]).resolve()
        if not target.exists():
            return match[0]
        if target.is_dir() and (target / "README.md").exists() and target.is_relative_to(root / "docs"):
            target = target / "README.md"
        if target.is_relative_to(root / "docs") and target.suffix in {".md", ".svg", ".gif", ".jpg", ".png"}:
            return match[1] + "/" + str(target.relative_to(root / "docs"))
        return f"{match[1]}{repository}/{target.relative_to(root)}"

    return link.sub(resolve, text)


def _read(app, document: str, content: list[str]) -> None:
    if document == "index":
        content[0] = _links((root / "README.md").read_text(), root) + "\n" + content[0]
    else:
        content[0] = _links(content[0], (root / "docs" / document).parent)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
