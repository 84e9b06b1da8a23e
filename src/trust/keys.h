/*
 * This host's own key: Ed25519, made on first use, in DIR/host_key (PKCS #8 in PEM, 0600).
 *
 * TLS wants a certificate around it. It is made anew each time, signs itself and says nothing: a peer looks
 * at the key alone, so there is nothing in it that could expire.
 */
#pragma once
#include "trust/fingerprint.h"

struct evp_pkey_st;
struct x509_st;

struct keys {
    struct evp_pkey_st *key;
    struct x509_st *cert;
    struct fingerprint print;
};

/* Loads the key, having made it if there is none: of several processes that do so at once, one makes the key
 * and all load it. Refuses a key that others can read. */
int keys_load(const char *dir, struct keys *ret, struct err *err) MUST_CHECK;

void keys_free(struct keys *keys);
