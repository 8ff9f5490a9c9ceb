/* The archive of the files that come with the kernel (archive.c). */
    .section .rodata.initrd, "a"
    .balign 4
    .globl initrd, initrd_end
initrd:
    .incbin "initrd"
initrd_end:
