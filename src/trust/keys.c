#include "trust/keys.h"
#include "base/fd.h"
#include "trust/confdir.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_FILE "host_key"
#define KEY_FILE_MAX 4096

static int write_durably(int fd, const char *text, size_t len)
{
    int rc = fd_write_full(fd, text, len);
    return !rc && fsync(fd) < 0 ? -errno : rc;
}

/* The file appears whole, under its name, or not at all; the link fails for all but the first. */
static int put_new_file(const char *dir, const char *text, size_t len, struct err *err)
{
    char path[CONFDIR_MAX + 64], temporary[CONFDIR_MAX + 64];
    confdir_file(dir, KEY_FILE, path, sizeof(path));
    confdir_file(dir, "." KEY_FILE ".XXXXXX", temporary, sizeof(temporary));
    CLEANUP_FD int fd = mkostemp(temporary, O_CLOEXEC); /* 0600 */
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "cannot create %s", path);
    int rc = write_durably(fd, text, len);
    if (!rc && link(temporary, path) < 0 && errno != EEXIST)
        rc = -errno;
    (void)unlink(temporary);
    if (!rc)
        rc = fd_sync_entry(fd, path);
    return rc ? err_errno(err, ERR_HOST, -rc, "cannot write %s", path) : 0;
}

static int make_key(const char *dir, struct err *err)
{
    char *text;
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    BIO *pem = BIO_new(BIO_s_secmem());
    int rc;
    if (!key || !pem || !PEM_write_bio_PKCS8PrivateKey(pem, key, NULL, NULL, 0, NULL, NULL)) {
        rc = err_set(err, ERR_HOST, ENOMEM, "cannot make this host's key");
    } else {
        long len = BIO_get_mem_data(pem, &text);
        rc = put_new_file(dir, text, (size_t)len, err);
    }
    BIO_free(pem);
    EVP_PKEY_free(key);
    return rc;
}

static int make_certificate(struct keys *keys)
{
    X509 *cert = X509_new();
    keys->cert = cert;
    if (!cert || !X509_set_version(cert, X509_VERSION_3) ||
        !ASN1_INTEGER_set(X509_get_serialNumber(cert), 1) ||
        !ASN1_TIME_set_string_X509(X509_getm_notBefore(cert), "20000101000000Z") ||
        !ASN1_TIME_set_string_X509(X509_getm_notAfter(cert), "99991231235959Z") ||
        !X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                    (const unsigned char *)"godwit", -1, -1, 0) ||
        !X509_set_issuer_name(cert, X509_get_subject_name(cert)) ||
        !X509_set_pubkey(cert, keys->key) || !X509_sign(cert, keys->key, NULL))
        return -ENOMEM;
    return 0;
}

static int no_passphrase(char *buf, int size, int writing, void *ctx)
{
    (void)buf, (void)size, (void)writing, (void)ctx;
    return -1; /* or it would ask on the terminal */
}

static int parse_key(const char *dir, const char *text, size_t len, struct keys *keys,
                     struct err *err)
{
    char path[CONFDIR_MAX + 64];
    confdir_file(dir, KEY_FILE, path, sizeof(path));
    BIO *pem = BIO_new_mem_buf(text, (int)len);
    keys->key = pem ? PEM_read_bio_PrivateKey(pem, NULL, no_passphrase, NULL) : NULL;
    BIO_free(pem);
    if (!keys->key || EVP_PKEY_get_base_id(keys->key) != EVP_PKEY_ED25519)
        return err_set(
            err, ERR_HOST, EBADMSG,
            "%s holds no Ed25519 key: put the right one back, or remove it and have every "
            "peer trust the new one",
            path);
    int rc = fingerprint_of_key(keys->key, &keys->print);
    if (!rc)
        rc = make_certificate(keys);
    return rc ? err_errno(err, ERR_HOST, -rc, "%s", path) : 0;
}

int keys_load(const char *dir, struct keys *ret, struct err *err)
{
    char *text = NULL;
    size_t len = 0;
    int rc = confdir_read(dir, KEY_FILE, true, KEY_FILE_MAX, &text, &len, err);
    if (rc == -ENOENT) {
        rc = confdir_make(dir, err);
        if (!rc)
            rc = make_key(dir, err);
        if (!rc)
            rc = confdir_read(dir, KEY_FILE, true, KEY_FILE_MAX, &text, &len, err);
        if (rc == -ENOENT)
            (void)err_set(err, ERR_HOST, ENOENT, "%s/" KEY_FILE " went away", dir);
    }
    if (rc)
        return rc;
    struct keys keys = { 0 };
    rc = parse_key(dir, text, len, &keys, err);
    explicit_bzero(text, len);
    free(text);
    if (rc)
        keys_free(&keys);
    else
        *ret = keys;
    return rc;
}

void keys_free(struct keys *keys)
{
    EVP_PKEY_free(keys->key);
    X509_free(keys->cert);
    *keys = (struct keys){ 0 };
}
