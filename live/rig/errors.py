"""The errors of the rig: each carries one line that says what, where and what to do."""

from twin.errors import OperatorError


class RigError(OperatorError):
    """Something that the rig needs or was told to do did not work; the message is one line for the operator."""


def last_line(text: str) -> str:
    """The last line of a program's output that says something, which is where programs put their reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
