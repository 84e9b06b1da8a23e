/*
 * The owner records of a host: one a VM, in its runtime directory, and the id of the store they form.
 *
 * The store's id is made together with the directory that holds the records, so a store that was lost (a
 * reboot clears /run) comes back under another id, and nobody takes its silence for an answer. A record
 * outlives its monitor for as long as a source may still ask for its token.
 */
#pragma once
#include "ctl/rundir.h"
#include "move/move.h"

/* The id of the store under `base`, made when there is none yet. */
int records_store(const char *base, uint8_t ret[MOVE_STORE_BYTES], struct err *err) MUST_CHECK;

/* Makes durable who owns the guest of `dir`; `token`, `store` (the target's) and `peer` may be NULL.
 * -EINPROGRESS: the record may or may not be durable; after other errors the old one is in force. */
int records_write(const struct rundir *dir, enum move_record record, const uint8_t *token,
                  const uint8_t *store, const char *peer, struct err *err) MUST_CHECK;

/* Whom the record of `dir` says the guest was handed to, in a move whose end is not known here. -ENOENT: there is no
 * record; -EBADMSG: it cannot be read; -EALREADY: it says that the guest was here. */
struct records_handed {
    uint8_t token[MOVE_TOKEN_BYTES], store[MOVE_STORE_BYTES];
    char peer[512]; /* HOST:PORT */
};
int records_handed(const struct rundir *dir, struct records_handed *ret,
                   struct err *err) MUST_CHECK;

/* What the records under `base` say of a token that this process itself does not know. */
int records_lookup(const char *base, const uint8_t token[MOVE_TOKEN_BYTES], enum move_knows *ret,
                   struct err *err) MUST_CHECK;
