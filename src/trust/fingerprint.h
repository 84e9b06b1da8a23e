/* The fingerprint of a host's key: SHA-256 of its SubjectPublicKeyInfo (RFC 5280, 4.1), written as ssh
 * writes its own: "SHA256:" and 43 characters of base64 without padding. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

#define FINGERPRINT_BYTES 32
#define FINGERPRINT_TEXT_MAX 51 /* with the final NUL */

struct evp_pkey_st;

struct fingerprint {
    uint8_t sha256[FINGERPRINT_BYTES];
};

/* -ENOMEM, or -EINVAL for a key that has no encoding. */
int fingerprint_of_key(struct evp_pkey_st *key, struct fingerprint *ret) MUST_CHECK;

void fingerprint_text(const struct fingerprint *print, char ret[FINGERPRINT_TEXT_MAX]);

/* Takes what fingerprint_text() writes and nothing else, so that two texts that differ are two keys.
 * -EINVAL (ERR_CALLER). */
int fingerprint_parse(const char *text, struct fingerprint *ret, struct err *err) MUST_CHECK;

bool fingerprint_equal(const struct fingerprint *a, const struct fingerprint *b);
