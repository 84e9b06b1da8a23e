/* Devices as they are given on a command line. */
#pragma once
#include "base/compiler.h"
#include "base/err.h"
#include "vm/config.h"
#include <stddef.h>

/* `--disk ID=PATH[,ro][,serial=S]`. The path becomes absolute. Whether it can be opened is the
 * monitor's to say. */
int device_read_disk(const char *text, struct config_device *device, struct host_device *host,
                     struct err *err) MUST_CHECK;

/* `--net ID=TAP[,mac=M]`. Without a MAC address it gets one that depends on VM's and device's names
 * alone, so that it is the same whenever this VM is started. */
int device_read_net(const char *text, const char *vm_name, struct config_device *device,
                    struct host_device *host, struct err *err) MUST_CHECK;

/* `ID=PATH` (made absolute) or `ID=TAP` of receive and restore. */
int device_read_place(const char *text, bool is_disk, char *ret_id, size_t id_size, char *ret_where,
                      size_t where_size, struct err *err) MUST_CHECK;
