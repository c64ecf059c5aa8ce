"""Small models with the parameter names of well-known code bases, for the tests of recipes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HIDDEN, LAYERS, HEADS, VOCABULARY = 32, 64, 3, 2, 48


class Tree(nn.ModuleDict):
    """Modules by name; numbers become attributes, tensors parameters."""

    def __init__(self, **children: Any) -> None:
        modules = {name: child for name, child in children.items() if isinstance(child, nn.Module)}
        super().__init__(modules)
        for name, child in children.items():
            if isinstance(child, Tensor):
                self.register_parameter(name, nn.Parameter(child))
            elif not isinstance(child, nn.Module):
                setattr(self, name, child)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


linear = nn.Linear


def blocks(make: Any, count: int = LAYERS) -> nn.ModuleList:
    return nn.ModuleList([make() for _ in range(count)])


def nano_gpt(layers: int = LAYERS) -> Tree:
    def block() -> Tree:
        return Tree(
            ln_1=nn.LayerNorm(WIDTH),
            attn=Tree(n_head=HEADS, c_attn=linear(WIDTH, 3 * WIDTH), c_proj=linear(WIDTH, WIDTH)),
            ln_2=nn.LayerNorm(WIDTH),
            mlp=Tree(c_fc=linear(WIDTH, HIDDEN), c_proj=linear(HIDDEN, WIDTH)),
        )

    model = Tree(
        transformer=Tree(
            wte=nn.Embedding(VOCABULARY, WIDTH),
            wpe=nn.Embedding(16, WIDTH),
            h=blocks(block, layers),
            ln_f=nn.LayerNorm(WIDTH),
        ),
        lm_head=linear(WIDTH, VOCABULARY, bias=False),
    )
    model["transformer"]["wte"].weight = model["lm_head"].weight
    return model


def titan_llama() -> Tree:
    def block() -> Tree:
        def plain(inputs: int, outputs: int) -> nn.Linear:
            return linear(inputs, outputs, bias=False)

        return Tree(
            attention=Tree(
                n_heads=HEADS,
                wq=plain(WIDTH, WIDTH),
                wk=plain(WIDTH, WIDTH),
                wv=plain(WIDTH, WIDTH),
                wo=plain(WIDTH, WIDTH),
            ),
            feed_forward=Tree(
                w1=plain(WIDTH, HIDDEN), w2=plain(HIDDEN, WIDTH), w3=plain(WIDTH, HIDDEN)
            ),
            attention_norm=nn.RMSNorm(WIDTH),
            ffn_norm=nn.RMSNorm(WIDTH),
        )

    return Tree(
        tok_embeddings=nn.Embedding(VOCABULARY, WIDTH),
        layers=nn.ModuleDict({str(i): block() for i in range(LAYERS)}),
        norm=nn.RMSNorm(WIDTH),
        output=linear(WIDTH, VOCABULARY, bias=False),
    )


def olmo() -> Tree:
    def block() -> Tree:
        return Tree(
            attn_norm=nn.LayerNorm(WIDTH),
            att_proj=linear(WIDTH, 3 * WIDTH, bias=False),
            attn_out=linear(WIDTH, WIDTH, bias=False),
            ff_norm=nn.LayerNorm(WIDTH),
            ff_proj=linear(WIDTH, HIDDEN, bias=False),
            ff_out=linear(HIDDEN, WIDTH, bias=False),
        )

    return Tree(
        transformer=Tree(
            wte=nn.Embedding(VOCABULARY, WIDTH),
            blocks=blocks(block),
            ln_f=nn.LayerNorm(WIDTH),
            ff_out=linear(WIDTH, VOCABULARY, bias=False),
        )
    )


def megatron_gpt() -> Tree:
    def block() -> Tree:
        return Tree(
            input_layernorm=nn.LayerNorm(WIDTH),
            self_attention=Tree(
                linear_qkv=linear(WIDTH, 3 * WIDTH), linear_proj=linear(WIDTH, WIDTH)
            ),
            mlp=Tree(linear_fc1=linear(WIDTH, HIDDEN), linear_fc2=linear(HIDDEN, WIDTH)),
        )

    return Tree(
        embedding=Tree(word_embeddings=nn.Embedding(VOCABULARY, WIDTH)),
        decoder=Tree(layers=blocks(block), final_layernorm=nn.LayerNorm(WIDTH)),
        output_layer=linear(WIDTH, VOCABULARY, bias=False),
    )


def timm_vit() -> Tree:
    def block() -> Tree:
        return Tree(
            norm1=nn.LayerNorm(WIDTH),
            attn=Tree(qkv=linear(WIDTH, 3 * WIDTH), proj=linear(WIDTH, WIDTH)),
            norm2=nn.LayerNorm(WIDTH),
            mlp=Tree(fc1=linear(WIDTH, HIDDEN), fc2=linear(HIDDEN, WIDTH)),
        )

    return Tree(
        cls_token=torch.zeros(1, 1, WIDTH),
        reg_token=torch.zeros(1, 2, WIDTH),
        pos_embed=torch.zeros(1, 17, WIDTH),
        patch_embed=Tree(proj=nn.Conv2d(3, WIDTH, 4, 4)),
        blocks=nn.Sequential(*(block() for _ in range(LAYERS))),
        norm=nn.LayerNorm(WIDTH),
        head=linear(WIDTH, 10),
    )


class BasicBlock(nn.Module):
    """As in torchvision; with `bottleneck` three convolutions."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1 if bottleneck else 3, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, bias=False)
        if bottleneck:
            self.conv3 = nn.Conv2d(outputs, outputs, 1, bias=False)
        if norm:
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        if inputs != outputs:
            layers = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.downsample = nn.Sequential(*layers[: 2 if norm else 1])


def resnet(*, norm: bool = True, bottleneck: bool = False) -> Tree:
    def block(inputs: int, outputs: int) -> BasicBlock:
        return BasicBlock(inputs, outputs, norm=norm, bottleneck=bottleneck)

    stem = {"bn1": nn.BatchNorm2d(16)} if norm else {}
    return Tree(
        conv1=nn.Conv2d(3, 16, 7, bias=False),
        **stem,
        layer1=nn.Sequential(block(16, 16), block(16, 16)),
        layer2=nn.Sequential(block(16, 32), block(32, 32)),
        fc=linear(32, 10),
    )


def efficientnet() -> Tree:
    return Tree(
        conv_stem=nn.Conv2d(3, 16, 3, bias=False),
        bn1=nn.BatchNorm2d(16),
        blocks=nn.Sequential(
            Tree(
                conv_pw=nn.Conv2d(16, 32, 1, bias=False),
                conv_dw=nn.Conv2d(32, 32, 3, groups=32, bias=False),
                conv_pwl=nn.Conv2d(32, 16, 1, bias=True),
            )
        ),
        classifier=linear(16, 10),
    )


def convnext() -> Tree:
    def block() -> Tree:
        return Tree(
            gamma=torch.ones(16),
            dwconv=nn.Conv2d(16, 16, 7, groups=16),
            norm=nn.LayerNorm(16),
            pwconv1=linear(16, 64),
            pwconv2=linear(64, 16),
        )

    return Tree(
        downsample_layers=nn.ModuleList([nn.Sequential(nn.Conv2d(3, 16, 4), nn.LayerNorm(16))]),
        stages=nn.ModuleList([nn.Sequential(block(), block())]),
        norm=nn.LayerNorm(16),
        head=linear(16, 10),
    )


def dit() -> Tree:
    def block() -> Tree:
        return Tree(
            attn=Tree(qkv=linear(WIDTH, 3 * WIDTH), proj=linear(WIDTH, WIDTH)),
            mlp=Tree(fc1=linear(WIDTH, HIDDEN), fc2=linear(HIDDEN, WIDTH)),
            adaLN_modulation=nn.Sequential(nn.SiLU(), linear(WIDTH, 6 * WIDTH)),
        )

    return Tree(
        pos_embed=torch.linspace(-1, 1, 16 * WIDTH).view(1, 16, WIDTH),
        x_embedder=Tree(proj=nn.Conv2d(4, WIDTH, 2, 2)),
        t_embedder=Tree(mlp=nn.Sequential(linear(256, WIDTH), nn.SiLU(), linear(WIDTH, WIDTH))),
        y_embedder=Tree(embedding_table=nn.Embedding(11, WIDTH)),
        blocks=blocks(block),
        final_layer=Tree(
            linear=linear(WIDTH, 16),
            adaLN_modulation=nn.Sequential(nn.SiLU(), linear(WIDTH, 2 * WIDTH)),
        ),
    )


class LoraLinear(nn.Module):
    """A Linear with an adapter, with the names and the output of peft's."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outputs, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))
        return out


class Adapter(nn.Module):
    """A bottleneck adapter on a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.up(torch.relu(self.down(x)))
        return out


def recurrent() -> Tree:
    return Tree(
        embedding=nn.Embedding(VOCABULARY, WIDTH),
        lstm=nn.LSTM(WIDTH, 16, num_layers=2, bidirectional=True),
        gru=nn.GRU(32, 16),
        head=linear(16, 5),
    )


def deep_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True)
    return Tree(
        embedding=nn.Embedding(VOCABULARY, WIDTH),
        encoder=nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False),
    )


def fair_transformer() -> Tree:
    def attention() -> Tree:
        return Tree(
            q_proj=linear(WIDTH, WIDTH),
            k_proj=linear(WIDTH, WIDTH),
            v_proj=linear(WIDTH, WIDTH),
            out_proj=linear(WIDTH, WIDTH),
        )

    def block() -> Tree:
        return Tree(self_attn=attention(), fc1=linear(WIDTH, HIDDEN), fc2=linear(HIDDEN, WIDTH))

    return Tree(
        encoder=Tree(embed_tokens=nn.Embedding(VOCABULARY, WIDTH), layers=blocks(block, 4)),
        decoder=Tree(layers=blocks(block, 2)),
    )


def rezero() -> Tree:
    def block() -> Tree:
        return Tree(resweight=torch.ones(1), fc1=linear(WIDTH, HIDDEN), fc2=linear(HIDDEN, WIDTH))

    return Tree(blocks=blocks(block), head=linear(WIDTH, 4))


def tanh_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 96), nn.Tanh())
