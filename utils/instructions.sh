# shellcheck shell=bash
# One instruction set for the libraries' kernels. Source this file, then call pin_instructions.
#
# Libraries choose their kernels by the processor, and the last bits of a sum by the kernel; trained
# networks carry them on into the error rates. AVX2 is what all servers since 2015 have. MKL has others
# for AMD's processors than for Intel's all the same; MKL_CBWR=COMPATIBLE, set beforehand, takes those
# that both have, which are slower.

pin_instructions() {
  grep -qw avx2 /proc/cpuinfo 2>/dev/null || return 0
  export ATEN_CPU_CAPABILITY=avx2                               # PyTorch's own kernels
  export ONEDNN_MAX_CPU_ISA=AVX2                                # its convolutions
  export MKL_CBWR=${MKL_CBWR:-AVX2}                             # its matrix products
  export OPENBLAS_CORETYPE=Haswell                              # those of NumPy and SciPy
  export NPY_DISABLE_CPU_FEATURES='X86_V4 AVX512_ICL AVX512_SPR' # NumPy's own kernels
}
