"""Triton kernels for Tempo, one operation a file, each beside its PyTorch reference.

Every operation's file holds its formula and rounding points, the launch configuration, the kernel,
a launcher that validates, `<op>_ref` (plain PyTorch, CPU or CUDA) and `variants()`: what the engine
launches, for ahead-of-time compilation. Nothing here imports `tempo_fast`.
"""
