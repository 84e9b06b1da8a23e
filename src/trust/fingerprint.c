#include "trust/fingerprint.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string.h>

#define PREFIX "SHA256:"
#define PREFIX_LEN (sizeof(PREFIX) - 1)
#define DIGITS 43 /* of 6 bits: 258, the last two are zero */

static_assert(FINGERPRINT_TEXT_MAX == PREFIX_LEN + DIGITS + 1, "room for the text");

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int fingerprint_of_key(struct evp_pkey_st *key, struct fingerprint *ret)
{
    unsigned char *der = NULL;
    int len = i2d_PUBKEY(key, &der);
    if (len <= 0)
        return -EINVAL;
    int good = EVP_Digest(der, (size_t)len, ret->sha256, NULL, EVP_sha256(), NULL);
    OPENSSL_free(der);
    return good ? 0 : -ENOMEM;
}

void fingerprint_text(const struct fingerprint *print, char ret[FINGERPRINT_TEXT_MAX])
{
    memcpy(ret, PREFIX, PREFIX_LEN);
    for (unsigned i = 0; i < DIGITS; i++) {
        unsigned bit = i * 6, at = bit / 8, shift = bit % 8;
        unsigned pair = (unsigned)print->sha256[at] << 8;
        pair |= at + 1 < FINGERPRINT_BYTES ? print->sha256[at + 1] : 0;
        ret[PREFIX_LEN + i] = alphabet[pair >> (10 - shift) & 63];
    }
    ret[PREFIX_LEN + DIGITS] = '\0';
}

int fingerprint_parse(const char *text, struct fingerprint *ret, struct err *err)
{
    struct fingerprint print = { 0 };
    char again[FINGERPRINT_TEXT_MAX];
    const char *digit = text + PREFIX_LEN;
    bool good = strlen(text) == PREFIX_LEN + DIGITS && memcmp(text, PREFIX, PREFIX_LEN) == 0;

    for (unsigned i = 0; good && i < DIGITS; i++) {
        const char *found = strchr(alphabet, digit[i]);
        unsigned bit = i * 6, at = bit / 8, shift = bit % 8;
        good = found;
        unsigned pair = good ? (unsigned)(found - alphabet) << (10 - shift) : 0;
        print.sha256[at] |= (uint8_t)(pair >> 8);
        if (at + 1 < FINGERPRINT_BYTES)
            print.sha256[at + 1] |= (uint8_t)pair;
    }
    fingerprint_text(&print, again);
    if (!good || strcmp(again, text) != 0) /* bits beyond the last byte are not zero */
        return err_set(err, ERR_CALLER, EINVAL,
                       "'%.80s' is no fingerprint: want SHA256: and 43 characters of base64", text);
    *ret = print;
    return 0;
}

bool fingerprint_equal(const struct fingerprint *a, const struct fingerprint *b)
{
    return memcmp(a->sha256, b->sha256, FINGERPRINT_BYTES) == 0;
}
