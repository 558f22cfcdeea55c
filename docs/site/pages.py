"""Pages of the site that are files elsewhere in the repository, and links between all of them.

In the repository, links name files; on the site, those that are pages become links to these pages.
Files that are no pages, such as configurations, are named without a link.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "index.md": "README.md",
    "configuration.md": "config/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
_LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)"
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are files elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links to files of the repository into links to pages."""
    here = page.file.src_uri
    pages = {source: target for target, source in ELSEWHERE.items()}
    folder = posixpath.dirname(ELSEWHERE.get(here, f"docs/{here}"))

    def replaced(link: re.Match[str]) -> str:
        mark, text, path, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(folder, path))
        if path not in pages and not path.startswith("docs/"):
            if not (ROOT / path).exists():
                raise FileNotFoundError(f"{here} links to {path}, which does not exist")
            return text
        target = pages.get(path, path.removeprefix("docs/"))
        relative = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{mark}[{text}]({relative}{anchor or ''})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(replaced, part) for part in parts)
