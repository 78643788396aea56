"""Products with packed weights on x86-64 CPUs, compiled in-process by LLVM."""
