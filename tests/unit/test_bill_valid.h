/*
 * A validator for the part of JSON Schema that docs/bill.schema.json uses: type, const, enum,
 * minimum, properties, required, additionalProperties (false), items, minItems, maxItems, $ref
 * into $defs. Any other keyword is an error, so that nothing in a schema is believed to be
 * checked and is not.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static bool json_valid(const json_t *root, const json_t *schema, const json_t *value,
                       const char *path, char why[256]);

static inline bool json_valid_refuse(char why[256], const char *path, const char *what)
{
    (void)snprintf(why, 256, "%s: %s", path, what);
    return false;
}

static inline bool json_valid_type(const char *type, const json_t *v)
{
    return (strcmp(type, "object") == 0 && json_is_object(v)) ||
           (strcmp(type, "array") == 0 && json_is_array(v)) ||
           (strcmp(type, "string") == 0 && json_is_string(v)) ||
           (strcmp(type, "integer") == 0 && json_is_integer(v)) ||
           (strcmp(type, "boolean") == 0 && json_is_boolean(v)) ||
           (strcmp(type, "null") == 0 && json_is_null(v));
}

static inline bool json_valid_any_type(const json_t *type, const json_t *v)
{
    const json_t *one;
    size_t i;
    if (json_is_string(type))
        return json_valid_type(json_string_value(type), v);
    json_array_foreach (type, i, one)
        if (json_valid_type(json_string_value(one), v))
            return true;
    return false;
}

static inline bool json_valid_members(const json_t *root, const json_t *schema, const json_t *v,
                                      const char *path, char why[256])
{
    const json_t *properties = json_object_get(schema, "properties"), *one;
    const char *key;
    size_t i;
    json_array_foreach (json_object_get(schema, "required"), i, one)
        if (!json_object_get(v, json_string_value(one)))
            return json_valid_refuse(why, path, json_string_value(one));
    json_object_foreach ((json_t *)(uintptr_t)v, key, one) {
        char below[200];
        (void)snprintf(below, sizeof(below), "%.120s.%.60s", path, key);
        const json_t *sub = json_object_get(properties, key);
        if (!sub && json_is_false(json_object_get(schema, "additionalProperties")))
            return json_valid_refuse(why, below, "not in the schema");
        if (sub && !json_valid(root, sub, one, below, why))
            return false;
    }
    return true;
}

static inline bool json_valid_items(const json_t *root, const json_t *schema, const json_t *v,
                                    const char *path, char why[256])
{
    const json_t *items = json_object_get(schema, "items"), *one;
    const json_t *least = json_object_get(schema, "minItems"),
                 *most = json_object_get(schema, "maxItems");
    json_int_t count = (json_int_t)json_array_size(v);
    size_t i;
    if ((least && count < json_integer_value(least)) || (most && count > json_integer_value(most)))
        return json_valid_refuse(why, path, "number of items");
    json_array_foreach (v, i, one) {
        char below[200];
        (void)snprintf(below, sizeof(below), "%.150s[%zu]", path, i);
        if (items && !json_valid(root, items, one, below, why))
            return false;
    }
    return true;
}

static bool json_valid(const json_t *root, const json_t *schema, const json_t *value,
                       const char *path, char why[256])
{
    static const char *const known[] = {
        "$schema",
        "$defs",
        "title",
        "description",
        "type",
        "const",
        "enum",
        "minimum",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "$ref",
    };
    const char *key;
    const json_t *rule, *one;
    size_t i;

    json_object_foreach ((json_t *)(uintptr_t)schema, key, rule) {
        bool is_known = false;
        for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            is_known |= strcmp(key, known[i]) == 0;
        if (!is_known)
            return json_valid_refuse(why, path,
                                     "schema has a keyword this validator does not know");
    }
    if ((rule = json_object_get(schema, "$ref"))) {
        const char *name = json_string_value(rule);
        const json_t *def =
            json_object_get(json_object_get(root, "$defs"), name + strlen("#/$defs/"));
        if (strncmp(name, "#/$defs/", 8) != 0 || !def)
            return json_valid_refuse(why, path, "schema refers to what is not there");
        if (!json_valid(root, def, value, path, why))
            return false;
    }
    if ((rule = json_object_get(schema, "type")) && !json_valid_any_type(rule, value))
        return json_valid_refuse(why, path, "wrong type");
    if ((rule = json_object_get(schema, "const")) && !json_equal(rule, value))
        return json_valid_refuse(why, path, "wrong value");
    if ((rule = json_object_get(schema, "enum"))) {
        bool found = false;
        json_array_foreach (rule, i, one)
            found |= json_equal(one, value) != 0;
        if (!found)
            return json_valid_refuse(why, path, "none of the allowed values");
    }
    if ((rule = json_object_get(schema, "minimum")) && json_is_integer(value) &&
        json_integer_value(value) < json_integer_value(rule))
        return json_valid_refuse(why, path, "below the minimum");
    if (json_is_object(value))
        return json_valid_members(root, schema, value, path, why);
    return json_is_array(value) ? json_valid_items(root, schema, value, path, why) : true;
}
