#include "state/dump.h"
#include "cmd/cmd.h"
#include "cost/bill.h"
#include "dev/button.h"
#include "dev/serial.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "dev/virtio_vsock.h"
#include "kvm/hv_state.h"
#include "move/message.h"
#include "state/pages.h"
#include "vm/config.h"

#include <string.h>
#include <unistd.h>

#define MESSAGES_MAX (SECTION_TYPE_MAX - SECTION_MESSAGE)

static const struct dump_schema state_sections[] = {
    { SECTION_END, &stream_end_schema },
    { SECTION_MACHINE, &machine_config_schema },
    { SECTION_CPUID, &hv_cpuid_schema },
    { SECTION_VM, &hv_vm_state_schema },
    { SECTION_VCPU, &hv_vcpu_state_schema },
    { SECTION_SERIAL, &serial_state_schema },
    { SECTION_VIRTIO_NET, &virtio_net_state_schema },
    { SECTION_VIRTIO_BLK, &virtio_blk_state_schema },
    { SECTION_VIRTIO_RNG, &virtio_rng_state_schema },
    { SECTION_VIRTIO_BALLOON, &virtio_balloon_state_schema },
    { SECTION_BUTTON, &button_state_schema },
    { SECTION_VIRTIO_VSOCK, &virtio_vsock_state_schema },
};

/* All sections whose body is one object: of the state, and the messages of a recorded move. */
static size_t all_sections(struct dump_schema table[ARRAY_LEN(state_sections) + MESSAGES_MAX])
{
    size_t count = ARRAY_LEN(state_sections);

    memcpy(table, state_sections, sizeof(state_sections));
    for (unsigned type = SECTION_MESSAGE; type < SECTION_TYPE_MAX; type++) {
        const struct schema *schema = message_schema((uint16_t)type);
        if (schema)
            table[count++] = (struct dump_schema){ (uint16_t)type, schema };
    }
    return count;
}

static int dump(struct cmd_args *args)
{
    struct dump_schema table[ARRAY_LEN(state_sections) + MESSAGES_MAX];
    size_t count = all_sections(table);
    const char *file = cmd_text(args, "FILE");
    struct err err = { 0 };

    int rc = strcmp(file, "-") == 0 ? dump_stream(STDIN_FILENO, table, count, stdout, &err)
                                    : dump_file(file, table, count, stdout, &err);
    return rc ? cmd_fail(args, &err) : cmd_finish(args);
}

const struct command cmd_dump = {
    .name = "dump",
    .summary = "show a checkpoint file or a recorded stream as JSON",
    .text =
        "Decodes a stream into JSON: its header, every section with its checksum and contents, "
        "totals, and a list of what is damaged. Page contents are checked and counted, not shown. "
        "It reads any file, however damaged, and needs no VM.",
    .example = "  godwit dump web1.godwit | jq .sections[0]\n",
    .arguments = (const struct cmd_option[]){ { .name = "FILE",
                                                .kind = CMD_FILE,
                                                .flags = CMD_REQUIRED,
                                                .help = "the file, or - for standard input" },
                                              { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "json", .kind = CMD_FLAG, .help = "print JSON; it always does" }, { 0 } },
    .status_ok = "The stream is sound and complete",
    .fn = dump,
};
