#!/usr/bin/env bash
# Installs nvcc and the static runtime of CUDA in the image that cibuildwheel builds wheels in.
set -euo pipefail
version=13-0
dnf install -y dnf-plugins-core
dnf config-manager --add-repo \
  https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo
dnf install -y "cuda-nvcc-$version" "cuda-cudart-devel-$version" "cuda-crt-$version"
