"""One call of each kernel on a large tensor, for ncu.

python tests/gpu/profile_calls.py [--device cuda] [--log2 26]
"""

import argparse

import torch

import initstats as ist

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
parser.add_argument("--log2", type=int, default=26, help="elements, as a power of two")
args = parser.parse_args()
N, DEV = 1 << args.log2, args.device

x = torch.empty(N, device=DEV)
h = torch.empty(N, device=DEV, dtype=torch.bfloat16)
for t in (x, h):
    ist.uniform_(t, seed=0)
    ist.normal_(t, seed=0)
    ist.trunc_normal_(t, seed=0)
    ist.stats(t, histogram=False)
    ist.stats(t)
    ist.stats(t, fingerprint=True)
    ist.stats(t.view(N >> 13, -1), dim=0)
w = torch.empty(1024, 1024, device=DEV)
ist.orthogonal_(w, seed=0)
ist.orthogonal_(torch.empty(96, 64, 64, device=DEV), batch_dims=1, seed=0)
if DEV == "cuda":
    torch.cuda.synchronize()
