"""A small tagger: hashed word features, four convolutions, one tag per token.

Shape letters: B texts, T tokens, F features, C channels, K labels, L = 2K + 1 tags,
V buckets.
"""

# ruff: noqa: N806 - shape letters are uppercase

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lsml_bento.torch import batches, device, to_device
from ner.data import Offsets, tokenize
from ner.decoding import Tagged, decode
from ner.features import collate, encode


@dataclass(frozen=True)
class Config:
    """The size of the network.

    Attributes:
        buckets: V, rows of the table that features are hashed into.
        channels: C, numbers per token.
        layers: convolutions; each sees one more token on both sides.
        dropout: share of channels dropped in training.
        feature_dropout: share of features dropped in training.
        word_dropout: share of tokens that keep only their shape in training, so that
            the tagger learns from the context.
    """

    buckets: int = 6144
    channels: int = 64
    layers: int = 4
    dropout: float = 0.4
    feature_dropout: float = 0.2
    word_dropout: float = 0.2

    @classmethod
    def nano(cls) -> Config:
        """A size that trains on a CPU within a minute.

        6,144 x 64 + 4 x 3 x 64 x 128 = 0.49 M numbers, 4 bytes each: 1.97 MB.
        """
        return cls()


class Block(nn.Module):
    """A gated convolution over three tokens, added to its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        C = config.channels
        self.norm = nn.LayerNorm(C)
        self.mix = nn.Linear(3 * C, 2 * C)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix ``x`` (B, T, C) with its neighbors; ``mask`` is (B, T, 1)."""
        # Padding and margins are zero, so logits do not depend on the batch.
        y = functional.pad(self.norm(x) * mask, (0, 0, 1, 1))  # (B, 1 + T + 1, C)
        y = torch.cat([y[:, :-2], y[:, 1:-1], y[:, 2:]], dim=-1)  # (B, T, 3C)
        y = functional.glu(self.mix(y), dim=-1)  # (B, T, C)
        out: Tensor = x + self.dropout(y)  # (B, T, C)
        return out


class Tagger(nn.Module):
    """Predicts begin, inside or outside for each label and token.

    Attributes:
        labels: K names, in the order of the head's rows: outside, then begin and inside
            of each.
    """

    def __init__(self, labels: Sequence[str], config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config.nano()
        self.labels = tuple(labels)
        V, C = self.config.buckets, self.config.channels
        self.embed = nn.EmbeddingBag(V, C, mode="sum", padding_idx=0)
        self.blocks = nn.ModuleList(
            Block(self.config) for _ in range(self.config.layers)
        )
        self.norm = nn.LayerNorm(C)
        self.dropout = nn.Dropout(self.config.dropout)
        self.head = nn.Linear(C, 2 * len(self.labels) + 1)
        with torch.no_grad():
            self.embed.weight.mul_(0.3)  # F features are summed
            self.embed.weight[0] = 0.0

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, T, L).

        Args:
            features: int32 (B, T, F), padded with 0; on any device.
        """
        B, T, F = features.shape
        features = to_device(features, self.head.weight.device)
        mask = (features[:, :, :1] > 0).float()  # (B, T, 1)
        seen = self._seen(features).view(B * T, F) if self.training else None
        x = self.embed(features.view(B * T, F), per_sample_weights=seen)  # (B * T, C)
        x = self.dropout(x.view(B, T, -1))  # (B, T, C)
        for block in self.blocks:
            x = block(x, mask)  # (B, T, C)
        logits: Tensor = self.head(self.norm(x))  # (B, T, L)
        return logits

    def _seen(self, features: Tensor) -> Tensor:
        """The weight of each feature: 0 for those that training drops."""
        seen = torch.ones_like(features, dtype=torch.float32)  # (B, T, F)
        seen = functional.dropout(seen, self.config.feature_dropout)  # (B, T, F)
        drawn = torch.rand(features.shape[:2], device=seen.device)  # (B, T)
        hidden = drawn < self.config.word_dropout  # (B, T)
        seen[:, :, 1:][hidden] = 0.0  # feature 0 is the shape
        return seen

    # Tagging

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """Find the entities of B texts, in one forward call if possible."""
        offsets = [tokenize(text) for text in texts]
        rows = [
            encode(text, spans, self.config.buckets)
            for text, spans in zip(texts, offsets, strict=True)
        ]
        if self.training:
            self.eval()
        plan = batches([len(spans) for spans in offsets], MAX_CELLS)
        return plan.in_order(
            self._tag([rows[i] for i in batch], [offsets[i] for i in batch])
            for batch in plan
        )

    @torch.inference_mode()
    def _tag(self, rows: Sequence[bytes], offsets: Sequence[Offsets]) -> list[Tagged]:
        probabilities = self(collate(rows)).softmax(-1).cpu()  # (B, T, L)
        return decode(probabilities, offsets, self.labels)

    # Weights

    def save(self, path: Path) -> None:
        """Write weights, labels and config as safetensors."""
        state = {name: t.contiguous() for name, t in self.state_dict().items()}
        metadata = {
            "labels": json.dumps(self.labels),
            "config": json.dumps(asdict(self.config)),
        }
        save_file(state, path, metadata)

    @classmethod
    def load(cls, path: Path, labels: Sequence[str] | None = None) -> Tagger:
        """Read a tagger, onto the GPU if there is one.

        Args:
            path: the safetensors file.
            labels: the labels of the tagger (default: those of the file). A label that
                is not in the file starts as the mean of those that are.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = json.loads(metadata["labels"])
        wanted = known if labels is None else list(labels)
        tagger = cls(wanted, Config(**json.loads(metadata["config"])))
        for name in ("head.weight", "head.bias"):
            state[name] = relabel(state[name], known, wanted)
        tagger.load_state_dict(state)
        return tagger.to(device()).eval()


def relabel(rows: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Reorder the head's rows (2 * known + 1, ..) to (2 * wanted + 1, ..) by name."""
    outside, pairs = rows[:1], rows[1:].reshape(len(known), 2, *rows.shape[1:])
    if list(known) == list(wanted):
        return rows
    new = pairs.sum(0) / max(1, len(known))  # (2, ..)
    picked = [pairs[known.index(label)] if label in known else new for label in wanted]
    return torch.cat([outside, *picked])  # (2 * wanted + 1, ..)


MAX_CELLS = 65536
"""Maximum tokens per forward call, including padding: about 100 MB of memory."""
