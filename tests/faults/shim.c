/* Counts the operations by which this process changes files under one folder, and has one of them
 * fail: for LD_PRELOAD, armed by faults_arm.
 *
 * Counted: opening for writing, write, pwrite, writev, rename, renameat2, link, unlink, rmdir, mkdir,
 * symlink, chmod, fsync, ftruncate, sendfile and copy_file_range. What is written to mapped pages, and
 * by io_uring, is not. A child that is forked goes on with the count of its own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, FAIL_EIO, FAIL_ENOSPC, SHORT, KILL, TERM, INT, TORN, FULL };

static char prefix[PATH_MAX];
static size_t length;
static int action, from_then_on;
static long target = -1, counted, struck;

/* Names of the last operations, for whoever reports a point. */
static char operation[PATH_MAX + 64];

void faults_arm(const char *folder, long number, int what, int every_later_one) {
    snprintf(prefix, sizeof prefix, "%s", folder);
    length = strlen(prefix);
    target = number;
    action = what;
    from_then_on = every_later_one;
    counted = struck = 0;
    operation[0] = 0;
}
void faults_disarm(void) { length = 0; }
long faults_counted(void) { return counted; }
long faults_struck(void) { return struck; }
const char *faults_operation(void) { return operation; }

static int inside(const char *path) { return length && path && !strncmp(path, prefix, length); }

/* The name of a file by its folder's descriptor, whatever the folder a process is in. */
static int named(int folder, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    if (!length || !path) return 0;
    if (path[0] == '/') return inside(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, whole, PATH_MAX - 1);
        if (size < 0) return 0;
        whole[size] = 0;
    }
    strncat(whole, "/", 2);
    strncat(whole, path, PATH_MAX - 1);
    return inside(whole);
}

static int open_inside(int descriptor) {
    char name[PATH_MAX], link[64];
    if (!length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, name, sizeof name - 1);
    if (size < 0) return 0;
    name[size] = 0;
    return inside(name);
}

/* Whether this operation is to fail (1), with errno set, to write less than it was given (2), or to do
 * that and end the process (3). */
static int strikes(const char *name, const char *what) {
    long number = __sync_fetch_and_add(&counted, 1);
    if (number != target && !(from_then_on && target >= 0 && number > target)) return 0;
    if (!struck++) snprintf(operation, sizeof operation, "%s %s", name, what ? what : "");
    switch (action) {
    case FAIL_EIO: errno = EIO; return 1;
    case FAIL_ENOSPC: errno = ENOSPC; return 1;
    case SHORT: return 2;
    case KILL: kill(getpid(), SIGKILL); pause(); return 1;
    case TERM: raise(SIGTERM); return 0;
    case INT: raise(SIGINT); return 0;
    case TORN:
        if (strstr(name, "write") || strstr(name, "send")) return 3;
        kill(getpid(), SIGKILL);
        pause();
        return 1;
    case FULL:
        if (strstr(name, "unlink") || strstr(name, "rmdir") || strstr(name, "trunc") ||
            strstr(name, "chmod"))
            return 0;
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int makes(int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0; }

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (makes(flags) && named(AT_FDCWD, path) && strikes("open", path) == 1) return -1; \
        return real(path, flags, mode); \
    }
#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (makes(flags) && named(folder, path) && strikes("open", path) == 1) return -1; \
        return real(folder, path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

static FILE *opened(FILE *(*real)(const char *, const char *), const char *path, const char *mode) {
    int writes = strpbrk(mode, "wa+") != NULL;
    if (writes && named(AT_FDCWD, path) && strikes("fopen", path) == 1) return NULL;
    return real(path, mode);
}
FILE *fopen(const char *path, const char *mode) { REAL(fopen); return opened(real, path, mode); }
FILE *fopen64(const char *path, const char *mode) { REAL(fopen64); return opened(real, path, mode); }

#define WRITES(type, name, given, passed, count, shorter) \
    type name given { \
        REAL(name); \
        if (open_inside(descriptor)) { \
            int how = strikes(#name, NULL); \
            if (how == 1) return -1; \
            if (how == 2 && count > 1) return real shorter; \
            if (how == 3) { \
                real shorter; \
                kill(getpid(), SIGKILL); \
                pause(); \
            } \
        } \
        return real passed; \
    }
WRITES(ssize_t, write, (int descriptor, const void *data, size_t size), (descriptor, data, size), size,
       (descriptor, data, size / 2))
WRITES(ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t at),
       (descriptor, data, size, at), size, (descriptor, data, size / 2, at))
WRITES(ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off64_t at),
       (descriptor, data, size, at), size, (descriptor, data, size / 2, at))
WRITES(ssize_t, writev, (int descriptor, const struct iovec *parts, int count), (descriptor, parts, count),
       count, (descriptor, parts, count / 2))
WRITES(ssize_t, sendfile, (int descriptor, int source, off_t *at, size_t size),
       (descriptor, source, at, size), size, (descriptor, source, at, size / 2))
WRITES(ssize_t, sendfile64, (int descriptor, int source, off64_t *at, size_t size),
       (descriptor, source, at, size), size, (descriptor, source, at, size / 2))

ssize_t copy_file_range(int source, off64_t *from, int descriptor, off64_t *at, size_t size,
                        unsigned flags) {
    REAL(copy_file_range);
    if (open_inside(descriptor)) {
        int how = strikes("copy_file_range", NULL);
        if (how == 1) return -1;
        if (how == 2 && size > 1) size /= 2;
    }
    return real(source, from, descriptor, at, size, flags);
}

#define ON_DESCRIPTOR(name, given, passed) \
    int name given { \
        REAL(name); \
        if (open_inside(descriptor) && strikes(#name, NULL) == 1) return -1; \
        return real passed; \
    }
ON_DESCRIPTOR(fsync, (int descriptor), (descriptor))
ON_DESCRIPTOR(fdatasync, (int descriptor), (descriptor))
ON_DESCRIPTOR(ftruncate, (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR(ftruncate64, (int descriptor, off64_t size), (descriptor, size))
ON_DESCRIPTOR(fchmod, (int descriptor, mode_t mode), (descriptor, mode))

#define ON_NAME(name, given, passed, folder, path) \
    int name given { \
        REAL(name); \
        if (named(folder, path) && strikes(#name, path) == 1) return -1; \
        return real passed; \
    }
ON_NAME(unlink, (const char *path), (path), AT_FDCWD, path)
ON_NAME(unlinkat, (int folder, const char *path, int flags), (folder, path, flags), folder, path)
ON_NAME(rmdir, (const char *path), (path), AT_FDCWD, path)
ON_NAME(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
ON_NAME(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), folder, path)
ON_NAME(chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
ON_NAME(fchmodat, (int folder, const char *path, mode_t mode, int flags), (folder, path, mode, flags),
        folder, path)
ON_NAME(truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path)
ON_NAME(symlink, (const char *to, const char *path), (to, path), AT_FDCWD, path)
ON_NAME(rename, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_NAME(renameat, (int old, const char *from, int folder, const char *path), (old, from, folder, path),
        folder, path)
ON_NAME(renameat2, (int old, const char *from, int folder, const char *path, unsigned flags),
        (old, from, folder, path, flags), folder, path)
ON_NAME(link, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_NAME(linkat, (int old, const char *from, int folder, const char *path, int flags),
        (old, from, folder, path, flags), folder, path)
