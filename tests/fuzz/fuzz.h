/*
 * A fuzz target: one function that is given bytes and must survive them, and find its properties kept.
 *
 * The same target is built twice: with libFuzzer, which searches (meson option `fuzz`), and in every other build
 * with replay.c, which runs the files of corpus/NAME and crashers/NAME, so that what was found once stays found.
 *
 * Where a checksum would stop the search at the door, the target makes it right itself, as its first byte says:
 * so the files need no tool to be made, and damaged sums are tried too.
 */
#pragma once
#include "base/buf.h"
#include "base/compiler.h"
#include "base/cursor.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer's contract: 0 always. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property of the code under test does not hold. */
#define FUZZ_CHECK(cond)                                                                    \
    do {                                                                                    \
        if (!(cond)) {                                                                      \
            (void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                        \
        }                                                                                   \
    } while (0)

/* The rest of the input. */
static inline struct cursor fuzz_rest(struct cursor *in)
{
    struct cursor rest = *in;
    in->at += in->left;
    in->left = 0;
    return rest;
}

/* An error that is reported says who is at fault, why, and the same number as is returned. */
static inline void fuzz_check_err(int rc, const struct err *err)
{
    FUZZ_CHECK(rc < 0 ? err->code == -rc && err->text[0] && err->fault : rc == 0);
}
