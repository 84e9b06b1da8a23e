#include "connect.h"

#include <errno.h>
#include <sys/socket.h>

int connect_begin(int fd, const struct options *options)
{
    if (connect(fd, (const struct sockaddr *)&options->address, options->address_len) < 0 &&
        errno != EINPROGRESS)
        return -errno;
    return 0;
}

int connect_result(int fd)
{
    int code = 0;
    socklen_t len = sizeof(code);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0 ? errno : code;
}
