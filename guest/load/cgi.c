/*
 * godwit-cgi: the dynamic page and the posts of the load `specweb`, one process a request as CGI has it.
 *
 *   GET  /cgi/dynamic[?class=C&file=N]   a page made for this request, with that static file in it (1, 5)
 *   POST /cgi/post                       keeps the body, of at most BODY bytes; answers `kept NUMBER`
 *   GET  /cgi/post?NUMBER                gives it back, as long as it is among the last SLOTS
 *
 * Posts are kept in one file of fixed size: a counter, then slots of which the oldest is overwritten.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1024u
#define SLOT 4096u
#define BODY (SLOT - 16u)

#ifndef CGI_POSTS
#define CGI_POSTS "/run/cgi/posts"
#endif
#ifndef CGI_STATIC
#define CGI_STATIC "/srv/www/static"
#endif

struct slot {
    uint64_t number; /* from 1 */
    uint64_t len;
    char body[BODY];
};
_Static_assert(sizeof(struct slot) == SLOT, "a slot is a block");

static int answer(const char *status, const char *text)
{
    printf("Status: %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s", status,
           strlen(text), text);
    return 0;
}

static const char *from_server(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

/* The file's first slot holds nothing but the number of the last post. */
static off_t place(uint64_t number)
{
    return (off_t)(1 + number % SLOTS) * (off_t)SLOT;
}

static int keep(const char *length)
{
    static struct slot slot;
    char text[64], *end;
    unsigned long len = strtoul(length, &end, 10);
    if (*length < '0' || *length > '9' || *end || len > BODY)
        return answer("413 Content Too Large", "a post has a length, and at most 4080 bytes\n");
    for (size_t got = 0; got < len;) {
        ssize_t n = read(STDIN_FILENO, slot.body + got, len - got);
        if (n <= 0)
            return answer("400 Bad Request", "the post is shorter than its length\n");
        got += (size_t)n;
    }
    int fd = open(CGI_POSTS, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    uint64_t last = 0;
    if (fd < 0 || flock(fd, LOCK_EX) < 0 || pread(fd, &last, sizeof(last), 0) < 0)
        return answer("500 Internal Server Error", "the file of posts cannot be opened\n");
    slot.number = last + 1;
    slot.len = len;
    /* The slot before the counter: a post that is counted is there. */
    if (pwrite(fd, &slot, sizeof(slot), place(slot.number)) != (ssize_t)sizeof(slot) ||
        pwrite(fd, &slot.number, sizeof(slot.number), 0) != (ssize_t)sizeof(slot.number))
        return answer("507 Insufficient Storage", "the post cannot be kept\n");
    snprintf(text, sizeof(text), "kept %llu\n", (unsigned long long)slot.number);
    return answer("200 OK", text);
}

static int give_back(const char *query)
{
    static struct slot slot;
    char *end;
    unsigned long long number = strtoull(query, &end, 10);
    int fd = open(CGI_POSTS, O_RDONLY | O_CLOEXEC);
    if (*query < '0' || *query > '9' || *end || !number || fd < 0 || flock(fd, LOCK_SH) < 0 ||
        pread(fd, &slot, sizeof(slot), place(number)) != (ssize_t)sizeof(slot) ||
        slot.number != number || slot.len > BODY)
        return answer("404 Not Found", "there is no such post\n");
    printf("Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n\r\n",
           (size_t)slot.len);
    fwrite(slot.body, 1, (size_t)slot.len, stdout);
    return 0;
}

static int make_page(const char *query)
{
    static char file[1 << 20];
    char path[64], head[512], junk;
    unsigned class = 1, number = 5;
    if (*query && (sscanf(query, "class=%1u&file=%1u%c", &class, &number, &junk) != 2 ||
                   class > 3 || number < 1))
        return answer("400 Bad Request", "want class=0 to 3 and file=1 to 9\n");
    snprintf(path, sizeof(path), CGI_STATIC "/%u/%u", class, number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n, len = 0;
    while (fd >= 0 && (n = read(fd, file + len, sizeof(file) - (size_t)len)) > 0)
        len += n;
    if (fd < 0)
        return answer("404 Not Found", "there is no such file\n");
    struct timespec now = { 0 };
    clock_gettime(CLOCK_MONOTONIC, &now);
    int head_len =
        snprintf(head, sizeof(head), "<html><!-- made at %lld.%09ld by %d for %.64s -->\n<pre>",
                 (long long)now.tv_sec, now.tv_nsec, (int)getpid(), from_server("REMOTE_ADDR"));
    static const char tail[] = "</pre></html>\n";
    printf("Content-Type: text/html\r\nContent-Length: %zu\r\n\r\n%s",
           (size_t)head_len + (size_t)len + sizeof(tail) - 1, head);
    fwrite(file, 1, (size_t)len, stdout);
    fputs(tail, stdout);
    return 0;
}

int main(void)
{
    const char *script = from_server("SCRIPT_NAME"), *method = from_server("REQUEST_METHOD");
    const char *query = from_server("QUERY_STRING");
    int get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    int bad;
    if (strcmp(script, "/cgi/dynamic") == 0 && get)
        bad = make_page(query);
    else if (strcmp(script, "/cgi/post") == 0 && strcmp(method, "POST") == 0)
        bad = keep(from_server("CONTENT_LENGTH"));
    else if (strcmp(script, "/cgi/post") == 0 && get)
        bad = give_back(query);
    else
        bad = answer("405 Method Not Allowed",
                     "/cgi/dynamic wants GET, /cgi/post wants POST or GET\n");
    return bad || fflush(stdout) != 0;
}
