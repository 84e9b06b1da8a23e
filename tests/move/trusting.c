#include "trusting.h"
#include "trust/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct trust *trusting_nobody(void)
{
    char dir[] = "/tmp/godwit-trust-XXXXXX";
    struct trust *trust;
    struct err err = { 0 };
    assert_non_null(mkdtemp(dir));
    if (trust_open(dir, false, &trust, &err))
        fail_msg("%s", err.text);
    return trust;
}

void trusting_pair(struct trust *ret[2])
{
    struct err err = { 0 };
    for (int i = 0; i < 2; i++)
        ret[i] = trusting_nobody();
    for (int i = 0; i < 2; i++)
        if (store_add(ret[i]->dir, "127.0.0.1", &ret[!i]->keys.print, "", false, &err))
            fail_msg("%s", err.text);
}

void trusting_end(struct trust *trust)
{
    static const char *const files[] = { "host_key", STORE_FILE, CONF_FILE, "" };
    char path[CONFDIR_MAX + 64];
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        confdir_file(trust->dir, files[i], path, sizeof(path));
        (void)(files[i][0] ? unlink(path) : rmdir(path));
    }
    trust_close(trust);
}
