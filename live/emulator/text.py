"""What an emulated model says: the n-th token follows from model, prompt and seed alone, on every node.

So a stream that breaks on one node and goes on on another is the same text, as on real nodes of the same kind.
"""

from __future__ import annotations

from hashlib import blake2b

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
_WORDS = [first + second for first in _SYLLABLES for second in _SYLLABLES]
_LETTERS_PER_TOKEN = 6


class TokenText:
    """The text of one generation, token by token; each is a printable word, with a space before it but for the first.

    `said` is the number of tokens that the prompt has of the answer already.
    """

    def __init__(self, model: str, prompt: str, seed: int, said: int = 0) -> None:
        self._key = blake2b(f"{seed}\0{model}\0{prompt}".encode(errors="replace"), digest_size=32).digest()
        self._said = said

    def token(self, index: int) -> str:
        """The text of the token with this index, from 0."""
        index += self._said
        drawn = blake2b(index.to_bytes(8, "big"), key=self._key, digest_size=4).digest()
        word = _WORDS[int.from_bytes(drawn, "big") % len(_WORDS)]
        return f" {word}" if index else word


def count_tokens(text: str) -> int:
    """How many tokens a text has: one for each word, and for long ones one for every six letters."""
    return sum(1 + (len(word) - 1) // _LETTERS_PER_TOKEN for word in text.split())
