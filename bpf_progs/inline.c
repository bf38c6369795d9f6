/* The programs that ship, for the inline engine: compiled into the extension aiouring._hook. */
#define AIOURING_INLINE

#define AIOURING_PROGRAM_NAME aiouring_standard
#define on_cqe standard_on_cqe
#include "standard.bpf.c"
#undef on_cqe
#undef AIOURING_PROGRAM_NAME

#define AIOURING_PROGRAM_NAME aiouring_wake
#define on_cqe wake_on_cqe
#include "wake.bpf.c"
#undef on_cqe
