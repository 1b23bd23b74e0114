"""A self-contained HTML page: tables, figures as SVG inside it, one style sheet."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from bitlaw.pages.figure import svg


def document(title: str, sections: Iterable[str]) -> str:
    """The page: `sections` are HTML, one below the other."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body="\n".join(sections))


def table(
    header: Iterable[str],
    rows: Iterable[Sequence[str]],
    text: Collection[str] = (),
    code: Collection[str] = ("scheme",),
) -> str:
    """A table; the columns named in `text` and `code` to the left, numbers to the right."""
    header = tuple(header)
    kinds = ["code" if name in code else "" if name in text else "num" for name in header]
    head = _cells("th", kinds, header)
    body = "".join(f"<tr>{_cells('td', kinds, row)}</tr>" for row in rows)
    framed = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{framed}</div>'


def _cells(tag: str, kinds: Sequence[str], values: Sequence[str]) -> str:
    return "".join(
        f'<{tag} class="{kind}">{escape(value)}</{tag}>'
        for kind, value in zip(kinds, values, strict=True)
    )


def figure(number: int, drawn: Figure, caption: str) -> str:
    """A figure as an SVG inside the page, numbered, with its caption."""
    data = base64.b64encode(svg(drawn)).decode()
    width = round(100 * drawn.get_figwidth())
    alt = escape(f"Figure {number}: {caption.split('. ')[0].rstrip('.')}")
    image = f'<img width="{width}" alt="{alt}" src="data:image/svg+xml;base64,{data}">'
    caption = f"<figcaption>Figure {number}. {escape(caption)}</figcaption>"
    return f"<figure>{image}{caption}</figure>"
