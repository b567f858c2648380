/*
 * Memory that can be pushed without a copy. It belongs to the library OS of the thread that asked for it.
 */
#ifndef DEMI_SGA_H_IS_INCLUDED
#define DEMI_SGA_H_IS_INCLUDED

#include <stddef.h>

#include <demi/cc.h>
#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A scatter-gather array of one segment of size bytes. Without memory, or of size 0, its sga_buf is NULL. */
ATTR_NODISCARD
extern demi_sgarray_t demi_sgaalloc(_In_ size_t size);

/* Frees what demi_sgaalloc or a pop gave, once. */
extern int demi_sgafree(_In_ demi_sgarray_t *sga);

/* ------------------------------------------------------------------------------------ beyond Demikernel */

/* Memory of the heap whose any part can be pushed, in an array with sga_buf NULL or by demi_pushv. NULL: there is none. */
ATTR_NODISCARD
extern void *demi_malloc(_In_ size_t size);

/* Frees it. NULL is fine; EINVAL: it is not of demi_malloc, or was freed. What is being pushed is kept until then. */
extern int demi_free(_In_opt_ void *memory);

#ifdef __cplusplus
}
#endif

#endif /* DEMI_SGA_H_IS_INCLUDED */
