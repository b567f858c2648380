// The floor of an echo over kernel TCP: one connection after the other, polled without rest.
#define _GNU_SOURCE
#include "listen.h"

int main(void) {
    int listener = listen_anywhere();
    static char bytes[1 << 16];
    for (;;) {
        int stream = accept_next(listener);
        if (stream < 0) return 1;
        fcntl(stream, F_SETFL, O_NONBLOCK);
        for (;;) {
            ssize_t count = recv(stream, bytes, sizeof bytes, 0);
            if (count < 0 && errno == EAGAIN) continue;
            if (count <= 0 || !send_all(stream, bytes, count)) break;
        }
        close(stream);
    }
}
