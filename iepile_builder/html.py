"""The style and the tables of the HTML pages."""

from collections.abc import Iterable


STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2024; --soft: #5d666f; --line: #d8dde2; --card: #f5f7f9;
  --gold: #b45309; --right: #bfe8cb; --wrong: #fbc9c9; --heat: 37 99 235; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e6e9ec; --soft: #9aa4ae; --line: #353c43;
  --card: #1d2226; --gold: #f5b04c; --right: #1d5a34; --wrong: #7a2a2a; --heat: 96 145 255; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; } p { margin: .3rem 0 .8rem; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; } .card { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .6rem 1rem; } .card b { display: block; font-size: 1.5rem; }
.card span { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .7rem; text-align: right; }
thead th { color: var(--soft); }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
.kinds :is(th, td):nth-child(n + 3) { text-align: left; }
.heat td { border: 1px solid var(--page); min-width: 2.2rem; text-align: center; }
.heat thead th { text-align: center; vertical-align: bottom; padding: .2rem; }
.heat thead th span { writing-mode: vertical-rl; max-height: 16rem; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; }
.bar { background: rgb(var(--heat)); border-radius: 3px; display: inline-block; height: .7rem; min-width: 1px; }
article { border: 1px solid var(--line); border-radius: 8px; margin: .8rem 0; padding: .7rem 1rem; }
article header { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.text { margin: .5rem 0; overflow-wrap: anywhere; white-space: pre-wrap; }
mark { background: none; color: var(--ink); }
.gold { border-bottom: 3px solid var(--gold); }
.right { background: var(--right); } .wrong { background: var(--wrong); }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { overflow-wrap: anywhere; } li b { color: var(--soft); }
code { background: var(--card); overflow-wrap: anywhere; white-space: pre-wrap; }
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML."""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'
