/*
 * A machine into a file, and out of it: the stream of a stop-and-copy move, header to END.
 *
 * The file is written under another name, made durable and then renamed, so that PATH is never a torn
 * checkpoint; and END carries what came before it, so that a torn file that got there another way
 * (a copy cut short) is refused all the same.
 */
#pragma once
#include "move/arrival.h"
#include "move/move.h"

/* Pauses the guest, writes it to `path`, and resumes it. On failure `path` is what it was before. The
 * bill is complete in either case. */
int checkpoint_write(const struct move_env *env, const char *path, struct bill *bill,
                     struct err *err) MUST_CHECK;

/* Builds the machine in `path`, paused; *ret is the caller's. `name`: run it under this name ("" = its own). */
int checkpoint_read(const struct move_env *env, const struct arrival_host *host, const char *path,
                    const char *name, struct bill *bill, struct machine **ret,
                    struct err *err) MUST_CHECK;
