/*
 * stream: each connection downloads one file over and over. Each tenth of a second it has a row: how much came, and how
 * the connection ended if it did; it is opened again with the next tenth.
 *
 * With a limit each connection may read its share of the rate, and no more than a tenth of a second's worth at once
 * after it was held up, with a small window, so that the server has to send all along and not from a buffer on our
 * side.
 */
#include "connect.h"
#include "http.h"
#include "probe.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROW_NS (CLOCK_SECOND / 10)
#define WINDOW_BYTES 65536 /* of a limited connection */
#define QUANTUM_BYTES 16384

enum download_state { DOWNLOAD_SHUT, DOWNLOAD_CONNECTING, DOWNLOAD_OPEN };

struct download {
    struct loop_source source; /* source.fd is owned */
    struct probe *probe;
    uint32_t index;
    enum download_state state;
    uint64_t bytes;      /* since the last row */
    enum status status;  /* what befell it since the last row, or ok */
    uint64_t heard_ns;   /* the last byte, or when it was opened */
    double allowance;    /* bytes it may read now */
    uint64_t allowed_ns; /* when that was so */
    bool held;           /* until it may read on */
    size_t asked;        /* bytes of the question sent */
    struct http http;
};

struct downloads {
    char question[MIX_PATH_MAX + 512];
    size_t question_len;
    double rate;      /* bytes a nanosecond and connection; 0 = no limit */
    uint64_t row_ns;  /* when the next rows are due */
    uint64_t from_ns; /* when the last ones were put */
    uint32_t count;
    struct download download[];
};

static void shut(struct download *download, enum status status)
{
    int fd = download->source.fd;
    if (download->state == DOWNLOAD_SHUT)
        return;
    loop_remove(&download->source);
    (void)close(fd);
    download->state = DOWNLOAD_SHUT;
    if (download->status == STATUS_OK)
        download->status = status;
}

static void fail(struct download *download, int code)
{
    enum status status = status_of_errno(code);
    if (status == STATUS_UNSENT && download->probe->troubles++ == 0)
        (void)fprintf(stderr, "godwit-probe: cannot download: %s\n", strerror(code));
    if (download->state == DOWNLOAD_SHUT)
        download->status = download->status == STATUS_OK ? status : download->status;
    shut(download, status);
}

static void ask_some(struct download *download)
{
    struct downloads *all = download->probe->state;
    while (download->asked < all->question_len) {
        ssize_t n = send(download->source.fd, all->question + download->asked,
                         all->question_len - download->asked, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR) {
            fail(download, errno);
            return;
        }
        download->asked += n > 0 ? (size_t)n : 0;
    }
    int rc = loop_change(&download->source,
                         download->asked < all->question_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
    if (rc)
        fail(download, -rc);
}

static void ask(struct download *download)
{
    http_begin(&download->http);
    download->asked = 0;
    ask_some(download);
}

/* How much it may read now. */
static size_t allowed(struct download *download, uint64_t now, size_t most)
{
    struct downloads *all = download->probe->state;
    if (all->rate == 0)
        return most;
    download->allowance += (double)(now - download->allowed_ns) * all->rate;
    download->allowance =
        MIN(download->allowance, MAX((double)ROW_NS * all->rate, (double)QUANTUM_BYTES));
    download->allowed_ns = now;
    return download->allowance < 0 ? 0 : MIN((size_t)download->allowance, most);
}

/* When it may read a worthwhile piece again. */
static uint64_t held_until(const struct downloads *all, const struct download *download)
{
    double want = MIN((double)ROW_NS * all->rate / 8, (double)QUANTUM_BYTES) - download->allowance;
    return download->allowed_ns + (want > 0 ? (uint64_t)(want / all->rate) + 1 : 0);
}

static void take(struct download *download, const uint8_t *bytes, size_t len, uint64_t now)
{
    size_t used = 0;
    download->bytes += len;
    download->heard_ns = now;
    probe_heard(download->probe, now);
    enum answer answer = http_feed(&download->http, bytes, len, &used);
    bool bad = answer == ANSWER_BAD || used < len ||
               (answer == ANSWER_DONE && download->http.status != 200);
    if (bad || (answer == ANSWER_DONE && download->http.close))
        shut(download, bad ? STATUS_BAD : STATUS_OK);
    else if (answer == ANSWER_DONE)
        ask(download);
}

static void receive(struct download *download)
{
    static uint8_t bytes[262144];
    for (unsigned i = 0; i < 16 && download->state == DOWNLOAD_OPEN; i++) {
        uint64_t now = clock_now_ns();
        size_t most = allowed(download, now, sizeof(bytes));
        if (most == 0) {
            download->held = true;
            if (loop_change(&download->source, 0))
                fail(download, EIO);
            return;
        }
        ssize_t n = recv(download->source.fd, bytes, most, 0);
        now = clock_now_ns();
        if (n > 0) {
            download->allowance -= (double)n;
            take(download, bytes, (size_t)n, now);
        } else if (n == 0) {
            bool whole = download->asked && http_eof(&download->http) == ANSWER_DONE;
            shut(download, whole ? STATUS_OK : STATUS_CLOSED);
        } else if (errno != EINTR) {
            if (errno != EAGAIN)
                fail(download, errno);
            return;
        }
    }
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct download *download = CONTAINER_OF(source, struct download, source);
    if (download->state == DOWNLOAD_CONNECTING) {
        int code = connect_result(source->fd);
        if (code) {
            fail(download, code);
        } else {
            download->state = DOWNLOAD_OPEN;
            ask(download);
        }
        return;
    }
    if (events & EPOLLOUT)
        ask_some(download);
    if (download->state == DOWNLOAD_OPEN && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(download);
}

static void begin(struct download *download, uint64_t now)
{
    struct downloads *all = download->probe->state;
    const struct options *options = &download->probe->options;
    int window = WINDOW_BYTES;
    int fd = socket(options->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fail(download, errno);
        return;
    }
    int rc = 0;
    if (all->rate > 0 && setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof(window)) < 0)
        rc = -errno;
    if (!rc)
        rc = connect_begin(fd, options);
    if (!rc)
        rc = loop_add(&download->probe->loop, &download->source, fd, EPOLLOUT, on_ready);
    if (rc) {
        (void)close(fd);
        fail(download, -rc);
        return;
    }
    download->state = DOWNLOAD_CONNECTING;
    download->heard_ns = download->allowed_ns = now;
    download->allowance = 0;
    download->held = false;
}

static void put_rows(struct probe *probe, uint64_t now)
{
    struct downloads *all = probe->state;
    for (uint32_t i = 0; i < all->count; i++) {
        struct download *download = &all->download[i];
        struct row row = { .seq = probe->put++,
                           .kind = "stream",
                           .connection = i,
                           .due_ns = all->row_ns,
                           .sent_ns = all->from_ns,
                           .done_ns = now,
                           .bytes = download->bytes,
                           .status = download->status };
        probe->requests.ended[row.status]++;
        rows_put(&probe->rows, &row);
        download->bytes = 0;
        download->status = STATUS_OK;
    }
    all->from_ns = now;
}

static uint64_t stream_turn(struct probe *probe, uint64_t now)
{
    struct downloads *all = probe->state;
    if (all->row_ns == 0) {
        all->from_ns = probe->start_ns;
        all->row_ns = probe->start_ns + ROW_NS;
    }
    bool row = now >= all->row_ns;
    if (row) {
        late_add(&probe->late, now - all->row_ns);
        put_rows(probe, now);
        while (all->row_ns <= now)
            all->row_ns += ROW_NS;
    }
    uint64_t next = all->row_ns;
    for (uint32_t i = 0; i < all->count; i++) {
        struct download *download = &all->download[i];
        if (download->state != DOWNLOAD_SHUT &&
            now - MIN(download->heard_ns, now) >= probe->options.timeout_ns)
            shut(download, STATUS_TIMEOUT);
        if (download->state == DOWNLOAD_SHUT) {
            if (row)
                begin(download, now);
        } else if (download->held) {
            uint64_t until = held_until(all, download);
            if (now < until) {
                next = MIN(next, until);
                continue;
            }
            download->held = false;
            if (loop_change(&download->source, EPOLLIN))
                fail(download, EIO);
        }
    }
    return next;
}

static int stream_open(struct probe *probe, struct err *err)
{
    const struct options *options = &probe->options;
    uint32_t count = (uint32_t)options->connections;
    struct downloads *all = calloc(1, sizeof(*all) + count * sizeof(all->download[0]));
    CLEANUP_BUF struct buf path = { 0 };
    if (!all)
        return err_errno(err, ERR_HOST, ENOMEM, "%u connections", count);
    probe->state = all;
    all->count = count;
    all->rate = (double)options->bandwidth / (double)CLOCK_SECOND / count;
    mix_put_path(&path, &options->mix.items[0], &probe->seed);
    int len = snprintf(all->question, sizeof(all->question),
                       "GET %.*s HTTP/1.1\r\nHost: %.300s\r\nUser-Agent: godwit-probe\r\n\r\n",
                       (int)path.len, path.data ? (const char *)path.data : "", options->target);
    if (buf_status(&path) || len < 0 || (size_t)len >= sizeof(all->question))
        return err_set(err, ERR_CALLER, EINVAL, "--path: too long");
    all->question_len = (size_t)len;
    for (uint32_t i = 0; i < count; i++) {
        all->download[i] =
            (struct download){ .probe = probe, .index = i, .status = STATUS_OK, .source.fd = -1 };
        begin(&all->download[i], clock_now_ns());
    }
    return 0;
}

static void stream_close(struct probe *probe, uint64_t now)
{
    struct downloads *all = probe->state;
    if (!all)
        return;
    if (all->row_ns && now > all->from_ns)
        put_rows(probe, now); /* less than a tenth */
    for (uint32_t i = 0; i < all->count; i++)
        shut(&all->download[i], STATUS_OK);
    free(all);
    probe->state = NULL;
}

const struct kind_ops stream_kind = { .open = stream_open,
                                      .turn = stream_turn,
                                      .close = stream_close };
