// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "fault_shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
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
    if (strcmp(kind, names[i]) == 0) fault_arm((enum FaultKind)i, atol(at), getenv("KUMIKO_FAULT_STAYS") != NULL);
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

ssize_t write(int descriptor, const void* bytes, size_t count) {
  if (counting && is_regular(descriptor)) {
    const enum FaultKind fault = next_fault(1);
    if (fault == fault_short && count > 1) return NEXT(write)(descriptor, bytes, count / 2);
    if (fault != fault_none && fault != fault_short) return -1;
  }
  return NEXT(write)(descriptor, bytes, count);
}

ssize_t pwrite(int descriptor, const void* bytes, size_t count, off_t offset) {
  if (counting && is_regular(descriptor)) {
    const enum FaultKind fault = next_fault(1);
    if (fault == fault_short && count > 1) return NEXT(pwrite)(descriptor, bytes, count / 2, offset);
    if (fault != fault_none && fault != fault_short) return -1;
  }
  return NEXT(pwrite)(descriptor, bytes, count, offset);
}

int fsync(int descriptor) { return next_fault(0) != fault_none ? -1 : NEXT(fsync)(descriptor); }
int fdatasync(int descriptor) { return next_fault(0) != fault_none ? -1 : NEXT(fdatasync)(descriptor); }
int ftruncate(int descriptor, off_t size) { return next_fault(0) != fault_none ? -1 : NEXT(ftruncate)(descriptor, size); }
int rename(const char* from, const char* to) { return next_fault(0) != fault_none ? -1 : NEXT(rename)(from, to); }
int unlink(const char* path) { return next_fault(0) != fault_none ? -1 : NEXT(unlink)(path); }
int mkdir(const char* path, mode_t mode) { return next_fault(0) != fault_none ? -1 : NEXT(mkdir)(path, mode); }

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned int flags) {
  return next_fault(0) != fault_none ? -1 : NEXT(renameat2)(from_folder, from, to_folder, to, flags);
}

int unlinkat(int folder, const char* path, int flags) {
  return next_fault(0) != fault_none ? -1 : NEXT(unlinkat)(folder, path, flags);
}

// A descriptor is gone after a failed close too.
int close(int descriptor) {
  struct stat info;
  const int counted = counting && fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink > 0;
  const enum FaultKind fault = counted ? next_fault(0) : fault_none;
  const int reason = errno;
  const int result = NEXT(close)(descriptor);
  if (fault == fault_none) return result;
  errno = reason;
  return -1;
}
