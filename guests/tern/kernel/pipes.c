/*
 * Reading order 23. Pipes: a ring of bytes in a frame of its own. Readers wait while it is empty and
 * somebody may write; writers wait while it is full and somebody may read.
 */
#include "kernel.h"

struct pipe {
    uint32_t head, tail;   /* they count bytes: head - tail are in the ring */
    uint32_t readers, writers; /* open files, not processes */
    char ring[4096 - 16];
};
_Static_assert(sizeof(struct pipe) == PAGE_SIZE, "a pipe is a frame");

int pipe_create(struct pipe **pipe)
{
    uint32_t frame = frame_allocate();

    if (!frame)
        return -E_MEMORY;
    *pipe = to_virtual(frame);
    (*pipe)->head = (*pipe)->tail = 0;
    (*pipe)->readers = (*pipe)->writers = 1;
    return 0;
}

void pipe_close(struct pipe *pipe, bool writer)
{
    if (writer)
        pipe->writers--;
    else
        pipe->readers--;
    wakeup(pipe);
    if (pipe->readers == 0 && pipe->writers == 0)
        frame_release(to_physical(pipe));
}

/* How many bytes can be copied at once, counted from a position in the ring. */
static uint32_t stretch(const struct pipe *pipe, uint32_t position, uint32_t available, uint32_t wanted)
{
    uint32_t to_end = sizeof pipe->ring - position % sizeof pipe->ring;
    uint32_t n = available < wanted ? available : wanted;

    return n < to_end ? n : to_end;
}

/* What there is, at least a byte, at most size; 0 when all writers have gone. */
int pipe_read(struct pipe *pipe, char *to, uint32_t size)
{
    uint32_t done = 0, n;

    while (pipe->head == pipe->tail && pipe->writers > 0) {
        if (current->killed)
            return -E_INTERRUPTED;
        sleep_on(pipe);
    }
    while ((n = stretch(pipe, pipe->tail, pipe->head - pipe->tail, size - done)) > 0) {
        memcpy(to + done, pipe->ring + pipe->tail % sizeof pipe->ring, n);
        pipe->tail += n;
        done += n;
    }
    wakeup(pipe);
    return done;
}

/* All of it, however long that takes; or an error. */
int pipe_write(struct pipe *pipe, const char *from, uint32_t size)
{
    for (uint32_t done = 0; done < size;) {
        if (pipe->readers == 0)
            return -E_PIPE;
        if (current->killed)
            return -E_INTERRUPTED;
        uint32_t room = sizeof pipe->ring - (pipe->head - pipe->tail);
        uint32_t n = stretch(pipe, pipe->head, room, size - done);
        if (n == 0) {
            sleep_on(pipe);
            continue;
        }
        memcpy(pipe->ring + pipe->head % sizeof pipe->ring, from + done, n);
        pipe->head += n;
        done += n;
        wakeup(pipe);
    }
    return size;
}
