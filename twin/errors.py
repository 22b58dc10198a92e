"""The tree of errors, by whose fault it is.

OperatorError   a bad file, flag or environment: one line that says what, where and what to do; exit status 2

(A node's failures are no exceptions: they are observations. Our own faults end in their traceback.)
"""

from __future__ import annotations


class OperatorError(Exception):
    """The operator can mend it; the message is one line that says what, where and what to do."""
