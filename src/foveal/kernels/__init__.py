"""Fused kernels, one operator of torch for each attention that has some."""
