"""Models that Ollama's users load most, by name: what they weigh, and what their context takes.

Sizes are those of the library's default tags (four-bit, `ollama list`, turned into GiB and rounded to 0.1). The KV cache
follows from the architecture: 2 (keys and values) x layers x kv heads x head size x 2 bytes (f16) a token; a model with
sliding windows keeps less, so that its figure is an upper bound. `assumed` marks an entry of which a number is not
from the model's own configuration file.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_VALUE = 2  # f16, Ollama's default for the cache
BYTES_PER_MIB = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """One model of the library."""

    size_gib: float  # weights
    layers: int  # that keep keys and values
    kv_heads: int
    head_size: int
    context_tokens: int  # the longest it was trained for
    parallel: int = 0  # slots that Ollama forces, whatever OLLAMA_NUM_PARALLEL says; 0: none
    embedding: bool = False  # it makes embeddings, and no text
    assumed: bool = False

    @property
    def kv_mib_per_1k_tokens(self) -> float:
        """KV cache of 1,000 tokens of context in one slot."""
        return 2 * self.layers * self.kv_heads * self.head_size * BYTES_PER_VALUE * 1000 / BYTES_PER_MIB


MODELS: dict[str, ModelProfile] = {
    "llama3.1:8b": ModelProfile(4.6, 32, 8, 128, 131_072),
    "llama3.1:70b": ModelProfile(40.0, 80, 8, 128, 131_072),
    "llama3.2:1b": ModelProfile(1.2, 16, 8, 64, 131_072),
    "llama3.2:3b": ModelProfile(1.9, 28, 8, 128, 131_072),
    "llama3.3:70b": ModelProfile(40.0, 80, 8, 128, 131_072),
    "qwen2.5:7b": ModelProfile(4.4, 28, 4, 128, 32_768),
    "qwen2.5:14b": ModelProfile(8.4, 48, 8, 128, 32_768),
    "qwen2.5:32b": ModelProfile(18.5, 64, 8, 128, 32_768),
    "qwen2.5-coder:7b": ModelProfile(4.4, 28, 4, 128, 32_768),
    "qwen3:4b": ModelProfile(2.4, 36, 8, 128, 40_960),
    "qwen3:8b": ModelProfile(4.9, 36, 8, 128, 40_960),
    "qwen3:14b": ModelProfile(8.6, 40, 8, 128, 40_960),
    "qwen3:30b": ModelProfile(17.3, 48, 4, 128, 262_144),
    "qwen3:32b": ModelProfile(18.8, 64, 8, 128, 40_960),
    "gemma3:4b": ModelProfile(3.1, 34, 4, 256, 131_072),
    "gemma3:12b": ModelProfile(7.6, 48, 8, 256, 131_072),
    "gemma3:27b": ModelProfile(16.2, 62, 16, 128, 131_072),
    "mistral:7b": ModelProfile(4.1, 32, 8, 128, 32_768),
    "phi4:14b": ModelProfile(8.5, 40, 10, 128, 16_384),
    "deepseek-r1:8b": ModelProfile(4.9, 36, 8, 128, 131_072),
    "deepseek-r1:14b": ModelProfile(8.4, 48, 8, 128, 131_072),
    "gpt-oss:20b": ModelProfile(12.8, 24, 8, 64, 131_072),
    "gpt-oss:120b": ModelProfile(60.9, 36, 8, 64, 131_072),
    # Forced to one slot by Ollama; of its layers only each fourth keeps keys and values (the rest are linear).
    "qwen3-next:80b": ModelProfile(46.6, 12, 2, 256, 262_144, parallel=1, assumed=True),
    "qwen3-vl:8b": ModelProfile(5.7, 36, 8, 128, 262_144, parallel=1),
    "llama3.2-vision:11b": ModelProfile(7.3, 40, 8, 128, 131_072, parallel=1),
    "nomic-embed-text": ModelProfile(0.3, 12, 12, 64, 2_048, parallel=1, embedding=True),
    "mxbai-embed-large": ModelProfile(0.6, 24, 16, 64, 512, parallel=1, embedding=True),
    "bge-m3": ModelProfile(1.1, 24, 16, 64, 8_192, parallel=1, embedding=True),
}
"""Name to profile."""
