/* Owner records as a crash, a full disk or another version left them: [token, then owner.json]. Looking a token up never
 * invents one that is not in the file; and writing over whatever was there makes a record that is found. */
#include "base/fd.h"
#include "fuzz.h"
#include "vmm/records.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

static char base[256];
static struct rundir dir = { .dir_fd = -1, .lock_fd = -1 };

static void clean_up(void)
{
    rundir_release(&dir, false);
    (void)rmdir(base);
}

static void set_up(void)
{
    const char *tmp = getenv("TMPDIR");
    struct err err;
    (void)snprintf(base, sizeof(base), "%s/godwit-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    FUZZ_CHECK(mkdtemp(base));
    FUZZ_CHECK(rundir_claim(base, "vm", &dir, &err) == 0);
    (void)atexit(clean_up);
}

static bool contains(const uint8_t *data, size_t size, const uint8_t token[MOVE_TOKEN_BYTES])
{
    char hex[2 * MOVE_TOKEN_BYTES + 1];
    for (unsigned i = 0; i < MOVE_TOKEN_BYTES; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", token[i]);
    return memmem(data, size, hex, strlen(hex));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t ours[MOVE_TOKEN_BYTES] = { 0xab, 0xcd, 1 };
    static const uint8_t store[MOVE_STORE_BYTES] = { 7 };
    struct cursor in = cursor_of(data, size);
    const uint8_t *token = cursor_take(&in, MOVE_TOKEN_BYTES);
    enum move_knows knows;
    struct err err = { 0 };
    if (!token || in.left > 60000)
        return 0;
    if (dir.dir_fd < 0)
        set_up();
    CLEANUP_FD int fd =
        openat(dir.dir_fd, "owner.json", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0 && fd_write_full(fd, in.at, in.left) == 0);

    int rc = records_lookup(base, token, &knows, &err);
    fuzz_check_err(rc, &err);
    /* Written with escapes it may be there in another spelling: then nothing is said of it here. */
    if (!rc && !contains(in.at, in.left, token) && !memchr(in.at, '\\', in.left))
        FUZZ_CHECK(knows == KNOWS_NOTHING);

    err = (struct err){ 0 };
    rc = records_write(&dir, RECORD_HERE, ours, store, "peer", &err);
    fuzz_check_err(rc, &err);
    if (!rc) {
        FUZZ_CHECK(records_lookup(base, ours, &knows, &err) == 0);
        FUZZ_CHECK(knows == KNOWS_COMMITTED || contains(in.at, in.left, ours));
    }
    return 0;
}
