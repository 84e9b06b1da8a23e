/*
 * Finding a process by its name: the name of its first thread, of which the kernel keeps 15 bytes, or the title or
 * program that its command line begins with, with or without the folder.
 *
 * Only processes in the caller's network namespace count: where hosts are network namespaces of one machine, each has
 * processes of the same names. Never the caller itself, nor kernel threads. One thread.
 */
#pragma once
#include "base/compiler.h"
#include "text.h"
#include <dirent.h>
#include <sys/types.h>

struct finder {
    const char *name; /* the caller's */
    DIR *proc;
    char net[64]; /* the namespace, as its link in /proc says */
    struct text text;
    pid_t *
        kernel; /* threads of the kernel, which need not be looked at again, in the order of /proc */
    unsigned kernel_count, kernel_cap;
    unsigned scans;
};

/* 0 or -errno. */
int finder_init(struct finder *finder, const char *name) MUST_CHECK;
void finder_fini(struct finder *finder);

/* Looks once. Returns how many there are; *ret is the one that was started last. */
unsigned finder_look(struct finder *finder, pid_t *ret);
