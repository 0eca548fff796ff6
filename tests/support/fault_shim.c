// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "fault_shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static enum FaultKind armed_kind = fault_none;
static long armed_at = 0;
static int armed_stays = 0;
static long calls = 0;
static int counting = 0;

void fault_arm(enum FaultKind kind, long at, int stays) {
  armed_kind = kind;
  armed_at = at;
  armed_stays = stays;
  calls = 0;
  counting = 1;
}

long fault_calls(void) { return calls; }

__attribute__((constructor)) static void arm_from_environment(void) {
  static const char* const names[] = {"none", "kill", "enospc", "eio", "short", "eintr"};
  const char* kind = getenv("KUMIKO_FAULT_KIND");
  const char* at = getenv("KUMIKO_FAULT_AT");
  for (int i = 1; kind != NULL && at != NULL && i <= fault_eintr; ++i) {
    if (strcmp(kind, names[i]) == 0)
      fault_arm((enum FaultKind)i, atol(at), getenv("KUMIKO_FAULT_STAYS") != NULL);
  }
}

// What this call is to do: fault_none to go through. Only a write can be short or interrupted.
static enum FaultKind next_fault(int is_write) {
  if (!counting) return fault_none;
  ++calls;
  if (calls != armed_at && !(armed_stays && is_write && armed_at > 0 && calls > armed_at)) return fault_none;
  if (armed_kind == fault_kill) {
    raise(SIGKILL);
  }
  if (armed_kind == fault_enospc) errno = ENOSPC;
  if (armed_kind == fault_eio) errno = EIO;
  if (armed_kind == fault_eintr) errno = EINTR;
  if (!is_write && (armed_kind == fault_short || armed_kind == fault_eintr)) return fault_none;
  return armed_kind;
}

static int is_regular(int descriptor) {
  struct stat info;
  return fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static FaultObserver observer = NULL;

void fault_observe(FaultObserver to) { observer = to; }

static void path_of(int descriptor, char* out, size_t room) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, out, room - 1);
  out[length > 0 ? length : 0] = '\0';
}

static void tell(const char* call, int descriptor, long offset, const void* bytes, size_t count) {
  char path[PATH_MAX];
  if (observer == NULL) return;
  path_of(descriptor, path, sizeof path);
  observer(call, path, NULL, offset, bytes, count);
}

static void tell_names(const char* call, const char* path, const char* other) {
  if (observer != NULL) observer(call, path, other, 0, NULL, 0);
}

static size_t allowed(enum FaultKind fault, size_t count) {
  return fault == fault_short && count > 1 ? count / 2 : count;
}

ssize_t write(int descriptor, const void* bytes, size_t count) {
  if (!counting || !is_regular(descriptor)) return NEXT(write)(descriptor, bytes, count);
  const enum FaultKind fault = next_fault(1);
  if (fault != fault_none && fault != fault_short) return -1;
  const long offset = lseek(descriptor, 0, SEEK_CUR);
  const ssize_t written = NEXT(write)(descriptor, bytes, allowed(fault, count));
  if (written > 0) tell("write", descriptor, offset, bytes, (size_t)written);
  return written;
}

ssize_t pwrite(int descriptor, const void* bytes, size_t count, off_t offset) {
  if (!counting || !is_regular(descriptor)) return NEXT(pwrite)(descriptor, bytes, count, offset);
  const enum FaultKind fault = next_fault(1);
  if (fault != fault_none && fault != fault_short) return -1;
  const ssize_t written = NEXT(pwrite)(descriptor, bytes, allowed(fault, count), offset);
  if (written > 0) tell("write", descriptor, offset, bytes, (size_t)written);
  return written;
}

int fsync(int descriptor) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(fsync)(descriptor);
  if (result == 0) tell("fsync", descriptor, 0, NULL, 0);
  return result;
}

int fdatasync(int descriptor) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(fdatasync)(descriptor);
  if (result == 0) tell("fsync", descriptor, 0, NULL, 0);
  return result;
}

int ftruncate(int descriptor, off_t size) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(ftruncate)(descriptor, size);
  if (result == 0) tell("ftruncate", descriptor, size, NULL, 0);
  return result;
}

int rename(const char* from, const char* to) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(rename)(from, to);
  if (result == 0) tell_names("rename", from, to);
  return result;
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned int flags) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(renameat2)(from_folder, from, to_folder, to, flags);
  if (result == 0) tell_names((flags & RENAME_EXCHANGE) != 0 ? "exchange" : "rename", from, to);
  return result;
}

int unlink(const char* path) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(unlink)(path);
  if (result == 0) tell_names("unlink", path, NULL);
  return result;
}

int unlinkat(int folder, const char* path, int flags) {
  char whole[2 * PATH_MAX];
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(unlinkat)(folder, path, flags);
  if (result != 0 || observer == NULL) return result;
  whole[0] = '\0';
  if (path[0] != '/' && folder != AT_FDCWD) {
    path_of(folder, whole, PATH_MAX);
    strcat(whole, "/");
  }
  strncat(whole, path, PATH_MAX - 1);
  tell_names((flags & AT_REMOVEDIR) != 0 ? "rmdir" : "unlink", whole, NULL);
  return result;
}

int mkdir(const char* path, mode_t mode) {
  if (next_fault(0) != fault_none) return -1;
  const int result = NEXT(mkdir)(path, mode);
  if (result == 0) tell_names("mkdir", path, NULL);
  return result;
}

// A descriptor is gone after a failed close too.
int close(int descriptor) {
  const enum FaultKind fault = counting && is_regular(descriptor) ? next_fault(0) : fault_none;
  const int reason = errno;
  const int result = NEXT(close)(descriptor);
  if (fault == fault_none) return result;
  errno = reason;
  return -1;
}
