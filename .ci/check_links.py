"""Check a built site: every link and image of it leads somewhere, and nothing is loaded from afar.

Usage: python .ci/check_links.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img", "script", "source", "iframe", "video", "audio", "embed"}
"""Elements whose target a browser fetches by itself; `link` does so for some `rel`."""


class Page(HTMLParser):
    """Anchors of a page, where it links to, and images without a description."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.loads, self.bare = {""}, set(), set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        given = dict(attrs)
        self.anchors |= {given[k] for k in ("id", "name") if given.get(k)}
        target = given.get("href") or given.get("src")
        if target:
            loaded = tag in LOADED or (tag == "link" and "canonical" not in (given["rel"] or ""))
            (self.loads if loaded else self.links).add(target)
        if tag == "img" and not given.get("alt"):
            self.bare.append(target)


def problems(site: Path) -> list[str]:
    """Return a line for every target that is not there."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"no page in {site}"]
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        found += [f"{name}: the image {target} has no alt text" for target in page.bare]
        for target in sorted(page.links | page.loads):
            url = urlsplit(target)
            if url.scheme == "data" or (url.scheme and target not in page.loads):
                continue
            if url.scheme or url.netloc:
                found.append(f"{name} loads {target}")
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                found.append(f"{name} links to {target}, which is not there")
            elif file in pages and unquote(url.fragment) not in pages[file].anchors:
                found.append(f"{name} links to {target}, but that page has no such anchor")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) if lines else "every link of the site leads somewhere")
    raise SystemExit(bool(lines))
