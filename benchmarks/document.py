"""Writes a run's results into the documents: charts into docs/charts, the tables between two marks in docs/performance.md.

Called by __main__.py after a whole run; `python -m benchmarks.document [FILE [PART ...]]` does it again from the JSON of an earlier one. The rows of
each PART, which is the JSON of a restricted run, take the place of the same rows before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts, report
from benchmarks.contestants import ROOT

PERFORMANCE = ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "charts"
BEGIN = "<!-- results: begin (written by make bench) -->"
END = "<!-- results: end -->"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"

    return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows)])


def section(found: dict[str, Any], chart_files: dict[str, Path]) -> str:
    """What stands between the marks, from what report.as_json gave."""
    results = report.results_of_json(found)
    notes = report.Notes()
    tables = report.tables(results, [], notes)
    versions = ", ".join(f"{name} {one['version']}" for name, one in found["contestants"].items() if one["version"])
    parts = [report.about_text(found["about"]) + ".", f"Contestants: {versions}."]
    for part in found.get("parts", []):
        parts.append(f"Rows of another run ({', '.join(part['rows'])}): {report.about_text(part['about'])}.")
    for title, heads, rows in tables:
        parts += [f"### {title[:1].upper()}{title[1:]}"] if title else []
        parts.append(table(heads, rows))
    if notes.sentences:
        parts.append("\n".join(f"- [{number}] {sentence}" for number, sentence in enumerate(notes.sentences, 1)))
    parts += [f"![{group}](charts/{file.name})" for group, file in chart_files.items()]
    details = table(*report.detail_table(results))
    parts.append(f"<details><summary>Rates, latencies, and how busy the two cores were</summary>\n\n{details}\n\n</details>")
    return "\n\n".join(parts)


def between_marks(text: str, inserted: str) -> str:
    """`text` with `inserted` instead of what stood between the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/performance.md lacks the marks {BEGIN} and {END}, between which the results go")
    return f"{before}{BEGIN}\n\n{inserted}\n\n{END}{after}"


def write(found: dict[str, Any]) -> None:
    """Both, from what report.as_json gave."""
    chart_files = charts.draw(report.results_of_json(found), CHARTS)
    PERFORMANCE.write_text(between_marks(PERFORMANCE.read_text(), section(found, chart_files)))


if __name__ == "__main__":
    files = [Path(argument) for argument in sys.argv[1:]] or [ROOT / ".cache" / "results" / "bench.json"]
    write(report.merged(*(json.loads(file.read_text()) for file in files)))
    print(f"written: {PERFORMANCE} and {CHARTS}/")
