"""Names that checkpoints give to building blocks which several of them share; for a model's rename table."""

from __future__ import annotations

TORCH_ATTENTION = ((r"\.in_proj_(weight|bias)$", r".qkv.\1"), (r"\.out_proj\.", ".proj."))
"""Of ``torch.nn.MultiheadAttention``, to those of our ``Attention``."""

TORCH_ENCODER_LAYER = (
    *TORCH_ATTENTION,
    (r"\.self_attn\.", ".attn."),
    (r"\.linear1\.", ".mlp.fc1."),
    (r"\.linear2\.", ".mlp.fc2."),
)
"""Of ``torch.nn.TransformerEncoderLayer``, to those of our ``Block``."""
