/* Watched connections, and frames: Python wakes for whole frames, once a batch.
 *
 * A program that wants them calls aiouring_watch_cqe() of respond.h for completions of AIOURING_NS_LOOP. Called by: respond.h.
 *
 * The receive of a watched connection is the loop's own, with the loop's user_data, and its completions all go to Python in order: the program only
 * follows the stream, in the buffers that lie in the region, and decides which completion wakes. So a connection goes on just the same without a
 * program; it wakes Python more often then. Python writes the watch before it arms the receive and reads `waiting`, by which it knows whether
 * more of a batch is in the mailbox.
 *
 * HOLD is for data alone: the end, errors and a lack of buffers wake, and so does whatever a limit is reached by.
 */
#ifndef AIOURING_FRAMES_H
#define AIOURING_FRAMES_H

#include "hook.h"

/* How many of their buffers may be in the mailbox before Python wakes to give them back. */
#define AIOURING_BUFFERS_HELD_MAX (AIOURING_BUFFERS * 3 / 4)

AIOURING_CODE struct aiouring_watch *aiouring_watch_at(struct aiouring_hook *hook, aiouring_u32 index)
{
    aiouring_u64 slot = index & (AIOURING_WATCHES_MAX - 1);

    AIOURING_OPAQUE(slot);
    return (struct aiouring_watch *)(hook->memory + AIOURING_WATCHES_OFFSET + slot * AIOURING_WATCH_BYTES);
}

/* Where the watch of a completion of the loop's is, + 1; 0: it has none. */
AIOURING_CODE aiouring_u32 aiouring_watch_of(struct aiouring_hook *hook, aiouring_u64 user_data)
{
    aiouring_u64 place = user_data & (AIOURING_WATCH_MAP_ENTRIES - 1);

    AIOURING_OPAQUE(place);
    return *(aiouring_u16 *)(hook->memory + AIOURING_WATCH_MAP_OFFSET + place * sizeof(aiouring_u16));
}

/* The offset of the buffer that a completion names. */
AIOURING_CODE aiouring_u64 aiouring_payload(struct aiouring_hook *hook, const struct io_uring_cqe *cqe)
{
    return (aiouring_u64)AIOURING_LAYOUT(hook, region_bytes) - AIOURING_BUFFERS * AIOURING_BUFFER_BYTES +
           (aiouring_u64)((cqe->flags >> 16) & (AIOURING_BUFFERS - 1)) * AIOURING_BUFFER_BYTES;
}

/* From here on every completion wakes. */
AIOURING_CODE void aiouring_unwatch(struct aiouring_watch *watch)
{
    watch->owner = 0;
}

/* Follow a stream of frames that begin with their length through so many bytes. -1: a frame is too long. */
AIOURING_PART int aiouring_follow_prefixed(struct aiouring_watch *watch, const struct aiouring_buffer *payload, aiouring_u32 length)
{
    aiouring_u64 missing, value, at = 0;
    aiouring_u32 filled, frames;
    int result = 0;

    if (!watch || !payload)
        return -1;
    missing = watch->missing;
    value = watch->value;
    filled = watch->filled;
    frames = watch->frames;
    AIOURING_REPEAT(AIOURING_BUFFER_BYTES) /* each round takes one byte or more */
    {
        aiouring_u64 byte;
        AIOURING_FORGET(at, watch->scratch);
        if (at >= length)
            break;
        byte = at;
        if (missing) {
            aiouring_u64 step = length - at < missing ? length - at : missing;
            at += step;
            missing -= step;
            frames += !missing;
            continue;
        }
        at++;
        AIOURING_OPAQUE(byte);
        byte = payload->bytes[byte & (AIOURING_BUFFER_BYTES - 1)];
        value = watch->little_endian ? value | byte << ((filled & 7) * 8) : value << 8 | byte;
        filled++;
        if (filled < watch->size)
            continue;
        missing = value;
        value = filled = 0;
        frames += !missing;
        if (missing > watch->max_frame) {
            result = -1;
            break;
        }
    }
    AIOURING_REPEAT_END
    watch->missing = missing;
    watch->value = value;
    watch->filled = filled;
    watch->frames = frames;
    return result;
}

/* The same for frames that end with a delimiter. */
AIOURING_PART int aiouring_follow_delimited(struct aiouring_watch *watch, const struct aiouring_buffer *payload, aiouring_u32 length)
{
    aiouring_u64 mask, last, since, at = 0;
    aiouring_u32 frames;

    if (!watch || !payload)
        return -1;
    mask = ~0ull >> ((8 - watch->size) * 8 & 63);
    last = watch->value;
    since = watch->length;
    frames = watch->frames;
    AIOURING_REPEAT(AIOURING_BUFFER_BYTES)
    {
        aiouring_u64 byte;
        AIOURING_FORGET(at, watch->scratch);
        if (at >= length)
            break;
        byte = at;
        at++;
        AIOURING_OPAQUE(byte);
        last = last << 8 | payload->bytes[byte & (AIOURING_BUFFER_BYTES - 1)];
        since++;
        if ((last & mask) == watch->delimiter && since >= watch->size) {
            if (since - watch->size > watch->max_frame)
                break;
            frames++;
            since = 0;
        }
    }
    AIOURING_REPEAT_END
    watch->value = last;
    watch->length = since;
    watch->frames = frames;
    return since >= watch->max_frame + watch->size ? -1 : 0;
}

/* Data of a connection with frames. */
AIOURING_CODE int aiouring_frames_data(struct aiouring_hook *hook, struct aiouring_watch *watch, const struct io_uring_cqe *cqe)
{
    aiouring_u32 before = watch->frames;
    const struct aiouring_buffer *payload = AIOURING_AT(hook, struct aiouring_buffer, aiouring_payload(hook, cqe));
    int failed;

    if (!payload)
        return AIOURING_WAKE;
    if (watch->kind == AIOURING_WATCH_PREFIXED)
        failed = aiouring_follow_prefixed(watch, payload, (aiouring_u32)cqe->res);
    else
        failed = aiouring_follow_delimited(watch, payload, (aiouring_u32)cqe->res);
    if (failed) {
        aiouring_unwatch(watch);
        return AIOURING_WAKE;
    }
    if (watch->frames && (watch->frames >= watch->max_batch || !watch->max_delay_ns))
        return AIOURING_WAKE;
    if (++aiouring_control(hook)->held_buffers >= AIOURING_BUFFERS_HELD_MAX)
        return AIOURING_WAKE;
    if (watch->frames && !before)
        aiouring_hold_until(hook, aiouring_now_ns() + watch->max_delay_ns);
    return AIOURING_HOLD;
}

#endif
