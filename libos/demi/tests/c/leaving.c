/*
 * A program that ends in the middle of things: by exit in a signal handler while it waits, or without waiting for what it
 * pushed, or with everything open; and a thread that does. What was pushed still arrives.
 */
#include "check.h"

#include <signal.h>
#include <sys/wait.h>

static void on_signal(int number) {
    (void)number;
    exit(0); /* as programs written for Demikernel do */
}

/* Waits for ever, until the signal. */
static void interrupted(void) {
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    int qd = -1;
    init();
    GIVES(0, demi_queue(&qd));
    GIVES(0, demi_pop(&qt, qd));
    CHECK(signal(SIGALRM, on_signal) != SIG_ERR);
    alarm(1);
    GIVES(0, demi_wait(&result, qt, NULL));
    CHECK(!"it went on");
}

/* Pushes as much as fits nowhere at once, and goes. */
static void hasty(const struct sockaddr_in *to) {
    static char bytes[100000];
    int qd, i;
    demi_qtoken_t qt = 0;
    init();
    qd = connected(to);
    for (i = 0; i < 10; i++) {
        demi_sgarray_t sga;
        memset(bytes, 'a' + i, sizeof bytes);
        sga = message(bytes, sizeof bytes);
        GIVES(0, demi_push(&qt, qd, &sga));
        GIVES(0, demi_sgafree(&sga));
    }
    (void)demi_sgaalloc(100).sga_buf;
    GIVES(0, demi_close(qd));
    exit(0);
}

static void receive(int listens) {
    demi_qtoken_t qt = 0;
    demi_qresult_t accepted;
    static char bytes[1000000];
    size_t at;
    int qd;
    GIVES(0, demi_accept(&qt, listens));
    accepted = ended(qt, DEMI_OPC_ACCEPT);
    qd = accepted.qr_value.ares.qd;
    pop_bytes(qd, bytes, sizeof bytes);
    for (at = 0; at < sizeof bytes; at++) {
        CHECK(bytes[at] == (char)('a' + at / 100000));
    }
    pop_end(qd);
    GIVES(0, demi_close(qd));
}

static void well(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void) {
    int to_child[2];
    pid_t child = fork();
    struct sockaddr_in at;
    CHECK(child >= 0);
    if (child == 0) {
        interrupted();
    }
    well(child);
    /* The child has its library OS after the fork: one is not to be shared. */
    CHECK(pipe(to_child) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(read(to_child[0], &at, sizeof at) == (ssize_t)sizeof at);
        hasty(&at);
    }
    init();
    {
        int listens = listener(&at);
        CHECK(write(to_child[1], &at, sizeof at) == (ssize_t)sizeof at);
        receive(listens);
    }
    well(child);
    return 0;
}
