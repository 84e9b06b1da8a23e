/*
 * The runtime directory of a VM: BASE/NAME/, where its monitor is found.
 *
 *     lock           locked by the monitor for as long as it lives; holds its process number
 *     control.sock   JSON-RPC: ctl/rpc.h          console.sock   the console: ctl/console.h
 *     owner.json     the owner record: who may run this guest, durable   log   the monitor's log
 *     promise        the memory its guest may have: ctl/promise.h
 *     uuid           which guest it has: ctl/identity.h
 *     console.log    what a guest that ended in failure wrote last
 *
 * BASE is /run/godwit for root and $XDG_RUNTIME_DIR/godwit for others. A name belongs to whoever
 * holds its lock, so a monitor that died, however it died, holds nothing: its directory is taken
 * over by the next claim of the name. Claim, rename and release exclude one another by a lock on
 * BASE. Blocking file calls on local tmpfs; any thread, one at a time per rundir.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "vm/config.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define RUNDIR_BASE_MAX 1024
#define RUNDIR_CONTROL "control.sock"
#define RUNDIR_CONSOLE "console.sock"
#define RUNDIR_LOG "log"
#define RUNDIR_SCROLLBACK "console.log"

struct rundir {
    char base[RUNDIR_BASE_MAX];
    char name[CONFIG_NAME_MAX];
    int dir_fd;  /* BASE/NAME; -1 = none */
    int lock_fd; /* -1 for one that was opened, not claimed */
};
#define RUNDIR_NONE ((struct rundir){ .dir_fd = -1, .lock_fd = -1 })

/* Where the directories are: `given` when not NULL or empty, else as above. Creates nothing. */
int rundir_base(const char *given, char ret[RUNDIR_BASE_MAX], struct err *err) MUST_CHECK;

/* 0, or -EINVAL with the rule: letters, digits, '-', '_', '.', not first '.' or '-', at most 63. */
int rundir_check_name(const char *name, struct err *err) MUST_CHECK;

/* Claims `name` for this process, creating what is missing. What a dead monitor left is removed,
 * except its owner record: read that (rundir_owner_read) before writing the first of one's own.
 * -EEXIST: a live process holds the name; the text gives both. On failure nothing is left
 * behind. */
int rundir_claim(const char *base, const char *name, struct rundir *ret,
                 struct err *err) MUST_CHECK;

/* Moves a claimed directory to another name, for a receiver that learns its guest's name late. Its
 * sockets stay reachable under the new one. A record that a dead monitor of that name left comes
 * along, so rename before writing one's own. -EEXIST as for rundir_claim; the old name then
 * stays. */
int rundir_rename(struct rundir *dir, const char *name, struct err *err) MUST_CHECK;

enum rundir_keep {
    RUNDIR_KEEP_NOTHING = 0,
    RUNDIR_KEEP_RECORD = 1, /* for a state that must still be known when the monitor has gone */
    RUNDIR_KEEP_LOGS = 2,   /* for whoever asks why; the next claim of the name removes them */
};

/* Gives a claimed name up: removes the directory, or all of it but what `keep` (a union of bits)
 * names. For an opened one, only closes. */
void rundir_release(struct rundir *dir, unsigned keep);

/* Opens the directory of a VM to talk to its monitor. -ENOENT: no VM of this name, or its monitor
 * died (the text tells which). */
int rundir_open(const char *base, const char *name, struct rundir *ret, struct err *err) MUST_CHECK;
void rundir_close(struct rundir *dir);

/* Removes what a dead monitor left under `name`, record included. -EBUSY: it lives. */
int rundir_reclaim(const char *base, const char *name, struct err *err) MUST_CHECK;

struct rundir_entry {
    char name[CONFIG_NAME_MAX];
    pid_t pid;  /* of the monitor, 0 when unknown */
    bool alive; /* someone holds the lock */
};

/* Everything under BASE, sorted by name; no BASE is an empty list. *ret is the caller's to
 * free(). */
int rundir_list(const char *base, struct rundir_entry **ret, size_t *ret_count,
                struct err *err) MUST_CHECK;

/* Locks BASE against claims, renames and releases, and against others that call this; closing *ret_fd unlocks. */
int rundir_lock_base(const struct rundir *dir, int *ret_fd, struct err *err) MUST_CHECK;

/* The path of a file in the directory, for messages and open(2). -ENAMETOOLONG. */
int rundir_path(const struct rundir *dir, const char *file, char *ret, size_t size) MUST_CHECK;

/* A listening, or a connected, Unix stream socket in the directory: non-blocking and blocking,
 * respectively, close-on-exec, mode 0600. Not bound by the 107 bytes of a socket's path. */
int rundir_listen(const struct rundir *dir, const char *file, int *ret_fd,
                  struct err *err) MUST_CHECK;
int rundir_connect(const struct rundir *dir, const char *file, int *ret_fd,
                   struct err *err) MUST_CHECK;

/* The owner record, replaced so that a crash leaves the old or the new one whole. Reading gives
 * -ENOENT when there is none and -EBADMSG for one that is no JSON object. *ret is a new
 * reference. */
int rundir_owner_write(const struct rundir *dir, const json_t *record, struct err *err) MUST_CHECK;
int rundir_owner_read(const struct rundir *dir, json_t **ret, struct err *err) MUST_CHECK;
