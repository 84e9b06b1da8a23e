/*
 * A source whose process died after its record said "handed over": asks the target, by the record's token, what became
 * of the guest, and lets it run the guest if it holds it (SOURCE_RECOVER of source.h). The guest's memory here died with
 * the process, so whatever the answer is, nothing runs here.
 */
#pragma once
#include "base/err.h"
#include "move/message.h"
#include "trust/trust.h"

struct recover_request {
    const char *target; /* HOST:PORT */
    const struct trust *trust;
    bool insecure;                   /* as of wire_connect() */
    uint8_t token[MOVE_TOKEN_BYTES]; /* of the record, and the target's store */
    uint8_t store[MOVE_STORE_BYTES];
    uint64_t stall_limit_ns; /* for one answer */
    uint64_t limit_ns;       /* no new attempt after so long */
};

enum recover_outcome {
    RECOVER_OPEN = 1, /* nobody who knows has answered: the record must stay as it is */
    RECOVER_MOVED,    /* the target owns the guest */
    RECOVER_LOST,     /* the target does not have all of it, and never will: nobody runs it */
};

/* Blocks. 0 when MOVED; else -errno, and `err` says why. */
int recover_run(const struct recover_request *request, enum recover_outcome *ret,
                struct err *err) MUST_CHECK;
