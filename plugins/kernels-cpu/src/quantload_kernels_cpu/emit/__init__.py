"""Writing vector code: values of LLVM with the operators of Python."""
