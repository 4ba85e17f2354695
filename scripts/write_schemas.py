"""Writes the JSON Schemas that the documentation publishes: ``python scripts/write_schemas.py``."""

from __future__ import annotations

import json
from pathlib import Path

from trtforge.report import report_schema

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    path = DOCS / "report.schema.json"
    path.write_text(json.dumps(report_schema(), indent=2) + "\n")
    print(path)
