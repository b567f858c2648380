/* Several threads, each with a library OS of its own; one that waits is woken by another; nothing is another's. */
#include "check.h"

enum { THREADS = 4, WAKES = 200, MESSAGES = 300 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t waker;
static int seen;
static demi_sgarray_t foreign;

/* Waits for what never comes, and is woken again and again. */
static void *sleeper(void *unused) {
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    int qd = -1, i;
    init();
    GIVES(0, demi_queue(&qd));
    GIVES(0, demi_pop(&qt, qd));
    pthread_mutex_lock(&lock);
    GIVES(0, demi_waker(&waker));
    foreign = message("another's", 9);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    for (i = 0; i < WAKES; i++) {
        int place = 0, count = 0;
        switch (i % 4) {
        case 0: GIVES(EINTR, demi_wait(&result, qt, NULL)); break;
        case 1: GIVES(EINTR, demi_wait_any(&result, &place, &qt, 1, NULL)); break;
        case 2: GIVES(EINTR, demi_wait_all(&result, &qt, 1, &LIMIT)); break;
        default: GIVES(EINTR, demi_wait_next_n(&result, 1, &count, NULL)); CHECK(count == 0);
        }
        pthread_mutex_lock(&lock);
        seen = i + 1;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    /* The token has stayed valid all the time. */
    push_bytes(qd, "x", 1);
    result = ended(qt, DEMI_OPC_POP);
    GIVES(0, demi_sgafree(&result.qr_value.sga));
    GIVES(0, demi_sgafree(&foreign));
    return unused;
}

static void *worker(void *unused) {
    int client, server, i;
    init();
    for (i = 0; i < 3; i++) {
        int message_count;
        pair(&client, &server);
        for (message_count = 0; message_count < MESSAGES; message_count++) {
            int back = -1;
            push_bytes(client, &message_count, sizeof message_count);
            pop_bytes(server, &back, sizeof back);
            CHECK(back == message_count);
        }
        GIVES(0, demi_close(client));
        pop_end(server);
        GIVES(0, demi_close(server));
    }
    return unused;
}

int main(void) {
    pthread_t threads[THREADS + 1];
    demi_qtoken_t qt = 0;
    int i, qd = -1;
    CHECK(pthread_create(&threads[THREADS], NULL, sleeper, NULL) == 0);
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, worker, NULL) == 0);
    }
    pthread_mutex_lock(&lock);
    while (waker == 0) {
        pthread_cond_wait(&changed, &lock);
    }
    /* Its buffer is not ours. */
    init();
    GIVES(0, demi_queue(&qd));
    GIVES(EINVAL, demi_push(&qt, qd, &foreign));
    GIVES(EINVAL, demi_sgafree(&foreign));
    for (i = 0; i < WAKES; i++) {
        if (i % 16 == 0) {
            const struct timespec SOON = {0, 2000000};
            nanosleep(&SOON, NULL); /* it is asleep by now */
        }
        GIVES(0, demi_wake(waker));
        while (seen == i) {
            pthread_cond_wait(&changed, &lock);
        }
    }
    pthread_mutex_unlock(&lock);
    for (i = 0; i <= THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    GIVES(ESRCH, demi_wake(waker)); /* its thread is gone */
    GIVES(0, demi_close(qd));
    return 0;
}
