#include "trust/conf.h"
#include "trust/confdir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONF_BYTES_MAX 65536
#define BLANKS " \t"

static const struct {
    const char *key;
    size_t at; /* of a bool in struct conf */
} settings[] = {
    { "allow-insecure", offsetof(struct conf, allow_insecure) },
    { "allow-insecure-off-loopback", offsetof(struct conf, allow_insecure_off_loopback) },
    { "kernel-tls", offsetof(struct conf, kernel_tls) },
};

/* Cuts blanks off both ends. */
static char *trimmed(char *text)
{
    text += strspn(text, BLANKS);
    size_t len = strlen(text);
    while (len > 0 && strchr(BLANKS, text[len - 1]))
        text[--len] = '\0';
    return text;
}

static int parse_line(char *line, struct conf *conf, bool seen[ARRAY_LEN(settings)],
                      struct err *err)
{
    line[strcspn(line, "#")] = '\0';
    line = trimmed(line);
    if (!line[0])
        return 0;
    char *equals = strchr(line, '=');
    if (!equals)
        return err_set(err, ERR_CALLER, EINVAL, "'%.80s': want KEY = VALUE", line);
    *equals = '\0';
    const char *key = trimmed(line), *value = trimmed(equals + 1);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        if (strcmp(settings[i].key, key) != 0)
            continue;
        bool yes = strcmp(value, "yes") == 0;
        if (!yes && strcmp(value, "no") != 0)
            return err_set(err, ERR_CALLER, EINVAL, "%s: '%.80s': want yes or no", key, value);
        if (seen[i])
            return err_set(err, ERR_CALLER, EINVAL, "%s is set twice", key);
        seen[i] = true;
        *(bool *)(void *)((char *)conf + settings[i].at) = yes;
        return 0;
    }
    return err_set(err, ERR_CALLER, EINVAL, "unknown key '%.80s'", key);
}

int conf_parse(const char *name, const char *text, size_t len, struct conf *ret, struct err *err)
{
    struct conf conf = { 0 };
    bool seen[ARRAY_LEN(settings)] = { false };
    CLEANUP_FREE char *copy = strndup(text, len);
    if (!copy)
        return err_errno(err, ERR_HOST, ENOMEM, "%s", name);
    if (strlen(copy) != len)
        return err_set(err, ERR_CALLER, EINVAL, "%s: is no text: it has a zero byte", name);
    unsigned number = 0;
    for (char *at = copy, *line; (line = strsep(&at, "\n"));) {
        number++;
        int rc = parse_line(line, &conf, seen, err);
        if (rc)
            return err_wrap(err, rc, "%s, line %u", name, number);
    }
    *ret = conf;
    return 0;
}

int conf_load(const char *dir, struct conf *ret, struct err *err)
{
    char path[CONFDIR_MAX + 64];
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    int rc = confdir_read(dir, CONF_FILE, false, CONF_BYTES_MAX, &text, &len, err);
    if (rc == -ENOENT) {
        *ret = (struct conf){ 0 };
        return 0;
    }
    confdir_file(dir, CONF_FILE, path, sizeof(path));
    return rc ? rc : conf_parse(path, text, len, ret, err);
}
