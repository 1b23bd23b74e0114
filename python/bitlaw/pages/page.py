"""A self-contained HTML page: tables, figures as SVG inside it, one style sheet."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from bitlaw.pages.figure import svg


@dataclass(frozen=True)
class Drawn:
    """A figure of a page, which is also a file of this name; narrow ones stand side by side."""

    name: str
    figure: Figure
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a page, which is also a CSV file of this name; `text` and `code` as in `table`."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: tuple[str, ...] = ()
    code: tuple[str, ...] = ("scheme",)

    @property
    def html(self) -> str:
        return table(self.header, self.rows, self.text, self.code)

    @property
    def csv(self) -> str:
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.header, *self.rows])
        return file.getvalue()


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


def figures(drawn: Iterable[Drawn]) -> str:
    """Figures numbered from 1, those that are narrow last and side by side."""
    drawn = sorted(drawn, key=lambda one: one.narrow)
    parts = [figure(k, one.figure, one.caption) for k, one in enumerate(drawn, start=1)]
    wide = sum(not one.narrow for one in drawn)
    pair = f'<div class="pair">{"".join(parts[wide:])}</div>' if parts[wide:] else ""
    return "\n".join([*parts[:wide], pair])


def paragraphs(sentences: Iterable[str], kind: str = "") -> str:
    """Plain sentences, a paragraph each."""
    return "".join(f'<p class="{kind}">{escape(sentence)}</p>' for sentence in sentences)


def definitions(items: Mapping[str, str]) -> str:
    """A list of names and what they are."""
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items.items())
    return f"<dl>{body}</dl>"
