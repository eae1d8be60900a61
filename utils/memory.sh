# shellcheck shell=bash
# How the C library hands out memory. Source this file, then call keep_freed_memory.
#
# Each step of a training frees what it computed with. By default that goes back to the system, which
# fills it with zeros and maps it anew, page by page, for the next step: a fifth of an encoder's
# training on a virtual machine. Results are the same bytes.

keep_freed_memory() {
  export MALLOC_MMAP_THRESHOLD_=$((32 << 20))  # the largest there can be: what is smaller is kept
  export MALLOC_TRIM_THRESHOLD_=$((512 << 20)) # up to so many bytes a process
  # Pages of 2 MiB, where the system gives them to those who ask (glibc 2.35 and newer).
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1
}
