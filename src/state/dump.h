/*
 * Shows a stream or checkpoint file as JSON, without a VM and without trusting a byte of it.
 *
 * One object: `header`, `sections` (one a line, with offset, head, checksum and the decoded
 * body), `totals`, and `damage`, a list of offsets and reasons, empty for a sound stream. It is
 * written as it is read, in bounded memory however long the stream is: page sections are
 * counted, their contents checked and dropped. A damaged body does not end the dump, since its
 * length is still known; a damaged head does.
 */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "state/schema.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Which schema a type of section has. The table is the caller's: this layer knows the framing
 * only. */
struct dump_schema {
    uint16_t type; /* enum section_type, or a message's */
    const struct schema *schema;
};

/* Reads fd from where it stands to the end. 0: sound and complete. -EBADMSG: damaged, cut short
 * or not for this build, the first reason in err, and `out` has all that could be read (it is
 * whole JSON in any case). Other -errno: reading or writing failed. */
int dump_stream(int fd, const struct dump_schema *table, size_t table_len, FILE *out,
                struct err *err) MUST_CHECK;

/* The same for a file by its name. */
int dump_file(const char *path, const struct dump_schema *table, size_t table_len, FILE *out,
              struct err *err) MUST_CHECK;
