// Preloaded into a process, it lets writes to files fail as on a full disk, while the file FULL_DISK holds how their paths begin.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ssize_t content(const char *path, char *into, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, into, size - 1);
    close(fd);
    if (length >= 0) into[length] = 0;
    return length;
}

static int refused(int fd) {
    char beginning[4096], link[64], path[4096];
    struct stat file;
    int before = errno;
    const char *flag = getenv("FULL_DISK");
    int is_full = flag != NULL && fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
                  content(flag, beginning, sizeof beginning) > 0;
    if (is_full) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        is_full = strncmp(path, beginning, strlen(beginning)) == 0;
    }
    errno = is_full ? ENOSPC : before;
    return is_full;
}

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *data, size_t size) {
    if (refused(fd)) return -1;
    return REAL(ssize_t (*)(int, const void *, size_t), "write")(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (refused(fd)) return -1;
    return REAL(ssize_t (*)(int, const void *, size_t, off_t), "pwrite")(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (refused(fd)) return -1;
    return REAL(ssize_t (*)(int, const void *, size_t, off64_t), "pwrite64")(fd, data, size, at);
}
