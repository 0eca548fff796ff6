// SPDX-License-Identifier: Apache-2.0
// File system calls that fail on purpose. Linked into a test, or preloaded into any program with
// KUMIKO_FAULT_KIND (kill, enospc, eio, short, eintr) and KUMIKO_FAULT_AT (the number of the call that fails,
// from 1). Counted: write, pwrite (regular files only), fsync, fdatasync, rename, renameat2, unlink,
// unlinkat, mkdir, ftruncate, close (of regular files).
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

enum FaultKind { fault_none, fault_kill, fault_enospc, fault_eio, fault_short, fault_eintr };

// From now on counted calls are numbered from 1; the one numbered `at` fails. With fault_enospc and fault_eio
// all later writes fail too when `stays` is set, as on a disk that is full or broken.
void fault_arm(enum FaultKind kind, long at, int stays);
long fault_calls(void);  // counted since fault_arm

// Told of each call after it succeeded: "write", "fsync", "rename", "exchange", "unlink", "rmdir", "mkdir",
// "ftruncate". `path` is absolute; `other` is a rename's new path; `offset`, `bytes` and `count` are a
// write's (ftruncate: the size in `offset`).
typedef void (*FaultObserver)(const char* call, const char* path, const char* other, long offset,
                              const void* bytes, unsigned long count);
void fault_observe(FaultObserver observer);  // null: no more

#ifdef __cplusplus
}
#endif
