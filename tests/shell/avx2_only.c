/* Preloaded, it hides AVX-512 from a program, as a processor would that lacks it.
 *
 * The kernel lets CPUID fault (arch_prctl, ARCH_SET_CPUID); the handler answers in its place,
 * without the bits of AVX-512, AMX and what came with them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012 };

/* Of leaf 7: EBX, ECX and EDX of AVX-512 and AMX; VEX-encoded VNNI is leaf 7.1. */
static const int EBX[] = {16, 17, 21, 26, 27, 28, 30, 31};
static const int ECX[] = {1, 6, 8, 9, 10, 11, 12, 14};
static const int EDX[] = {2, 3, 8, 22, 23, 24, 25};

static long answer_cpuid(unsigned long yes) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, yes); }

static uint32_t without(uint32_t word, const int *bits, size_t count) {
  for (size_t n = 0; n < count; n++) word &= ~(1u << bits[n]);
  return word;
}
#define WITHOUT(word, bits) without(word, bits, sizeof bits / sizeof *bits)

static void handle(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *code = (const uint8_t *)r[REG_RIP];
  uint32_t leaf = r[REG_RAX], part = r[REG_RCX], a, b, c, d;
  (void)info;
  if (code[0] != 0x0f || code[1] != 0xa2) { /* a fault of the program's own */
    signal(number, SIG_DFL);
    return;
  }
  answer_cpuid(1);
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(part));
  answer_cpuid(0);
  if (leaf == 7 && part == 0) {
    b = WITHOUT(b, EBX), c = WITHOUT(c, ECX), d = WITHOUT(d, EDX);
  } else if ((leaf == 7 && part == 1) || (leaf >= 0x19 && leaf < 0x40000000)) {
    a = b = c = d = 0;
  } else if (leaf == 0xd && part == 0) { /* the state that is saved: x87, SSE and AVX */
    a &= 7, b = c = 832;
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

/* Programs that handle faults by themselves, as PyTorch's readers do, must leave ours in place. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
  int (*next)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
  if (number == SIGSEGV && new && new->sa_sigaction != handle) new = NULL;
  return next(number, new, old);
}

__attribute__((constructor)) static void hide(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  if (sigaction(SIGSEGV, &action, NULL) || answer_cpuid(0)) exit(99);
}
