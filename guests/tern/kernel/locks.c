/*
 * Reading order 20. Locks for what takes long: who finds one taken sleeps until it is free. The kernel
 * is not preemptive, so nobody comes between the test and the taking.
 */
#include "kernel.h"

void lock_acquire(struct lock *lock)
{
    assert(lock->holder != current);
    while (lock->holder)
        wait_on(lock);
    lock->holder = current;
}

void lock_release(struct lock *lock)
{
    assert(lock->holder == current);
    lock->holder = NULL;
    wakeup(lock);
}
