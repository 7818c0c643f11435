"""Read the text of a document: PDF with its pages, HTML, DOCX, or plain text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from iepile_builder.errors import InputError


_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_OLE = b"\xd0\xcf\x11\xe0"  # an encrypted .docx, or an old .doc


class Document(str):
    """
    The text of a document; the mentions that an extractor finds in it have their `page`.

    Attributes:
        pages (`tuple[int, ...]`):
            Where each page starts in the text; empty for a document without pages.
    """

    pages: tuple[int, ...]

    def __new__(cls, text: str, pages: tuple[int, ...] = ()) -> Document:
        document = super().__new__(cls, text)
        document.pages = pages
        return document


def read_document(path: str | Path) -> Document:
    """
    Read the text of a file: of a `.pdf`, page by page; of a `.html` as a browser lays it out, with its tables; of a
    `.docx` its body, with its tables; of any other file as UTF-8. All but the last need the extra `documents`.

    Raises:
        `InputError`: If the file cannot be read, is encrypted, or has no text, as a scan.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a text, PDF, HTML or DOCX file") from None
    read = _READERS.get(path.suffix.lower(), _read_text)
    try:
        document = read(path, content)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install 'iepile-builder[documents]'") from None
    except Exception as error:  # whatever a converter raises for a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a {path.suffix[1:]} file that can be read ({reason[:200]})") from None
    if not document.strip():
        pages = f" in its {len(document.pages)} pages; if it is a scan, run OCR on it first" if document.pages else ""
        raise InputError(f"{path}: no text{pages}")
    return document


def _read_pdf(path: Path, content: bytes) -> Document:
    """Read a PDF; one that anybody may open is not encrypted for us."""
    from io import BytesIO

    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    reader = PdfReader(BytesIO(content))
    try:
        closed = reader.is_encrypted and not reader.decrypt("")
    except DependencyError:
        closed = True
    if closed:
        raise InputError(f"{path}: encrypted; save it without a password")
    return _join_pages(page.extract_text().rstrip() for page in reader.pages)


def _join_pages(pages: Iterator[str]) -> Document:
    text, starts = "", []
    for page in pages:
        starts.append(len(text))
        text += page + "\n"
    return Document(text, tuple(starts))


def _read_docx(path: Path, content: bytes) -> Document:
    from io import BytesIO

    from docx import Document as open_docx

    if content.startswith(_OLE):
        raise InputError(f"{path}: encrypted, or an old .doc; save it as .docx without a password")
    return Document("\n".join(_list_lines(open_docx(BytesIO(content)))))


def _list_lines(container: Any) -> Iterator[str]:
    """List the paragraphs of a body or a cell, and the rows of its tables with tabs between their cells."""
    for block in container.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                cells = {id(cell._tc): cell for cell in row.cells}  # a merged cell is there several times
                yield "\t".join(" ".join(_list_lines(cell)) for cell in cells.values())
        else:
            yield block.text


def _read_html(path: Path, content: bytes) -> Document:
    from inscriptis import Inscriptis
    from lxml.html import HTMLParser, document_fromstring

    encoding = _find_encoding(content)
    text = content.decode(encoding, "replace")
    if not text.strip():
        return Document("")
    # a declaration of another encoding inside would be an error for a string
    tree = document_fromstring(text.encode("utf-8"), parser=HTMLParser(encoding="utf-8"))
    return Document(Inscriptis(tree).get_text())


def _find_encoding(content: bytes) -> str:
    """Find the encoding of a page: its mark, UTF-8 where it is that, or what it says itself."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        content.decode("utf-8")
        return "utf-8-sig"
    except UnicodeDecodeError:
        found = _CHARSET.search(content[:4096])
    name = found[1].decode().lower() if found else "cp1252"
    try:
        codecs.lookup(name)
    except LookupError:
        return "cp1252"
    return "gb18030" if name.startswith("gb") else "cp1252" if name in ("iso-8859-1", "latin1", "utf-8") else name


def _read_text(path: Path, content: bytes) -> Document:
    try:
        return Document(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 ({error.reason}); give a text in UTF-8, or a .pdf, .html or .docx file"
        ) from None


_READERS: dict[str, Callable[[Path, bytes], Document]] = {
    ".pdf": _read_pdf,
    ".html": _read_html,
    ".htm": _read_html,
    ".xhtml": _read_html,
    ".docx": _read_docx,
}
