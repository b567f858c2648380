// What one writes first: an echo over kernel TCP that sleeps in epoll_wait. Level-triggered, any number of connections.
#define _GNU_SOURCE
#include "listen.h"

#include <sys/epoll.h>

int main(void) {
    int listener = listen_anywhere(), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    static char bytes[1 << 16];
    for (;;) {
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int stream = accept_next(listener);
                if (stream < 0) return 1;
                fcntl(stream, F_SETFL, O_NONBLOCK);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = stream};
                epoll_ctl(epoll, EPOLL_CTL_ADD, stream, &event);
                continue;
            }
            ssize_t count = recv(fd, bytes, sizeof bytes, 0);
            if (count < 0 && errno == EAGAIN) continue;
            if (count <= 0 || !send_all(fd, bytes, count)) close(fd);
        }
    }
}
