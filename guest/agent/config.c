#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX 8192

/* The next word of a line of `len` bytes, cut out of it; "" when there is none. */
static const char *next_word(char **at)
{
    char *word = *at + strspn(*at, " \t");
    char *end = word + strcspn(word, " \t");
    *at = *end ? end + 1 : end;
    *end = '\0';
    return word;
}

/* A cgroup below the root: no way up, no way out. */
static bool is_group(const char *path)
{
    if (!*path || *path == '/' || path[strlen(path) - 1] == '/')
        return false;
    for (const char *part = path; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL)
        if (*part == '/' || *part == '.')
            return false;
    return true;
}

static const char *add(char *list, size_t size, unsigned *count, const char *word)
{
    if (*count == GUEST_RULES_MAX)
        return "too many of its kind";
    if (!*word || strlen(word) >= size)
        return "a name is missing or too long";
    strcpy(list + *count * size, word);
    ++*count;
    return NULL;
}

/* A decimal number of `min` to `max`; 0: something else. */
static unsigned number_of(const char *text, unsigned min, unsigned max)
{
    size_t digits = strspn(text, "0123456789");
    unsigned long value = digits && digits < 6 && !text[digits] ? strtoul(text, NULL, 10) : 0;
    return value >= min && value <= max ? (unsigned)value : 0;
}

static const char *parse_observe(struct guest_config *config, const char *where, const char *port)
{
    unsigned *to = strcmp(where, "tcp") == 0     ? &config->observe_tcp
                   : strcmp(where, "vsock") == 0 ? &config->observe_vsock
                                                 : NULL;
    unsigned number = number_of(port, 1, 65535);
    if (!to || !number)
        return "observe: want tcp or vsock, and a port";
    *to = number;
    return NULL;
}

static const char *parse_line(struct guest_config *config, char *line)
{
    const char *key = next_word(&line), *value = next_word(&line);
    if (strcmp(key, "observe") == 0) {
        const char *port = next_word(&line);
        return *next_word(&line) ? "observe: want tcp or vsock, and a port"
                                 : parse_observe(config, value, port);
    }
    if (*next_word(&line))
        return "more words than one key and one value";
    if (strcmp(key, "page-cache") == 0) {
        if (strcmp(value, "drop") != 0 && strcmp(value, "keep") != 0)
            return "page-cache: want drop or keep";
        config->drop_page_cache = strcmp(value, "drop") == 0;
        return NULL;
    }
    if (strcmp(key, "freeze") == 0) {
        if (!is_group(value))
            return "freeze: want a cgroup below the root, such as batch/jobs";
        return add(config->freeze[0], sizeof(config->freeze[0]), &config->freeze_count, value);
    }
    if (strcmp(key, "idle") == 0)
        return add(config->idle[0], sizeof(config->idle[0]), &config->idle_count, value);
    if (strcmp(key, "limit") == 0) {
        unsigned seconds = number_of(value, 1, GUEST_LIMIT_MS_MAX / 1000);
        if (!seconds)
            return "limit: want 1 to 600 seconds";
        config->limit_ms = seconds * 1000;
        return NULL;
    }
    if (strcmp(key, "observe-period") == 0) {
        config->observe_period_ms = number_of(value, 1, 100);
        return config->observe_period_ms ? NULL : "observe-period: want 1 to 100 milliseconds";
    }
    return "unknown key: there are page-cache, freeze, idle, limit, observe and observe-period";
}

unsigned guest_config_parse(struct guest_config *config, const char *text, const char **ret_why)
{
    memset(config, 0, sizeof(*config));
    config->limit_ms = 60000;
    config->observe_period_ms = 2;
    for (unsigned number = 1; *text; number++) {
        char line[512];
        size_t len = strcspn(text, "\n");
        if (len >= sizeof(line)) {
            *ret_why = "line too long";
            return number;
        }
        memcpy(line, text, len);
        line[len] = '\0';
        line[strcspn(line, "#\r")] = '\0';
        text += len + (text[len] == '\n');
        if (!line[strspn(line, " \t")])
            continue;
        *ret_why = parse_line(config, line);
        if (*ret_why)
            return number;
    }
    return 0;
}

bool guest_config_read(struct guest_config *config, const char *path)
{
    char text[FILE_MAX];
    const char *why;
    size_t len = 0;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) {
        fprintf(stderr, "godwit-agent: %s: %s\n", path, strerror(errno));
        return false;
    }
    while (fd >= 0 && len < sizeof(text) - 1 &&
           (n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
        len += (size_t)n;
    if (fd >= 0)
        close(fd);
    text[len] = '\0';
    if (n < 0 || len == sizeof(text) - 1 || strlen(text) != len) {
        fprintf(stderr, "godwit-agent: %s: not readable, too long or no text\n", path);
        return false;
    }
    unsigned line = guest_config_parse(config, text, &why);
    if (line)
        fprintf(stderr, "godwit-agent: %s: line %u: %s\n", path, line, why);
    return line == 0;
}
