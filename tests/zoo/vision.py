"""Healthy models of transformers that see or hear, and a diffusion transformer by hand."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional

from initstats import init_
from zoo import data
from zoo.specimens import Builder, Size, Specimen, Stepper


def _seen(model: nn.Module, size: Size, side: int, **changes: Any) -> Specimen:
    x, labels = data.images(size.many(8), side, size.seed)
    return Specimen(model, {"pixel_values": x, "labels": labels}).but(**changes)


def _sizes(size: Size) -> dict[str, Any]:
    width = size.wide(64)
    return {
        "hidden_size": width,
        "num_hidden_layers": size.deep(4),
        "num_attention_heads": 4,
        "intermediate_size": 4 * width,
        "image_size": 32,
        "patch_size": 4,
        "num_labels": 10,
    }


def vit(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = hf.ViTForImageClassification(hf.ViTConfig(**_sizes(size)))
    init_(model, "vit_transformers", seed=size.seed)
    return _seen(model, size, 32)


def deit(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = hf.DeiTForImageClassification(hf.DeiTConfig(**_sizes(size)))
    return _seen(model, size, 32, optimizer=Stepper(rate=5e-4))


def swin(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    config = hf.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=size.wide(32),
        depths=[2, 2, size.deep(2)],
        num_heads=[2, 4, 8],
        window_size=4,
        num_labels=10,
    )
    return _seen(hf.SwinForImageClassification(config), size, 32)


def convnext(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(32)
    config = hf.ConvNextConfig(
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, size.deep(4), 2],
        num_labels=10,
    )
    return _seen(hf.ConvNextForImageClassification(config), size, 64)


def resnet50(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(64)
    config = hf.ResNetConfig(
        embedding_size=size.wide(32),
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[3, 4, size.deep(6), 3],
        num_labels=10,
    )
    model = hf.ResNetForImageClassification(config)
    return _seen(model, size, 64, optimizer=Stepper("sgd", 0.01))


class Contrastive(nn.Module):
    """CLIP that returns its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        out = self.model(input_ids=input_ids, pixel_values=pixel_values, return_loss=True)
        return out.loss


def clip(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    seen = {**_sizes(size), "num_hidden_layers": size.deep(3)}
    del seen["num_labels"]
    read = {name: seen[name] for name in list(seen)[:4]}
    config = hf.CLIPConfig(
        text_config={
            **read,
            "vocab_size": 256,
            "max_position_embeddings": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config=seen,
        projection_dim=512,  # as released: cosines of unrelated pairs have std 1/sqrt(512)
    )
    x, _ = data.images(size.many(8), 32, size.seed)
    tokens = data.text(len(x), 16, size.seed)
    tokens[:, -1] = 2
    model = Contrastive(hf.CLIPModel(config))
    return Specimen(model, {"pixel_values": x, "input_ids": tokens}, optimizer=Stepper(rate=5e-4))


def whisper(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width, depth = size.wide(64), size.deep(3)
    config = hf.WhisperConfig(
        vocab_size=256,
        num_mel_bins=16,
        d_model=width,
        max_source_positions=32,
        max_target_positions=32,
        **{f"{side}_layers": depth for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    heard, _ = data.waves(size.many(8), 64, size.seed, channels=16)
    tokens = data.text(len(heard), 16, size.seed)
    batch = {"input_features": heard.transpose(1, 2), "labels": tokens}
    return Specimen(hf.WhisperForConditionalGeneration(config), batch)


def new_head(size: Size) -> Specimen:
    """A frozen backbone, and a head for another task."""
    specimen = vit(size)
    specimen.model.requires_grad_(False)
    head = nn.Linear(size.wide(64), 10)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    specimen.model.classifier = head
    return specimen


class Modulated(nn.Module):
    """A block of a DiT: attention and MLP shifted, scaled and gated by a condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        y = self.norm1(x) * (1 + parts[1]) + parts[0]
        x = x + parts[2] * self.attn(y, y, y, need_weights=False)[0]
        y = self.norm2(x) * (1 + parts[4]) + parts[3]
        out: Tensor = x + parts[5] * self.mlp(y)
        return out


class DiT(nn.Module):
    """A diffusion transformer whose gates and output start at zero; predicts the noise."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.x_embedder = nn.Conv2d(3, width, 4, stride=4)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.t_embedder = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder = nn.Embedding(10, width)
        self.blocks = nn.ModuleList(Modulated(width) for _ in range(depth))
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final = nn.Linear(width, 48)
        self._start(width)

    def _start(self, width: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.weight.view(width, -1))
        nn.init.zeros_(self.x_embedder.bias)
        for table in (self.y_embedder, self.t_embedder[0], self.t_embedder[2]):
            nn.init.normal_(table.weight, std=0.02)
        gates = [block.adaLN_modulation[-1] for block in self.blocks]
        for layer in (*gates, self.adaLN_modulation[-1], self.final):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        angles = time.view(-1, 1) * torch.logspace(0, 3, 8)
        condition = self.t_embedder(torch.cat([angles.sin(), angles.cos()], 1))
        condition = condition + self.y_embedder(labels)
        x = self.x_embedder(noisy).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        x = self.final(self.norm_final(x) * (1 + scale) + shift)
        return functional.fold(x.transpose(1, 2), (32, 32), 4, stride=4)


def diffused(count: int, side: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy images, how noisy they are, their labels, and the noise."""
    x, labels = data.images(count, side, seed)
    noise, time = torch.randn(x.shape), torch.rand(count)
    level = time.view(-1, 1, 1, 1)
    return (1 - level).sqrt() * x + level.sqrt() * noise, time, labels, noise


def dit(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = DiT(size.wide(64), size.deep(4))
    batch = diffused(size.many(8), 32, size.seed)
    return Specimen(model, batch, functional.mse_loss, Stepper(rate=3e-4))


MODELS: dict[str, Builder] = {
    f.__name__: f for f in (vit, deit, swin, convnext, resnet50, clip, whisper, new_head, dit)
}
