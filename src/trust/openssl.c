#define OPENSSL_LOADS /* the names themselves are wanted here */
#include "trust/openssl.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

/* The ABI that the headers are of: OpenSSL 3. */
#define LIBRARY "libssl.so.3"

struct openssl openssl;

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define FUNCTION(name) { #name, offsetof(struct openssl, name) },
    OPENSSL_FUNCTIONS(FUNCTION)
#undef FUNCTION
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char failure[256];

/* libcrypto comes along: what libssl needs is searched, too. Never unloaded. */
static void load(void)
{
    struct openssl found;
    void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
    const char *why = library ? NULL : dlerror();
    for (size_t i = 0; library && !why && i < ARRAY_LEN(functions); i++) {
        void *symbol = dlsym(library, functions[i].name);
        why = symbol ? NULL : dlerror();
        memcpy((char *)&found + functions[i].offset, &symbol, sizeof(symbol));
    }
    if (why)
        (void)snprintf(failure, sizeof(failure), "%s", why);
    else
        openssl = found;
}

int openssl_load(struct err *err)
{
    (void)pthread_once(&once, load);
    return failure[0] ? err_set(err, ERR_HOST, ENOENT, "encryption needs OpenSSL 3: %s", failure)
                      : 0;
}
