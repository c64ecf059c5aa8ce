"""Run the CUDA kernels without a GPU: from source, from PTX, and read their SASS (README.md)."""
