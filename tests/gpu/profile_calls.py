"""One call of each kernel on a large tensor, for ncu."""

import torch

import initstats as ist

x = torch.empty(1 << 26, device="cuda")
h = torch.empty(1 << 26, device="cuda", dtype=torch.bfloat16)
for t in (x, h):
    ist.uniform_(t, seed=0)
    ist.normal_(t, seed=0)
    ist.trunc_normal_(t, seed=0)
    ist.stats(t, histogram=False)
    ist.stats(t)
    ist.stats(t, fingerprint=True)
    ist.stats(t.view(8192, -1), dim=0)
w = torch.empty(1024, 1024, device="cuda")
ist.orthogonal_(w, seed=0)
ist.orthogonal_(torch.empty(96, 64, 64, device="cuda"), batch_dims=1, seed=0)
torch.cuda.synchronize()
