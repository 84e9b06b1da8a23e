/* State as a peer or a file brings it: [name of its schema, 0, version, body], for every schema of the program. What is accepted, in
 * the newest version, is written back to the very bytes; then it goes through the checks that come before any effect. */
#include "../wire/wire.h"
#include "fuzz.h"
#include "kvm/fake.h"
#include "vm/config.h"
#include "vm/cpuid.h"

static void count_lack(void *arg, const char *what)
{
    FUZZ_CHECK(what[0]);
    ++*(unsigned *)arg;
}

static void check_machine(const struct machine_config *config)
{
    struct err err = { 0 };
    int rc = config_check(config, ERR_PEER, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return;
    static struct host_config host, host_again;
    static struct machine_config again;
    json_t *json = config_to_json(config, &host);
    FUZZ_CHECK(json);
    FUZZ_CHECK(config_from_json(json, &again, &host_again, &err) == 0);
    CLEANUP_BUF struct buf a = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    schema_encode(&machine_config_schema, machine_config_schema.version, config, &a);
    schema_encode(&machine_config_schema, machine_config_schema.version, &again, &b);
    FUZZ_CHECK(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    json_decref(json);
}

static void check_cpuid(const struct hv_cpuid *cpuid)
{
    static struct hv_cpuid shown, fake;
    unsigned lacks = 0;
    hv_fake_cpuid(&fake);
    FUZZ_CHECK(cpuid_compare(cpuid, cpuid, count_lack, &lacks) == lacks); /* named, each of them */
    lacks = 0;
    FUZZ_CHECK(cpuid_compare(cpuid, &fake, count_lack, &lacks) == lacks);
    lacks = 0;
    FUZZ_CHECK(cpuid_compare(&fake, cpuid, count_lack, &lacks) == lacks);
    for (unsigned vcpus = 1; vcpus <= 16; vcpus += 15)
        if (cpuid_for_vcpu(cpuid, vcpus - 1, vcpus, &shown) == 0)
            FUZZ_CHECK(shown.leaf_count <= HV_CPUID_MAX);
}

/* By name, so that the files mean the same when schemas are added. */
static const struct schema *named(struct cursor *in)
{
    const uint8_t *end = memchr(in->at, 0, in->left);
    if (!end)
        return NULL;
    size_t len = (size_t)(end - in->at);
    const char *name = (const char *)cursor_take(in, len + 1);
    for (size_t i = 0; i < wire_schema_count; i++)
        if (strcmp(wire_schemas[i]->name, name) == 0)
            return wire_schemas[i];
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    struct err err = { 0 };
    const struct schema *schema = named(&in);
    if (!schema)
        return 0;
    uint16_t version = cursor_u8(&in);
    struct cursor body = fuzz_rest(&in);
    CLEANUP_FREE void *object = malloc(schema->size);
    CLEANUP_BUF struct buf again = { 0 };
    FUZZ_CHECK(object);
    const struct cursor whole = body;
    int rc = schema_decode(schema, version, &body, object, &err);
    fuzz_check_err(rc, &err);
    if (rc)
        return 0;
    FUZZ_CHECK(version >= 1 && version <= schema->version);
    schema_encode(schema, version, object, &again);
    FUZZ_CHECK(again.len == whole.left &&
               (!again.len || memcmp(again.data, whole.at, again.len) == 0));
    json_t *json = schema_json(schema, object);
    FUZZ_CHECK(json);
    json_decref(json);
    if (schema == &machine_config_schema)
        check_machine(object);
    else if (schema == &hv_cpuid_schema)
        check_cpuid(object);
    return 0;
}
