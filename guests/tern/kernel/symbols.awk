# From `nm -n` of the kernel to a table of its functions, sorted by address (struct symbol, panic.c).
BEGIN { print ".section .rodata, \"a\"\n.globl symbols\n.balign 4\nsymbols:" }
$2 == "t" || $2 == "T" {
    print ".long 0x" $1 ", 1f"
    print ".pushsection .rodata.names, \"a\"\n1: .asciz \"" $3 "\"\n.popsection"
}
END { print ".long 0, 0" }
