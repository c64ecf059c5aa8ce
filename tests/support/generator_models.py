"""Generators of images with the parameter names of their code bases."""

from __future__ import annotations

import torch
from torch import nn

from named_models import Tree

WIDTH, HIDDEN, HEAD = 256, 320, 64


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size)


def norm() -> nn.GroupNorm:
    return nn.GroupNorm(32, WIDTH)


def adm_unet() -> Tree:
    block = Tree(
        in_layers=nn.Sequential(norm(), nn.SiLU(), conv(WIDTH, WIDTH)),
        emb_layers=nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)),
        out_layers=nn.Sequential(norm(), nn.SiLU(), nn.Dropout(), conv(WIDTH, WIDTH)),
    )
    attention = Tree(
        norm=norm(), qkv=nn.Conv1d(WIDTH, 3 * WIDTH, 1), proj_out=nn.Conv1d(WIDTH, WIDTH, 1)
    )
    return Tree(
        time_embed=nn.Sequential(nn.Linear(64, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)),
        label_emb=nn.Embedding(300, WIDTH),
        input_blocks=nn.ModuleList(
            [nn.Sequential(conv(3, WIDTH)), nn.Sequential(block, attention)]
        ),
        out=nn.Sequential(norm(), nn.SiLU(), conv(WIDTH, 3)),
    )


def edm_unet() -> Tree:
    block = Tree(
        norm0=norm(), conv0=conv(WIDTH, WIDTH), affine=nn.Linear(WIDTH, WIDTH), norm1=norm(),
        conv1=conv(WIDTH, WIDTH), norm2=norm(), qkv=conv(WIDTH, 3 * WIDTH, 1),
        proj=conv(WIDTH, WIDTH, 1),
    )  # fmt: skip
    return Tree(
        map_label=nn.Linear(300, WIDTH, bias=False),
        map_augment=nn.Linear(9, WIDTH, bias=False),
        map_layer0=nn.Linear(WIDTH, WIDTH),
        enc=nn.ModuleDict({"32x32_conv": conv(3, WIDTH), "32x32_block0": block}),
        out_norm=norm(),
        out_conv=conv(WIDTH, 3),
    )


def flux() -> Tree:
    def embedder(inputs: int) -> Tree:
        return Tree(in_layer=nn.Linear(inputs, WIDTH), out_layer=nn.Linear(WIDTH, WIDTH))

    def keys() -> Tree:
        return Tree(query_norm=nn.RMSNorm(HEAD), key_norm=nn.RMSNorm(HEAD))

    def stream(name: str) -> dict[str, nn.Module]:
        return {
            f"{name}_mod": Tree(lin=nn.Linear(WIDTH, 6 * WIDTH)),
            f"{name}_attn": Tree(
                qkv=nn.Linear(WIDTH, 3 * WIDTH), norm=keys(), proj=nn.Linear(WIDTH, WIDTH)
            ),
            f"{name}_mlp": nn.Sequential(
                nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH)
            ),
        }

    single = Tree(
        linear1=nn.Linear(WIDTH, 3 * WIDTH + HIDDEN),
        linear2=nn.Linear(WIDTH + HIDDEN, WIDTH),
        norm=keys(),
        modulation=Tree(lin=nn.Linear(WIDTH, 3 * WIDTH)),
    )
    return Tree(
        img_in=nn.Linear(64, WIDTH),
        txt_in=nn.Linear(128, WIDTH),
        time_in=embedder(256),
        vector_in=embedder(96),
        double_blocks=nn.ModuleList([Tree(**stream("img"), **stream("txt"))]),
        single_blocks=nn.ModuleList([single]),
        final_layer=Tree(
            linear=nn.Linear(WIDTH, 64),
            adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)),
        ),
    )


def stylegan2() -> Tree:
    def modulated(inputs: int) -> Tree:
        layer = Tree(
            weight=torch.empty(inputs, inputs, 3, 3),
            bias=torch.empty(inputs),
            noise_strength=torch.empty([]),
            affine=nn.Linear(WIDTH, inputs),
        )
        layer.register_buffer("noise_const", torch.empty(8, 8))
        return layer

    mapping = Tree(
        embed=nn.Linear(10, WIDTH), fc0=nn.Linear(WIDTH, WIDTH), fc1=nn.Linear(WIDTH, WIDTH)
    )
    mapping.register_buffer("w_avg", torch.empty(WIDTH))
    return Tree(
        mapping=mapping,
        synthesis=Tree(b4=Tree(const=torch.empty(WIDTH, 4, 4), conv1=modulated(WIDTH))),
    )
