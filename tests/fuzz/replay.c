/* Runs a fuzz target over files, and over all files of directories: crashes and broken properties are the failure. */
#include "base/fd.h"
#include "fuzz.h"

#include <dirent.h>
#include <sys/stat.h>

static unsigned count;

static void run_file(const char *path)
{
    char *bytes;
    size_t len;
    int rc = fd_read_file(path, 64u << 20, &bytes, &len);
    if (rc) {
        (void)fprintf(stderr, "%s: %s\n", path, strerror(-rc));
        exit(1);
    }
    uint8_t *exact = malloc(len ? len : 1); /* with nothing behind, for the address sanitizer */
    if (!exact)
        exit(1);
    memcpy(exact, bytes, len);
    free(bytes);
    (void)fprintf(stderr, "%s\n", path); /* the last one printed is the one that crashed */
    (void)LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    count++;
}

static void run(const char *path)
{
    struct dirent **entry;
    int n = scandir(path, &entry, NULL, alphasort);
    if (n < 0) {
        run_file(path);
        return;
    }
    for (int i = 0; i < n; i++) {
        char inner[4096];
        (void)snprintf(inner, sizeof(inner), "%s/%s", path, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.')
            run_file(inner);
        free(entry[i]);
    }
    free(entry);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    (void)printf("%u inputs\n", count);
    return count ? 0 : 1; /* a target without a single input tests nothing */
}
