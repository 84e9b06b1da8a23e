/*
 * The dump of a stream: a reader that keeps going.
 *
 * Everything found wrong is one call of damage(), which notes the offset and the reason and
 * remembers the first for the caller. Functions return false when nothing more can be read: at
 * the end, after a head that lies about what follows, or when the machine fails (dump.rc).
 */
#include "state/dump.h"

#include "base/fd.h"
#include "base/gpa.h"
#include "state/pages.h"
#include "state/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DAMAGE_MAX 100 /* reasons listed; totals.damage counts on */

struct dump {
    int fd, rc; /* rc: this machine failed, not the stream */
    FILE *out;
    const struct dump_schema *table;
    size_t table_len;
    uint64_t offset;      /* of the next byte to read */
    uint8_t *body;        /* STREAM_BODY_MAX bytes */
    uint64_t guest_pages; /* as the machine section says; UINT64_MAX until then */
    uint64_t sections, data_pages, zero_pages, damages;
    json_t *damage;
    struct err first; /* of the damage */
};

static void damage(struct dump *dump, uint64_t offset, const struct err *why)
{
    if (dump->damages++ == 0)
        (void)err_set(&dump->first, ERR_PEER, EBADMSG, "at byte %" PRIu64 ": %s", offset,
                      why->text);
    if (dump->damages <= DAMAGE_MAX)
        (void)json_array_append_new(dump->damage, json_pack("{s:I, s:s}", "offset",
                                                            (json_int_t)offset, "text", why->text));
}

/* Reads up to len bytes; fewer only at the end of the stream. */
static size_t take(struct dump *dump, void *bytes, size_t len)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = read(dump->fd, (uint8_t *)bytes + got, len - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            dump->rc = -errno;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    dump->offset += got;
    return got;
}

static void cut_short(struct dump *dump, const char *what, size_t got, size_t len)
{
    struct err why;
    (void)err_set(&why, ERR_PEER, EBADMSG, "%s cut short: %zu of %zu bytes", what, got, len);
    if (!dump->rc)
        damage(dump, dump->offset, &why);
}

static bool read_header(struct dump *dump)
{
    uint8_t bytes[STREAM_HEADER_BYTES];
    struct stream_header h;
    struct err why;
    size_t got = take(dump, bytes, sizeof(bytes));

    if (got == sizeof(bytes) && stream_header_decode(bytes, &h, &why) == 0) {
        (void)fprintf(
            dump->out,
            "{\"header\": {\"version\": %u, \"oldest_reader\": %u, \"arch\": %u, \"required\": %u, "
            "\"optional\": %u},\n\"sections\": [",
            h.version, h.oldest_reader, h.arch, h.required, h.optional);
        return true;
    }
    if (got == sizeof(bytes))
        damage(dump, 0, &why);
    else
        cut_short(dump, "stream header", got, sizeof(bytes));
    (void)fprintf(dump->out, "{\"header\": null,\n\"sections\": [");
    return false;
}

static const struct schema *schema_of(const struct dump *dump, uint16_t type)
{
    for (size_t i = 0; i < dump->table_len; i++)
        if (dump->table[i].type == type)
            return dump->table[i].schema;
    return NULL;
}

static json_t *decode_pages(struct dump *dump, const struct section *s, struct err *why)
{
    struct pages_body b;
    if (pages_body_decode(dump->body, s->length, s->version, dump->guest_pages, &b, why))
        return NULL;
    uint64_t data = b.pages[PAGES_DATA], zero = b.pages[PAGES_ZERO], delta = b.pages[PAGES_DELTA];
    dump->data_pages += data + delta;
    dump->zero_pages += zero;
    json_t *json = json_pack("{s:I, s:I, s:I}", "runs", (json_int_t)b.runs, "data_pages",
                             (json_int_t)data, "zero_pages", (json_int_t)zero);
    if (json && s->version > 1) {
        (void)json_object_set_new(json, "delta_pages", json_integer((json_int_t)delta));
        (void)json_object_set_new(json, "packing", json_string(pages_packing_name(b.packing)));
        (void)json_object_set_new(json, "data_bytes", json_integer((json_int_t)b.data_bytes));
        (void)json_object_set_new(json, "plain_bytes", json_integer((json_int_t)b.plain_bytes));
    }
    if (json && b.runs) {
        const struct pages_run *last = &b.run[b.runs - 1];
        (void)json_object_set_new(json, "first_page", json_integer((json_int_t)b.run[0].first));
        (void)json_object_set_new(json, "last_page",
                                  json_integer((json_int_t)(last->first + last->count - 1)));
    }
    return json;
}

static json_t *decode(struct dump *dump, const struct section *s, const struct schema *schema,
                      struct err *why)
{
    void *object = calloc(1, schema->size);
    json_t *json = NULL;
    if (!object)
        dump->rc = -ENOMEM;
    else if (section_get(s, dump->body, schema, object, why) == 0)
        json = schema_json(schema, object);
    free(object);
    return json;
}

/* The end section counts what came before it; see its schema. */
static void check_end(struct dump *dump, const json_t *body, uint64_t offset)
{
    const struct {
        const char *key;
        uint64_t counted;
    } rows[] = {
        { "sections", dump->sections },
        { "data_pages", dump->data_pages },
        { "zero_pages", dump->zero_pages },
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        const json_t *said = json_object_get(body, rows[i].key);
        struct err why;
        if (!said ||
            (json_is_integer(said) && (uint64_t)json_integer_value(said) == rows[i].counted))
            continue;
        (void)err_set(&why, ERR_PEER, EBADMSG, "the end section's count of %s is not %" PRIu64,
                      rows[i].key, rows[i].counted);
        damage(dump, offset, &why);
    }
}

static json_t *body_json(struct dump *dump, const struct section *s, uint64_t offset)
{
    const struct schema *schema = schema_of(dump, s->type);
    struct err why = { .text = "out of memory" };
    json_t *body;

    if (s->type == SECTION_PAGES)
        body = decode_pages(dump, s, &why);
    else if (schema)
        body = decode(dump, s, schema, &why);
    else
        return NULL;
    if (!body && !dump->rc)
        damage(dump, offset, &why);
    const json_t *memory = json_object_get(body, "memory_bytes");
    if (s->type == SECTION_MACHINE && json_is_integer(memory))
        dump->guest_pages = (uint64_t)json_integer_value(memory) / PAGE_BYTES;
    if (body && s->type == SECTION_END)
        check_end(dump, body, offset);
    return body;
}

static void print_section(struct dump *dump, const struct section *s, uint64_t offset)
{
    struct err why;
    char sum[17];
    bool sound = section_check_body(s, dump->body, &why) == 0;
    bool known = s->type == SECTION_PAGES || schema_of(dump, s->type);
    if (!sound)
        damage(dump, offset, &why);
    (void)snprintf(sum, sizeof(sum), "%016" PRIx64, s->body_sum);

    json_t *body = sound ? body_json(dump, s, offset) : NULL;
    json_t *json =
        json_pack("{s:I, s:s, s:i, s:i, s:i, s:b, s:I, s:s, s:b, s:b, s:o}", "offset",
                  (json_int_t)offset, "type", section_type_name(s->type), "number", s->type,
                  "instance", s->instance, "version", s->version, "optional",
                  (s->flags & SECTION_OPTIONAL) != 0, "length", (json_int_t)s->length, "checksum",
                  sum, "checksum_ok", sound, "known", known, "body", body ? body : json_null());
    (void)fputs(dump->sections ? ",\n" : "\n", dump->out);
    if (!json || json_dumpf(json, dump->out, JSON_ENSURE_ASCII) < 0)
        dump->rc = json ? -EIO : -ENOMEM;
    json_decref(json);
}

/* Reads and prints one section; false: there is no next. */
static bool read_section(struct dump *dump)
{
    uint8_t head[STREAM_SECTION_BYTES];
    struct section s;
    struct err why;
    uint64_t offset = dump->offset;
    size_t got = take(dump, head, sizeof(head));

    if (got == 0 && !dump->rc) {
        (void)err_set(&why, ERR_PEER, EBADMSG, "stops without an end section");
        damage(dump, offset, &why);
    } else if (got < sizeof(head)) {
        cut_short(dump, "section header", got, sizeof(head));
    } else if (section_decode(head, &s, &why) < 0) {
        damage(dump, offset, &why);
    } else if ((got = take(dump, dump->body, s.length)) < s.length) {
        char what[64];
        (void)snprintf(what, sizeof(what), "section %s %u", section_type_name(s.type), s.instance);
        cut_short(dump, what, got, s.length);
    } else {
        print_section(dump, &s, offset);
        dump->sections++;
        return s.type != SECTION_END && !dump->rc;
    }
    return false;
}

static void check_nothing_follows(struct dump *dump)
{
    uint64_t end = dump->offset;
    uint8_t byte;
    struct err why;
    (void)err_set(&why, ERR_PEER, EBADMSG, "bytes after the end section");
    if (take(dump, &byte, 1) == 1)
        damage(dump, end, &why);
}

static void print_tail(struct dump *dump)
{
    (void)fprintf(dump->out,
                  "\n],\n\"totals\": {\"bytes\": %" PRIu64 ", \"sections\": %" PRIu64
                  ", \"data_pages\": %" PRIu64 ", \"zero_pages\": %" PRIu64 ", \"damage\": %" PRIu64
                  "},\n\"damage\": ",
                  dump->offset, dump->sections, dump->data_pages, dump->zero_pages, dump->damages);
    if (!dump->damage || json_dumpf(dump->damage, dump->out, JSON_ENSURE_ASCII) < 0)
        dump->rc = dump->rc ? dump->rc : -EIO;
    (void)fputs("}\n", dump->out);
    if (fflush(dump->out) != 0 || ferror(dump->out))
        dump->rc = dump->rc ? dump->rc : -EIO;
}

int dump_stream(int fd, const struct dump_schema *table, size_t table_len, FILE *out,
                struct err *err)
{
    struct dump dump = {
        .fd = fd,
        .out = out,
        .table = table,
        .table_len = table_len,
        .guest_pages = UINT64_MAX,
        .body = malloc(STREAM_BODY_MAX),
        .damage = json_array(),
    };
    if (!dump.body || !dump.damage) {
        dump.rc = -ENOMEM;
    } else {
        bool more = read_header(&dump), any = more;
        while (more)
            more = read_section(&dump);
        if (any && !dump.rc && !dump.damages)
            check_nothing_follows(&dump);
        print_tail(&dump);
    }
    free(dump.body);
    json_decref(dump.damage);
    if (dump.rc)
        return err_errno(err, ERR_HOST, -dump.rc, "cannot dump the stream");
    return dump.damages ? err_set(err, ERR_PEER, EBADMSG, "%s", dump.first.text) : 0;
}

int dump_file(const char *path, const struct dump_schema *table, size_t table_len, FILE *out,
              struct err *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_errno(err, ERR_CALLER, errno, "cannot open %s", path);
    int rc = dump_stream(fd, table, table_len, out, err);
    return rc ? err_wrap(err, rc, "%s", path) : 0;
}
