/*
 * Results. Only here (and in demi_lseek and demi_truncate) does a call wait, and the library OS goes on meanwhile. A timeout
 * of NULL is none; what times out (ETIMEDOUT) leaves its tokens valid.
 */
#ifndef DEMI_WAIT_H_IS_INCLUDED
#define DEMI_WAIT_H_IS_INCLUDED

#include <stdint.h>
#include <time.h>

#include <demi/cc.h>
#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* C99 without POSIX has no struct timespec; a pointer to it can be passed all the same. */
struct timespec;

/* Waits for an operation. */
ATTR_NONNULL(1)
extern int demi_wait(_Out_ demi_qresult_t *qr_out, _In_ demi_qtoken_t qt, _In_opt_ const struct timespec *timeout);

/* Waits for one of several: *ready_offset is its place in the list. The others stay valid. */
ATTR_NONNULL(1, 2, 3)
extern int demi_wait_any(_Out_ demi_qresult_t *qr_out, _Out_ int *ready_offset,
                         _In_reads_(num_qts) const demi_qtoken_t qts[], _In_ int num_qts,
                         _In_opt_ const struct timespec *timeout);

/* Waits for num_qrs operations, whichever end first. *num_qrs_out is how many did, also when the time is over. */
ATTR_NONNULL(1, 3)
extern int demi_wait_next_n(_Out_writes_to_(num_qrs, *num_qrs_out) demi_qresult_t *qr_out, _In_ int num_qrs,
                            _Out_ int *num_qrs_out, _In_opt_ const struct timespec *timeout);

/* ------------------------------------------------------------------------------------ beyond Demikernel */

/* Waits for all of several, no token twice: results in the order of the list, or none of them. */
ATTR_NONNULL(1, 2)
extern int demi_wait_all(_Out_writes_to_(num_qts, num_qts) demi_qresult_t *qrs_out,
                         _In_reads_(num_qts) const demi_qtoken_t qts[], _In_ int num_qts,
                         _In_opt_ const struct timespec *timeout);

/* A name of the calling thread, for demi_wake. */
ATTR_NONNULL(1)
extern int demi_waker(_Out_ uint64_t *waker_out);

/* From any thread: the wait that the named thread is in, or else its next one that would block, gives EINTR. */
extern int demi_wake(_In_ uint64_t waker);

#ifdef __cplusplus
}
#endif

#endif /* DEMI_WAIT_H_IS_INCLUDED */
