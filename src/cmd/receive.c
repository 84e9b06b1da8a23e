#include "base/fd.h"
#include "cmd/launch.h"
#include "cmd/parse.h"
#include "trust/trust.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

/* A listening socket on HOST:PORT. The monitor inherits it, so whether it can be had is known
 * here. */
static int listen_on(const char *text, int *ret_fd, struct err *err)
{
    char host[PARSE_HOST_MAX], service[8];
    uint16_t port;
    struct addrinfo *list, hints = { .ai_family = AF_UNSPEC,
                                     .ai_socktype = SOCK_STREAM,
                                     .ai_flags = AI_PASSIVE | AI_NUMERICSERV };

    int rc = parse_address(text, host, &port, err);
    if (rc)
        return rc;
    (void)snprintf(service, sizeof(service), "%u", port);
    int gai = getaddrinfo(host[0] ? host : NULL, service, &hints, &list);
    if (gai)
        return err_set(err, ERR_CALLER, EINVAL, "%.100s: %s", text, gai_strerror(gai));
    rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = list; at && rc; at = at->ai_next) {
        CLEANUP_FD int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const int on = 1;
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
            bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, 32) < 0) {
            rc = -errno;
            continue;
        }
        *ret_fd = TAKE_FD(fd);
        rc = 0;
    }
    freeaddrinfo(list);
    return rc ? err_errno(err, ERR_CALLER, -rc, "cannot listen on %.100s", text) : 0;
}

/* "127.0.0.1:7000", "[::1]:7000": where it really listens, which matters for port 0. */
static void show_address(int fd, char *text, size_t size)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";

    if (getsockname(fd, (struct sockaddr *)&address, &len) == 0)
        (void)getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
                          NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(text, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* What would make the monitor fail at once is said here: a key that cannot be used, or a plain listener where
 * none is allowed. */
static int check_trust(const struct cmd_args *args, int listen_fd, struct err *err)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof(at);
    char dir[CONFDIR_MAX];
    struct trust *trust;
    bool insecure = cmd_flag(args, "insecure");

    int rc = confdir_path(args->config_dir, dir, err);
    if (!rc)
        rc = trust_open(dir, insecure, &trust, err);
    if (rc)
        return rc;
    if (insecure && getsockname(listen_fd, (struct sockaddr *)&at, &len) < 0)
        rc = err_errno(err, ERR_HOST, errno, "the listening socket");
    else if (insecure)
        rc = trust_check_plain(trust, (struct sockaddr *)&at, err);
    trust_close(trust);
    return rc;
}

static int receive(struct cmd_args *args)
{
    struct err err = { 0 };
    CLEANUP_FD int listen_fd = -1;
    const char *name = cmd_text(args, "name");
    char address[NI_MAXHOST + NI_MAXSERV], what[NI_MAXHOST + NI_MAXSERV + 32];

    json_t *options = launch_options(args, "receive", name);
    int rc = launch_places(args, options, &err);
    if (!rc)
        rc = launch_self_migrate(args, options, &err);
    if (!rc) {
        rc = listen_on(cmd_text(args, "listen"), &listen_fd, &err);
        if (rc)
            (void)err_wrap(&err, rc, "--listen");
    }
    if (!rc)
        rc = check_trust(args, listen_fd, &err);
    if (rc) {
        json_decref(options);
        return cmd_fail(args, &err);
    }
    if (cmd_flag(args, "insecure")) {
        cmd_note(args,
                 "WARNING: --insecure: whoever reaches %s can send a guest, and whoever is "
                 "between can read and change it",
                 cmd_text(args, "listen"));
        (void)json_object_set_new(options, "insecure", json_true());
    }
    if (cmd_flag(args, "once"))
        (void)json_object_set_new(options, "once", json_true());
    show_address(listen_fd, address, sizeof(address));
    (void)snprintf(what, sizeof(what), "waits for its guest on %s", address);
    json_t *facts = json_pack("{s:s}", "listen", address);
    int status = launch(args, &(struct launch){ .title = name ? name : "(receiving)",
                                                .options = options,
                                                .listen_fd = TAKE_FD(listen_fd),
                                                .facts = facts,
                                                .what = what });
    json_decref(facts);
    json_decref(options);
    return status;
}

const struct command cmd_receive = {
    .name = "receive",
    .summary = "wait for a VM that moves to this host",
    .text =
        "Starts a monitor without a guest that waits for one to be moved here by 'godwit "
        "migrate'. Before anything is promised to the other side, it checks that this host can "
        "run the machine: processor features, memory, the places of its disks and network cards, "
        "and its name. The guest's console follows as with 'godwit run'.\n\n"
        "The stream is encrypted, and only peers whose key this host trusts can send anything: see "
        "'godwit trust'. One that was refused shows in the log, with what to type to accept it.",
    .example = "  godwit receive --listen 10.0.0.2:7000 --disk root=/srv/web1.raw --net lan=tap0 "
               "--detach\n",
    .options =
        (const struct cmd_option[]){
            { .name = "listen",
              .kind = CMD_ADDRESS,
              .flags = CMD_REQUIRED,
              .value = "HOST:PORT",
              .help = "the address to wait on; port 0 takes a free one" },
            { .name = "name",
              .kind = CMD_NAME,
              .value = "NAME",
              .help = "the VM's name on this host; the one it comes with, if not given" },
            LAUNCH_PLACE_OPTIONS,
            { .name = "once",
              .kind = CMD_FLAG,
              .help = "end after a move that failed, instead of waiting for the next" },
            { .name = "insecure",
              .kind = CMD_FLAG,
              .help = "neither encrypt nor ask who comes; the source must be told too, and beyond "
                      "loopback godwit.conf must allow it twice" },
            LAUNCH_OPTIONS,
            { 0 } },
    .status_ok =
        "The guest came, and then switched itself off or moved on; with --detach, or after the "
        "escape: it waits or runs",
    .fn = receive,
};
