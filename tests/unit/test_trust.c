/* Keys, the store of peers and the configuration: what is written, what is read, and what is refused. */
#include "base/fd.h"
#include "trust/store.h"
#include "trust/trust.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#define ALL_A "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define ALL_B "SHA256:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA"

/* ------------------------------------------------------------------------------------ a directory a test */

static char dir[CONFDIR_MAX];

static int make_dir(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/godwit-trust-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[CONFDIR_MAX + 16];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

static void put(const char *name, const char *text, mode_t mode)
{
    char path[CONFDIR_MAX + 64];
    confdir_file(dir, name, path, sizeof(path));
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
    assert_int_equal(fchmod(fd, mode), 0);
}

static void expect_file(const char *name, const char *text)
{
    char path[CONFDIR_MAX + 64], *found;
    size_t len;
    confdir_file(dir, name, path, sizeof(path));
    assert_int_equal(fd_read_file(path, 65536, &found, &len), 0);
    assert_string_equal(found, text);
    free(found);
}

static unsigned mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static struct fingerprint print_of(const char *text)
{
    struct fingerprint print;
    assert_int_equal(fingerprint_parse(text, &print, NULL), 0);
    return print;
}

/* ------------------------------------------------------------------------------------------- fingerprints */

static void fingerprints(void **state)
{
    static const struct {
        uint8_t first, last;
        const char *text;
    } known[] = {
        { 0x00, 0x00, ALL_A },
        { 0xfb, 0x00, "SHA256:+wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
        { 0x00, 0x01, "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE" },
        { 0xff, 0xff, "SHA256:/wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8" },
    };
    static const char *const wrong[] = {
        "",
        "SHA256:",
        "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "MD5:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",   /* one short */
        "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", /* one long */
        "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", /* padded */
        "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB",  /* bits that mean nothing */
        "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA-AAAAAAAAAAA",  /* base64 of another kind */
        "SHA256:AAAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAA",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        struct fingerprint print = { 0 }, again;
        char text[FINGERPRINT_TEXT_MAX];
        print.sha256[0] = known[i].first;
        print.sha256[31] = known[i].last;
        fingerprint_text(&print, text);
        assert_string_equal(text, known[i].text);
        assert_int_equal(fingerprint_parse(text, &again, NULL), 0);
        assert_true(fingerprint_equal(&print, &again));
    }
    for (unsigned bit = 0; bit < 256; bit++) { /* every one counts, both ways */
        struct fingerprint print = { 0 }, none = { 0 }, again;
        char text[FINGERPRINT_TEXT_MAX];
        print.sha256[bit / 8] = (uint8_t)(1u << (bit % 8));
        fingerprint_text(&print, text);
        assert_int_equal(fingerprint_parse(text, &again, NULL), 0);
        assert_true(fingerprint_equal(&print, &again) && !fingerprint_equal(&print, &none));
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct fingerprint print;
        struct err err;
        if (fingerprint_parse(wrong[i], &print, &err) != -EINVAL)
            fail_msg("'%s' was taken", wrong[i]);
    }
}

/* --------------------------------------------------------------------------------------------------- keys */

static void key_is_made_once(void **state)
{
    char inner[CONFDIR_MAX + 16], path[CONFDIR_MAX + 64];
    struct keys a, b;
    struct err err = { 0 };
    (void)state;
    (void)snprintf(inner, sizeof(inner), "%s/deep/down",
                   dir); /* what is missing above is made too */
    if (keys_load(inner, &a, &err))
        fail_msg("%s", err.text);
    assert_int_equal(keys_load(inner, &b, &err), 0);
    assert_true(fingerprint_equal(&a.print, &b.print));
    confdir_file(inner, "host_key", path, sizeof(path));
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(mode_of(inner), 0700);

    /* The fingerprint is the SHA-256 of what is in the certificate, and so of what a peer sees. */
    struct fingerprint again;
    assert_int_equal(fingerprint_of_key(X509_get0_pubkey(b.cert), &again), 0);
    assert_true(fingerprint_equal(&again, &a.print));
    assert_int_equal(EVP_PKEY_get_base_id(a.key), EVP_PKEY_ED25519);
    assert_int_equal(X509_verify(b.cert, a.key), 1);
    keys_free(&a);
    keys_free(&b);

    assert_int_equal(unlink(path), 0);
    assert_int_equal(keys_load(inner, &a, &err), 0);
    assert_false(fingerprint_equal(&a.print, &again)); /* another one */
    keys_free(&a);
}

static void keys_that_are_refused(void **state)
{
    static const struct {
        const char *text;
        mode_t mode;
        int code;
    } cases[] = {
        { "", 0600, EBADMSG },
        { "no key", 0600, EBADMSG },
        { "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0600, EBADMSG },
        { "whatever", 0640, EPERM },
        { "whatever", 0604, EPERM },
        { "whatever", 0620, EPERM },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct keys keys;
        struct err err = { 0 };
        put("host_key", cases[i].text, cases[i].mode);
        assert_int_equal(keys_load(dir, &keys, &err), -cases[i].code);
        assert_non_null(strstr(err.text, "host_key"));
        expect_file("host_key", cases[i].text); /* and it was not replaced */
    }
}

/* Another kind of key would not do for the peers: it is refused here, not there. */
static void other_kinds_of_key(void **state)
{
    struct keys keys;
    struct err err = { 0 };
    char command[CONFDIR_MAX + 128];
    (void)state;
    (void)snprintf(command, sizeof(command),
                   "umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 "
                   "-out %s/host_key 2>/dev/null",
                   dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(keys_load(dir, &keys, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "Ed25519"));
}

static void directories_that_are_refused(void **state)
{
    struct keys keys;
    struct store store;
    struct conf conf;
    struct err err = { 0 };
    (void)state;
    assert_int_equal(chmod(dir, 0770), 0);
    assert_int_equal(keys_load(dir, &keys, &err), -EPERM);
    assert_int_equal(store_load(dir, &store, &err), -EPERM);
    assert_int_equal(conf_load(dir, &conf, &err), -EPERM);
    assert_non_null(strstr(err.text, "chmod go-w"));
    assert_int_equal(chmod(dir, 0755), 0); /* others may look at what is no secret */
    assert_int_equal(store_load(dir, &store, &err), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(dir, 12345, 12345), 0);
        assert_int_equal(store_load(dir, &store, &err), -EPERM);
    }
}

#define RACERS 8

/* Starts RACERS processes that wait for one another, call race(i) and write the result into a pipe. */
static void race(void (*run)(int i, char out[FINGERPRINT_TEXT_MAX]),
                 char out[RACERS][FINGERPRINT_TEXT_MAX])
{
    int start[2], result[2];
    assert_int_equal(pipe(start), 0);
    assert_int_equal(pipe(result), 0);
    for (int i = 0; i < RACERS; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            char go, text[FINGERPRINT_TEXT_MAX] = "";
            (void)close(start[1]);
            (void)!read(start[0], &go, 1); /* returns for all at once, at the end of the pipe */
            run(i, text);
            _exit(write(result[1], text, sizeof(text)) != (ssize_t)sizeof(text));
        }
    }
    (void)close(start[0]);
    (void)close(start[1]);
    for (int i = 0; i < RACERS; i++)
        assert_int_equal(fd_read_full(result[0], out[i], FINGERPRINT_TEXT_MAX), 0);
    for (int i = 0, status; i < RACERS; i++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    (void)close(result[0]);
    (void)close(result[1]);
}

static void make_key(int i, char out[FINGERPRINT_TEXT_MAX])
{
    struct keys keys;
    char inner[CONFDIR_MAX + 16];
    (void)i;
    (void)snprintf(inner, sizeof(inner), "%s/new", dir);
    if (keys_load(inner, &keys, NULL) == 0)
        fingerprint_text(&keys.print, out);
}

static void key_race(void **state)
{
    char prints[RACERS][FINGERPRINT_TEXT_MAX];
    (void)state;
    for (int round = 0; round < 20; round++) {
        race(make_key, prints);
        assert_string_not_equal(prints[0], "");
        for (int i = 1; i < RACERS; i++)
            assert_string_equal(prints[i], prints[0]);
        char command[CONFDIR_MAX + 64]; /* the key and nothing else is left */
        (void)snprintf(command, sizeof(command), "test \"$(ls -A %s/new)\" = host_key", dir);
        assert_int_equal(system(command), 0);
        (void)snprintf(command, sizeof(command), "rm -r %s/new", dir);
        assert_int_equal(system(command), 0);
    }
}

/* -------------------------------------------------------------------------------------------------- hosts */

static void hosts(void **state)
{
    static const char *const good[][2] = {
        { "host2", "host2" },
        { "Host2.Example.ORG", "host2.example.org" },
        { "10.0.0.1", "10.0.0.1" },
        { "2001:DB8:0:0::1", "2001:db8::1" },
        { "[2001:db8::1]", "2001:db8::1" },
        { "fe80::1%eth0", "fe80::1%eth0" },
        { "*", "*" },
    };
    static const char *const wrong[] = { "",     "host 2",   "host2:7000", "[host2]", "-x",
                                         "a\nb", "a#b",      "**",         "*.org",   "[*]",
                                         "[]",   "\xc3\xa9", "[::1]:2" };
    char host[STORE_HOST_MAX], longest[STORE_HOST_MAX + 1];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        if (store_host(good[i][0], host, NULL))
            fail_msg("'%s' was refused", good[i][0]);
        assert_string_equal(host, good[i][1]);
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (store_host(wrong[i], host, NULL) != -EINVAL)
            fail_msg("'%s' was taken", wrong[i]);
    memset(longest, 'a', STORE_HOST_MAX);
    longest[STORE_HOST_MAX] = '\0';
    assert_int_equal(store_host(longest, host, NULL), -EINVAL);
    longest[STORE_HOST_MAX - 1] = '\0';
    assert_int_equal(store_host(longest, host, NULL), 0);
}

/* -------------------------------------------------------------------------------------------------- store */

static void store_grammar(void **state)
{
    static const char good[] = "# peers\n"
                               "\n"
                               "   host2 \t" ALL_A "   the second host \n"
                               "  # more\n"
                               "10.0.0.3 " ALL_B "\n"
                               "* " ALL_A "\n"
                               "* " ALL_B " laptop";
    static const struct {
        const char *text, *says;
    } wrong[] = {
        { "host2\n", "line 1" },
        { "host2 SHA256:short\n", "line 1" },
        { "# fine\nhost2:7000 " ALL_A "\n", "line 2" },
        { "host2 " ALL_A "\nHOST2 " ALL_B "\n", "line 2" },
        { "host2 " ALL_A "\nhost2 " ALL_A "\n", "host2 has a line already" },
        { "host2 " ALL_A "\r\n", "no fingerprint" },
        { ALL_A " host2\n", "line 1" },
    };
    struct store store;
    struct err err;
    (void)state;
    assert_int_equal(store_parse("trusted", good, sizeof(good) - 1, &store, &err), 0);
    assert_int_equal(store.count, 4);
    assert_string_equal(store.entry[0].host, "host2");
    assert_string_equal(store.entry[0].comment, "the second host ");
    assert_string_equal(store.entry[1].comment, "");
    assert_ptr_equal(store_find_host(&store, "10.0.0.3"), &store.entry[1]);
    assert_null(store_find_host(&store, "host3"));
    assert_ptr_equal(store_find_print(&store, &(struct fingerprint){ { 0 } }), &store.entry[0]);
    store_free(&store);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        err.text[0] = '\0';
        assert_int_equal(store_parse("trusted", wrong[i].text, strlen(wrong[i].text), &store, &err),
                         -EINVAL);
        if (!strstr(err.text, wrong[i].says) || !strstr(err.text, "trusted"))
            fail_msg("'%s': %s", wrong[i].text, err.text);
    }
    assert_int_equal(store_parse("trusted", "a\0b", 3, &store, &err), -EINVAL);
}

static void store_changes(void **state)
{
    struct fingerprint a = print_of(ALL_A), b = print_of(ALL_B);
    struct store store;
    struct err err = { 0 };
    char path[CONFDIR_MAX + 64];
    (void)state;
    confdir_file(dir, STORE_FILE, path, sizeof(path));
    assert_int_equal(store_load(dir, &store, &err), 0); /* none is an empty one */
    assert_int_equal(store.count, 0);
    assert_int_equal(store_remove(dir, "host2", &err), -ENOENT);

    assert_int_equal(store_add(dir, "host2", &a, "", false, &err), 0);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(store_add(dir, "host3", &b, "by hand", false, &err), 0);
    expect_file(STORE_FILE, "host2 " ALL_A "\nhost3 " ALL_B " by hand\n");
    assert_int_equal(store_add(dir, "host2", &a, "again", false, &err), 0); /* is so already */
    expect_file(STORE_FILE, "host2 " ALL_A "\nhost3 " ALL_B " by hand\n");
    assert_int_equal(store_add(dir, "host2", &b, "", false, &err), -EEXIST);
    assert_non_null(strstr(err.text, ALL_A));
    assert_non_null(strstr(err.text, ALL_B));
    expect_file(STORE_FILE, "host2 " ALL_A "\nhost3 " ALL_B " by hand\n");
    assert_int_equal(store_add(dir, "host2", &b, "", true, &err), 0);
    expect_file(STORE_FILE, "host3 " ALL_B " by hand\nhost2 " ALL_B "\n");

    /* What people wrote stays; many may come from anywhere; all of those go at once. */
    put(STORE_FILE, "# mine\n\n  host3\t" ALL_B "   x  y\n* " ALL_A " one", 0644);
    assert_int_equal(store_add(dir, "*", &b, "two", false, &err), 0);
    expect_file(STORE_FILE,
                "# mine\n\n  host3\t" ALL_B "   x  y\n* " ALL_A " one\n* " ALL_B " two\n");
    assert_int_equal(store_add(dir, "*", &b, "two", false, &err), 0);
    assert_int_equal(store_remove(dir, "*", &err), 0);
    expect_file(STORE_FILE, "# mine\n\n  host3\t" ALL_B "   x  y\n");
    assert_int_equal(store_remove(dir, "host3", &err), 0);
    expect_file(STORE_FILE, "# mine\n\n");

    assert_int_equal(store_add(dir, "h", &a, "a\nh2 " ALL_B, false, &err), -EINVAL);
    put(STORE_FILE, "what?\n", 0600); /* nothing is changed in what is not understood */
    assert_int_equal(store_add(dir, "host4", &a, "", false, &err), -EINVAL);
    assert_int_equal(store_remove(dir, "host4", &err), -EINVAL);
    expect_file(STORE_FILE, "what?\n");
    put(STORE_FILE, "", 0666);
    assert_int_equal(store_load(dir, &store, &err), -EPERM);
}

static void add_one(int i, char out[FINGERPRINT_TEXT_MAX])
{
    struct fingerprint print = { { (uint8_t)i } };
    char host[16];
    (void)snprintf(host, sizeof(host), "host%d", i);
    if (store_add(dir, host, &print, "", false, NULL) == 0)
        (void)snprintf(out, FINGERPRINT_TEXT_MAX, "good");
}

static void store_race(void **state)
{
    char said[RACERS][FINGERPRINT_TEXT_MAX];
    struct store store;
    (void)state;
    race(add_one, said);
    for (int i = 0; i < RACERS; i++)
        assert_string_equal(said[i], "good");
    assert_int_equal(store_load(dir, &store, NULL), 0);
    assert_int_equal(store.count, RACERS); /* none overwrote another's */
    store_free(&store);
}

/* ---------------------------------------------------------------------------------------------- godwit.conf */

static void conf_grammar(void **state)
{
    static const struct {
        const char *text;
        bool insecure, off_loopback, kernel_tls;
    } good[] = {
        { "", false, false },
        { "# nothing\n\n  \t\n", false, false },
        { "allow-insecure = yes\n", true, false },
        { "allow-insecure=yes # for now\nallow-insecure-off-loopback\t=\tyes", true, true },
        { "  allow-insecure = no\nallow-insecure-off-loopback = yes\n", false, true },
        { "kernel-tls = yes\n", false, false, true },
    };
    static const struct {
        const char *text, *says;
    } wrong[] = {
        { "allow-insecure\n", "line 1" },
        { "allow-insecure = true\n", "want yes or no" },
        { "allow-insecure = Yes\n", "want yes or no" },
        { "allow-insecure =\n", "want yes or no" },
        { "allow-insecure = yes no\n", "want yes or no" },
        { "\n\nallow-unsecure = yes\n", "line 3: unknown key 'allow-unsecure'" },
        { "Allow-Insecure = yes\n", "unknown key" },
        { "= yes\n", "unknown key" },
        { "allow-insecure = no\nallow-insecure = yes\n", "line 2: allow-insecure is set twice" },
        { "allow-insecure = yes\r\n", "want yes or no" },
        { "[section]\n", "want KEY = VALUE" },
    };
    struct conf conf;
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(conf_parse("c", good[i].text, strlen(good[i].text), &conf, &err), 0);
        assert_int_equal(conf.allow_insecure, good[i].insecure);
        assert_int_equal(conf.allow_insecure_off_loopback, good[i].off_loopback);
        assert_int_equal(conf.kernel_tls, good[i].kernel_tls);
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (conf_parse("c", wrong[i].text, strlen(wrong[i].text), &conf, &err) != -EINVAL)
            fail_msg("'%s' was taken", wrong[i].text);
        if (!strstr(err.text, wrong[i].says))
            fail_msg("'%s': %s", wrong[i].text, err.text);
    }
    assert_int_equal(conf_parse("c", "\0allow-insecure = yes", 21, &conf, &err), -EINVAL);
    put(CONF_FILE, "allow-insecure = yes\n", 0622);
    assert_int_equal(conf_load(dir, &conf, &err), -EPERM);
}

/* --------------------------------------------------------------------------------------------- the questions */

static struct trust *open_trust(bool plain)
{
    struct trust *trust;
    struct err err = { 0 };
    if (trust_open(dir, plain, &trust, &err))
        fail_msg("%s", err.text);
    return trust;
}

static void questions(void **state)
{
    struct fingerprint a = print_of(ALL_A), b = print_of(ALL_B);
    struct trust *trust = open_trust(false);
    struct err err = { 0 };
    char own[FINGERPRINT_TEXT_MAX], command[TRUST_COMMAND_MAX];
    (void)state;
    fingerprint_text(&trust->keys.print, own);
    assert_int_equal(trust_check_target(trust, "anywhere", &trust->keys.print, &err), 0);
    assert_int_equal(trust_check_source(trust, "10.0.0.9", &trust->keys.print, &err), 0);

    /* Unknown: both fingerprints, and the command. */
    assert_int_equal(trust_check_target(trust, "Host2", &a, &err), -EKEYREJECTED);
    trust_command(trust, "host2", &a, false, command);
    assert_true(strstr(err.text, own) && strstr(err.text, command));
    assert_non_null(strstr(command, "godwit trust host2 " ALL_A));
    assert_non_null(strstr(command, dir));
    assert_int_equal(trust_check_source(trust, "10.0.0.9", &a, &err), -EKEYREJECTED);
    assert_true(strstr(err.text, own) && strstr(err.text, "godwit trust 10.0.0.9 " ALL_A));

    /* What is pinned holds at once: for its host only to go to, from anywhere to come. */
    assert_int_equal(store_add(dir, "host2", &a, "", false, &err), 0);
    assert_int_equal(trust_check_target(trust, "HOST2", &a, &err), 0);
    assert_int_equal(trust_check_target(trust, "host3", &a, &err), -EKEYREJECTED);
    assert_int_equal(trust_check_source(trust, "10.0.0.9", &a, &err), 0);

    /* Changed: the pinned one, the new one, and that it takes --replace. */
    assert_int_equal(trust_check_target(trust, "host2", &b, &err), -EKEYREJECTED);
    assert_non_null(strstr(err.text, "CHANGED"));
    assert_true(strstr(err.text, ALL_A) && strstr(err.text, "host2 " ALL_B " --replace"));
    assert_int_equal(store_add(dir, "10.0.0.9", &a, "", false, &err), 0);
    assert_int_equal(trust_check_source(trust, "10.0.0.9", &b, &err), -EKEYREJECTED);
    assert_non_null(strstr(err.text, "CHANGED"));

    /* Who may come from anywhere is not trusted to be anywhere. */
    assert_int_equal(store_add(dir, "*", &b, "", false, &err), 0);
    assert_int_equal(trust_check_source(trust, "10.0.0.9", &b, &err), 0);
    assert_int_equal(trust_check_target(trust, "host2", &b, &err), -EKEYREJECTED);
    assert_int_equal(trust_check_target(trust, "host9", &b, &err), -EKEYREJECTED);
    assert_int_equal(trust_check_target(trust, "*", &b, &err), -EKEYREJECTED);

    /* Whatever cannot be read is not trusted. */
    put(STORE_FILE, "garbage\n", 0600);
    assert_int_equal(trust_check_target(trust, "host2", &a, &err), -EINVAL);
    assert_int_equal(trust_check_source(trust, "10.0.0.9", &a, &err), -EINVAL);
    trust_close(trust);
}

static int ask_plain(const char *address)
{
    struct sockaddr_in in = { .sin_family = AF_INET };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
    struct trust *trust = open_trust(true);
    struct err err;
    bool v4 = inet_pton(AF_INET, address, &in.sin_addr) == 1;
    assert_true(v4 || inet_pton(AF_INET6, address, &in6.sin6_addr) == 1);
    int rc = trust_check_plain(trust, v4 ? (struct sockaddr *)&in : (struct sockaddr *)&in6, &err);
    if (rc) {
        assert_non_null(strstr(err.text, "allow-insecure = yes"));
        assert_non_null(strstr(err.text, "allow-insecure-off-loopback = yes"));
    }
    trust_close(trust);
    return rc;
}

static void plain_only_on_loopback(void **state)
{
    static const char *const near[] = { "127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1" };
    static const char *const far[] = { "0.0.0.0", "10.0.0.1", "128.0.0.1",      "::",
                                       "::2",     "fe80::1",  "::ffff:10.0.0.1" };
    static const struct {
        const char *conf;
        int rc;
    } cases[] = { { "", -EPERM },
                  { "allow-insecure = yes\n", -EPERM },
                  { "allow-insecure-off-loopback = yes\n", -EPERM },
                  { "allow-insecure = yes\nallow-insecure-off-loopback = no\n", -EPERM },
                  { "allow-insecure = yes\nallow-insecure-off-loopback = yes\n", 0 } };
    struct trust *trust = open_trust(true);
    struct err err;
    char path[CONFDIR_MAX + 64];
    (void)state;
    assert_int_equal(trust_check_plain(trust, &(struct sockaddr){ .sa_family = AF_VSOCK }, &err),
                     -EPERM);
    trust_close(trust);
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        put(CONF_FILE, cases[c].conf, 0600);
        for (size_t i = 0; i < ARRAY_LEN(near); i++)
            assert_int_equal(ask_plain(near[i]), 0);
        for (size_t i = 0; i < ARRAY_LEN(far); i++)
            assert_int_equal(ask_plain(far[i]), cases[c].rc);
    }
    put(CONF_FILE, "allow-insecure = maybe\n", 0600); /* not "no", but an error */
    assert_int_equal(trust_open(dir, true, &trust, &err), -EINVAL);
    confdir_file(dir, "host_key", path, sizeof(path));
    assert_int_equal(access(path, F_OK), -1); /* plain links need no key, and make none */
}

static void where_it_is(void **state)
{
    char path[CONFDIR_MAX], longest[CONFDIR_MAX + 8];
    struct err err;
    (void)state;
    assert_int_equal(confdir_path("/a/b", path, &err), 0);
    assert_string_equal(path, "/a/b");
    assert_int_equal(confdir_path("b", path, &err), 0); /* monitors run elsewhere */
    assert_true(path[0] == '/' && strcmp(path + strlen(path) - 2, "/b") == 0);
    memset(longest, '/', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(confdir_path(longest, path, &err), -ENAMETOOLONG);
    if (geteuid() == 0) {
        assert_int_equal(confdir_path(NULL, path, &err), 0);
        assert_string_equal(path, "/etc/godwit");
        return;
    }
    (void)setenv("XDG_CONFIG_HOME", "/x", 1);
    (void)setenv("HOME", "/h", 1);
    assert_int_equal(confdir_path("", path, &err), 0);
    assert_string_equal(path, "/x/godwit");
    (void)unsetenv("XDG_CONFIG_HOME");
    assert_int_equal(confdir_path(NULL, path, &err), 0);
    assert_string_equal(path, "/h/.config/godwit");
    (void)unsetenv("HOME");
    assert_int_equal(confdir_path(NULL, path, &err), -ENOENT);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fingerprints),
        IN_DIR(key_is_made_once),
        IN_DIR(keys_that_are_refused),
        IN_DIR(other_kinds_of_key),
        IN_DIR(directories_that_are_refused),
        IN_DIR(key_race),
        cmocka_unit_test(hosts),
        cmocka_unit_test(store_grammar),
        IN_DIR(store_changes),
        IN_DIR(store_race),
        IN_DIR(conf_grammar),
        IN_DIR(questions),
        IN_DIR(plain_only_on_loopback),
        cmocka_unit_test(where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
