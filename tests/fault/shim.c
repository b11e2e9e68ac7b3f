/* A disk that fails on demand, preloaded under a real server (LD_PRELOAD).
 *
 *   FAULT_CALLS  which calls count: any of w (write, pwrite), s (fsync, fdatasync), t (ftruncate), o (open for writing)
 *   FAULT_AT     the number of the call that fails, from 1; with 0 calls are only counted
 *   FAULT_KIND   eio, enospc, or short (half of a write is done, then the next fails with ENOSPC)
 *   FAULT_EVER   1: every such call from then on fails too
 *   FAULT_COUNT  a file that the number of calls is written to when the process ends
 *   FAULT_MADE   a file that is there once a call has failed
 *
 * Only files below FAULT_UNDER count. Nothing else of the process is touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;
static atomic_int halved;

static int counts(char kind) {
    const char *which = getenv("FAULT_CALLS");
    return which && strchr(which, kind);
}

static int below(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    return under && path && strncmp(path, under, strlen(under)) == 0;
}

static int ours(int fd) {
    char link[64], path[4096];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void made(void) {
    const char *path = getenv("FAULT_MADE");
    int saved = errno, fd = path ? NEXT(open)(path, O_CREAT | O_WRONLY, 0600) : -1;
    if (fd >= 0) close(fd);
    errno = saved;
}

/* Whether this call fails. */
static int fails(void) {
    long n = atomic_fetch_add(&calls, 1) + 1;
    const char *at = getenv("FAULT_AT"), *ever = getenv("FAULT_EVER");
    long wanted = at ? atol(at) : 0;
    if (wanted && n == wanted) made();
    return wanted && (n == wanted || (n > wanted && ever && *ever == '1'));
}

static int failure(void) {
    const char *kind = getenv("FAULT_KIND");
    errno = kind && strcmp(kind, "eio") ? ENOSPC : EIO;
    return -1;
}

static int is_short(void) {
    const char *kind = getenv("FAULT_KIND");
    return kind && !strcmp(kind, "short");
}

__attribute__((destructor)) static void told(void) {
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", (long)atomic_load(&calls));
        fclose(file);
    }
}

/* A write may be shortened once; what is left of it then fails. */
#define WRITING(name, signature, arguments, shortened)                                                                   \
    ssize_t name signature {                                                                                            \
        if (counts('w') && ours(fd)) {                                                                                  \
            if (atomic_exchange(&halved, 0)) return failure();                                                          \
            if (fails()) {                                                                                              \
                if (!is_short() || size < 2) return failure();                                                          \
                atomic_store(&halved, 1);                                                                               \
                return NEXT(name) shortened;                                                                            \
            }                                                                                                           \
        }                                                                                                               \
        return NEXT(name) arguments;                                                                                    \
    }

WRITING(write, (int fd, const void *from, size_t size), (fd, from, size), (fd, from, size / 2))
WRITING(pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), (fd, from, size / 2, at))
WRITING(pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at), (fd, from, size / 2, at))

#define SYNCING(name)                                                                                                   \
    int name(int fd) {                                                                                                  \
        if (counts('s') && ours(fd) && fails()) return failure();                                                       \
        return NEXT(name)(fd);                                                                                          \
    }

SYNCING(fsync)
SYNCING(fdatasync)

int ftruncate(int fd, off_t to) {
    if (counts('t') && ours(fd) && fails()) return failure();
    return NEXT(ftruncate)(fd, to);
}

int ftruncate64(int fd, off64_t to) {
    if (counts('t') && ours(fd) && fails()) return failure();
    return NEXT(ftruncate64)(fd, to);
}

static int opened(const char *path, int flags) {
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    return writes && counts('o') && below(path) && fails();
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return opened(path, flags) ? failure() : NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return opened(path, flags) ? failure() : NEXT(open64)(path, flags, mode);
}
