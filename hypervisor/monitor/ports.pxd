from libc.stdint cimport uint32_t

# What is imported from hardware/x86.py, as C integers (but IF, a keyword here).
cdef uint32_t DF, DS, EAX, ECX, EDI, EDX, ES, ESI, TF, VM
