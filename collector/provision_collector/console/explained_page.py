"""The story of a run as one HTML file that holds all that it shows: no script, nothing from elsewhere. Pure.

For people to attach to a report. All words in it are escaped; it holds what the events hold, in which secrets are hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from provision_agent.contract.steps import STEPS

from . import units
from .story import Span, StepSpan, Story
from .text import harmless

_WIDTH, _NAMES, _ROW, _TOP = 1200, 330, 20, 34
MAX_ROWS = 2000
_STYLE = """
:root { color-scheme: light dark; --text: #1c1f23; --dim: #6b7280; --line: #d8dce2; --back: #fff;
  --good: #2f855a; --bad: #c53030; --wait: #d69e2e; --skip: #a0aec0; --path: #2b6cb0; }
@media (prefers-color-scheme: dark) { :root { --text: #e5e7eb; --dim: #9ca3af; --line: #374151; --back: #111418;
  --good: #48bb78; --bad: #fc8181; --wait: #ecc94b; --skip: #4a5568; --path: #63b3ed; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2rem auto; max-width: 1240px; padding: 0 1rem; overflow-wrap: anywhere; }
.picture { overflow-x: auto; } .picture svg { min-width: 680px; } .usable { stroke: var(--text); stroke-dasharray: 4 3; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
.dim { color: var(--dim); } svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
.done { fill: var(--good); } .failed { fill: var(--bad); } .skipped { fill: var(--skip); } .going { fill: var(--skip); } .wait { fill: var(--wait); }
.path { stroke: var(--path); stroke-width: 2; } .grid { stroke: var(--line); } .step { fill: var(--line); } .worked { fill: var(--dim); }
details { margin: .3rem 0; } summary { cursor: pointer; } pre { white-space: pre-wrap; margin: .3rem 0 .6rem 1rem; }
"""


def html_page(story: Story, host: str) -> str:
    """The page, whole."""
    state, path = story.state, story.critical_path()
    title = f"{harmless(state.run)}: {harmless(state.state)}"
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *_facts(story, host),
            "<h2>What it waited for, one after the other</h2>",
            *_path(path),
            "<h2>All of it</h2>",
            *_picture(story, {id(span) for span in path}),
            *_errors(story),
            "<h2>Items</h2>",
            *(_details(span) for span in story.spans[:MAX_ROWS]),
            "</body></html>\n",
        ]
    )


def _facts(story: Story, host: str) -> Iterator[str]:
    state = story.state
    never = "never" if state.verdict is not None else "not yet"
    usable = f"after {units.duration(story.usable_s)}" if story.usable_s is not None else never
    facts = {
        "profile": state.name,
        "instance": host,
        "started": state.started or "",
        "usable": usable,
        "in all": units.duration(story.end_s),
    }
    rows = (f"<tr><th>{_shown(name)}</th><td>{_shown(value)}</td></tr>" for name, value in facts.items())
    yield f"<table>{''.join(rows)}</table>"


def _path(path: list[Span]) -> Iterator[str]:
    for span in path:
        began, took = units.clock(span.begin_s), units.duration(span.took_s)
        yield f'<div>{began} <span class="dim">{_shown(span.kind)}</span> {_shown(span.item)}: {took}</div>'


def _picture(story: Story, path: set[int]) -> Iterator[str]:
    spans = sorted(story.spans[:MAX_ROWS], key=lambda span: span.begin_s)
    rows: list[Span | StepSpan] = []
    for kind in dict.fromkeys(step.kind for step in STEPS.values()):
        rows += [step for step in story.steps if step.name in STEPS and STEPS[step.name].kind == kind]
        rows += [span for span in spans if span.kind == kind]
    height = _TOP + _ROW * len(rows) + 8
    yield f'<div class="picture"><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="when each item began and ended">'
    yield from _scale(story.end_s, height)
    if story.usable_s is not None:
        x = _x(story.usable_s, story.end_s)
        yield f'<line class="usable" x1="{x}" y1="20" x2="{x}" y2="{height}"/>'
    for number, row in enumerate(rows):
        yield from _bar(row, _TOP + _ROW * number, story.end_s, is_on_path=id(row) in path)
    yield "</svg></div>"
    mark = "The dashed line is <code>usable</code>; " if story.usable_s is not None else ""
    yield f'<p class="dim">{mark}outlined in blue is what it waited for; yellow is waiting. Of a step, what is dark was work.</p>'


def _scale(all_s: float, height: int) -> Iterator[str]:
    for part in range(6):
        at_s = all_s * part / 5
        x = _x(at_s, all_s)
        anchor = "end" if part == 5 else "start"
        yield f'<line class="grid" x1="{x}" y1="20" x2="{x}" y2="{height}"/>'
        yield f'<text x="{x}" y="14" text-anchor="{anchor}">{units.clock(at_s)}</text>'


def _bar(row: Span | StepSpan, y: int, all_s: float, *, is_on_path: bool) -> Iterator[str]:
    x, end = _x(row.begin_s, all_s), _x(row.end_s, all_s)
    width = max(end - x, 2)
    if isinstance(row, StepSpan):
        yield f'<text x="0" y="{y + 14}" font-weight="bold">{_shown(row.name)}</text>'
        yield f"<g><title>{units.duration(row.work_s)} of work in {units.duration(row.end_s - row.begin_s)}</title>"
        yield f'<rect class="step" x="{x}" y="{y + 7}" width="{width}" height="6"/>'
        for begin_s, end_s in row.worked:
            left, right = _x(begin_s, all_s), _x(end_s, all_s)
            yield f'<rect class="worked" x="{left}" y="{y + 7}" width="{max(right - left, 2)}" height="6"/>'
        yield "</g>"
        return
    name = harmless(row.item)
    short = name if len(name) <= 46 else f"{name[:16]}…{name[-28:]}"
    kind = {"failed": "failed", "skipped": "skipped"}.get(row.state, "done" if row.is_over else "going")
    took = units.duration(row.took_s)
    yield f"<g><title>{escape(name)}: {_shown(row.state)} after {took}</title>"
    yield f'<text x="12" y="{y + 14}">{escape(short)}</text>'
    css = f"{kind} path" if is_on_path else kind
    yield f'<rect class="{css}" x="{x}" y="{y + 3}" width="{width}" height="13" rx="2"/>'
    for wait in row.waits:
        left, right = _x(wait.begin_s, all_s), _x(wait.end_s, all_s)
        if right - left >= 1:
            yield f'<rect class="wait" x="{left}" y="{y + 3}" width="{right - left}" height="13"/>'
    yield "</g>"


def _errors(story: Story) -> Iterator[str]:
    if story.state.errors:
        yield "<h2>What went wrong</h2>"
    for error in story.state.errors.values():
        yield f"<p><b>{_shown(error.item)}</b> ({_shown(error.class_)}): {_shown(error.message)}<br>"
        yield f'<span class="dim">next: {_shown(error.hint or "")}</span></p>'


def _details(span: Span) -> str:
    notes = "\n".join(f"{units.clock(at_s)}  {harmless(note)}" for at_s, note in span.notes)
    head = f"{_shown(span.kind)} <b>{_shown(span.item)}</b>: {_shown(span.state)} after {units.duration(span.took_s)}"
    return f"<details><summary>{head}</summary><pre>{escape(notes)}</pre></details>"


def _x(at_s: float, all_s: float) -> int:
    return _NAMES + round(min(at_s / max(all_s, 1e-9), 1.0) * (_WIDTH - _NAMES - 10))


def _shown(words: object) -> str:
    return escape(harmless(words))
