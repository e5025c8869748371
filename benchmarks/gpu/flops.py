"""Floating-point operations that a model has to do on real tokens, and what a GPU can do at most.

Counted are matrix products alone, a multiplication and an addition each: 2 operations a weight and token forward, 4
backward. Padding, recomputation (gradient checkpointing), the reference's forward passes and the optimizer are not
counted: they are what utilisation is lost to.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# Dense bfloat16 with float32 sums, by the vendors' data sheets. The first name that a device's name contains holds.
PEAK_FLOPS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100", 989e12),
    ("A100", 312e12),
)


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes; embeddings and head are two matrices of their own."""

    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_heads: int
    vocab_size: int

    @property
    def layer_parameters(self) -> int:
        """Weights of the layers' matrices; norms are left out."""
        return self.num_layers * (4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size)

    @property
    def head_parameters(self) -> int:
        """Weights of the head, as many as of the embeddings."""
        return self.hidden_size * self.vocab_size

    @property
    def parameters(self) -> int:
        """All weights but the norms'."""
        return self.layer_parameters + 2 * self.head_parameters


LLAMA2_7B = Shape(4096, 32, 11008, 32, 32000)


@dataclass(frozen=True)
class Work:
    """What a run has to read: attended tokens, the sum of their places in their rows (from 1), counted positions."""

    tokens: int = 0
    places: int = 0
    counted: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.places + other.places, self.counted + other.counted)


def work_of(rows: Iterable[tuple[int, int]]) -> Work:
    """Of rows as (attended tokens, positions whose prediction counts)."""
    total = Work()
    for length, counted in rows:
        total += Work(length, length * (length + 1) // 2, counted)
    return total


def training_flops(shape: Shape, done: Work, adapter_parameters: int | None = None) -> float:
    """Forward and backward of a full fine-tune, or of frozen weights with adapters.

    Layers: 6 operations a weight and token; 4 where a weight is frozen, because only its input's gradient is computed,
    and 6 an adapter weight. Head: the same at counted positions alone. Attention: the token at place t has t keys, so
    12 x layers x hidden size x t.
    """
    attention = 12 * shape.num_layers * shape.hidden_size * done.places
    if adapter_parameters is None:
        return 6.0 * (shape.layer_parameters * done.tokens + shape.head_parameters * done.counted) + attention
    layers = (4 * shape.layer_parameters + 6 * adapter_parameters) * done.tokens
    return float(layers + 4 * shape.head_parameters * done.counted + attention)


def peak_flops(device_name: str, stated_tflops: float | None) -> float:
    """What utilisation is a share of, in FLOP/s. ValueError: an unknown device, and nothing stated."""
    if stated_tflops is not None:
        return stated_tflops * 1e12
    for name, peak in PEAK_FLOPS:
        if name in device_name:
            return peak
    raise ValueError(f"no peak is known of {device_name!r}; state its dense bfloat16 peak with --peak-tflops")
