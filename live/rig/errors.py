"""The errors of the rig: each carries one line that says what, where and what to do."""

from twin.errors import OperatorError


class RigError(OperatorError):
    """Something that the rig needs or was told to do did not work; the message is one line for the operator."""
