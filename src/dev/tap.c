#include "dev/tap.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Opening a name that does not exist would make an interface connected to nothing. */
static int check_interface(const char *name, struct err *err)
{
    size_t len = strlen(name);
    if (len == 0 || len >= IFNAMSIZ)
        return err_set(err, ERR_CALLER, EINVAL, "tap name \"%s\" has not 1 to %d characters", name,
                       IFNAMSIZ - 1);
    CLEANUP_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "cannot look up tap %s", name);
    struct ifreq ifr = { 0 };
    memcpy(ifr.ifr_name, name, len);
    if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
        return err_set(err, ERR_CALLER, ENODEV,
                       "no tap %s here: create it with `ip tuntap add dev %s mode tap` and "
                       "`ip link set %s up`",
                       name, name, name);
    if (!(ifr.ifr_flags & IFF_UP))
        return err_set(err, ERR_CALLER, ENETDOWN, "tap %s is down: `ip link set %s up`", name,
                       name);
    return 0;
}

int tap_open(const char *name, int *ret_fd, struct err *err)
{
    int rc = check_interface(name, err);
    if (rc)
        return rc;
    CLEANUP_FD int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_HOST, errno, "tap %s: cannot open /dev/net/tun", name);
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    memcpy(ifr.ifr_name, name, strlen(name));
    if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
        switch (errno) {
        case EBUSY:
            return err_set(err, ERR_CALLER, EBUSY, "tap %s is in use by another program", name);
        case EPERM:
            return err_set(err, ERR_CALLER, EPERM,
                           "tap %s is another user's: `ip tuntap add dev %s mode tap user NAME`",
                           name, name);
        case EINVAL:
            return err_set(err, ERR_CALLER, EINVAL,
                           "%s is no tap (or one with multi_queue): `ip -d link show %s` tells",
                           name, name);
        default:
            return err_errno(err, ERR_HOST, errno, "cannot attach to tap %s", name);
        }
    }
    rc = tap_set_header(fd);
    if (rc)
        return err_errno(err, ERR_HOST, -rc, "tap %s does not take virtio headers", name);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int tap_set_header(int fd)
{
    int bytes = TAP_HEADER_BYTES;
    if (ioctl(fd, TUNSETVNETHDRSZ, &bytes) < 0)
        return errno == EBADFD || errno == EINVAL ? -errno : -ENOTTY;
    return 0;
}

int tap_set_offload(int fd, unsigned flags)
{
    return ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}
