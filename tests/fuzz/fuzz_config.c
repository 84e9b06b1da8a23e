/* A machine's configuration as JSON, from `run` or a script: what is accepted passes the checks and survives being
 * written and read once more. */
#include "fuzz.h"
#include "vm/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine_config machine, machine_again;
    static struct host_config host, host_again;
    struct err err = { 0 };
    json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json)
        return 0;
    int rc = config_from_json(json, &machine, &host, &err);
    fuzz_check_err(rc, &err);
    json_decref(json);
    if (rc)
        return 0;
    FUZZ_CHECK(config_check(&machine, ERR_CALLER, &err) == 0);
    json_t *once = config_to_json(&machine, &host);
    FUZZ_CHECK(once);
    FUZZ_CHECK(config_from_json(once, &machine_again, &host_again, &err) == 0);
    json_t *twice = config_to_json(&machine_again, &host_again);
    FUZZ_CHECK(json_equal(once, twice));
    json_decref(once);
    json_decref(twice);
    return 0;
}
