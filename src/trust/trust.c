#include "trust/trust.h"
#include "trust/store.h"
#include "trust/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int trust_open(const char *dir, bool plain, struct trust **ret, struct err *err)
{
    struct trust *trust = calloc(1, sizeof(*trust));
    if (!trust)
        return err_errno(err, ERR_HOST, ENOMEM, "cannot read %s", dir);
    (void)snprintf(trust->dir, sizeof(trust->dir), "%s", dir);
    int rc = conf_load(dir, &trust->conf, err);
    if (!rc && !plain)
        rc = keys_load(dir, &trust->keys, err);
    if (!rc && !plain)
        rc = tls_context_new(trust, err);
    if (rc)
        trust_close(trust);
    else
        *ret = trust;
    return rc;
}

void trust_close(struct trust *trust)
{
    if (!trust)
        return;
    tls_context_free(trust);
    keys_free(&trust->keys);
    free(trust);
}

void trust_command(const struct trust *trust, const char *host, const struct fingerprint *print,
                   bool replace, char ret[TRUST_COMMAND_MAX])
{
    char usual[CONFDIR_MAX] = "", shown[FINGERPRINT_TEXT_MAX];
    if (confdir_path(NULL, usual, NULL))
        usual[0] = '\0';
    bool elsewhere = strcmp(usual, trust->dir) != 0;
    fingerprint_text(print, shown);
    (void)snprintf(ret, TRUST_COMMAND_MAX, "godwit trust %s %s%s%s%s", host, shown,
                   replace ? " --replace" : "", elsewhere ? " --config-dir " : "",
                   elsewhere ? trust->dir : "");
}

/* `pinned`: what is trusted instead, NULL = nothing is. */
static int refuse(const struct trust *trust, const char *host, const struct fingerprint *print,
                  const struct fingerprint *pinned, struct err *err)
{
    char shown[FINGERPRINT_TEXT_MAX], other[FINGERPRINT_TEXT_MAX], command[TRUST_COMMAND_MAX];
    fingerprint_text(print, shown);
    fingerprint_text(pinned ? pinned : &trust->keys.print, other);
    trust_command(trust, host, print, pinned, command);
    if (pinned)
        return err_set(
            err, ERR_PEER, EKEYREJECTED,
            "untrusted: the key of %s has CHANGED: it shows %s, trusted is %s; if that is "
            "right, type here: %s",
            host, shown, other, command);
    return err_set(
        err, ERR_PEER, EKEYREJECTED,
        "untrusted: %s shows the key %s, which is unknown here (this host's own is %s); if "
        "that is right, type here: %s",
        host, shown, other, command);
}

int trust_check_target(const struct trust *trust, const char *host, const struct fingerprint *print,
                       struct err *err)
{
    struct store store;
    char name[STORE_HOST_MAX];
    int rc = store_host(host, name, err);
    if (rc || fingerprint_equal(print, &trust->keys.print))
        return rc;
    rc = store_load(trust->dir, &store, err);
    if (rc)
        return rc;
    /* What may come from anywhere is not what should be anywhere. */
    const struct store_entry *entry =
        strcmp(name, STORE_ANYWHERE) == 0 ? NULL : store_find_host(&store, name);
    if (!entry || !fingerprint_equal(print, &entry->print))
        rc = refuse(trust, name, print, entry ? &entry->print : NULL, err);
    store_free(&store);
    return rc;
}

int trust_check_source(const struct trust *trust, const char *address,
                       const struct fingerprint *print, struct err *err)
{
    struct store store;
    if (fingerprint_equal(print, &trust->keys.print))
        return 0;
    int rc = store_load(trust->dir, &store, err);
    if (rc)
        return rc;
    if (!store_find_print(&store, print)) {
        const struct store_entry *entry = store_find_host(&store, address);
        rc = refuse(trust, address, print, entry ? &entry->print : NULL, err);
    }
    store_free(&store);
    return rc;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_UNIX)
        return true;
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)address;
        return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) && in6->sin6_addr.s6_addr[12] == 127);
    }
    return false;
}

int trust_check_plain(const struct trust *trust, const struct sockaddr *address, struct err *err)
{
    if (is_loopback(address) ||
        (trust->conf.allow_insecure && trust->conf.allow_insecure_off_loopback))
        return 0;
    return err_set(err, ERR_CALLER, EPERM,
                   "--insecure is refused off loopback: whoever is on the network could read and "
                   "change the guest, or send one of their own; %s/" CONF_FILE
                   " must say both allow-insecure = yes and allow-insecure-off-loopback = yes",
                   trust->dir);
}
