/* The control socket of a monitor that has no machine yet: whatever a client sends, in one piece or several, is answered by
 * lines of JSON-RPC, one a request at most, and the next client is served. */
#include "base/fd.h"
#include "base/log.h"
#include "fuzz.h"
#include "vmm/monitor.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct monitor monitor;
static struct sockaddr_un address;
static socklen_t address_len = sizeof(sa_family_t); /* autobind: an abstract name */

static void set_up(void)
{
    struct err err;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sun_family = AF_UNIX;
    FUZZ_CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, address_len) == 0);
    address_len = sizeof(address);
    FUZZ_CHECK(getsockname(fd, (struct sockaddr *)&address, &address_len) == 0);
    FUZZ_CHECK(listen(fd, 8) == 0);
    log_setup(LOG_ERROR, "fuzz");
    monitor = (struct monitor){ .dir = RUNDIR_NONE, .state = MONITOR_RECEIVING };
    (void)snprintf(monitor.dir.name, sizeof(monitor.dir.name), "fuzz");
    (void)pthread_mutex_init(&monitor.progress_lock, NULL);
    FUZZ_CHECK(loop_init(&monitor.loop) == 0);
    FUZZ_CHECK(rpc_server_new(&monitor.loop, fd, monitor_methods, monitor_method_count, &monitor,
                              &monitor.rpc, &err) == 0);
}

static void turn(void)
{
    struct pollfd pfd = { .fd = monitor.loop.epoll_fd, .events = POLLIN };
    for (int i = 0; i < 100 && poll(&pfd, 1, 0) > 0; i++)
        FUZZ_CHECK(loop_once(&monitor.loop, 0) == 0);
}

static void receive(int fd, struct buf *got)
{
    for (;;) {
        uint8_t *room = buf_grow(got, 65536);
        FUZZ_CHECK(room);
        ssize_t n = recv(fd, room, 65536, MSG_DONTWAIT);
        got->len -= 65536 - (size_t)(n > 0 ? n : 0);
        if (n <= 0)
            return;
    }
}

/* Returns how many answers there are. */
static unsigned check_lines(const struct buf *got)
{
    unsigned answers = 0;
    const char *at = (const char *)got->data, *end = at + got->len;
    while (at < end) {
        const char *line = memchr(at, '\n', (size_t)(end - at));
        FUZZ_CHECK(line); /* whole lines */
        json_t *json = json_loadb(at, (size_t)(line - at), JSON_REJECT_DUPLICATES, NULL);
        const char *version = json_string_value(json_object_get(json, "jsonrpc"));
        FUZZ_CHECK(version && strcmp(version, "2.0") == 0);
        bool answer = json_object_get(json, "id");
        FUZZ_CHECK(answer == !json_object_get(json, "method"));
        FUZZ_CHECK(!answer || !json_object_get(json, "result") != !json_object_get(json, "error"));
        answers += answer;
        json_decref(json);
        at = line + 1;
    }
    return answers;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!monitor.rpc)
        set_up();
    monitor.state = MONITOR_RECEIVING; /* vm.kill may have ended it */
    monitor.ending = false;
    monitor.loop.quit = false;
    struct buf got = { 0 };
    unsigned lines = 1;
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, address_len) == 0);
    turn();
    for (size_t at = 0; at < size;) {
        ssize_t n = send(fd, data + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        FUZZ_CHECK(n > 0 || errno == EAGAIN);
        at += n > 0 ? (size_t)n : 0;
        turn();
        receive(fd, &got);
    }
    for (size_t i = 0; i < size; i++)
        lines += data[i] == '\n';
    (void)shutdown(fd, SHUT_WR);
    turn();
    receive(fd, &got);
    FUZZ_CHECK(check_lines(&got) <= lines);
    buf_free(&got);
    fd_close(&fd);
    turn();
    return 0;
}
