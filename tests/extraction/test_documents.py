"""Documents as input: their text, their pages, and one line for what cannot be read."""

import sys
from pathlib import Path

import pytest
from helpers.rules import AnswerEngine
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import Extractor, InputError, read_document
from iepile_builder.answers.grounding import Mention, Span


def write_pdf(path: Path, *pages: str, password: str | None = None, anybody: bool = False) -> Path:
    """A PDF with a line of text on each page."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {NameObject(f"/{key}"): NameObject(f"/{value}") for key, value in
         (("Type", "Font"), ("Subtype", "Type1"), ("BaseFont", "Helvetica"))}
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(300, 300)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode("latin-1"))
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt("" if anybody else password, password, algorithm="RC4-128")
    writer.write(path)
    return path


HTML = """<html><head><title>x</title><style>p {color: red}</style><script>alert("Eve")</script></head><body>
<h1>Acme &amp; Söhne</h1><p>Ada <b>Lovelace</b> works in&nbsp;Köln.</p>
<table><tr><th>item</th><th>price</th></tr><tr><td>desk</td><td>12 €</td></tr></table></body></html>"""


def test_facts_in_a_pdf_have_their_page(tmp_path: Path) -> None:
    document = read_document(write_pdf(tmp_path / "a.PDF", "Ada met Bob.", "", "Ada is in Rome."))
    assert document == "Ada met Bob.\n\nAda is in Rome.\n"
    assert document.pages == (0, 13, 14)
    answer = {"person": ["Ada", "Ada", "Bob", "Eve"], "city": ["Rome"]}
    result = Extractor(AnswerEngine(answer))(document, "NER", ["person", "city"])
    found = [(fact.entity, fact.entity.page) for fact in result.facts]
    assert found == [("Ada", 1), ("Bob", 1), ("Ada", 3), ("Rome", 3), ("Eve", None)]
    assert result.facts[3].entity.to_dict() == {
        "text": "Rome", "start": 24, "end": 28, "page": 3, "match": "exact", "score": 1.0,
    }  # fmt: skip
    assert "page 3, 24:28" in result.to_html()
    assert "page" not in result.to_dict()["facts"][4]["entity"]
    event = {"meet": [{"trigger": "met", "arguments": {"who": "Ada"}}]}
    (found_event,) = Extractor(AnswerEngine(event))(document, "EE", {"meet": ["who"]}).events
    assert (found_event.trigger.page, found_event.arguments[0].argument.page) == (1, 1)


@given(st.lists(st.text("ab ", max_size=6), min_size=1, max_size=5))
def test_a_place_is_on_the_page_that_holds_it(pages: list[str]) -> None:
    starts = [sum(len(page) + 1 for page in pages[:number]) for number in range(len(pages))]
    for number, page in enumerate(pages):
        for offset in range(len(page)):
            place = starts[number] + offset
            assert Mention("x", Span(place, place + 1)).paged(starts).page == number + 1
    assert Mention("x").paged(starts).page is None


def test_html(tmp_path: Path) -> None:
    for number, (encoding, declared) in enumerate(
        [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", ""), ("cp1252", ""), ("cp1252", "iso-8859-1"), ("utf-8", "gbk")]
    ):
        file = tmp_path / f"{number}.html"
        file.write_bytes(HTML.replace("<title>", f'<meta charset="{declared}"><title>', 1).encode(encoding))
        document = read_document(file)
        assert "Acme & Söhne" in document and "Ada Lovelace works in Köln." in document, encoding
        assert "desk" in document and "12 €" in document
        assert not any(word in document for word in ("alert", "color", "<"))
        assert document.pages == ()
    (tmp_path / "zh.htm").write_bytes('<meta charset="gb2312"><p>艾达在罗马。</p>'.encode("gb18030"))
    assert read_document(tmp_path / "zh.htm").strip() == "艾达在罗马。"


def test_docx(tmp_path: Path) -> None:
    import docx

    made = docx.Document()
    made.add_paragraph("Ada met Bob.")
    table = made.add_table(rows=2, cols=2)
    for number, text in enumerate(["desk", "12 €", "chair"]):
        table.cell(number // 2, number % 2).text = text
    table.cell(1, 0).merge(table.cell(1, 1))
    made.add_paragraph("艾达在罗马。")
    made.save(tmp_path / "a.docx")
    assert read_document(tmp_path / "a.docx") == "Ada met Bob.\ndesk\t12 €\nchair\n艾达在罗马。"


def test_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffAda\r\nBob".encode())
    assert read_document(str(tmp_path / "a.txt")) == "Ada\r\nBob"


def test_what_anybody_may_open_is_read(tmp_path: Path) -> None:
    assert read_document(write_pdf(tmp_path / "a.pdf", "Ada", password="x", anybody=True)).strip() == "Ada"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"", "a.pdf: not a pdf file that can be read ("),
        ("a.pdf", b"%PDF-1.7\ngarbage", "a.pdf: not a pdf file that can be read ("),
        ("a.docx", b"", "a.docx: not a docx file that can be read ("),
        ("a.docx", b"PK\x03\x04 no zip", "a.docx: not a docx file that can be read ("),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1", "a.docx: encrypted, or an old .doc; save it as .docx"),
        ("a.html", b"", "a.html: no text"),
        ("a.html", b"<p> </p>", "a.html: no text"),
        ("a.txt", b" \n", "a.txt: no text"),
        ("a.pptx", b"\xff\xfe\x80", "a.pptx: not UTF-8 (invalid start byte); give a text in UTF-8, or a .pdf, .html"),
        ("folder", None, "folder: Is a directory; give a text, PDF, HTML or DOCX file"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_document(tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_encrypted_and_scanned_pdfs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a.pdf: encrypted; save it without a password"):
        read_document(write_pdf(tmp_path / "a.pdf", "Ada", password="secret"))
    with pytest.raises(InputError, match="no text in its 2 pages; if it is a scan, run OCR on it first"):
        read_document(write_pdf(tmp_path / "b.pdf", "", ""))


@pytest.mark.parametrize(("name", "package"), [("a.pdf", "pypdf"), ("a.html", "inscriptis"), ("a.docx", "docx")])
def test_a_converter_that_is_missing(tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as error:
        read_document(tmp_path / name)
    assert str(error.value) == f"{package} is not installed: pip install 'iepile-builder[documents]'"
