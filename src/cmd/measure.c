#include "cmd/python.h"

const struct command cmd_measure = {
    .name = "measure",
    .summary = "measure what a move costs the guest, its clients and both hosts",
    .text =
        "Carries out an experiment: boots a guest with a load on one of two hosts, asks it at a fixed rate from outside, "
        "moves it to the other host, and does so again and again, in shuffled order, for every load and mode. What clients, "
        "guest and hosts saw is kept as raw data, from which the report is made; the verdict and a table are printed.\n\n"
        "The hosts are two network namespaces if this machine's KVM runs stock guests, else two emulated hosts of the lab. "
        "Needs root.\n\n"
        "The expected time is printed first. Interrupting it keeps what was measured so far, makes the report of that, and "
        "cleans up.",
    .example =
        "  godwit measure --preset web -o web/\n"
        "  godwit measure --preset muncher --modes pre-copy,clark05 --repeat 10 --peer qemu -o m/\n"
        "  godwit measure experiment.json -o mine/\n",
    .arguments =
        (const struct cmd_option[]){
            { .name = "EXPERIMENT",
              .kind = CMD_FILE,
              .help = "an experiment of your own, as docs/measure.md describes it" },
            { 0 } },
    .options =
        (const struct cmd_option[]){
            { .name = "preset",
              .kind = CMD_CHOICE,
              .value = "NAME",
              .choices = "web|specweb|quake|muncher|wws|idle|redis|compile|fill|matrix",
              .help = "one of the experiments that come with godwit" },
            { .name = "out",
              .letter = 'o',
              .kind = CMD_DIR,
              .value = "DIR",
              .fallback = "report",
              .help = "where the report goes, and the raw data" },
            { .name = "force",
              .kind = CMD_FLAG,
              .help = "replace the raw data of an earlier run that is there" },
            { .name = "modes",
              .kind = CMD_TEXT,
              .value = "LIST",
              .help =
                  "instead of the experiment's, of pre-copy, post-copy, stop-copy, auto, clark05, none" },
            { .name = "only",
              .kind = CMD_TEXT,
              .flags = CMD_REPEATED,
              .value = "LOAD",
              .help = "leave the other loads out" },
            { .name = "repeat",
              .kind = CMD_COUNT,
              .value = "N",
              .min = 1,
              .max = 1000,
              .help = "how often each cell is carried out, instead of the experiment's number" },
            { .name = "peer",
              .kind = CMD_CHOICE,
              .value = "PEER",
              .choices = "qemu",
              .help = "carry out the same with this one, too" },
            { .name = "place",
              .kind = CMD_CHOICE,
              .value = "PLACE",
              .choices = "auto|lab|namespaces",
              .fallback = "auto",
              .help =
                  "what the hosts are; auto: namespaces if this machine's KVM runs stock guests" },
            { .name = "scale",
              .kind = CMD_CHOICE,
              .value = "SCALE",
              .choices = "full|small",
              .help =
                  "small takes little time and memory, for a first look and for tests; else the experiment's, full" },
            { .name = "seed",
              .kind = CMD_COUNT,
              .value = "N",
              .min = 0,
              .max = UINT32_MAX,
              .help = "of the order of cells; another one in each run, if not given" },
            { .name = "insecure",
              .kind = CMD_FLAG,
              .help = "moves are not encrypted, whatever the experiment says: as QEMU's are not" },
            { .name = "plan",
              .kind = CMD_FLAG,
              .help = "only print what would be done, and how long it would take" },
            { .name = "hosts",
              .kind = CMD_FILE,
              .flags = CMD_HIDDEN,
              .value = "FILE",
              .help = "a Python file that has the class Place: other hosts, for tests" },
            { 0 } },
    .status_ok = "Every cell was carried out, whatever became of the moves",
    .fn = python_run,
};
