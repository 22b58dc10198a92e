"""Makes models with random weights that real Ollama loads in a quarter of a second and decodes at a known pace.

They say nothing sensible, but they are real models to Ollama: loaded, batched, streamed, counted and stopped as
any other. Three things about the weights are not random, so that a drill can rely on them:

- Component 0 of every embedding is a constant that no block writes to. After the last norm it is still positive, so
  a large negative weight on it keeps a token from ever being drawn: no end of text, no byte token, no control token.
  Streams therefore end at `num_predict` (or at the context) and consist of printable words.
- The weights of the output are small enough to keep the distribution wide: no token is drawn 30 times in a row,
  which would make Ollama end the stream without a terminal record.
- An output row leans away from its own embedding, so a token is unlikely to follow itself even at temperature 0.
"""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from live.hands.output import last_line
from live.rig.components import cache_folder, version
from live.rig.errors import RigError
from live.rig.ledger import Ledger
from live.rig.processes import ManagedProcess, free_port, plain_environment

# Goes into the key of the cache: to be raised with every change to what this module writes.
FORMAT = 1
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
SYLLABLES = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
# SentencePiece's sign for a space.
SPACE = "▁"
CREATE_LIMIT_S = 120.0

# Leaves the last assistant message open, so that a generation can be continued elsewhere: a turn is closed by " ko"
# only if another message follows.
TEMPLATE = """\
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "assistant" }} ba{{ .Content }}{{ if not $last }} ko{{ end }}
{{- else }} {{ if eq .Role "system" }}sa{{ else }}da{{ end }} {{ .Content }} ko{{ if $last }} ba{{ end }}
{{- end }}
{{- end }}"""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelSize:
    """The dimensions of a random model; they set its step time.

    Measured with Ollama 0.24 pinned to one core of an x86-64 virtual machine: milliseconds of a step with 1, 2, 3 and
    4 concurrent streams (300 tokens each), and of a prefill of 100, 300 and 1000 prompt tokens:

    | size    | file   | step                  | prefill         |
    |---------|--------|-----------------------|-----------------|
    | TINY    | 0.5 MB | 0.26, 0.55, 0.82, 1.1 | 8, 37, 335      |
    | DEFAULT | 3.4 MB | 1.15, 2.4, 3.6, 4.9   | 55, 171, 1160   |

    A processor gains nothing from a batch: n streams take n times as long a step, where a graphics card takes little
    longer. Other machines differ by a factor; a drill that compares must measure its own.
    """

    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    layers: int
    context_length: int = 4096
    """Tokens of one sequence; Ollama reserves this times OLLAMA_NUM_PARALLEL."""
    seed: int = 1
    pools: bool = False
    """An embedding model: its file says how it makes one vector of many, from which Ollama knows that it makes no text."""


TINY = ModelSize(embedding=64, feed_forward=128, heads=4, kv_heads=2, layers=2)
DEFAULT = ModelSize(embedding=128, feed_forward=512, heads=4, kv_heads=2, layers=3)
EMBEDDING = replace(DEFAULT, pools=True)


def prompt_text(tokens: int, seed: int = 0) -> str:
    """Text that the models here read as exactly `tokens` tokens; the template puts 5 more on top of a lone prompt."""
    draw = np.random.default_rng(seed)
    return " ".join(SYLLABLES[index] for index in draw.integers(len(SYLLABLES), size=tokens))


async def ensure_models(ollama: Path, models: Mapping[str, ModelSize]) -> Path:
    """The OLLAMA_MODELS folder that has a random model under each name, made once and kept in the cache.

    `models` maps a name such as "llama3.1:8b" to its size. Each has a template that leaves the last assistant message
    open, `num_thread` 1 and `temperature` 1. The folder is for reading only: nodes share it, with OLLAMA_NOPRUNE set.

    Raises RigError where Ollama refuses a model.
    """
    if not models:
        raise RigError("no model is named; a node without models serves nothing")
    ollama_version = await asyncio.to_thread(version, ollama)
    wanted = {name: asdict(size) for name, size in sorted(models.items())}
    specification = json.dumps([FORMAT, TEMPLATE, wanted], sort_keys=True)
    digest = hashlib.sha256(specification.encode()).hexdigest()[:16]
    target = cache_folder() / "models" / f"ollama-{ollama_version}-{digest}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        await _create_all(ollama, models, Path(scratch))
        try:
            (Path(scratch) / "models").rename(target)
        except OSError:
            # Another rig was faster; its models are the same.
            if not target.is_dir():
                raise
    return target


async def _create_all(ollama: Path, models: Mapping[str, ModelSize], scratch: Path) -> None:
    """Lets a real Ollama make the models in `scratch`/models, through the same command that an operator uses."""
    host = f"127.0.0.1:{free_port()}"
    environment = {
        **plain_environment(),
        "HOME": str(scratch),
        "OLLAMA_HOST": host,
        "OLLAMA_MODELS": str(scratch / "models"),
        "OLLAMA_NO_CLOUD": "1",
    }
    ledger = Ledger()
    server = ManagedProcess(
        "model-maker", [ollama, "serve"], ledger=ledger, log=scratch / "serve.log", environment=environment
    )
    try:
        await server.start(f"http://{host}/api/version", CREATE_LIMIT_S)
        for size in set(models.values()):
            weights = scratch / "model.gguf"
            await asyncio.to_thread(write_model, weights, size)
            modelfile = scratch / "Modelfile"
            modelfile.write_text(_modelfile(weights))
            first, *others = sorted(name for name, of_size in models.items() if of_size == size)
            await _ollama(ollama, environment, "create", first, "-f", str(modelfile))
            for name in others:
                await _ollama(ollama, environment, "cp", first, name)
    finally:
        await asyncio.shield(server.stop())
        ledger.close()


def _modelfile(weights: Path) -> str:
    parameters = {
        "num_thread": 1,  # more would spin at barriers and burn a node's share of the processor
        "num_gpu": 0,
        "temperature": 1,
    }
    lines = [f"FROM {weights}", f'TEMPLATE """{TEMPLATE}"""']
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


async def _ollama(ollama: Path, environment: Mapping[str, str], *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        ollama,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), CREATE_LIMIT_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise RigError(f"ollama {' '.join(arguments[:2])} failed: {last_line(output.decode(errors='replace'))}")


def _vocabulary() -> list[tuple[str, float, gguf.TokenType]]:
    """Piece, score and type of each token of a SentencePiece vocabulary: specials, bytes, letters, syllables, words.

    Pieces of higher score are merged first: letters to syllables, then a space and a syllable to a word. So text of
    these syllables is read back as the very tokens that were generated.
    """
    normal = gguf.TokenType.NORMAL
    return [
        ("<unk>", 0.0, gguf.TokenType.UNKNOWN),
        ("<s>", 0.0, gguf.TokenType.CONTROL),
        ("</s>", 0.0, gguf.TokenType.CONTROL),
        *((f"<0x{byte:02X}>", 0.0, gguf.TokenType.BYTE) for byte in range(256)),
        *((letter, -3.0, normal) for letter in (SPACE, *CONSONANTS, *VOWELS)),
        *((syllable, -1.0, normal) for syllable in SYLLABLES),
        *((SPACE + syllable, -2.0, normal) for syllable in SYLLABLES),
    ]


def write_model(path: Path, size: ModelSize) -> None:
    """Writes a GGUF of the given size to `path`; the same size gives the same bytes."""
    vocabulary = _vocabulary()
    tokens = [piece for piece, _, _ in vocabulary]
    head_size = size.embedding // size.heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(size.context_length)
    writer.add_embedding_length(size.embedding)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.feed_forward)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if size.pools:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in _weights(size, tokens).items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(size: ModelSize, tokens: list[str]) -> dict[str, Matrix]:
    draw = np.random.default_rng(size.seed)

    def matrix(rows: int, columns: int) -> Matrix:
        # Scaled so that a normed input gives outputs of about 1, whatever the size.
        return draw.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(columns))

    def into_stream(columns: int) -> Matrix:
        written = matrix(size.embedding, columns)
        written[0] = 0  # component 0 stays what the embedding says
        return written

    ones = np.ones(size.embedding, dtype=np.float32)
    embeddings = draw.standard_normal((len(tokens), size.embedding), dtype=np.float32)
    embeddings[:, 0] = 4
    output = matrix(len(tokens), size.embedding) - np.float32(4 / size.embedding) * embeddings
    output[:, 0] = 0
    words = {*SYLLABLES, *(SPACE + syllable for syllable in SYLLABLES)}
    never = [index for index, token in enumerate(tokens) if token not in words]
    output[never] = 0
    output[never, 0] = -100
    weights = {"token_embd": embeddings, "output_norm": ones, "output": output}
    kv_size = size.embedding // size.heads * size.kv_heads
    for layer in range(size.layers):
        weights |= {
            f"blk.{layer}.attn_norm": ones,
            f"blk.{layer}.attn_q": matrix(size.embedding, size.embedding),
            f"blk.{layer}.attn_k": matrix(kv_size, size.embedding),
            f"blk.{layer}.attn_v": matrix(kv_size, size.embedding),
            f"blk.{layer}.attn_output": into_stream(size.embedding),
            f"blk.{layer}.ffn_norm": ones,
            f"blk.{layer}.ffn_gate": matrix(size.feed_forward, size.embedding),
            f"blk.{layer}.ffn_up": matrix(size.feed_forward, size.embedding),
            f"blk.{layer}.ffn_down": into_stream(size.feed_forward),
        }
    return weights
