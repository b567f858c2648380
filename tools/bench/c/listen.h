// What both echoes begin with: the first processor, as a core of margay has; a port of the loopback; no delay.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static void stay_on_first_processor(void) {
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

static int listen_anywhere(void) {
    stay_on_first_processor();
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, len) || listen(listener, 16) ||
        getsockname(listener, (struct sockaddr *)&at, &len)) {
        perror("cannot listen");
        _exit(1);
    }
    printf("listening on 127.0.0.1:%d\n", ntohs(at.sin_port));
    fflush(stdout);
    return listener;
}

static int accept_next(int listener) {
    int stream = accept(listener, 0, 0), one = 1;
    if (stream >= 0) setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return stream;
}

static int send_all(int stream, const char *bytes, ssize_t count) {
    while (count > 0) {
        ssize_t sent = send(stream, bytes, count, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) continue;
        if (sent < 0) return 0;
        bytes += sent;
        count -= sent;
    }
    return 1;
}
