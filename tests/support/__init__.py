"""What several tests share; the one place that knows where the checkout's folders lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RESOURCES = ROOT / "tests" / "resources"
