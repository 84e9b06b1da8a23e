/* The RPC server against clients that behave, misbehave, stall and vanish; and the blocking
 * client. */
#include "test.h"

#include "base/clock.h"
#include "base/fd.h"
#include "ctl/client.h"
#include "ctl/rpc.h"
#include "ctl/rundir.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static struct {
    char root[64], base[RUNDIR_BASE_MAX];
    struct rundir dir;
    struct loop loop;
    struct rpc_server *server;
    struct rpc_call *kept[RPC_CALLS_MAX * 2];
    unsigned kept_count, echo_count;
    pthread_t thread; /* runs the loop, for tests of the blocking client */
} t;

static void echo(void *ctx, struct rpc_call *call, const json_t *params)
{
    (void)ctx;
    const char *text = NULL;
    t.echo_count++;
    if (rpc_unpack(call, params, "{s?:s}", "text", &text) == 0)
        rpc_reply(call, json_pack("{s:s*}", "text", text));
}

static void later(void *ctx, struct rpc_call *call, const json_t *params)
{
    (void)ctx;
    (void)params;
    assert_true(t.kept_count < ARRAY_LEN(t.kept));
    t.kept[t.kept_count++] = call;
}

static void big(void *ctx, struct rpc_call *call, const json_t *params)
{
    (void)ctx;
    (void)params;
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = '\0';
    rpc_reply(call, json_pack("{s:s}", "text", text));
    free(text);
}

static void refuse(void *ctx, struct rpc_call *call, const json_t *params)
{
    (void)ctx;
    (void)params;
    struct err err = { 0 };
    (void)err_set(&err, ERR_PEER, EHOSTUNREACH, "no way \xff there");
    rpc_fail(call, &err);
}

static const struct rpc_method methods[] = {
    { "echo", echo },
    { "later", later },
    { "big", big },
    { "refuse", refuse },
};

static int setup(void **state)
{
    (void)state;
    int fd;
    memset(&t, 0, sizeof(t));
    t.dir = RUNDIR_NONE;
    (void)snprintf(t.root, sizeof(t.root), "%s/godwit-rpc-XXXXXX", test_tmp());
    if (!mkdtemp(t.root))
        return -1;
    (void)snprintf(t.base, sizeof(t.base), "%s/b", t.root);
    return rundir_claim(t.base, "vm", &t.dir, NULL) ||
           rundir_listen(&t.dir, RUNDIR_CONTROL, &fd, NULL) || loop_init(&t.loop) ||
           rpc_server_new(&t.loop, fd, methods, ARRAY_LEN(methods), NULL, &t.server, NULL);
}

static int teardown(void **state)
{
    (void)state;
    if (t.server) {
        rpc_server_close(t.server);
        rpc_server_unref(t.server);
    }
    loop_fini(&t.loop);
    rundir_release(&t.dir, RUNDIR_KEEP_NOTHING);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", t.root);
    return system(command);
}

static int connect_raw(void)
{
    int fd;
    assert_int_equal(rundir_connect(&t.dir, RUNDIR_CONTROL, &fd, NULL), 0);
    assert_int_equal(fd_set_nonblock(fd), 0);
    return fd;
}

/* Lets the loop do everything that can be done now. */
static void settle(void)
{
    struct pollfd pfd = { .fd = t.loop.epoll_fd, .events = POLLIN };
    for (int i = 0; i < 5000 && poll(&pfd, 1, 0) > 0; i++)
        assert_int_equal(loop_once(&t.loop, 0), 0);
}

static void send_text(int fd, const char *bytes, size_t len)
{
    uint64_t limit = clock_now_ns() + 20 * CLOCK_SECOND;
    while (len > 0 && clock_now_ns() < limit) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            return; /* closed by the other side: the test looks at what it received */
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
        settle();
    }
    assert_int_equal(len, 0);
}

/* One line, parsed; NULL at the end of the stream or when nothing comes. */
static json_t *receive(int fd)
{
    struct buf line = { 0 };
    uint64_t limit = clock_now_ns() + 10 * CLOCK_SECOND;
    char part[16384];
    for (;;) {
        ssize_t n = recv(fd, part, sizeof(part), MSG_PEEK);
        if (n > 0) {
            const char *end = memchr(part, '\n', (size_t)n);
            size_t len = end ? (size_t)(end - part) : (size_t)n;
            assert_int_equal(recv(fd, part, len + (end ? 1 : 0), 0), len + (end ? 1 : 0));
            buf_put(&line, part, len);
            if (end)
                break;
        } else if (n == 0 || errno != EAGAIN || clock_now_ns() > limit) {
            buf_free(&line);
            return NULL;
        } else {
            struct pollfd pfd = { .fd = t.loop.epoll_fd, .events = POLLIN };
            if (poll(&pfd, 1, 0) == 0) {
                buf_free(&line); /* the server has nothing to do and has sent nothing */
                return NULL;
            }
            assert_int_equal(loop_once(&t.loop, 0), 0);
        }
    }
    json_t *json = json_loadb((char *)line.data, line.len, 0, NULL);
    buf_free(&line);
    assert_non_null(json);
    return json;
}

static json_t *ask(int fd, const char *text)
{
    send_text(fd, text, strlen(text));
    send_text(fd, "\n", 1);
    return receive(fd);
}

static void expect_error(int fd, const char *request, int code)
{
    json_t *answer = ask(fd, request);
    if (!answer)
        fail_msg("no answer to %s", request);
    json_int_t got = json_integer_value(json_object_get(json_object_get(answer, "error"), "code"));
    if (got != code)
        fail_msg("%s: code %lld instead of %d", request, (long long)got, code);
    assert_null(json_object_get(answer, "result"));
    assert_string_equal(json_string_value(json_object_get(answer, "jsonrpc")), "2.0");
    assert_non_null(json_object_get(answer, "id"));
    json_decref(answer);
}

static void expect_echo(int fd)
{
    json_t *answer =
        ask(fd,
            "{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"echo\",\"params\":{\"text\":\"hi\"}}");
    assert_non_null(answer);
    assert_non_null(json_object_get(answer, "result"));
    assert_string_equal(json_string_value(json_object_get(answer, "id")), "q");
    assert_string_equal(json_string_value(
                            json_object_get(json_object_get(answer, "result"), "text")),
                        "hi");
    json_decref(answer);
}

static void malformed(void **state)
{
    (void)state;
    int fd = connect_raw();
    expect_error(fd, "{", -32700);
    expect_error(fd, "\x01\x02\xff", -32700);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"echo\"}", -32700);
    expect_error(fd, "7", -32600);
    expect_error(fd, "{}", -32600);
    expect_error(fd, "[]", -32600);
    expect_error(fd, "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}]", -32600);
    expect_error(fd, "{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"echo\"}", -32600);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", -32600);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"echo\"}", -32600);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"nope\"}", -32601);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":[1]}", -32602);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"text\":7}}",
                 -32602);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"more\":1}}",
                 -32602);
    expect_error(
        fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.subscribe\",\"params\":{\"x\":1}}",
        -32602);
    expect_error(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"refuse\"}", -32000);

    char deep[8192];
    memset(deep, '[', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = '\0';
    expect_error(fd, deep, -32700);
    char nul[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}\n";
    nul[5] = '\0';
    send_text(fd, nul, sizeof(nul) - 1);
    json_t *answer = receive(fd);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(answer, "error"), "code")),
                     -32700);
    json_decref(answer);
    expect_echo(fd);
    (void)close(fd);
}

static void oversized(void **state)
{
    (void)state;
    int fd = connect_raw();
    size_t len = 3u << 20;
    char *line = malloc(len + 1);
    memset(line, 'a', len);
    line[len] = '\n';
    send_text(fd, line, len + 1);
    json_t *answer = receive(fd);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(answer, "error"), "code")),
                     -32600);
    json_decref(answer);
    assert_null(receive(fd)); /* one error for it, however long it was */
    expect_echo(fd);

    /* Exactly at the limit is a line like any other; one byte more is not. */
    static const char head[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"";
    memset(line, ' ', len);
    memcpy(line, head, sizeof(head) - 1);
    line[RPC_LINE_MAX - 1] = '}';
    line[RPC_LINE_MAX] = '\n';
    send_text(fd, line, RPC_LINE_MAX + 1);
    answer = receive(fd);
    assert_non_null(json_object_get(answer, "result"));
    json_decref(answer);
    line[RPC_LINE_MAX - 1] = ' ';
    line[RPC_LINE_MAX] = '}';
    line[RPC_LINE_MAX + 1] = '\n';
    send_text(fd, line, RPC_LINE_MAX + 2);
    answer = receive(fd);
    assert_non_null(json_object_get(answer, "error"));
    json_decref(answer);
    expect_echo(fd);
    free(line);
    (void)close(fd);
}

static void pipelined(void **state)
{
    (void)state;
    int fd = connect_raw();
    struct buf all = { 0 };
    for (int i = 0; i < 200; i++)
        buf_printf(&all, "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"echo\"}\r\n\n", i);
    send_text(fd, (char *)all.data, all.len);
    buf_free(&all);
    for (int i = 0; i < 200; i++) {
        json_t *answer = receive(fd);
        assert_int_equal(json_integer_value(json_object_get(answer, "id")), i);
        json_decref(answer);
    }
    /* A notification is done and not answered. */
    t.echo_count = 0;
    assert_null(ask(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}"));
    assert_int_equal(t.echo_count, 1);

    /* Asked, then half closed: the answer still comes, then the end. */
    static const char one[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}\n";
    send_text(fd, one, sizeof(one) - 1);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    json_t *answer = receive(fd);
    assert_non_null(answer);
    json_decref(answer);
    assert_null(receive(fd));
    (void)close(fd);

    /* Asked and gone: it is done all the same. */
    fd = connect_raw();
    t.echo_count = 0;
    assert_int_equal(send(fd, one, sizeof(one) - 1, 0), sizeof(one) - 1);
    (void)close(fd);
    settle();
    assert_int_equal(t.echo_count, 1);
}

static void *answer_kept(void *unused)
{
    for (unsigned i = 0; i < t.kept_count; i++)
        rpc_reply(t.kept[i], json_pack("{s:i}", "n", (int)i));
    return unused;
}

static void answered_later(void **state)
{
    (void)state;
    static const char one[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"later\"}\n";
    int fd = connect_raw(), other = connect_raw();

    /* No more calls are let in than may be open; the rest waits in the socket, not in the
     * server. */
    for (unsigned i = 0; i < RPC_CALLS_MAX + 5; i++)
        send_text(fd, one, sizeof(one) - 1);
    settle();
    assert_int_equal(t.kept_count, RPC_CALLS_MAX);
    expect_echo(other);

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_kept, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    for (unsigned i = 0; i < RPC_CALLS_MAX; i++) {
        json_t *answer = receive(fd);
        assert_non_null(answer);
        json_decref(answer);
    }
    settle();
    assert_int_equal(t.kept_count, RPC_CALLS_MAX + 5);

    /* The client goes while five are open; answering them, even after the server, is harmless. */
    (void)close(fd);
    settle();
    for (unsigned i = RPC_CALLS_MAX; i < RPC_CALLS_MAX + 3; i++)
        rpc_reply(t.kept[i], NULL);
    settle();
    expect_echo(other);
    rpc_server_close(t.server);
    rpc_server_unref(TAKE_PTR(t.server));
    for (unsigned i = RPC_CALLS_MAX + 3; i < t.kept_count; i++) {
        struct err err = { 0 };
        (void)err_set(&err, ERR_HOST, EIO, "too late");
        rpc_fail(t.kept[i], &err);
    }
    assert_null(receive(other));
    (void)close(other);
}

static void unread_answers(void **state)
{
    (void)state;
    static const char one[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"big\"}\n";
    int fd = connect_raw(), other = connect_raw();
    int asked = 0;

    /* A client that asks for ever and never reads is stopped by its own full socket. */
    while (send(fd, one, sizeof(one) - 1, MSG_DONTWAIT) > 0 || errno != EAGAIN) {
        settle();
        assert_true(++asked < 1000000);
    }
    expect_echo(other);
    /* And when it reads again, it gets an answer to every question. */
    for (int i = 0; i < asked; i++) {
        json_t *answer = receive(fd);
        assert_non_null(answer);
        json_decref(answer);
    }
    expect_echo(fd);
    (void)close(fd);
    (void)close(other);
}

static void slow_subscriber(void **state)
{
    (void)state;
    static const char subscribe[] =
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.subscribe\"}";
    int slow = connect_raw(), quick = connect_raw();
    json_t *message;
    json_decref(ask(slow, subscribe));
    json_decref(ask(quick, subscribe));

    /* Progress replaces itself: the slow one loses the middle, never the last, and is not
     * dropped. */
    const int rounds = 30000;
    for (int i = 1; i <= rounds; i++) {
        rpc_post_event(t.server, "move.progress", json_pack("{s:i}", "round", i));
        settle();
        message = receive(quick);
        assert_int_equal(json_integer_value(
                             json_object_get(json_object_get(message, "params"), "round")),
                         i);
        json_decref(message);
    }
    rpc_post_event(t.server, "vm.state", json_pack("{s:s}", "state", "paused"));
    json_int_t last = 0, seen = 0;
    for (;;) {
        message = receive(slow);
        assert_non_null(message);
        bool progress =
            strcmp(json_string_value(json_object_get(message, "method")), "move.progress") == 0;
        json_int_t round =
            json_integer_value(json_object_get(json_object_get(message, "params"), "round"));
        json_decref(message);
        if (!progress)
            break;
        assert_true(round > last);
        last = round;
        seen++;
    }
    assert_int_equal(last, rounds);
    assert_true(seen < rounds);
    json_decref(receive(quick));

    /* Other events are not lost silently: who does not read them is disconnected, and only he. */
    char text[1001];
    memset(text, 'y', 1000);
    text[1000] = '\0';
    for (int i = 0; i < 2000; i++) {
        rpc_post_event(t.server, "vm.state", json_pack("{s:s}", "state", text));
        settle();
        json_decref(receive(quick));
    }
    while ((message = receive(slow)))
        json_decref(message);
    char c;
    assert_int_equal(recv(slow, &c, 1, 0), 0);
    expect_echo(quick);
    (void)close(slow);
    (void)close(quick);
}

static void too_many_events(void **state)
{
    (void)state;
    int fd = connect_raw();
    json_decref(ask(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.subscribe\"}"));
    /* The loop does not run meanwhile: the queue stays bounded, and what matters is kept. */
    for (unsigned i = 0; i < 3 * RPC_EVENTS_MAX; i++)
        rpc_post_event(t.server, "move.progress", json_pack("{s:i}", "round", (int)i));
    rpc_post_event(t.server, "move.done", json_pack("{s:b}", "ok", 1));
    unsigned count = 0;
    bool done = false;
    for (json_t *message; (message = receive(fd)); count++) {
        done = strcmp(json_string_value(json_object_get(message, "method")), "move.done") == 0;
        json_decref(message);
    }
    assert_true(done);
    assert_true(count <= RPC_EVENTS_MAX);
    (void)close(fd);
}

static void too_many_clients(void **state)
{
    (void)state;
    int fd[RPC_CLIENTS_MAX];
    for (unsigned i = 0; i < RPC_CLIENTS_MAX; i++) {
        fd[i] = connect_raw();
        settle();
    }
    int more = connect_raw();
    json_t *refusal = receive(more);
    assert_non_null(json_object_get(refusal, "error"));
    json_decref(refusal);
    assert_null(receive(more));
    (void)close(more);
    expect_echo(fd[RPC_CLIENTS_MAX - 1]);
    (void)close(fd[0]);
    settle();
    more = connect_raw();
    expect_echo(more);
    (void)close(more);
    for (unsigned i = 1; i < RPC_CLIENTS_MAX; i++)
        (void)close(fd[i]);
}

/* ------------------------------------------------------------------------------ the blocking
 * client */

static void *run_loop(void *unused)
{
    assert_int_equal(loop_run(&t.loop), 0);
    return unused;
}

static void count_event(void *ctx, const char *event, const json_t *params)
{
    int *count = ctx;
    if (strcmp(event, "move.done") == 0 && json_is_true(json_object_get(params, "ok")))
        ++*count;
}

static void blocking_client(void **state)
{
    (void)state;
    struct client *client;
    struct err err = { 0 };
    json_t *result = NULL;
    int events = 0;

    assert_int_equal(client_open(t.base, "other", &client, &err), -ENOENT);
    assert_int_equal(pthread_create(&t.thread, NULL, run_loop, NULL), 0);
    assert_int_equal(client_open(t.base, "vm", &client, &err), 0);
    assert_int_equal(client_call(client, "echo", json_pack("{s:s}", "text", "yo"),
                                 CLOCK_SECOND * 10, &result, &err),
                     0);
    assert_string_equal(json_string_value(json_object_get(result, "text")), "yo");
    json_decref(result);

    assert_int_equal(client_call(client, "refuse", NULL, CLOCK_SECOND * 10, NULL, &err),
                     -EHOSTUNREACH);
    assert_int_equal(err.fault, ERR_PEER);
    assert_string_equal(err.text, "no way ? there");
    assert_int_equal(client_call(client, "nope", NULL, CLOCK_SECOND * 10, NULL, &err), -ENOSYS);

    assert_int_equal(client_call(client, "later", NULL, CLOCK_MSEC * 20, NULL, &err), -ETIMEDOUT);
    assert_int_equal(client_subscribe(client, count_event, &events, &err), 0);
    rpc_reply(t.kept[0], NULL); /* an answer nobody waits for any more */
    rpc_post_event(t.server, "move.done", json_pack("{s:b}", "ok", 1));
    while (events == 0)
        assert_int_equal(client_wait(client, CLOCK_SECOND * 10, &err), 0);
    assert_int_equal(client_wait(client, CLOCK_MSEC * 20, &err), -ETIMEDOUT);
    assert_int_equal(events, 1);

    loop_quit(&t.loop);
    assert_int_equal(pthread_join(t.thread, NULL), 0);
    rpc_server_close(t.server);
    rpc_server_unref(TAKE_PTR(t.server));
    assert_int_equal(client_wait(client, CLOCK_SECOND * 10, &err), -ECONNRESET);
    client_close(client);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(malformed),       T(oversized),        T(pipelined),
        T(answered_later),  T(unread_answers),   T(slow_subscriber),
        T(too_many_events), T(too_many_clients), T(blocking_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
