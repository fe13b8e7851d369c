"""What of a manifest could not be used: a table of rows and reasons."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from melfusion.data.manifest.rows import ManifestClip
from melfusion.data.replacing import explaining
from melfusion.files import write_whole


class Report:
    """What could not be used, row by row, and counts of other things that a user should know."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.misses: dict[tuple[str, int, str, str], str] = {}  # (manifest, line, field, value) → reason
        self.notes: Counter[str] = Counter()

    def miss(self, clip: ManifestClip, name: str, value: str, error: Exception) -> None:
        reason = f"cannot be opened ({error.strerror})" if isinstance(error, OSError) else str(error)
        self.misses[(str(clip.row.manifest), clip.row.line, name, value)] = reason

    def write(self) -> None:
        with explaining(self.path.parent, "out"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = io.StringIO(newline="")
            table = csv.writer(text)
            table.writerow(["manifest", "line", "field", "value", "reason"])
            table.writerows([*where, reason] for where, reason in self.misses.items())
            write_whole(self.path, text.getvalue())

    def words(self) -> str:
        lines = [f"{what}: {n}" for what, n in sorted(self.notes.items()) if n]
        if self.misses:
            rows = len({where[:2] for where in self.misses})
            lines.append(f"rows with missing or unreadable files: {rows}, listed in {self.path}")
            reasons = Counter(f"{name}: {reason}" for (_, _, name, _), reason in self.misses.items())
            lines += [f"  {reason}: {n}" for reason, n in reasons.most_common()]
        return "".join(f"\n{line}" for line in lines)
