/* A disk that fails, and one that keeps a diary: preloaded into every process of a run.

   What is written below FAULTY_DISK_ROOT is counted, over all processes together, in the file FAULTY_DISK_STATE: five
   64-bit numbers: operations so far, the first one to fail, how many fail from there on, with which errno, and how many
   have failed. With FAULTY_DISK_DIARY every operation is appended to that file as "NUMBER<tab>NAME<tab>PATH[<tab>MORE]";
   MORE is the new name of a rename, or all runs of 64 hexadecimal digits in what is written to a write-ahead log.

   build: cc -shared -fPIC -O1 -o faulty_disk.so faulty_disk.c -ldl */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct state {
    _Atomic uint64_t seen;
    uint64_t first, count, error;
    _Atomic uint64_t failed;
};

static struct state *state;
static char root[PATH_MAX];
static size_t root_length;
static int diary = -1;

__attribute__((constructor)) static void open_state(void) {
    const char *folder = getenv("FAULTY_DISK_ROOT"), *file = getenv("FAULTY_DISK_STATE"), *log = getenv("FAULTY_DISK_DIARY");
    if (!folder || !file) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *place = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (place == MAP_FAILED) return;
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    if (log) diary = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    state = place;
}

static int below(const char *path) { return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]); }

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}

static int path_at(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        if (strlen(name) >= PATH_MAX) return 0;
        strcpy(path, name);
    } else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD ? !getcwd(base, sizeof base) : !(path_of(folder, base) || 1)) return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return below(path);
}

/* Count an operation; true when it has to fail. */
static int fails(const char *name, const char *path, const char *more) {
    uint64_t number = atomic_fetch_add(&state->seen, 1) + 1;
    if (diary >= 0) {
        static __thread char line[1 << 16];
        int n = snprintf(line, sizeof line, "%llu\t%s\t%s\t%s\n", (unsigned long long)number, name, path, more ? more : "");
        if (n > 0) syscall(SYS_write, diary, line, n < (int)sizeof line ? n : (int)sizeof line - 1);
    }
    if (number < state->first || number >= state->first + state->count) return 0;
    atomic_fetch_add(&state->failed, 1);
    errno = (int)state->error;
    return 1;
}

static const char *digits_in(const char *path, const void *buffer, size_t size) {
    static __thread char found[1 << 15];
    size_t length = strlen(path), used = 0, run = 0;
    found[0] = 0;
    if (diary < 0 || length < 4 || strcmp(path + length - 4, "-wal")) return found;
    const char *bytes = buffer;
    for (size_t i = 0; i <= size; i++) {
        char c = i < size ? bytes[i] : 0;
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) {
            run++;
            continue;
        }
        if (run >= 64 && used + 66 < sizeof found) {
            /* Columns lie side by side, so a hash may be followed by digits of the next one. */
            memcpy(found + used, bytes + i - run, 64);
            used += 64;
            found[used++] = ' ';
            found[used] = 0;
        }
        run = 0;
    }
    return found;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *buffer, size_t size) {
    REAL(write);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("write", path, digits_in(path, buffer, size))) return -1;
    return real(fd, buffer, size);
}

ssize_t pwrite(int fd, const void *buffer, size_t size, off_t at) {
    REAL(pwrite);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("write", path, digits_in(path, buffer, size))) return -1;
    return real(fd, buffer, size, at);
}

ssize_t pwrite64(int fd, const void *buffer, size_t size, off64_t at) {
    REAL(pwrite64);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("write", path, digits_in(path, buffer, size))) return -1;
    return real(fd, buffer, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("write", path, NULL)) return -1;
    return real(fd, parts, count);
}

int fsync(int fd) {
    REAL(fsync);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("fsync", path, NULL)) return -1;
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("fsync", path, NULL)) return -1;
    return real(fd);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("truncate", path, NULL)) return -1;
    return real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    char path[PATH_MAX];
    if (state && path_of(fd, path) && fails("truncate", path, NULL)) return -1;
    return real(fd, size);
}

static int rename_fails(int from, const char *old, int to, const char *new) {
    char path[PATH_MAX], other[PATH_MAX];
    int counted = path_at(to, new, other);
    path_at(from, old, path);
    return counted && fails("rename", path, other);
}

int rename(const char *old, const char *new) {
    REAL(rename);
    return state && rename_fails(AT_FDCWD, old, AT_FDCWD, new) ? -1 : real(old, new);
}

int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    return state && rename_fails(from, old, to, new) ? -1 : real(from, old, to, new);
}

int mkdir(const char *name, mode_t mode) {
    REAL(mkdir);
    char path[PATH_MAX];
    if (state && path_at(AT_FDCWD, name, path) && fails("mkdir", path, NULL)) return -1;
    return real(name, mode);
}

#define OPENER(name, parameters, call, folder, file)                                              \
    int name parameters {                                                                         \
        REAL(name);                                                                               \
        mode_t mode = 0;                                                                          \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                      \
            va_list rest;                                                                         \
            va_start(rest, flags);                                                                \
            mode = (mode_t)va_arg(rest, int);                                                     \
            va_end(rest);                                                                         \
        }                                                                                         \
        char path[PATH_MAX];                                                                      \
        if (state && (flags & O_CREAT) && path_at(folder, file, path) && fails("create", path, NULL)) return -1; \
        return real call;                                                                         \
    }

OPENER(open, (const char *file, int flags, ...), (file, flags, mode), AT_FDCWD, file)
OPENER(open64, (const char *file, int flags, ...), (file, flags, mode), AT_FDCWD, file)
OPENER(openat, (int at, const char *file, int flags, ...), (at, file, flags, mode), at, file)
OPENER(openat64, (int at, const char *file, int flags, ...), (at, file, flags, mode), at, file)

static FILE *counted_fopen(FILE *(*real)(const char *, const char *), const char *name, const char *mode) {
    char path[PATH_MAX];
    if (state && (mode[0] == 'w' || mode[0] == 'a') && path_at(AT_FDCWD, name, path) && fails("create", path, NULL)) return NULL;
    return real(name, mode);
}

FILE *fopen(const char *name, const char *mode) {
    REAL(fopen);
    return counted_fopen(real, name, mode);
}

FILE *fopen64(const char *name, const char *mode) {
    REAL(fopen64);
    return counted_fopen(real, name, mode);
}
