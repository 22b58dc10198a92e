"""What an emulated model says."""

import subprocess
import sys

from live.emulator.text import TokenText, count_tokens


def said(text: TokenText, tokens: int) -> str:
    return "".join(map(text.token, range(tokens)))


def test_the_text_is_the_same_in_every_process() -> None:
    code = "from live.emulator.text import TokenText; print(''.join(map(TokenText('m', 'hello', 7).token, range(50))))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.rstrip("\n") == said(TokenText("m", "hello", 7), 50)


def test_model_prompt_and_seed_each_make_another_text() -> None:
    texts = {said(TokenText(*key), 20) for key in (("m", "p", 1), ("n", "p", 1), ("m", "q", 1), ("m", "p", 2))}
    assert len(texts) == 4


def test_an_answer_goes_on_from_what_was_said_and_counts_as_the_tokens_that_it_is() -> None:
    whole = said(TokenText("m", "p", 1), 40)
    begun = said(TokenText("m", "p", 1), 15)
    assert whole.isascii()
    assert whole.isprintable()
    assert count_tokens(begun) == 15
    assert begun + said(TokenText("m", "p", 1, said=15), 25) == whole


def test_any_prompt_will_do() -> None:
    assert said(TokenText("m", "\ud800 \0 é", 1), 1).isalpha()
    assert count_tokens("") == 0
    assert count_tokens("hello internationalisation") == 1 + 4
