"""
Write the graph of extractions for other programs.

Equal strings are one node, of one text and of several; an event is a node of its own, and events with the same trigger
and arguments are one.

- `.graphml` (Gephi, yEd, networkx): nodes have a `label` and a `type`, edges a `label` and, where known, a `score`.
- `.cypher` (Neo4j, Memgraph): statements, one a line, that may be run twice. A node is an `Entity` or an `Event` with
  `id`, `name` and `type`, and its type is a label, too; an edge has `name` and `score`, and its name is its type. In
  labels and types a backslash, which some versions read as an escape, becomes a slash.
- `.ttl` (RDF): `urn:iepile:` names of nodes, types and relations, with their `rdfs:label`; without scores.

`.zip` is no graph, but the texts with their facts as training records, to be corrected: see [`pack`].
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from iepile_builder.errors import InputError
from iepile_builder.extraction.corrections import pack, to_corrected
from iepile_builder.extraction.graph import Edge, Node, make_graph
from iepile_builder.io import check_output, write_whole


if TYPE_CHECKING:  # a result writes itself with this file
    import networkx

    from iepile_builder.extraction.result import Result

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # in XML
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NEEDS = {".graphml": "networkx", ".ttl": "rdflib"}
SUFFIXES = (".html", ".json", ".graphml", ".cypher", ".ttl", ".zip")


def check_file(path: Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise an `InputError` unless results can be written to a file of this name, which is none of the inputs."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: of no known kind; give a name that ends in {', '.join(SUFFIXES)}")
    package = _NEEDS.get(path.suffix)
    if package and find_spec(package) is None:
        raise InputError(f"{package} is not installed: pip install 'iepile-builder[graph]'")
    check_output(path, inputs)


def save(results: Sequence[Result], path: str | Path) -> None:
    """
    Write the page (`.html`) or the JSON (`.json`) of a result, or of one or several the graph (`.graphml`, `.cypher`,
    `.ttl`) or the corpora for `iepile build` (`.zip`).

    Raises:
        `InputError`: If the file's name has another end, the package for it is missing, or it cannot be written.
    """
    path = Path(path)
    check_file(path)
    if path.suffix in (".html", ".json"):
        if len(results) != 1:
            raise InputError(f"{path}: holds one result, not {len(results)}; a graph may be of all of them")
        write_whole(path, results[0].to_html() if path.suffix == ".html" else results[0].to_json() + "\n")
    elif path.suffix == ".zip":
        write_whole(path, pack(each for result in results for each in to_corrected(result)))
    else:
        write = {".graphml": to_graphml, ".cypher": to_cypher, ".ttl": to_turtle}[path.suffix]
        write_whole(path, write(*make_graph(extraction for result in results for extraction in result.results)))


def to_graphml(nodes: dict[str, Node], edges: list[Edge]) -> str:
    """Write a graph as GraphML; characters that XML cannot have become U+FFFD."""
    import networkx

    graph: networkx.MultiDiGraph = networkx.MultiDiGraph()
    numbers = {name: f"n{number}" for number, name in enumerate(nodes)}
    for name, node in nodes.items():
        graph.add_node(numbers[name], label=_xml(node.label), type=_xml(node.kind))
    for number, edge in enumerate(edges):
        score = {} if edge.score is None else {"score": edge.score}
        ends = numbers[edge.source], numbers[edge.target]
        graph.add_edge(*ends, key=f"e{number}", label=_xml(edge.label), **score)
    return "\n".join(networkx.generate_graphml(graph)) + "\n"


def _xml(text: str) -> str:
    return _NO_TEXT.sub("\ufffd", text).replace("\r\n", "\n").replace("\r", "\n")


def to_cypher(nodes: dict[str, Node], edges: list[Edge]) -> str:
    """Write a graph as Cypher statements."""
    ids = _identify(nodes, edges)
    places = {name: f"{_base(name, node)} {{id: {_string(ids[name])}}}" for name, node in nodes.items()}
    lines = []
    for name, node in nodes.items():
        label = f", n.type = {_string(node.kind)}, n:{_name(node.kind)}" if node.kind else ""
        lines.append(f"MERGE (n:{places[name]}) SET n.name = {_string(node.label)}{label};")
    for edge in edges:
        score = "" if edge.score is None else f", r.score = {edge.score!r}"
        ends = f"(a:{places[edge.source]}), (b:{places[edge.target]})"
        merged = f"(a)-[r:{_name(edge.label)}]->(b)"
        lines.append(f"MATCH {ends} MERGE {merged} SET r.name = {_string(edge.label)}{score};")
    return "".join(f"{line}\n" for line in lines)


def _base(name: str, node: Node) -> str:
    """Tell an event from an entity, whose name is its label."""
    return "Entity" if name == node.label else "Event"


def _identify(nodes: dict[str, Node], edges: list[Edge]) -> dict[str, str]:
    """Give each node an id that is the same in all graphs: an entity its string, an event the hash of what it says."""
    said: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for edge in edges:
        said[edge.source].append((edge.label, edge.target))
    return {
        name: name
        if name == node.label
        else sha256(json.dumps([node.label, sorted(said[name])]).encode()).hexdigest()[:16]
        for name, node in nodes.items()
    }


def _string(text: str) -> str:
    """
    Write a string of Cypher. A `u` behind a backslash is escaped, too: versions that replace `\\u0027` before they
    read strings would end the string there.
    """
    text = _NO_TEXT.sub("\ufffd", text).replace("\\u", "\\\x00")
    return "'" + "".join(_ESCAPES.get(each, each) for each in text).replace("\x00", "\\u0075") + "'"


def _name(text: str) -> str:
    """Write a label or a type of Cypher, in backticks."""
    plain = " ".join(_NO_TEXT.sub("\ufffd", text).replace("\\", "/").split())
    return "`" + plain.replace("`", "``") + "`"


def to_turtle(nodes: dict[str, Node], edges: list[Edge]) -> str:
    """Write a graph as RDF triples in Turtle."""
    from rdflib import RDF, RDFS, Literal, Namespace
    from rdflib import Graph as Triples

    ie = Namespace("urn:iepile:")
    triples = Triples()
    triples.bind("ie", ie)
    ids = _identify(nodes, edges)

    def term(kind: str, name: str, label: str) -> Any:
        node = ie[f"{kind}/{quote(_xml(name), safe='')}"]
        triples.add((node, RDFS.label, Literal(_xml(label))))
        return node

    terms = {name: term(_base(name, node).lower(), ids[name], node.label) for name, node in nodes.items()}
    for name, node in nodes.items():
        if node.kind:
            triples.add((terms[name], RDF.type, term("type", node.kind, node.kind)))
    for edge in edges:
        triples.add((terms[edge.source], term("relation", edge.label, edge.label), terms[edge.target]))
    return triples.serialize(format="turtle")
