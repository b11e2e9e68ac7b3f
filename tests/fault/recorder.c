/* Writes down what a real server does to its disk, preloaded under it (LD_PRELOAD), so that a test can replay it up to any moment and
 * lose what was not synced.
 *
 *   RECORD_TO     the file the record is appended to
 *   RECORD_UNDER  only files below this folder are written down
 *
 * A line of the record: kind, time (CLOCK_MONOTONIC, nanoseconds, taken when the call has returned), offset or size, length of path,
 * length of what follows; then path and bytes. One mutex lies around each call and its line, so the order is true. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;

struct line {
    uint64_t kind, time, at, path_length, length;
};

static int below(const char *path) {
    const char *under = getenv("RECORD_UNDER");
    return under && path && strncmp(path, under, strlen(under)) == 0;
}

/* The path of an open file, if it is one of ours. The shared memory beside a log is no file of the disk. */
static int ours(int fd, char *path, size_t size) {
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path) && !strstr(path, " (deleted)");
}

static void put(const void *from, size_t size) {
    if (NEXT(write)(record, from, size) != (ssize_t)size) abort();
}

static void tell(char kind, const char *path, uint64_t at, const void *bytes, size_t length) {
    int saved = errno;
    if (record < 0) record = NEXT(open)(getenv("RECORD_TO"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct line line = {(uint64_t)kind, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, at, strlen(path), length};
    put(&line, sizeof line);
    put(path, strlen(path));
    if (length) put(bytes, length);
    errno = saved;
}

/* Makes a call in turn, and writes it down if it is of ours and went well. */
#define RECORDED(result, call, is_ours, telling)                                                                         \
    do {                                                                                                                \
        if (!(is_ours)) return call;                                                                                    \
        pthread_mutex_lock(&turn);                                                                                      \
        result = call;                                                                                                  \
        if (result >= 0) telling;                                                                                       \
        pthread_mutex_unlock(&turn);                                                                                    \
        return result;                                                                                                  \
    } while (0)

ssize_t write(int fd, const void *from, size_t size) {
    char path[4096];
    ssize_t done;
    off_t at = 0;
    RECORDED(done, NEXT(write)(fd, from, size), ours(fd, path, sizeof path),
             (at = lseek(fd, 0, SEEK_CUR), tell('w', path, (uint64_t)(at - done), from, (size_t)done)));
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    char path[4096];
    ssize_t done;
    RECORDED(done, NEXT(pwrite)(fd, from, size, at), ours(fd, path, sizeof path),
             tell('w', path, (uint64_t)at, from, (size_t)done));
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    char path[4096];
    ssize_t done;
    RECORDED(done, NEXT(pwrite64)(fd, from, size, at), ours(fd, path, sizeof path),
             tell('w', path, (uint64_t)at, from, (size_t)done));
}

int fsync(int fd) {
    char path[4096];
    int done;
    RECORDED(done, NEXT(fsync)(fd), ours(fd, path, sizeof path), tell('s', path, 0, NULL, 0));
}

int fdatasync(int fd) {
    char path[4096];
    int done;
    RECORDED(done, NEXT(fdatasync)(fd), ours(fd, path, sizeof path), tell('s', path, 0, NULL, 0));
}

int ftruncate(int fd, off_t to) {
    char path[4096];
    int done;
    RECORDED(done, NEXT(ftruncate)(fd, to), ours(fd, path, sizeof path), tell('t', path, (uint64_t)to, NULL, 0));
}

int ftruncate64(int fd, off64_t to) {
    char path[4096];
    int done;
    RECORDED(done, NEXT(ftruncate64)(fd, to), ours(fd, path, sizeof path), tell('t', path, (uint64_t)to, NULL, 0));
}

int unlink(const char *path) {
    int done;
    RECORDED(done, NEXT(unlink)(path), below(path), tell('u', path, 0, NULL, 0));
}

int rename(const char *from, const char *to) {
    int done;
    RECORDED(done, NEXT(rename)(from, to), below(from), tell('r', from, 0, to, strlen(to)));
}

/* Opening a file that is not there yet makes it; O_TRUNC empties it. */
static int opening(int (*open_it)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (!below(path) || !(flags & (O_CREAT | O_TRUNC))) return open_it(path, flags, mode);
    pthread_mutex_lock(&turn);
    int was_there = access(path, F_OK) == 0;
    int fd = open_it(path, flags, mode);
    if (fd >= 0 && !was_there) tell('c', path, 0, NULL, 0);
    if (fd >= 0 && was_there && (flags & O_TRUNC)) tell('t', path, 0, NULL, 0);
    pthread_mutex_unlock(&turn);
    return fd;
}

#define OPENING(name)                                                                                                   \
    int name(const char *path, int flags, ...) {                                                                        \
        va_list more;                                                                                                   \
        va_start(more, flags);                                                                                          \
        mode_t mode = va_arg(more, mode_t);                                                                             \
        va_end(more);                                                                                                   \
        return opening(NEXT(name), path, flags, mode);                                                                  \
    }

OPENING(open)
OPENING(open64)
