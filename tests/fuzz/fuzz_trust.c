/*
 * What a person wrote into the configuration directory: `trusted`, or with FUZZ_CONF `godwit.conf`. What is accepted
 * means the same when it is written again, and adding or removing one peer changes no other.
 */
#include "base/fd.h"
#include "fuzz.h"
#include "trust/conf.h"
#include "trust/store.h"

#include <ctype.h>
#include <errno.h>
#include <unistd.h>

#define NAME "file"

#if defined(FUZZ_CONF)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf conf = { 0 }, again = { 0 };
    struct err err = { 0 };
    CLEANUP_BUF struct buf out = { 0 };
    int rc = conf_parse(NAME, (const char *)data, size, &conf, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return 0;
    buf_printf(&out,
               "allow-insecure=%s\nallow-insecure-off-loopback = %s # and why\n\n\tkernel-tls\t=%s",
               conf.allow_insecure ? "yes" : "no", conf.allow_insecure_off_loopback ? "yes" : "no",
               conf.kernel_tls ? "yes" : "no");
    FUZZ_CHECK(conf_parse(NAME, (const char *)out.data, out.len, &again, &err) == 0);
    FUZZ_CHECK(again.allow_insecure == conf.allow_insecure &&
               again.allow_insecure_off_loopback == conf.allow_insecure_off_loopback &&
               again.kernel_tls == conf.kernel_tls);
    /* A setting that nobody made is not made. */
    if (!memmem(data, size, "yes", 3))
        FUZZ_CHECK(!conf.allow_insecure && !conf.allow_insecure_off_loopback && !conf.kernel_tls);
    return 0;
}

#else

static char dir[256], path[300];

static void clean_up(void)
{
    (void)unlink(path);
    (void)rmdir(dir);
}

static void set_up(void)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof(dir), "%s/godwit-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    FUZZ_CHECK(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/" STORE_FILE, dir);
    (void)atexit(clean_up);
}

static bool same_entry(const struct store_entry *a, const struct store_entry *b)
{
    return strcmp(a->host, b->host) == 0 && fingerprint_equal(&a->print, &b->print) &&
           strcmp(a->comment, b->comment) == 0;
}

/* Each host in the one way it is written, with one line; no comment can play with a terminal. */
static void check_entries(const struct store *store)
{
    for (size_t i = 0; i < store->count; i++) {
        const struct store_entry *e = &store->entry[i];
        char host[STORE_HOST_MAX];
        FUZZ_CHECK(store_host(e->host, host, NULL) == 0 && strcmp(host, e->host) == 0);
        FUZZ_CHECK(strcmp(host, STORE_ANYWHERE) == 0 || store_find_host(store, host) == e);
        FUZZ_CHECK(store_find_print(store, &e->print));
        for (const char *c = e->comment; *c; c++)
            FUZZ_CHECK(!iscntrl((unsigned char)*c));
    }
}

static void check_written_again(const struct store *store)
{
    struct store again;
    struct err err = { 0 };
    CLEANUP_BUF struct buf out = { 0 };
    for (size_t i = 0; i < store->count; i++) {
        char print[FINGERPRINT_TEXT_MAX];
        fingerprint_text(&store->entry[i].print, print);
        buf_printf(&out, "%s %s %s\n", store->entry[i].host, print, store->entry[i].comment);
    }
    FUZZ_CHECK(store_parse(NAME, out.data ? (const char *)out.data : "", out.len, &again, &err) ==
               0);
    FUZZ_CHECK(again.count == store->count);
    for (size_t i = 0; i < store->count; i++)
        FUZZ_CHECK(same_entry(&again.entry[i], &store->entry[i]));
    store_free(&again);
}

/* The others, in order, are as they were. */
static void check_others(const struct store *was, const char *host)
{
    struct store now;
    struct err err = { 0 };
    size_t at = 0;
    FUZZ_CHECK(store_load(dir, &now, &err) == 0);
    for (size_t i = 0; i < was->count; i++) {
        if (strcmp(was->entry[i].host, host) == 0)
            continue;
        while (at < now.count && strcmp(now.entry[at].host, host) == 0)
            at++;
        FUZZ_CHECK(at < now.count && same_entry(&was->entry[i], &now.entry[at++]));
    }
    store_free(&now);
}

static void change(const struct store *was, const char *host)
{
    const struct fingerprint print = { { 1, 2, 3 } };
    struct store now;
    struct err err = { 0 };
    bool there = store_find_host(was, host);
    int rc = store_add(dir, host, &print, "added", false, &err);
    fuzz_check_err(rc, &err);
    FUZZ_CHECK(rc != -EEXIST || there);
    check_others(was, host);
    if (rc == -EEXIST) {
        err = (struct err){ 0 };
        rc = store_add(dir, host, &print, "added", true, &err);
    }
    if (rc)
        return; /* too large, or too many */
    FUZZ_CHECK(store_load(dir, &now, &err) == 0);
    FUZZ_CHECK(fingerprint_equal(&store_find_host(&now, host)->print, &print));
    store_free(&now);
    FUZZ_CHECK(store_remove(dir, host, &err) == 0);
    FUZZ_CHECK(store_load(dir, &now, &err) == 0);
    FUZZ_CHECK(!store_find_host(&now, host));
    store_free(&now);
    check_others(was, host);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    bool edits = cursor_u8(&in) & 1;
    struct store store = { 0 };
    struct err err = { 0 };
    struct cursor text = fuzz_rest(&in);
    int rc = store_parse(NAME, (const char *)text.at, text.left, &store, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return 0;
    check_entries(&store);
    check_written_again(&store);
    if (edits) {
        if (!dir[0])
            set_up();
        FUZZ_CHECK(fd_replace_file(path, text.at, text.left, &err) == 0);
        change(&store, "host.example");
        if (store.count && strcmp(store.entry[0].host, STORE_ANYWHERE) != 0)
            change(&store, store.entry[0].host);
    }
    store_free(&store);
    return 0;
}

#endif
