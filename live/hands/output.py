"""What programs print, as far as an operator should see it."""

from __future__ import annotations


def last_line(text: str) -> str:
    """The last line of a program's output that says something, which is where programs put their reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
