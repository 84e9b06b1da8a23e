#include "text.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define TEXT_FIRST ((size_t)4096)

void text_free(struct text *text)
{
    free(text->data);
    *text = (struct text){ 0 };
}

static int grow(struct text *text)
{
    size_t cap = text->cap ? text->cap * 2 : TEXT_FIRST;
    char *data = realloc(text->data, cap);
    if (!data)
        return -ENOMEM;
    text->data = data;
    text->cap = cap;
    return 0;
}

static int read_file(struct text *text, int fd, bool list)
{
    text->len = 0;
    for (;;) {
        if (text->cap - text->len < TEXT_FIRST / 2) {
            int rc = grow(text);
            if (rc)
                return rc;
        }
        size_t room = text->cap - text->len - 1;
        ssize_t n = pread(fd, text->data + text->len, room, (off_t)text->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        text->len += (size_t)n;
        if (n == 0 || (!list && (size_t)n < room))
            break;
    }
    text->data[text->len] = '\0';
    return text->len ? 0 : -ENODATA;
}

int text_read(struct text *text, int fd)
{
    return read_file(text, fd, false);
}

int text_read_list(struct text *text, int fd)
{
    return read_file(text, fd, true);
}

uint64_t text_number(const char **at)
{
    const char *p = *at;
    uint64_t value = 0;
    while (*p == ' ' || *p == '\t')
        p++;
    for (; *p >= '0' && *p <= '9'; p++)
        value = value * 10 + (uint64_t)(*p - '0');
    *at = p;
    return value;
}

const char *text_skip(const char *at, unsigned count)
{
    while (*at == ' ')
        at++;
    while (count--) {
        while (*at && *at != ' ' && *at != '\n')
            at++;
        while (*at == ' ')
            at++;
    }
    return at;
}

bool text_find(const char *from, const char *key, uint64_t *ret)
{
    const char *at = strstr(from, key);
    if (!at)
        return false;
    at += strlen(key);
    *ret = text_number(&at);
    return true;
}
