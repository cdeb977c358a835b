"""One table of the ratios of several machines, from what speed.py and memory.py wrote.

    python benchmarks/machines.py FILE.json ...            # prints it
    python benchmarks/machines.py --write FILE.json ...    # into README.md of this folder, between the two marks

A column is a machine: files of the same device, threads, shape and date go into one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- machines -->", "<!-- end of machines -->"


def column(result: dict[str, Any]) -> str:
    """What the column of a file is called."""
    machine, settings = result["machine"], result["settings"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    threads = "" if settings["device"] == "cuda" else f", {machine['threads']} threads"
    return f"{machine['device']}{threads}; shape {settings['shape']}; {machine['date']}; {packages}"


def cell(row: dict[str, Any]) -> str:
    target = "" if row["target"] is None else f", {'met' if row['met'] else 'NOT MET'}: <= {row['target']:.2f}"
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f}){target}"


def table(results: list[dict[str, Any]]) -> str:
    """In Markdown."""
    columns = list(dict.fromkeys(map(column, results)))
    cells = {(column(result), row["measure"], row["against"]): cell(row) for result in results for row in result["ratios"]}
    rows = dict.fromkeys((measure, against) for _, measure, against in cells)
    lines = [["measure", "against", *columns], ["---"] * (2 + len(columns))]
    lines += [[*row, *(cells.get((name, *row), "not measured") for name in columns)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="into the README")
    given = parser.parse_args()
    made = table([json.loads(path.read_text(encoding="utf-8")) for path in given.files])
    print(made)
    if given.write:
        before, rest = README.read_text(encoding="utf-8").split(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
