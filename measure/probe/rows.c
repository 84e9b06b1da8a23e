#include "rows.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FLUSH_BYTES 65536

static const char *const status_names[] = {
    [STATUS_PENDING] = "pending", [STATUS_OK] = "ok",
    [STATUS_REFUSED] = "refused", [STATUS_RESET] = "reset",
    [STATUS_CLOSED] = "closed",   [STATUS_TIMEOUT] = "timeout",
    [STATUS_BAD] = "bad",         [STATUS_UNREACHABLE] = "unreachable",
    [STATUS_UNSENT] = "unsent",
};
static_assert(ARRAY_LEN(status_names) == STATUS_MAX, "a name each");

const char *status_name(enum status status)
{
    return status_names[status];
}

enum status status_of_errno(int code)
{
    switch (code) {
    case ECONNREFUSED:
        return STATUS_REFUSED;
    case ECONNRESET:
    case EPIPE:
        return STATUS_RESET;
    case ETIMEDOUT:
        return STATUS_TIMEOUT;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
        return STATUS_UNREACHABLE; /* what ICMP said, or our own network */
    default:
        return STATUS_UNSENT; /* our own trouble */
    }
}

int rows_open(struct rows *rows, const char *path, const char *header, struct err *err)
{
    *rows = (struct rows){ .fd = -1, .path = path, .header = header };
    if (strcmp(path, "-") == 0) {
        rows->fd = STDOUT_FILENO;
        rows->path = "standard output";
    } else {
        rows->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (rows->fd < 0)
            return err_errno(err, ERR_HOST, errno, "%s", path);
    }
    buf_put(&rows->buf, header, strlen(header));
    rows_flush(rows);
    if (rows->err.code) {
        if (err)
            *err = rows->err;
        int rc = -rows->err.code;
        rows_close(rows);
        return rc;
    }
    return 0;
}

/* Of `len` bytes that were to be written, some may be there. Only whole lines stay. */
static void cut_to_lines(struct rows *rows, size_t len)
{
    struct stat st;
    if (fstat(rows->fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size < rows->whole_bytes)
        return;
    size_t there = MIN(len, (size_t)((uint64_t)st.st_size - rows->whole_bytes));
    while (there && rows->buf.data[there - 1] != '\n')
        there--;
    rows->whole_bytes += there;
    if (ftruncate(rows->fd, (off_t)rows->whole_bytes) < 0)
        return; /* the reader will find half a line at the end */
}

void rows_flush(struct rows *rows)
{
    if (rows->err.code || rows->fd < 0)
        return;
    int rc = buf_status(&rows->buf);
    if (!rc)
        rc = fd_write_full(rows->fd, rows->buf.data, rows->buf.len);
    if (rc) {
        (void)err_errno(&rows->err, ERR_HOST, -rc, "cannot write %s", rows->path);
        cut_to_lines(rows, rows->buf.len);
        return;
    }
    rows->whole_bytes += rows->buf.len;
    buf_reset(&rows->buf);
}

static void flush_some(struct rows *rows)
{
    if (rows->buf.len >= FLUSH_BYTES || rows->buf.broken)
        rows_flush(rows);
}

/* A number and what ends its field; nothing for `none`. */
static char *put_number(char *at, uint64_t number, uint64_t none)
{
    char digits[20];
    unsigned count = 0;
    if (number != none) {
        do {
            digits[count++] = (char)('0' + number % 10);
        } while (number /= 10);
        while (count)
            *at++ = digits[--count];
    }
    *at++ = ',';
    return at;
}

void rows_put(struct rows *rows, const struct row *row)
{
    char line[256], *at = line;
    if (rows->err.code)
        return;
    at = put_number(at, row->seq, ROW_NO_SEQ);
    at = stpcpy(at, row->kind);
    *at++ = ',';
    at = put_number(at, row->connection, ROW_NO_CONNECTION);
    at = put_number(at, row->due_ns, 0);
    at = put_number(at, row->sent_ns, 0);
    at = put_number(at, row->done_ns, 0);
    at = put_number(at, row->bytes, row->status == STATUS_OK ? UINT64_MAX : 0);
    at = stpcpy(at, status_name(row->status));
    *at++ = '\n';
    buf_put(&rows->buf, line, (size_t)(at - line));
    flush_some(rows);
}

void rows_print(struct rows *rows, const char *fmt, ...)
{
    char line[256];
    va_list args;
    if (rows->err.code)
        return;
    va_start(args, fmt);
    int len = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    buf_put(&rows->buf, line, MIN((size_t)len, sizeof(line) - 1));
    flush_some(rows);
}

void rows_close(struct rows *rows)
{
    rows_flush(rows);
    if (rows->fd != STDOUT_FILENO) {
        int fd = TAKE_FD(rows->fd);
        if (fd >= 0 && close(fd) < 0 && !rows->err.code)
            (void)err_errno(&rows->err, ERR_HOST, errno, "cannot write %s", rows->path);
    }
    rows->fd = -1;
    buf_free(&rows->buf);
}
