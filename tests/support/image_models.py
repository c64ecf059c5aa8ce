"""Models for images with the parameter names of their code bases.

Those that have an `init_weights` write what the reference writes, with torch's own fills.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.init import constant_, normal_, trunc_normal_, xavier_uniform_, zeros_

from named_models import Tree

WIDTH, HIDDEN, LAYERS, HEADS, PATCHES = 256, 320, 2, 4, 16


def block(attn: Tree, **more: Any) -> Tree:
    return Tree(
        norm1=nn.LayerNorm(WIDTH),
        attn=attn,
        norm2=nn.LayerNorm(WIDTH),
        mlp=Tree(fc1=nn.Linear(WIDTH, HIDDEN), fc2=nn.Linear(HIDDEN, WIDTH)),
        **more,
    )


def attention(**more: Any) -> Tree:
    return Tree(qkv=nn.Linear(WIDTH, 3 * WIDTH), proj=nn.Linear(WIDTH, WIDTH), **more)


def patches(**more: Any) -> Tree:
    return Tree(proj=nn.Conv2d(3, WIDTH, 8, 8), **more)


class _Model(nn.Module):
    """Linear layers truncated normal, norms as torch leaves them."""

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    zeros_(module.bias)


class Swin(_Model):
    """Swin-Transformer: one stage and a downsampling layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = patches(norm=nn.LayerNorm(WIDTH))
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, PATCHES, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.layers = nn.ModuleList(
            [
                Tree(
                    blocks=nn.ModuleList([self.block() for _ in range(LAYERS)]),
                    downsample=Tree(
                        reduction=nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False),
                        norm=nn.LayerNorm(4 * WIDTH),
                    ),
                )
            ]
        )
        self.norm = nn.LayerNorm(2 * WIDTH)
        self.head = nn.Linear(2 * WIDTH, 10)

    def block(self) -> Tree:
        return block(attention(relative_position_bias_table=torch.zeros(49, HEADS)))

    @torch.no_grad()
    def init_weights(self) -> None:
        super().init_weights()
        for name, parameter in self.named_parameters():
            if name.endswith(("position_bias_table", "absolute_pos_embed", "mask_token")):
                trunc_normal_(parameter, std=0.02)


class SwinV2(Swin):
    """The second: continuous positions, norms after the branches."""

    def block(self) -> Tree:
        return block(
            Tree(
                logit_scale=torch.full((HEADS, 1, 1), math.log(10)),
                cpb_mlp=nn.Sequential(
                    nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, HEADS, bias=False)
                ),
                qkv=nn.Linear(WIDTH, 3 * WIDTH, bias=False),
                q_bias=torch.zeros(WIDTH),
                v_bias=torch.zeros(WIDTH),
                proj=nn.Linear(WIDTH, WIDTH),
            )
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        super().init_weights()
        for name, parameter in self.named_parameters():
            if ".norm1." in name or ".norm2." in name:
                zeros_(parameter)


class LayerScale(nn.Module):
    def __init__(self, value: float = 1e-5) -> None:
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.empty(WIDTH))


class MaskedBias(nn.Linear):
    """DINOv3's LinearKMaskedBias."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 3 * WIDTH)
        self.register_buffer("bias_mask", torch.full((3 * WIDTH,), math.nan))


class Dino(_Model):
    """dinov2, or dinov3 where `third`."""

    def __init__(self, *, third: bool = False) -> None:
        super().__init__()
        self.third = third
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if not third:
            self.pos_embed = nn.Parameter(torch.zeros(1, PATCHES + 1, WIDTH))
        tokens = "storage_tokens" if third else "register_tokens"
        self.register_parameter(tokens, nn.Parameter(torch.zeros(1, 4, WIDTH)))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.patch_embed = patches()
        self.blocks = nn.ModuleList([self.block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)

    def block(self) -> Tree:
        attn = attention()
        if self.third:
            attn["qkv"] = MaskedBias()
        return block(attn, ls1=LayerScale(), ls2=LayerScale())

    @torch.no_grad()
    def init_weights(self) -> None:
        super().init_weights()
        for name, parameter in self.named_parameters():
            if name == "pos_embed":
                trunc_normal_(parameter, std=0.02)
            if name in {"cls_token", "register_tokens", "storage_tokens"}:
                normal_(parameter, std=0.02 if self.third else 1e-6)
        for module in self.modules():
            if isinstance(module, LayerScale):
                constant_(module.gamma, module.value)
            if isinstance(module, MaskedBias):
                module.bias_mask.fill_(1)
                module.bias_mask[WIDTH : 2 * WIDTH].fill_(0)


def grid_table(side: int) -> Tensor:
    """Return what MAE's get_2d_sincos_pos_embed does, with its row for the class token."""
    omega = 1.0 / 10000 ** (torch.arange(WIDTH // 4).double() / (WIDTH / 4))
    rows = []
    for y in range(side):
        for x in range(side):
            parts = [f(at * omega) for at in (x, y) for f in (torch.sin, torch.cos)]
            rows.append(torch.cat(parts))
    return torch.stack([torch.zeros(WIDTH).double(), *rows])


class Mae(_Model):
    """mae: encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()

        def table() -> nn.Parameter:
            return nn.Parameter(torch.zeros(1, PATCHES + 1, WIDTH), requires_grad=False)

        self.patch_embed = patches()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = table()
        self.blocks = nn.ModuleList([block(attention()) for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.decoder_embed = nn.Linear(WIDTH, WIDTH)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.decoder_pos_embed = table()
        self.decoder_blocks = nn.ModuleList([block(attention()) for _ in range(LAYERS)])
        self.decoder_norm = nn.LayerNorm(WIDTH)
        self.decoder_pred = nn.Linear(WIDTH, 8 * 8 * 3)

    @torch.no_grad()
    def init_weights(self) -> None:
        for table in (self.pos_embed, self.decoder_pos_embed):
            table.copy_(grid_table(math.isqrt(PATCHES)).float()[None])
        xavier_uniform_(self.patch_embed["proj"].weight.view(WIDTH, -1))
        normal_(self.cls_token, std=0.02)
        normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                xavier_uniform_(module.weight)
                zeros_(module.bias)


class GRN(nn.Module):
    """ConvNeXt-V2's global response normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))


class ConvNextV2(nn.Module):
    """ConvNeXt-V2: one stage."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, WIDTH, 4, 4), nn.LayerNorm(WIDTH))]
        )
        self.stages = nn.ModuleList([nn.Sequential(*(self.block() for _ in range(LAYERS)))])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def block(self) -> Tree:
        return Tree(
            dwconv=nn.Conv2d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH),
            norm=nn.LayerNorm(WIDTH),
            pwconv1=nn.Linear(WIDTH, HIDDEN),
            grn=GRN(HIDDEN),
            pwconv2=nn.Linear(HIDDEN, WIDTH),
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                trunc_normal_(module.weight, std=0.02)
                zeros_(module.bias)
