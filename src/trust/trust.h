/*
 * Whom this host believes: its own key, the peers it trusts and what its configuration allows, joined into
 * the three questions a connection asks.
 *
 * As with ssh, a source asks for the key that is pinned for the address it goes to (known_hosts), a target
 * for any key that is pinned (authorized_keys). A host always trusts its own key, so that moves within one
 * host need no setting up. The file of peers is read for each question: what `godwit trust` changes holds at
 * once, also for monitors that run already. Whatever cannot be read is not trusted.
 *
 * Any thread; nothing here changes after trust_open().
 */
#pragma once
#include "trust/conf.h"
#include "trust/confdir.h"
#include "trust/keys.h"
#include <stdbool.h>
#include <sys/socket.h>

struct ssl_ctx_st;

struct trust {
    char dir[CONFDIR_MAX];
    struct conf conf;
    struct keys keys; /* none when opened `plain` */
    struct ssl_ctx_st
        *ctx; /* what every encrypted connection has in common (trust/tls.c); the same */
};

/* Reads the configuration and, unless only plain connections will be made, the key (which is made now if
 * there is none). `dir`: confdir_path(). The caller's, until trust_close(). */
int trust_open(const char *dir, bool plain, struct trust **ret, struct err *err) MUST_CHECK;
void trust_close(struct trust *trust);

/* Is this the key of `host` (name or address, as the user wrote it)? 0, or -EKEYREJECTED with both
 * fingerprints and the command that would accept it. */
int trust_check_target(const struct trust *trust, const char *host, const struct fingerprint *print,
                       struct err *err) MUST_CHECK;

/* May whoever has this key send guests here? `address`: where it comes from, for messages. */
int trust_check_source(const struct trust *trust, const char *address,
                       const struct fingerprint *print, struct err *err) MUST_CHECK;

/* May guests travel unencrypted and unauthenticated over an end with this address? Within the host, when
 * asked for; beyond it, only if the configuration says so twice. -EPERM names what to set. */
int trust_check_plain(const struct trust *trust, const struct sockaddr *address,
                      struct err *err) MUST_CHECK;

/* "godwit trust HOST SHA256:..." as to be typed on the host of `trust`, with --config-dir if it needs it. */
#define TRUST_COMMAND_MAX (CONFDIR_MAX + 512)
void trust_command(const struct trust *trust, const char *host, const struct fingerprint *print,
                   bool replace, char ret[TRUST_COMMAND_MAX]);
