"""Graphs for other programs: whatever strings hold, they come back, and none becomes syntax."""

import json
import re
import sys
from pathlib import Path
from zipfile import ZipFile

import networkx
import pytest
import rdflib
from helpers.rules import AnswerEngine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iepile_builder import Extractor, IEPile, InputError
from iepile_builder.extraction.export import SUFFIXES, check_file, save, to_cypher, to_graphml, to_turtle
from iepile_builder.extraction.graph import Edge, Node


TEXT = "Ada Lovelace resigned from Acme in Rome."
SCHEMA = {
    "entities": ["person", "city"],
    "relations": ["located in"],
    "events": {"resign": ["employee", "employer"]},
}
ANSWER = {
    "person": ["Ada Lovelace"],
    "city": ["Rome"],
    "located in": [{"subject": "Acme", "object": "Rome"}],
    "resign": [{"trigger": "resigned", "arguments": {"employee": "Ada Lovelace", "employer": "Acme"}}],
}
IE = "urn:iepile:"

strings = st.text(
    st.sampled_from("ab\\u0027'\"`\n\r\t<>&;{}()[]$/ 人\x00\x0b\ufffe\ud800#:%.-_"), min_size=1, max_size=9
)
kinds = strings.filter(str.strip)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, Node], list[Edge]]:
    """A graph with any strings for names, types and relations."""
    names = draw(st.lists(strings, min_size=1, max_size=4, unique=True))
    nodes = {name: Node(name, draw(st.just("") | kinds)) for name in names}
    ends = st.sampled_from(names)
    scores = st.none() | st.floats(0, 1)
    return nodes, draw(st.lists(st.builds(Edge, ends, kinds, ends, scores), max_size=4))


EVIL = "a\\u0027}) DETACH DELETE n; //"


def clean(text: str) -> str:
    """What a file of text can hold."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


def lines_unified(text: str) -> str:
    return clean(text).replace("\r\n", "\n").replace("\r", "\n")


@given(graphs())
def test_graphml_comes_back(graph: tuple[dict[str, Node], list[Edge]]) -> None:
    nodes, edges = graph
    read = networkx.parse_graphml(to_graphml(nodes, edges), force_multigraph=True)
    assert [read.nodes[f"n{number}"] for number in range(len(nodes))] == [
        {"label": lines_unified(node.label), "type": lines_unified(node.kind)} for node in nodes.values()
    ]
    found = {key: (source, target, data) for source, target, key, data in read.edges(keys=True, data=True)}
    names = list(nodes)
    for number, edge in enumerate(edges):
        source, target, data = found.pop(f"e{number}")
        assert (names[int(source[1:])], names[int(target[1:])]) == (edge.source, edge.target)
        assert data == {"label": lines_unified(edge.label)} | ({} if edge.score is None else {"score": edge.score})
    assert not found


# An independent reader of the statements, by the openCypher grammar
TOKEN = re.compile(r"'((?:[^'\\\n]|\\.)*)'|`((?:[^`\n]|``)*)`|([^'`\n]+)")
UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'"}


def unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else UNESCAPED[found[2]]


def read_tokens(line: str) -> tuple[str, list[str], list[str]]:
    """The syntax of a line without its strings and names, and these."""
    syntax, texts, names, place = "", [], [], 0
    while place < len(line):
        token = TOKEN.match(line, place)
        assert token, line[place:]
        if token[1] is not None:
            texts.append(re.sub(r"\\(?:u([0-9a-f]{4})|(.))", unescape, token[1]))
        elif token[2] is not None:
            names.append(token[2].replace("``", "`"))
        syntax += token[3] or ("'" if token[1] is not None else "`")
        place = token.end()
    return syntax, texts, names


@pytest.mark.parametrize("replaced_first", [False, True], ids=["", "unicode escapes are replaced first"])
@settings(max_examples=200)
@given(graph=graphs())
@example(graph=({EVIL: Node(EVIL, EVIL)}, [Edge(EVIL, EVIL, EVIL)]))
def test_cypher_comes_back(replaced_first: bool, graph: tuple[dict[str, Node], list[Edge]]) -> None:
    nodes, edges = graph
    lines = to_cypher(nodes, edges).split("\n")
    assert lines.pop() == "" and len(lines) == len(nodes) + len(edges)
    for line, item in zip(lines, [*nodes.values(), *edges], strict=True):
        if replaced_first:
            line = re.sub(r"\\u([0-9a-fA-F]{4})", lambda each: chr(int(each[1], 16)), line)
        syntax, texts, names = read_tokens(line)
        name = item.kind if isinstance(item, Node) else item.label
        written = [" ".join(clean(name).replace("\\", "/").split())] if name else []
        assert names == written
        if isinstance(item, Node):
            kind = ", n.type = ', n:`" if item.kind else ""
            assert syntax == f"MERGE (n:Entity {{id: '}}) SET n.name = '{kind};"
            assert texts == [clean(item.label), clean(item.label), *([clean(item.kind)] if item.kind else [])]
        else:
            score = "" if item.score is None else f", r.score = {item.score!r}"
            ends = "MATCH (a:Entity {id: '}), (b:Entity {id: '}) MERGE (a)-[r:`]->(b)"
            assert syntax == f"{ends} SET r.name = '{score};"
            assert texts == [clean(item.source), clean(item.target), clean(item.label)]


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_turtle_comes_back(graph: tuple[dict[str, Node], list[Edge]]) -> None:
    nodes, edges = graph
    read = rdflib.Graph().parse(data=to_turtle(nodes, edges), format="turtle")
    labels = {subject: str(label) for subject, label in read.subject_objects(rdflib.RDFS.label)}
    relations = {
        (labels[source], labels[relation], labels[target])
        for source, relation, target in read
        if relation.startswith(f"{IE}relation/")
    }
    assert relations == {tuple(map(lines_unified, (edge.source, edge.label, edge.target))) for edge in edges}
    types = {(labels[subject], labels[kind]) for subject, kind in read.subject_objects(rdflib.RDF.type)}
    assert types == {(lines_unified(node.label), lines_unified(node.kind)) for node in nodes.values() if node.kind}


def test_what_the_files_hold(tmp_path: Path) -> None:
    result = Extractor(AnswerEngine(ANSWER))(TEXT, SCHEMA)
    for suffix in SUFFIXES:
        result.save(tmp_path / "new" / f"out{suffix}")
    assert (tmp_path / "new" / "out.html").read_text(encoding="utf-8") == result.to_html()
    assert (tmp_path / "new" / "out.json").read_text(encoding="utf-8") == result.to_json() + "\n"
    lines = (tmp_path / "new" / "out.cypher").read_text(encoding="utf-8").splitlines()
    event = re.search("[0-9a-f]{16}", lines[3])[0]
    assert lines == [
        "MERGE (n:Entity {id: 'Ada Lovelace'}) SET n.name = 'Ada Lovelace', n.type = 'person', n:`person`;",
        "MERGE (n:Entity {id: 'Rome'}) SET n.name = 'Rome', n.type = 'city', n:`city`;",
        "MERGE (n:Entity {id: 'Acme'}) SET n.name = 'Acme';",
        f"MERGE (n:Event {{id: '{event}'}}) SET n.name = 'resign: resigned', n.type = 'resign', n:`resign`;",
        "MATCH (a:Entity {id: 'Acme'}), (b:Entity {id: 'Rome'}) MERGE (a)-[r:`located in`]->(b) "
        "SET r.name = 'located in';",
        f"MATCH (a:Event {{id: '{event}'}}), (b:Entity {{id: 'Ada Lovelace'}}) MERGE (a)-[r:`employee`]->(b) "
        "SET r.name = 'employee';",
        f"MATCH (a:Event {{id: '{event}'}}), (b:Entity {{id: 'Acme'}}) MERGE (a)-[r:`employer`]->(b) "
        "SET r.name = 'employer';",
    ]
    triples = rdflib.Graph().parse(tmp_path / "new" / "out.ttl")
    acme, rome = (rdflib.URIRef(f"{IE}entity/{name}") for name in ("Acme", "Rome"))
    assert (acme, rdflib.URIRef(f"{IE}relation/located%20in"), rome) in triples
    assert (rdflib.URIRef(f"{IE}event/{event}"), rdflib.RDF.type, rdflib.URIRef(f"{IE}type/resign")) in triples
    read = networkx.read_graphml(tmp_path / "new" / "out.graphml")
    assert sorted(read.nodes(data="type")) == [("n0", "person"), ("n1", "city"), ("n2", ""), ("n3", "resign")]


def test_the_graph_of_several_texts(tmp_path: Path) -> None:
    texts = [TEXT, TEXT, "Rome is in Italy."]
    results = list(Extractor(AnswerEngine(ANSWER))(texts, SCHEMA))
    save(results, tmp_path / "out.ttl")
    triples = rdflib.Graph().parse(tmp_path / "out.ttl")
    events = {subject for subject in triples.subjects() if subject.startswith(f"{IE}event/")}
    assert len(events) == 1  # the three say the same
    with pytest.raises(InputError, match="out.html: holds one result, not 3; a graph may be of all of them"):
        save(results, tmp_path / "out.html")


def test_a_string_may_be_called_as_an_event() -> None:
    answer = {"meet": [{"trigger": "met", "arguments": {"where": "event 1", "who": "Ada"}}]}
    nodes, edges = Extractor(AnswerEngine(answer))("Ada met at event 1.", "EE", {"meet": ["who", "where"]}).graph()
    assert nodes.keys() == {"event 1", "event 2", "Ada"}
    assert nodes["event 1"] == Node("event 1", "") and {edge.source for edge in edges} == {"event 2"}


def test_files_of_other_kinds_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"out.txt: of no known kind; give a name that ends in .html, .json, .graphml"
    ):
        check_file(tmp_path / "out.txt")
    monkeypatch.setitem(sys.modules, "rdflib", None)
    with pytest.raises(InputError, match=r"rdflib is not installed: pip install 'iepile-builder\[graph\]'"):
        check_file(tmp_path / "out.ttl")


def test_results_become_training_records(tmp_path: Path) -> None:
    """Extract, correct, train: an unpacked zip is what `iepile build` reads; strings not in the text are left out."""
    extractor = Extractor(AnswerEngine({**ANSWER, "city": ["Rome", "Paris"]}))
    save(list(extractor([TEXT, "Rome."], SCHEMA)), tmp_path / "found.zip")
    ZipFile(tmp_path / "found.zip").extractall(tmp_path)
    built = IEPile(data_dir=str(tmp_path / "corpora"), tasks=["NER", "RE", "EE"], cache_dir=str(tmp_path / "cache"))
    answers = [(row["task"], json.loads(row["output"])) for row in built.as_dataset(split="train")]
    assert ("NER", {"person": ["Ada Lovelace"], "city": ["Rome"]}) in answers
    assert ("NER", {"person": [], "city": ["Rome"]}) in answers
    assert ("EE", {"resign": ANSWER["resign"]}) in answers
